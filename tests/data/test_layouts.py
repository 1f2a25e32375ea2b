"""Layouts in which data is handed out: every picture has the class and the part that its pixels tell, or a sentence."""

import json
import re
from pathlib import Path

import pytest
from layouts import CLASSES, LAYOUTS, Layout, image_folder, image_folder_split, lines, mistakes, rows, tar_of, told

from made import written, zipped
from undiffuse.data.check import check_data
from undiffuse.data.prepare import dataset
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError, UsageError

PAGE = Path(__file__).parent.parent.parent / "docs" / "data.md"


def lying(tmp_path: Path, files: dict[str, bytes], way: str) -> Path:
    if way == "folder":
        return written(tmp_path / "x", files)
    path = tmp_path / f"x.{way}"
    path.write_bytes(zipped(files) if way == "zip" else tar_of(files))
    return path


@pytest.mark.parametrize("way", ["folder", "zip", "tar"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_is_read_right(tmp_path, layout: Layout, way):
    data = dataset(DataSpec(str(lying(tmp_path, layout.make(), way)), **layout.asked))
    assert mistakes(data, layout.names, layout.split) == []
    assert len(data.train) + len(data.held_out) == (24 if layout.split else 18)


def test_the_layouts_of_the_page_are_those_of_the_tests():
    table = PAGE.read_text().split("## Layouts")[1].split("\n## ")[0]
    assert re.findall(r"^\| ([^|]+?) \| ", table, re.M)[1:] == [layout.name for layout in LAYOUTS]


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["folder", "zip"])
def test_a_picture_beside_the_parts_is_not_guessed_about(tmp_path, way):
    path = lying(tmp_path, image_folder_split() | {"preview.png": told(200, None)}, way)
    with pytest.raises(
        UndiffuseError, match=r"pictures outside of them: 1 \(preview.png\); move these, .*data.split=folders"
    ):
        dataset(DataSpec(str(path)))
    data = dataset(DataSpec(str(path), split="folders"))
    assert mistakes(data) == [] and "left out, outside of the parts: 1 (preview.png)" in data.notes
    apart = dataset(DataSpec(str(path), split="none", bad="skip"))
    assert set(apart.class_names) == {"train", "test"}


def test_a_class_may_be_called_train(tmp_path):
    files = {f"{('train', 'car', 'ship')[c]}/{i}.png": x for i, c, x in rows(18)}
    data = dataset(DataSpec(str(written(tmp_path, files))))
    assert mistakes(data, ("train", "car", "ship"), split=False) == []


def test_held_out_folders_that_are_no_classes_are_asked_about(tmp_path):
    files = {f"train/{CLASSES[c]}/{i}.png": x for i, c, x in rows(18)}
    files |= {f"val/images/{i}.png": x for i, _, x in rows(6, True, 100)}
    with pytest.raises(UndiffuseError, match=r"folders that the train part has not \(images\): are they classes\?"):
        dataset(DataSpec(str(written(tmp_path, files))))
    assert mistakes(dataset(DataSpec(str(tmp_path), select="train/*")), split=False) == []


@pytest.mark.parametrize("names", ["{part}-{shard}.tar", "{part}.{shard}.tar"])
def test_shards_named_by_their_part_are_parts(tmp_path, names):
    (tmp_path / "x").mkdir()
    for part, shard, out, start in (("train", 0, False, 0), ("train", 1, False, 20), ("val", 0, True, 40)):
        files = {}
        for i, c, x in rows(9, out, start):
            files |= {f"{i:04d}.png": x, f"{i:04d}.cls": str(c).encode()}
        (tmp_path / "x" / names.format(part=part, shard=shard)).write_bytes(tar_of(files))
    data = dataset(DataSpec(str(tmp_path / "x")))
    assert mistakes(data, ("0", "1", "2")) == [] and len(data.held_out) == 9
    assert any(note.startswith("parts by archives: train") for note in data.notes)


def test_shards_that_number_alike_keep_their_own_labels(tmp_path):
    (tmp_path / "x").mkdir()
    for shard in range(3):
        files = {}
        for k in range(8):
            files |= {f"{k:04d}.png": told(20 * shard + k, shard), f"{k:04d}.cls": str(shard).encode()}
        (tmp_path / "x" / f"part-{shard}.tar").write_bytes(tar_of(files))
    data = dataset(DataSpec(str(tmp_path / "x")))
    assert mistakes(data, ("0", "1", "2"), split=False) == [] and len(data.train) + len(data.held_out) == 24


@pytest.mark.parametrize("way", ["zip", "tar"])
def test_archives_that_number_alike_have_their_folders_for_classes(tmp_path, way):
    """train.zip and test.zip of ImageFolders: the parts are the archives, the classes the folders."""
    (tmp_path / "x").mkdir()
    for part, n, out, start in (("train", 18, False, 0), ("test", 6, True, 60)):
        files = {f"{CLASSES[c]}/{i - start}.png": x for i, c, x in rows(n, out, start)}
        (tmp_path / "x" / f"{part}.{way}").write_bytes(zipped(files) if way == "zip" else tar_of(files))
    data = dataset(DataSpec(str(tmp_path / "x")))
    assert mistakes(data) == [] and (len(data.train), len(data.held_out)) == (18, 6)


def test_pictures_outside_of_the_parts_are_left_out_of_archives_that_number_alike(tmp_path):
    (tmp_path / "x").mkdir()
    for shard in range(2):
        files = {}
        for part, n, out, start in (("train", 9, False, 0), ("test", 3, True, 60)):
            files |= {
                f"{part}/{CLASSES[c]}/{i - start}.png": told(i + 100 * shard, c, out) for i, c, _ in rows(n, out, start)
            }
        files["preview.png"] = told(240 + shard, None)
        (tmp_path / "x" / f"part-{shard}.tar").write_bytes(tar_of(files))
    data = dataset(DataSpec(str(tmp_path / "x"), split="folders"))
    assert mistakes(data) == [] and (len(data.train), len(data.held_out)) == (18, 6)


def test_parts_inside_an_archive_hold_with_labels_beside_each_picture(tmp_path):
    files = {}
    for part, n, out, start in (("train", 18, False, 0), ("test", 6, True, 100)):
        for i, c, x in rows(n, out, start):
            files |= {f"{part}/{i}.png": x, f"{part}/{i}.cls": str(c).encode()}
    data = dataset(DataSpec(str(lying(tmp_path, files, "tar"))))
    assert mistakes(data, ("0", "1", "2")) == []


def test_training_and_check_say_how_the_data_was_read(tmp_path):
    path = lying(tmp_path, Layout("", LAYOUTS[13].make).make(), "folder")
    notes = dataset(DataSpec(str(path))).notes
    assert f"classes by {path}/metadata.csv: column 'label', files by column 'file_name'" in notes
    assert "parts by folders: 18 to train on, 6 held out" in notes
    assert "training sees 18 pictures, 6 held out (as the source says)" in notes
    told_by_check = [said for _, said in check_data(DataSpec(str(path))).rows]
    assert "parts by folders: 18 to train on, 6 held out" in told_by_check
    again = dataset(DataSpec(str(path)))  # from the cache
    assert again.notes == notes


# -- label files that are ambiguous -----------------------------------------------------------------------------------


def of_table(tmp_path, text: str, name="labels.csv", **asked):
    files = {f"{i}.png": x for i, _, x in rows(18)}
    return dataset(DataSpec(str(written(tmp_path / "x", files | {name: text.encode()})), **asked))


def test_two_columns_of_names_are_not_guessed_between(tmp_path):
    text = lines(("image", "other", "label"), *((f"{i}.png", f"{17 - i}.png", CLASSES[i % 3]) for i in range(18)))
    with pytest.raises(
        UsageError, match=r"columns 'image' and 'other' both name pictures; say which with data.file_key"
    ):
        of_table(tmp_path, text)
    assert mistakes(of_table(tmp_path, text, file_key="image"), split=False) == []
    with pytest.raises(UsageError, match=r"data.file_key: did you mean 'image'"):
        of_table(tmp_path, text, file_key="imag")


def test_two_columns_of_stems_are_not_guessed_between(tmp_path):
    text = lines(("row", "id", "label"), *((i, 17 - i, CLASSES[(17 - i) % 3]) for i in range(18)))
    with pytest.raises(UsageError, match=r"columns 'row' and 'id' both name pictures"):
        of_table(tmp_path, text)
    assert mistakes(of_table(tmp_path, text, file_key="id"), split=False) == []


def test_two_columns_of_classes_that_disagree_are_not_guessed_between(tmp_path):
    text = lines(("file", "label", "category"), *((f"{i}.png", i % 2, CLASSES[i % 3]) for i in range(18)))
    with pytest.raises(UsageError, match=r"columns 'label' and 'category' could hold the classes; .*data.label_key"):
        of_table(tmp_path, text)
    assert mistakes(of_table(tmp_path, text, label_key="category"), split=False) == []


def test_rows_that_name_nothing_or_several_are_counted(tmp_path):
    files = {f"a/{i}.png": x for i, _, x in rows(18)} | {"b/0.png": told(99, 0)}
    text = lines(("file", "label"), *((f"{i}.png", CLASSES[i % 3]) for i in range(18)), ("gone.png", "cat"))
    place = written(tmp_path, files | {"labels.csv": text.encode()})
    with pytest.raises(UndiffuseError, match=r"2 unclear label.*a/0.png: 0.png in labels.csv may be b/0.png too"):
        dataset(DataSpec(str(place)))
    data = dataset(DataSpec(str(place), bad="skip"))
    assert mistakes(data, split=False) == [] and len(data.train) + len(data.held_out) == 17
    told_of = " ".join(data.notes)
    assert "1 of 19 rows name no picture, first gone.png" in told_of
    assert "1 of 19 rows name several pictures by one name, first 0.png: a/0.png, b/0.png" in told_of


def test_a_table_that_is_asked_for_is_about_all_pictures_wherever_it_lies(tmp_path):
    """By the ends of their paths too; a picture that it does not name has no class, whatever its folder is called."""
    files = {f"images/{i % 2}/p{i}.png": x for i, _, x in rows(18)}
    text = lines(("file", "label"), *((f"p{i}.png", CLASSES[i % 3]) for i in range(18)))
    place = written(tmp_path, files | {"notes/mine.csv": text.encode(), "images/0/more.png": told(99, None)})
    with pytest.raises(
        UndiffuseError, match=r"1 of 19 pictures cannot be used \(1 no label\), first images/0/more.png"
    ):
        dataset(DataSpec(str(place), labels="notes/mine.csv"))
    data = dataset(DataSpec(str(place), labels="notes/mine.csv", bad="skip"))
    assert mistakes(data, split=False) == [] and len(data.train) + len(data.held_out) == 18


def test_a_dataset_json_of_something_else_is_not_taken_for_labels(tmp_path):
    files = image_folder() | {"dataset.json": json.dumps({"title": "pets", "licence": "CC0"}).encode()}
    data = dataset(DataSpec(str(written(tmp_path, files))))
    assert mistakes(data, split=False) == []
    assert any("dataset.json: not taken for labels" in note for note in data.notes)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"images": [{"id": 0, "file_name": "0.png"}], "annotations": [{"image_id": 0}]}, "not COCO's format"),
        (
            {
                "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
                "images": [{"id": 0, "file_name": "0.png"}],
                "annotations": [{"image_id": 0, "category_id": c} for c in (0, 1)],
            },
            "0.png has objects of cat and dog; a class a picture is wanted",
        ),
        ({"labels": [["0.png"]]}, r"'labels' is a list of \[file name, class\]"),
    ],
)
def test_label_files_that_say_something_else_are_one_line(tmp_path, raw, words):
    with pytest.raises(UndiffuseError, match=words):
        of_table(tmp_path, json.dumps(raw), "labels.json")


