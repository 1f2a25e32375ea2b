"""Hub data sets and parquet, against local copies in the hub's own layouts."""

import numpy as np
import pytest
import torch

from made import NAMES, pictures, png
from undiffuse.data.prepare import dataset
from undiffuse.data.sources import Item, hub
from undiffuse.data.sources.spool import read_once
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError, UsageError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def table(n=12, seed=0, labels=True):
    features = {"image": datasets.Image(), **({"label": datasets.ClassLabel(names=list(NAMES))} if labels else {})}
    rows = {"image": [{"bytes": png(x), "path": None} for x in pictures(n, (9, 7, 3), seed)]}
    return datasets.Dataset.from_dict(
        rows | ({"label": [i % 3 for i in range(n)]} if labels else {}), features=datasets.Features(features)
    )


@pytest.fixture
def copy(tmp_path):
    """As ylecun/mnist lies on the hub: a folder for the configuration, a file for each part."""
    place = tmp_path / "copy"
    (place / "all").mkdir(parents=True)
    table(12).to_parquet(place / "all" / "train-00000-of-00001.parquet")
    table(5, 1).to_parquet(place / "all" / "test-00000-of-00001.parquet")
    (place / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n    path: all/train-*\n"
        "  - split: test\n    path: all/test-*\n---\n"
    )
    return place


def rows(part) -> np.ndarray:
    return part.pictures[part.rows].permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", ["hub:{}", "hub:{}:all"])
def test_a_copy_in_the_hubs_layout(copy, name):
    data = dataset(DataSpec(name.format(copy)))
    np.testing.assert_array_equal(rows(data.train), pictures(12, (9, 7, 3)))
    np.testing.assert_array_equal(rows(data.held_out), pictures(5, (9, 7, 3), 1))
    assert data.class_names == NAMES and data.train.labels.tolist() == [0, 1, 2] * 4


def test_parquet_files_by_name_folder_and_pattern(copy):
    whole = dataset(DataSpec(f"hub:{copy}"))
    for source in (copy / "all" / "*.parquet", copy / "all"):
        data = dataset(DataSpec(str(source)))
        assert torch.equal(data.train.images(), whole.train.images()) and len(data.held_out) == 5
    alone = dataset(DataSpec(str(copy / "all" / "train-00000-of-00001.parquet"), held_out=0.25))
    assert len(alone.train) + len(alone.held_out) == 12 and alone.class_names == NAMES


def test_pictures_without_classes(tmp_path):
    table(12, labels=False).to_parquet(tmp_path / "x.parquet")
    assert dataset(DataSpec(str(tmp_path / "x.parquet"))).class_names == ()


def test_the_second_time_nothing_is_read(copy, monkeypatch):
    first = dataset(DataSpec(f"hub:{copy}"))
    monkeypatch.setattr("undiffuse.data.sources.hub.Hub._part", None)
    assert dataset(DataSpec(f"hub:{copy}")).content == first.content


def test_what_is_far_is_fetched_once(copy, monkeypatch):
    near = dataset(DataSpec(f"hub:{copy}", channels=3))
    monkeypatch.setattr("undiffuse.data.sources.hub.Hub.is_far", lambda self: True)
    fetched, part = [], hub.Hub._part

    def counted(self, stream, name, *rest):
        fetched.append(name)
        return part(self, stream, name, *rest)

    monkeypatch.setattr("undiffuse.data.sources.hub.Hub._part", counted)
    far = dataset(DataSpec(f"hub:{copy}", channels=3, size=(9, 7), fit="pad"))
    assert fetched == ["train", "test"]
    assert torch.equal(far.train.images(), near.train.images()) and far.content == near.content


def test_bad_rows_are_remembered_too(tmp_path):
    bad = BadPicture("empty", "nothing")

    class Few:
        name, levels = "few", 256
        classes = stamp = lambda self: None

        def items(self):
            yield Item("a", b"123", "cat", True)
            yield Item("b", bad, None, None)

    with read_once(Few(), True) as source:
        first, again = list(source.items()), list(source.items())
    assert first[0] == again[0] and again[1].content.kind == "empty" and str(again[1].content) == "nothing"


def test_a_limit_reads_no_more_than_it_must(copy, monkeypatch):
    data = dataset(DataSpec(f"hub:{copy}", limit=4))
    assert (len(data.train), len(data.held_out)) == (4, 4)
    np.testing.assert_array_equal(rows(data.train), pictures(12, (9, 7, 3))[:4])


def test_columns_that_are_not_there_are_named(copy, tmp_path):
    with pytest.raises(UsageError, match="no column 'kind'; columns: image, label"):
        dataset(DataSpec(f"hub:{copy}", label_key="kind"))
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(UndiffuseError, match="no column of pictures; columns: text"):
        dataset(DataSpec(str(tmp_path / "x.parquet")))


