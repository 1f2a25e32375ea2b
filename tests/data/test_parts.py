"""Parts of a data set under the names that people give them, of every kind of source; none is dropped unsaid."""

import io
import re

import numpy as np
import pytest
from layouts import CLASSES, mistakes, rows, tar_of, told

from made import idx, npz, pictures, written, zipped
from undiffuse.data.check import check_data
from undiffuse.data.prepare import dataset
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError

NAMES = [
    ("training", ("holdout", "dev")),
    ("training_set", ("test_set",)),
    ("seg_train", ("seg_test",)),
    ("train2017", ("val2017",)),
    ("Train_images", ("Test_images",)),
    ("TrainingSet", ("ValidationSet", "TestSet")),
    ("images_train", ("images_val",)),
    ("Training", ("PublicTest", "PrivateTest")),
    ("trainval", ("test-dev2017",)),
    ("train", ("eval",)),
    ("flowers-train-2", ("flowers-held-out-2",)),
    ("фото train", ("фото test",)),
]


def split_so(train, held_out):
    """Folder of a part -> number, class and picture."""
    parts = {train: list(rows(12))}
    return parts | {name: list(rows(3, True, 99 * (k + 1))) for k, name in enumerate(held_out)}


@pytest.mark.parametrize(("train", "held_out"), NAMES)
@pytest.mark.parametrize("path", ["{part}/{label}/{i}.png", "{label}/{part}/{i}.png", "{part}/{part}/{label}/{i}.png"])
def test_folders_under_other_names_are_parts(tmp_path, train, held_out, path):
    parts = split_so(train, held_out)
    files = {path.format(part=p, label=CLASSES[c], i=i): x for p, some in parts.items() for i, c, x in some}
    data = dataset(DataSpec(str(written(tmp_path, files))))
    assert mistakes(data) == [] and (len(data.train), len(data.held_out)) == (12, 3 * len(held_out))


@pytest.mark.parametrize(("train", "held_out"), NAMES)
@pytest.mark.parametrize("way", ["zip", "tar"])
def test_archives_under_other_names_are_parts(tmp_path, train, held_out, way):
    for part, some in split_so(train, held_out).items():
        files = {f"{CLASSES[c]}/{i % 99}.png": x for i, c, x in some}
        written(tmp_path / "x", {f"{part}.{way}": zipped(files) if way == "zip" else tar_of(files)})
    data = dataset(DataSpec(str(tmp_path / "x")))
    assert mistakes(data) == [] and (len(data.train), len(data.held_out)) == (12, 3 * len(held_out))


@pytest.mark.parametrize("names", [("train", "car", "bus"), ("train", "test_tube", "car"), ("train 1", "train 2", "x")])
def test_classes_that_are_called_after_parts_are_classes(tmp_path, names):
    files = {f"{names[c]}/{i}.png": x for i, c, x in rows(18)}
    data = dataset(DataSpec(str(written(tmp_path, files))))
    assert mistakes(data, names, split=False) == [] and {*data.class_names} == {*names}


@pytest.mark.parametrize("names", [("cats_train", "dogs_test"), ("a_train", "a_test", "b_train", "b_test")])
def test_folders_that_may_be_parts_or_classes_are_asked_about(tmp_path, names):
    files = {f"{names[i % len(names)]}/{i}.png": told(i, i % len(names)) for i in range(16)}
    with pytest.raises(UndiffuseError, match=r"may be parts or classes: call the parts train and .*data.split=none"):
        dataset(DataSpec(str(written(tmp_path, files))))
    assert mistakes(dataset(DataSpec(str(tmp_path), split="none")), names, split=False) == []


def test_an_archive_beside_the_parts_is_not_guessed_about(tmp_path):
    place = tmp_path / "x"
    for k, part in enumerate(("train", "test", "extra")):
        files = {f"{CLASSES[c]}/{i}.png": x for i, c, x in rows(12, part == "test", 51 * k)}
        written(place, {f"{part}.zip": zipped(files)})
    with pytest.raises(UndiffuseError, match=r"pictures in others: 12 \(cat/102.png, .*data.split=folders"):
        dataset(DataSpec(str(place)))
    data = dataset(DataSpec(str(place), split="folders"))
    assert mistakes(data) == [] and (len(data.train), len(data.held_out)) == (12, 12)