# -- what is passed over ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["folder", "zip"])
def test_pictures_that_are_not_read_are_counted_by_check_and_by_training(tmp_path, way):
    files = image_folder() | {f"cat/bare{i}": told(60 + i, 0) for i in range(4)}
    files |= {f"IMG_{i}.HEIC": b"\0\0\0\x18ftypheic" for i in range(3)} | {
        "x.svg": b"<svg/>",
        "notes.txt": b"x",
        "LICENSE": b"MIT",
    }
    path = lying(tmp_path, files, way)
    told_of = "1 .svg (x.svg), 3 .heic (IMG_0.HEIC), 4 without a suffix (cat/bare0)"
    found = check_data(DataSpec(str(path)))
    assert sorted(re.findall(r"\d+ [^(]+ \([^)]+\)", found.trouble[0])) == sorted(told_of.split(", "))
    assert any(note.startswith("not read: ") for note in dataset(DataSpec(str(path))).notes)
    assert check_data(DataSpec(str(path), select="*/*.png")).trouble == []  # a choice


def test_without_a_split_no_picture_need_be_held_out(tmp_path):
    data = dataset(DataSpec(str(written(tmp_path, {"a.png": told(0, None)})), held_out=0.0))
    assert (len(data.train), len(data.held_out)) == (1, 0)
