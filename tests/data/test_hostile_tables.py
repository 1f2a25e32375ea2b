"""Label files and tables that were made to mislead or to take the machine down: told in a line."""

import io
import json
import os
import zipfile

import numpy as np
import pytest

from made import idx, idx_folder, npz, pictures, png, written, zipped
from undiffuse.data.prepare import dataset
from undiffuse.data.sources.fetching import is_within, roots_of
from undiffuse.data.sources.finding import Finder
from undiffuse.data.sources.rows import LabelFile, rows_of
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError


def flat(n=12) -> dict[str, bytes]:
    return {f"{i}.png": png(picture) for i, picture in enumerate(pictures(n))}


def labelled(tmp_path, name: str, content: str | bytes) -> str:
    content = content.encode() if isinstance(content, str) else content
    return str(written(tmp_path / "x", flat() | {name: content}))


def refused(path, words: str, **spec) -> None:
    with pytest.raises(UndiffuseError, match=words) as error:
        dataset(DataSpec(str(path), held_out=0.0, **spec))
    assert "\n" not in str(error.value)


def read(path, **spec):
    return dataset(DataSpec(str(path), held_out=0.0, **spec))


# -- CSV --------------------------------------------------------------------------------------------------------------

ROWS = [f"{i}.png,{'ab'[i % 2]}" for i in range(12)]


@pytest.mark.parametrize("row", [0, 3, 11])
def test_a_quotation_mark_that_is_not_closed(tmp_path, row):
    """What follows would be one class."""
    rows = [line.replace(",", ',"') if i == row else line for i, line in enumerate(ROWS)]
    path = labelled(tmp_path, "labels.csv", "file,label\n" + "\n".join(rows) + "\n")
    refused(path, rf"the row at line {row + 2}: .*; a quotation mark is not closed", bad="skip")
    read(labelled(tmp_path, "labels.csv", "file,label,note\n" + "\n".join(f'{line},"two\nlines"' for line in ROWS)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_lines_of_every_system(tmp_path, end):
    data = read(labelled(tmp_path, "labels.csv", end.join(["file,label", *ROWS, ""])))
    assert data.class_names == ("a", "b") and data.train.labels.tolist() == [0, 1] * 6


def test_two_columns_of_one_name(tmp_path):
    path = labelled(tmp_path, "labels.csv", "file,label,label\n" + "\n".join(f"{line},c" for line in ROWS))
    refused(path, r"labels\.csv: two columns are called 'label'; give each its own name")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.csv", b"file,label\n" + b"1,2\n" * (15 << 20), r"more than 2,000,240 rows"),
        ("labels.json", b"[" + b'{"a":0},' * (7 << 20) + b"{}]", r"7,340,034 lists and objects, and at most 2,000,240"),
        (
            "labels.csv",
            b"a,b,c,d,e,f,g,h,i,j,k\n" + (b"1," * 10 + b"1\n") * 1_500_000,
            r"more than 2,000,240 rows, or cells",
        ),
    ],
)
def test_a_small_archive_of_very_many_rows(tmp_path, name, content, words):
    (tmp_path / "x.zip").write_bytes(zipped(flat() | {name: content}))
    refused(tmp_path / "x.zip", words)


def test_as_many_rows_as_pictures_may_need_are_read():
    table = LabelFile("", "file,label\n" + "0.png,a\n" * 150_000, "labels.csv")
    assert len(rows_of(table, 10) or []) == 150_000


def test_names_whose_ends_no_memory_holds():
    deep = "/".join(["a" * 120] * 60)
    Finder([f"{deep}/{i}.png" for i in range(10)], "")
    with pytest.raises(UndiffuseError, match="too long, and too deep in folders"):
        Finder([f"{deep}/{i}.png" for i in range(6000)], "")


# -- JSON -------------------------------------------------------------------------------------------------------------


def test_a_key_that_says_two_things(tmp_path):
    pairs = [f'"{i}.png": "{"ab"[i % 2]}"' for i in range(12)]
    assert read(labelled(tmp_path, "labels.json", "{" + ", ".join([*pairs, pairs[0]]) + "}")).class_names == ("a", "b")
    path = labelled(tmp_path, "labels.json", "{" + ", ".join([*pairs, '"0.png": "b"']) + "}")
    refused(path, r"labels\.json: .*'0\.png' stands twice and says two things")


@pytest.mark.parametrize("value", ["1.5", "NaN", '["a"]', '{"a": 1}'])
def test_classes_that_are_no_names(tmp_path, value):
    content = "{" + ", ".join(f'"{i}.png": {value}' for i in range(12)) + "}"
    refused(labelled(tmp_path, "labels.json", content), r"the class of 0\.png is .*; text or a whole number is wanted")


def test_lines_of_json_are_those_of_the_file(tmp_path):
    lines = [json.dumps({"file_name": f"{i}.png", "label": f"a\u2028{i % 2}"}, ensure_ascii=False) for i in range(12)]
    assert len(read(labelled(tmp_path, "metadata.jsonl", "\n".join(lines))).class_names) == 2
    refused(labelled(tmp_path, "metadata.jsonl", "\n".join([*lines, "", '{"file_name":'])), "line 14: ")