def test_archives_and_folders_in_them_that_disagree_are_refused(tmp_path):
    """A zip of everything under a part's name."""
    sides = (("train", False), ("val", True))
    both = {f"{part}/{CLASSES[c]}/{i}.png": x for part, out in sides for i, c, x in rows(6, out)}
    other = {"test/cat/7.png": told(7, 0, True)}
    place = written(tmp_path / "x", {"train.zip": zipped(both), "test.zip": zipped(other)})
    with pytest.raises(UndiffuseError, match=r"val/cat/0.png is of one part by its archive's name and of another by"):
        dataset(DataSpec(str(place)))


def test_folders_in_the_archive_of_a_part_may_be_called_after_it(tmp_path):
    for part, out in (("train", False), ("test", True)):
        files = {f"{part}/{CLASSES[c]}/{i}.png": x for i, c, x in rows(12, out, 51 * out)}
        written(tmp_path / "x", {f"{part}.zip": zipped(files)})
    data = dataset(DataSpec(str(tmp_path / "x")))
    assert mistakes(data) == [] and (len(data.train), len(data.held_out)) == (12, 12)


def test_folders_of_the_held_out_archive_that_are_no_classes_are_asked_about(tmp_path):
    files = {f"{CLASSES[c]}/{i}.png": x for i, c, x in rows(12)}
    other = {"images/50.png": told(50, 0, True)}
    place = written(tmp_path / "x", {"train.zip": zipped(files), "test.zip": zipped(other)})
    with pytest.raises(UndiffuseError, match=r"has not \(images\).*give the archives of one part as data.source"):
        dataset(DataSpec(str(place)))


# -- what a message advises -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["folder", "zip", "two zips"])
@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("Train/{c}", "Val/images"),
        ("top/in [it]/Training/{c}", "top/in [it]/val/images"),
        ("{c}/train2017", "images/val2017"),
        ("a*b/train/{c}", "a*b/test/images"),
    ],
)
def test_the_pattern_that_is_advised_takes_the_train_part(tmp_path, way, train, held_out):
    files = {f"{train.format(c=CLASSES[c])}/{i}.png": x for i, c, x in rows(18)}
    more = {name: told(i + 300, i % 3) for i, name in enumerate(files)}
    files |= {f"{held_out}/{i}.png": x for i, _, x in rows(6, True, 100)}
    if way == "folder":
        written(tmp_path / "x", files)
    else:
        written(tmp_path / "x", {"0.zip": zipped(files)} | ({"1.zip": zipped(more)} if way == "two zips" else {}))
    with pytest.raises(UndiffuseError, match=r"has not \(images\): are they classes\?") as caught:
        dataset(DataSpec(str(tmp_path / "x")))
    pattern = re.search(r"data.select='(.*?)',", str(caught.value))[1]
    data = dataset(DataSpec(str(tmp_path / "x"), select=pattern))
    assert mistakes(data, split=False) == []
    assert len(data.train) + len(data.held_out) == (36 if way == "two zips" else 18)


# -- arrays -----------------------------------------------------------------------------------------------------------

EVERY, LABELS = pictures(18), np.arange(18) % 3
ROWS = (slice(0, 9), slice(9, 13), slice(13, 18))


def hwc(part) -> np.ndarray:
    return part.pictures[part.rows].permute(0, 2, 3, 1).numpy()


def assert_parts(data):
    """The first half is to be trained on, the other held out, with their labels."""
    for part, some in ((data.train, slice(0, 9)), (data.held_out, slice(9, None))):
        np.testing.assert_array_equal(hwc(part), EVERY[some])
        assert [data.class_names[label] for label in part.labels.tolist()] == [str(x) for x in LABELS[some]]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev"])