@pytest.mark.parametrize("content", [b"", b"PAR1junk", b"junk" * 100])
def test_damaged_parquet_is_one_line(tmp_path, content):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(UndiffuseError, match=r"x.parquet: cannot be (opened|read)") as caught:
        dataset(DataSpec(str(tmp_path / "x.parquet")))
    assert "\n" not in str(caught.value)


def test_what_the_hub_does_not_have_is_said(tmp_path):
    with pytest.raises(UndiffuseError, match=r"hub:.*no-such-folder: cannot be opened"):
        dataset(DataSpec(f"hub:{tmp_path}/no-such-folder"))


# -- tables that are not the hub's ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_table_of_encoded_pictures_is_read(tmp_path, wrapped):
    pandas = pytest.importorskip("pandas")
    cells = [{"bytes": png(x), "path": None} if wrapped else png(x) for x in pictures(12, (9, 7, 3))]
    frame = pandas.DataFrame({"image": cells, "label": [NAMES[i % 3] for i in range(12)]})
    frame.to_parquet(tmp_path / "x.parquet")
    data = dataset(DataSpec(str(tmp_path / "x.parquet"), held_out=0.25))
    pairs = [(x, y) for part in (data.train, data.held_out) for x, y in zip(rows(part), part.labels, strict=True)]
    found = {x.tobytes(): data.class_names[int(y)] for x, y in pairs}
    assert found == {x.tobytes(): NAMES[i % 3] for i, x in enumerate(pictures(12, (9, 7, 3)))}


def test_a_table_of_several_encoded_columns_is_not_guessed_about(tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"a": [b"x"], "b": [b"y"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(UndiffuseError, match="no column of pictures; several of bytes: a, b"):
        dataset(DataSpec(str(tmp_path / "x.parquet")))


def test_every_part_that_is_held_out_is_held_out(tmp_path):
    sizes = {"train": 12, "validation": 5, "test": 4, "extra": 3}
    parts = datasets.DatasetDict({name: table(n, k) for k, (name, n) in enumerate(sizes.items())})
    parts.save_to_disk(str(tmp_path / "x"))
    (tmp_path / "y").mkdir()
    for name in [*sizes][:3]:
        parts[name].to_parquet(tmp_path / "y" / f"{name}-00000-of-00001.parquet")
    for source in ("x", "y", "y/*.parquet"):
        data = dataset(DataSpec(str(tmp_path / source)))
        held_out = [*pictures(5, (9, 7, 3), 1), *pictures(4, (9, 7, 3), 2)]
        np.testing.assert_array_equal(rows(data.train), pictures(12, (9, 7, 3)))
        assert sorted(x.tobytes() for x in rows(data.held_out)) == sorted(x.tobytes() for x in held_out)
    notes = dataset(DataSpec(str(tmp_path / "x"))).notes
    assert "parts by their names: train to train on, validation held out, test held out" in notes
    assert "parts that are not read: extra" in notes


@pytest.mark.parametrize("kind", ["words", "classes"])
def test_a_column_of_parts_is_followed(tmp_path, kind):
    said, some = ["train", "train", "test"] * 4, table(12)
    if kind == "words":
        some = some.add_column("split", said)
    else:
        feature = datasets.ClassLabel(names=["train", "test"])
        some = some.add_column("split", [feature.str2int(x) for x in said]).cast_column("split", feature)
    some.to_parquet(tmp_path / "x.parquet")
    data = dataset(DataSpec(str(tmp_path / "x.parquet")))
    np.testing.assert_array_equal(rows(data.held_out), pictures(12, (9, 7, 3))[2::3])
    assert data.held_out.labels.tolist() == [2] * 4 and len(data.train) == 8
    assert len(dataset(DataSpec(str(tmp_path / "x.parquet"), split="none")).held_out) < 4


def test_a_column_of_parts_that_says_something_else_is_asked_about(tmp_path):
    table(12).add_column("split", [1] * 12).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=r"column 'split' says 1, which part is that\?.*data.split=none"):
        dataset(DataSpec(str(tmp_path / "x.parquet")))
    for name in ("train", "test"):
        table(12).add_column("split", ["train"] * 12).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(UsageError, match=r"column 'split' says train, which is not the part that its file is of"):
        dataset(DataSpec(str(tmp_path / "t*.parquet")))


def test_what_datasets_saved_to_disk(tmp_path):
    parts = datasets.DatasetDict({"train": table(12), "test": table(5, 1)})
    parts.save_to_disk(str(tmp_path / "two"))
    table(12).save_to_disk(str(tmp_path / "one"))
    data = dataset(DataSpec(str(tmp_path / "two")))
    np.testing.assert_array_equal(rows(data.train), pictures(12, (9, 7, 3)))
    np.testing.assert_array_equal(rows(data.held_out), pictures(5, (9, 7, 3), 1))
    alone = dataset(DataSpec(str(tmp_path / "one"), held_out=0.25))
    assert alone.class_names == data.class_names == NAMES and len(alone.train) + len(alone.held_out) == 12
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(UndiffuseError, match="one: cannot be read"):
        dataset(DataSpec(str(tmp_path / "one")))