def test_ids_that_stand_for_two_things(tmp_path):
    coco = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(12)],
        "annotations": [{"image_id": i, "category_id": i % 2} for i in range(12)],
        "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
    }
    name = "_annotations.coco.json"
    assert read(labelled(tmp_path, name, json.dumps(coco))).class_names == ("a", "b")
    twice = coco | {"categories": [*coco["categories"], {"id": 0, "name": "c"}]}
    refused(labelled(tmp_path, name, json.dumps(twice)), "the id 0 is that of a and c; give each its own")
    twice = coco | {"images": [*coco["images"], {"id": 3, "file_name": "4.png"}]}
    refused(labelled(tmp_path, name, json.dumps(twice)), r"the id 3 is that of 3\.png and 4\.png")


# -- arrays and IDX ---------------------------------------------------------------------------------------------------


def test_labels_that_64_bits_do_not_hold(tmp_path):
    labels = np.arange(12).astype(np.uint64) + np.uint64(2**63)
    (tmp_path / "x.npz").write_bytes(npz(images=pictures(), labels=labels))
    refused(tmp_path / "x.npz", "a label of 9,223,372,036,854,775,819, which 64 bits with a sign do not hold")


def test_arrays_twice_or_packed_as_numpy_does_not(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, pictures())
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("images.npy", buffer.getvalue())
        archive.writestr("images.npy", buffer.getvalue())
    refused(tmp_path / "x.npz", r"x\.npz: holds images\.npy twice")
    with zipfile.ZipFile(tmp_path / "y.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("images.npy", buffer.getvalue())
    refused(tmp_path / "y.npz", r"packed as NumPy does not; save it again with numpy\.savez_compressed")


def test_a_header_that_is_code(tmp_path):
    text = b"{'descr': __import__('os').system('x'), 'fortran_order': False, 'shape': (1, 8, 8)}"
    text += b" " * (117 - len(text)) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text)
    refused(tmp_path / "x.npy", r"not a sound NumPy file \(its header says no type and shape of an array\)")


@pytest.mark.parametrize("what", ["images", "labels"])
def test_idx_files_that_hold_more_than_they_say(tmp_path, what):
    idx_folder(tmp_path / "x")
    name, rank = (("train-images-idx3-ubyte", (12, 28, 28)), ("train-labels-idx1-ubyte", (12,)))[what == "labels"]
    (tmp_path / "x" / name).write_bytes(idx(np.zeros(rank, np.uint8)) + b"more")
    refused(tmp_path / "x", f"{name}: holds more than its header says")


# -- tables of rows ---------------------------------------------------------------------------------------------------


def test_a_row_names_files_of_its_own_set_alone(tmp_path):
    (tmp_path / "set" / "in").mkdir(parents=True)
    for place in (tmp_path / "set" / "in" / "0.png", tmp_path / "other.png", tmp_path / "settle.png"):
        place.write_bytes(b"x")
    os.mkfifo(tmp_path / "set" / "pipe")
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "other.png")
    here = roots_of(tmp_path / "set", [])
    assert is_within(f"{tmp_path}/set/in/0.png", here) and is_within(f"zip://0.png::{tmp_path}/set/in/0.png", here)
    for other in ("other.png", "set/../other.png", "set/pipe", "set/link.png", "settle.png", "set/nowhere.png"):
        assert not is_within(f"{tmp_path}/{other}", here)
    for other in ("/dev/zero", "http://x/0.png", f"file://{tmp_path}/set/in/0.png", f"x://a::{tmp_path}/set/in/0.png"):
        assert not is_within(other, here)
    hub = roots_of(tmp_path / "mnist", ["hf://datasets/ylecun/mnist@77f3/mnist/train-0.parquet"])
    assert hub == ("hf://datasets/ylecun/mnist@77f3/",)
    assert is_within("hf://datasets/ylecun/mnist@77f3/a/0.png", hub)
    assert is_within("zip://0.png::hf://datasets/ylecun/mnist@77f3/a.zip", hub)
    for other in ("hf://datasets/me/secret@1/0.png", "hf://datasets/ylecun/mnist@77f3/../../x", "/etc/passwd"):
        assert not is_within(other, hub)


def test_tables_that_name_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    place = tmp_path / "x"
    written(place, {f"in/{name}": content for name, content in flat(4).items()} | {"../secret.png": flat(1)["0.png"]})
    inside = [{"bytes": None, "path": str(place / f"in/{i}.png")} for i in range(4)]
    rows = {"image": [*inside, {"bytes": None, "path": str(tmp_path / "secret.png")}]}
    datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image(decode=False)})).to_parquet(
        place / "train.parquet"
    )
    assert len(read(place / "train.parquet", bad="skip").train) == 4
    refused(place / "train.parquet", r"secret\.png: not a file of this data set, so it is not opened")


def test_a_folder_of_tables_and_pictures_asks_which(tmp_path):
    folder = written(tmp_path / "x", {f"{'ab'[i % 2]}/{i}.png": x for i, x in enumerate(flat().values())})
    (folder / "notes.parquet").write_bytes(b"PAR1junk")
    refused(folder, r"holds \.parquet files, and pictures \(a/0\.png\); which are meant\? .*data\.select='\*\.png'")
    assert len(read(folder, select="*.png").train) == 12