@pytest.mark.parametrize(("images", "labels"), [("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_images", "{}_labels")])
@pytest.mark.parametrize("way", ["npz", "npy"])
def test_every_held_out_array_is_held_out(tmp_path, val, images, labels, way):
    parts = dict(zip(("train", val, "test"), ROWS, strict=True))
    arrays = {images.format(part): EVERY[some] for part, some in parts.items()}
    arrays |= {labels.format(part): LABELS[some] for part, some in parts.items()}
    if way == "npz":
        place = written(tmp_path / "x", {"x.npz": npz(**arrays)}) / "x.npz"
    else:
        place = written(tmp_path / "x", {f"{name}.npy": npy(array) for name, array in arrays.items()})
    assert_parts(dataset(DataSpec(str(place))))


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_arrays_that_are_not_read_are_told(tmp_path):
    (tmp_path / "x.npz").write_bytes(npz(x_train=EVERY, y_train=LABELS, x_extra=EVERY, names=np.array(["a"])))
    assert "arrays that are not read: names, x_extra" in dataset(DataSpec(str(tmp_path / "x.npz"))).notes


@pytest.mark.parametrize("names", [("train", "val", "test"), ("digits_train", "digits_valid", "digits_test")])
def test_files_of_arrays_that_are_called_after_parts_are_parts(tmp_path, names):
    parts = zip(names, ROWS, strict=True)
    content = {f"{name}.npz": npz(images=EVERY[some], labels=LABELS[some]) for name, some in parts}
    place = written(tmp_path / "x", content)
    data = dataset(DataSpec(str(place)))
    assert {x.tobytes() for x in hwc(data.train)} == {x.tobytes() for x in EVERY[:9]}
    assert {x.tobytes() for x in hwc(data.held_out)} == {x.tobytes() for x in EVERY[9:]}
    assert any(note.startswith("parts by files: ") for note in data.notes)
    assert len(dataset(DataSpec(str(place), split="none", held_out=0.0)).train) == 18
    written(place, {"extra.npz": npz(images=EVERY[:2], labels=LABELS[:2])})
    with pytest.raises(UndiffuseError, match=r"files to train on and to hold out, and others \(extra.npz\); move"):
        dataset(DataSpec(str(place)))
    assert len(dataset(DataSpec(str(place), split="folders")).train) == 9


def test_a_folder_of_arrays_called_after_parts_alone(tmp_path):
    arrays = {"train": EVERY[:9], "train_labels": LABELS[:9], "test": EVERY[9:], "test_labels": LABELS[9:]}
    assert_parts(dataset(DataSpec(str(written(tmp_path / "x", {f"{name}.npy": npy(x) for name, x in arrays.items()})))))
    with pytest.raises(UndiffuseError, match="y: holds a; an array 'images' is wanted"):
        dataset(DataSpec(str(written(tmp_path / "y", {"a.npy": npy(EVERY)}))))


@pytest.mark.parametrize("part", ["t10k", "test", "val"])
def test_idx_files_of_every_part_are_read(tmp_path, part):
    every, labels = pictures(15, (28, 28)), (np.arange(15) % 3).astype(np.uint8)
    for name, some in (("train", slice(0, 9)), (part, slice(9, 15))):
        files = {f"{name}-images-idx3-ubyte": idx(every[some]), f"{name}-labels-idx1-ubyte": idx(labels[some])}
        written(tmp_path / "x", files)
    data = dataset(DataSpec(str(tmp_path / "x")))
    np.testing.assert_array_equal(hwc(data.held_out)[..., 0], every[9:])


# -- arrays of four channels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [{}, {"channels": 3}, {"background": "black"}, {"channels": 4}])
def test_the_fourth_channel_of_an_array_is_transparency_as_in_a_file(tmp_path, asked):
    clear = pictures(12, (8, 8, 4))
    np.save(tmp_path / "x.npy", clear)
    alpha, behind = clear[..., 3:] / 255, 0 if "background" in asked else 255
    laid = np.round(alpha * clear[..., :3] + (1 - alpha) * behind).astype(np.uint8)
    spec = DataSpec(str(tmp_path / "x.npy"), held_out=0.0, **asked)
    data, kept = dataset(spec), asked.get("channels") == 4
    np.testing.assert_array_equal(hwc(data.train), clear if kept else laid)
    assert any("the last is transparency, laid on the background" in note for note in data.notes) == (not kept)
    assert any(what == "transparency" for what, _ in check_data(spec).rows) == (not kept)
