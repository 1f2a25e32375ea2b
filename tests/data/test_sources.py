"""Every kind of source gives the pictures, classes and parts that were put into it."""

import json
import os
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from made import (
    NAMES,
    cifar_binary,
    cifar_pickle,
    cifar_python,
    cifar_rows,
    files,
    idx,
    idx_folder,
    npz,
    pictures,
    png,
    shards,
    tarred,
    written,
    zipped,
)
from undiffuse.data.prepare import dataset
from undiffuse.data.sources import Hub, anywhere, find_source
from undiffuse.data.sources.arrays import Arrays
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError, UsageError


def read(source, **changes):
    return dataset(DataSpec(str(source), **changes))


def hwc(part) -> np.ndarray:
    return part.pictures[part.rows].permute(0, 2, 3, 1).numpy()


def whole(data) -> dict[bytes, str]:
    """Every picture's bytes -> its class's name, whatever its part."""
    return {
        picture.tobytes(): data.class_names[label] if data.class_names else None
        for part in (data.train, data.held_out)
        for picture, label in zip(hwc(part), part.labels.tolist(), strict=True)
    }


EXPECTED = {picture.tobytes(): NAMES[i % 3] for i, picture in enumerate(pictures())}

# -- IDX --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("zipped_", "dotted"), [(False, False), (True, False), (False, True), (True, True)])
def test_idx_files(tmp_path, zipped_, dotted):
    every = idx_folder(tmp_path / "x", zipped_, dotted=dotted)
    data = read(tmp_path / "x")
    np.testing.assert_array_equal(hwc(data.train)[..., 0], every[:12])
    np.testing.assert_array_equal(hwc(data.held_out)[..., 0], every[12:])
    assert data.class_names == ("0", "1", "2") and data.train.labels.tolist() == [0, 1, 2] * 4
    assert data.shape == (1, 28, 28) and data.levels == 256


def test_a_named_data_set_is_found_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDIFFUSE_DATA", str(tmp_path))
    idx_folder(tmp_path / "fashion-mnist", True)
    data = read("fashion-mnist")
    assert data.class_names[9] == "Ankle boot" and len(data.class_names) == 10 and len(data.train) == 12
    cifar_binary(tmp_path / "cifar10" / "cifar-10-batches-bin")
    assert len(read("cifar10").train) == 20


def test_a_named_data_set_that_is_nowhere_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.data.sources.find_spec", lambda name: None)
    monkeypatch.setenv("UNDIFFUSE_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=rf"mnist was not found; looked in {tmp_path}/mnist, data/mnist.*ylecun/mnist"):
        read("mnist")


def test_without_a_copy_the_hub_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.data.sources.find_spec", lambda name: name)
    monkeypatch.setattr("undiffuse.data.sources._places", lambda name: [tmp_path])
    assert find_source(DataSpec("mnist")) == Hub("ylecun/mnist", DataSpec("mnist"), tuple("0123456789"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train-images-idx3-ubyte", b"", "ends early, after the header"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\x03" + bytes(12), "not an IDX file of unsigned bytes"),
        ("train-images-idx3-ubyte", idx(pictures(3, (28, 28))), "3 pictures, but .* holds 12 labels"),
        ("train-images-idx3-ubyte", idx(pictures(12, (28, 28)))[:-5], "ends early, after 11 of 12 pictures"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, "but .* holds 12 labels"),
        ("train-labels-idx1-ubyte", b"\0\0\x08\x01" + b"\xff" * 4, "labels make no sense"),
        ("train-labels-idx1-ubyte", b"\x1f\x8bjunk", "damaged"),
    ],
)
def test_damaged_idx_files_say_what_is_wrong(tmp_path, name, content, words):
    idx_folder(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UndiffuseError, match=words):
        read(tmp_path)


# -- CIFAR ------------------------------------------------------------------------------------------------------------


def assert_is_cifar(data):
    assert data.class_names == NAMES and data.shape == (3, 32, 32)
    assert (len(data.train), len(data.held_out)) == (20, 4)
    expected = cifar_rows(4, 5)[0].reshape(4, 3, 32, 32)
    torch.testing.assert_close(data.held_out.pictures[data.held_out.rows], torch.from_numpy(expected))
    assert data.held_out.labels.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("write", [cifar_binary, cifar_python])
def test_both_versions_of_cifar(tmp_path, write):
    write(tmp_path / "cifar")
    assert_is_cifar(read(tmp_path / "cifar"))


def test_cifar_from_the_archive_it_is_published_in(tmp_path):
    cifar_python(tmp_path / "x")
    content = {f"cifar-10-batches-py/{path.name}": path.read_bytes() for path in sorted((tmp_path / "x").iterdir())}
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(tarred(content, "w:gz"))
    data = read(tmp_path / "cifar-10-python.tar.gz")
    assert (len(data.train), len(data.held_out), data.class_names) == (20, 4, NAMES)


def test_cifar_100_takes_the_fine_label(tmp_path):
    pixels, fine = cifar_rows(6, 0)
    record = np.concatenate([np.full((6, 1), 9, np.uint8), fine[:, None], pixels], 1)
    for name in ("train.bin", "test.bin"):
        (tmp_path / name).write_bytes(record.tobytes())
    (tmp_path / "fine_label_names.txt").write_text("\n".join(NAMES))
    assert read(tmp_path).train.labels.tolist() == [0, 1, 2, 0, 1, 2]


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/undiffuse-was-here",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({b"data": Evil()}), r"asks for (posix|nt)\.system, which data do not need"),
        (pickle.dumps([1, 2]), "a dictionary is wanted"),
        (pickle.dumps({b"labels": [1]}), "not a batch of CIFAR"),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}, 2), "not an array of bytes"),
        (pickle.dumps({b"data": pictures(1, (3072,)), b"labels": ["a"]}, 2), "labels must be integers"),
        (b"\x80\x02}r\xff\xff\xff\xffq\x01.", "not a pickle of data"),
        (cifar_pickle()[:-9], "not a pickle of data"),
        (b"", "not a pickle of data"),
    ],
)
def test_pickles_run_nothing_and_say_what_is_wrong(tmp_path, content, words):
    cifar_python(tmp_path / "x")
    (tmp_path / "x" / "data_batch_1").write_bytes(content)
    with pytest.raises(UndiffuseError, match=words):
        read(tmp_path / "x")


def test_records_must_be_whole(tmp_path):
    cifar_binary(tmp_path / "x")
    (tmp_path / "x" / "data_batch_2.bin").write_bytes(bytes(3074))
    with pytest.raises(UndiffuseError, match=r"data_batch_2.bin: 3074 bytes are not a whole number of records of 3073"):
        read(tmp_path / "x")


# -- NumPy ------------------------------------------------------------------------------------------------------------

LABELS = np.arange(12) % 3


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": pictures(), "labels": LABELS},
        {"images": pictures().transpose(0, 3, 1, 2).copy().repeat(3, 2).repeat(3, 3), "labels": LABELS},
        {"x_train": pictures()[:9], "y_train": LABELS[:9], "x_test": pictures()[9:], "y_test": LABELS[9:]},
        {"arr_0": pictures(), "arr_1": LABELS.astype(np.uint8)},
    ],
    ids=["ours", "channels first", "keras", "unnamed"],
)
def test_npz(tmp_path, arrays):
    (tmp_path / "x.npz").write_bytes(npz(**arrays))
    data = read(tmp_path / "x.npz", held_out=0.25)
    assert data.class_names == ("0", "1", "2") and len(data.train) == 9
    assert Counter(data.train.labels.tolist() + data.held_out.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    if "images" not in arrays or arrays["images"].shape[1] != 3:
        assert {key: NAMES[int(label)] for key, label in whole(data).items()} == EXPECTED
    else:
        assert data.shape == (3, 24, 24)


def test_npy_and_gray(tmp_path):
    np.save(tmp_path / "x.npy", pictures(12, (9, 7)))
    data = read(tmp_path / "x.npy")
    assert data.shape == (1, 9, 7) and data.class_names == () and set(data.train.labels.tolist()) == {-1}


def test_many_channels_are_kept(tmp_path):
    np.save(tmp_path / "x.npy", pictures(12, (9, 7, 5)))
    assert read(tmp_path / "x.npy").shape == (5, 9, 7)
    with pytest.raises(UndiffuseError, match=r"x.npy#0: 5 channels where 3 are wanted"):
        read(tmp_path / "x.npy", channels=3)


def test_small_pictures_with_channels_first(tmp_path):
    """As MNIST or scikit-learn's digits lie in an array for a network; the suffix in any case."""
    for channels in (1, 3):
        every = pictures(12, (8, 8, channels))
        with (tmp_path / "x.NPY").open("wb") as file:
            np.save(file, every.transpose(0, 3, 1, 2))
        data = read(tmp_path / "x.NPY")
        assert data.shape == (channels, 8, 8)
        assert data.train.pictures.numpy().tobytes() == every.transpose(0, 3, 1, 2).tobytes()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"x": pictures().astype(np.float32) * 2},
            r"float32 with values from 0 to 510; 0 to 255, 0 to 1 or -1 to 1 is wanted",
        ),
        ({"x": pictures().astype(np.float32) * np.nan}, r"'x' has values that are NaN or infinite"),
        ({"images": pictures().astype(np.uint16) * 257}, r"uint16 with values from 0 to 65535"),
        ({"images": pictures(12, (3, 3, 3))}, "whose channels may be first or last"),
        ({"images": pictures(12, (2, 9, 3))}, "whose channels may be first or last"),
        ({"images": pictures(), "labels": LABELS[:5]}, "12 pictures, but 5 labels"),
        ({"images": pictures(), "labels": LABELS.astype(float)}, "n integers are wanted"),
        ({"images": pictures()[..., 0, 0]}, "uint8"),
        ({"other": pictures()}, "holds other; an array 'images' is wanted"),
        ({"images": np.asfortranarray(pictures())}, "Fortran order"),
        ({"images": np.array([{}])}, "object"),
        ({"images": pictures()[:0]}, "no usable picture"),
        ({"images": pictures(2, (3, 40, 50))}, None),
    ],
)
def test_other_arrays_say_what_is_wanted(tmp_path, arrays, words):
    (tmp_path / "x.npz").write_bytes(npz(**arrays))
    if words is None:
        assert read(tmp_path / "x.npz", held_out=0.5).shape == (3, 40, 50)
        return
    with pytest.raises(UndiffuseError, match=words):
        read(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda x: x.astype(np.int64), "int64 0 to 255, taken for 0 to 255"),
        (lambda x: x.astype(np.float64), "float64 0 to 255, taken for 0 to 255"),
        (lambda x: (x / 255).astype(np.float32), "float32 0 to 1, taken for 0 to 1"),
        (lambda x: (x / 127.5 - 1).astype(np.float32), "float32 -1 to 1, taken for -1 to 1"),
        (lambda x: x > 127, "bool, false is black and true is white"),
    ],
)
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_values_of_another_type_are_taken_by_their_range_which_is_said(tmp_path, make, told, suffix):
    every = pictures()
    every[0, 0, 0], every[0, 0, 1] = 0, 255
    array = make(every)
    if suffix == "npy":
        np.save(tmp_path / "x.npy", array)
    else:
        (tmp_path / "x.npz").write_bytes(npz(images=array))
    data = read(tmp_path / f"x.{suffix}")
    wanted = np.where(array, 255, 0).astype(np.uint8) if array.dtype == bool else every
    assert {x.tobytes() for part in (data.train, data.held_out) for x in hwc(part)} == {x.tobytes() for x in wanted}
    assert any(note.endswith(told) for note in data.notes)


def test_one_range_serves_all_parts(tmp_path):
    """A part without negative values beside one that has some is of the same -1 to 1."""
    every = pictures(18)
    every[:12, 0, 0], every[12:] = 0, np.maximum(every[12:], 128)
    scaled = (every / 127.5 - 1).astype(np.float32)
    (tmp_path / "x.npz").write_bytes(npz(x_train=scaled[:12], x_test=scaled[12:]))
    data = read(tmp_path / "x.npz")
    np.testing.assert_array_equal(hwc(data.train), every[:12])
    np.testing.assert_array_equal(hwc(data.held_out), every[12:])
    assert any(note.endswith("taken for -1 to 1") for note in data.notes)
    (tmp_path / "x.npz").write_bytes(npz(x_train=scaled[:12], x_test=every[12:].astype(np.int64)))
    with pytest.raises(UndiffuseError, match="arrays of float32 and int64; save all parts in one type"):
        read(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(npz(images=(every / 255 * 1.001).astype(np.float32)))
    with pytest.raises(UndiffuseError, match=r"values from .* to 1.001; 0 to 255, 0 to 1 or -1 to 1 is wanted"):
        read(tmp_path / "x.npz")


def test_small_squares_show_which_axis_is_the_channels(tmp_path):
    for shape, channels in (((4, 4, 1), 1), ((1, 4, 4), 1), ((3, 4, 4), 3), ((4, 4, 3), 3)):
        np.save(tmp_path / "x.npy", pictures(12, shape))
        assert read(tmp_path / "x.npy").shape == (channels, 4, 4)


def test_medmnist_has_its_parts(tmp_path):
    every, names = pictures(18, (28, 28)), ("train", "val", "test")
    arrays = {f"{name}_images": every[6 * i : 6 * i + 6] for i, name in enumerate(names)}
    arrays |= {f"{name}_labels": (np.arange(6) % 3).astype(np.uint8)[:, None] for name in names}
    (tmp_path / "x.npz").write_bytes(npz(**arrays))
    data = read(tmp_path / "x.npz")
    assert (len(data.train), len(data.held_out), data.class_names) == (6, 12, ("0", "1", "2"))
    np.testing.assert_array_equal(hwc(data.train)[..., 0], every[:6])


def test_a_header_that_promises_the_world_takes_no_memory(tmp_path):
    """A bomb: 10 GB of zeros announced and compressed would fill the memory if it were read whole."""
    np.save(tmp_path / "x.npy", pictures(2, (8, 8)))
    data = bytearray((tmp_path / "x.npy").read_bytes())
    shape = data.index(b"(2, 8, 8)")
    data[shape : shape + 30] = b"(90000, 9000, 9000), }        "[:30]
    (tmp_path / "x.npy").write_bytes(bytes(data))
    with pytest.raises(UndiffuseError):
        list(Arrays(tmp_path / "x.npy").items())


# -- folders and archives ---------------------------------------------------------------------------------------------


def test_a_folder_with_a_sub_folder_for_each_class(tmp_path):
    data = read(written(tmp_path, files()))
    assert whole(data) == EXPECTED and data.class_names == NAMES


def test_parts_by_name(tmp_path):
    content = files()
    parts = {f"{'test' if i > 8 else 'train'}/{name}": data for i, (name, data) in enumerate(content.items())}
    data = read(written(tmp_path, parts))
    assert whole(data) == EXPECTED and (len(data.train), len(data.held_out)) == (9, 3)


def test_one_folder_has_no_classes(tmp_path):
    data = read(written(tmp_path, {f"one/{i}.png": png(x) for i, x in enumerate(pictures())}))
    assert data.class_names == () and len(data.train) + len(data.held_out) == 12


def test_hidden_files_and_others_are_not_meant(tmp_path):
    extra = {
        ".DS_Store": b"x",
        "cat/.1.png": b"x",
        "__MACOSX/cat/1.png": b"x",
        "cat/notes.txt": b"x",
        "Thumbs.db": b"x",
    }
    assert whole(read(written(tmp_path, files() | extra))) == EXPECTED


def test_numbers_in_names_are_in_natural_order(tmp_path):
    content = {f"{label}/{i}.png": png(x) for i, (label, x) in enumerate(zip([2, 10, 1] * 4, pictures(), strict=True))}
    assert read(written(tmp_path, content)).class_names == ("1", "2", "10")


def test_links_to_folders_are_followed_but_not_in_a_circle(tmp_path):
    written(tmp_path / "elsewhere", files())
    (tmp_path / "x").mkdir()
    for name in NAMES:
        (tmp_path / "x" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "cat" / "round").symlink_to(tmp_path / "x")
    assert whole(read(tmp_path / "x")) == EXPECTED


def test_names_that_no_file_can_hold_are_escaped(tmp_path):
    for name, content in files().items():
        label, rest = name.split("/")
        written(tmp_path, {f"\udce9\né-{label}/\x1b{rest}": content})
    data = read(tmp_path)
    assert data.class_names == tuple(f"\\udce9\\né-{name}" for name in NAMES)
    assert "\\x1b10.png" in {item.name.split("/")[1] for item in find_source(DataSpec(str(tmp_path))).items()}


@pytest.mark.parametrize("pattern", ["", "."])
def test_a_pattern_of_nothing_is_refused(tmp_path, pattern):
    with pytest.raises(UsageError, match=r"data.select: a pattern is wanted"):
        read(written(tmp_path, files()), select=pattern)


@pytest.mark.parametrize("name", ["cat/pipe.png", "labels.csv", "x.tar"])
def test_pipes_are_not_waited_for(tmp_path, name):
    os.mkfifo(written(tmp_path, files()) / name)
    with pytest.raises(
        UndiffuseError, match=r"pipe.png: not a file|labels.csv: not a regular file|x.tar: neither a file nor a folder"
    ):
        read(tmp_path / name if name == "x.tar" else tmp_path)


def test_a_stray_picture_among_classes_is_told(tmp_path):
    written(tmp_path, files() | {"stray.png": png(pictures(1, seed=9)[0])})
    with pytest.raises(
        UndiffuseError, match=r"1 of 13 pictures cannot be used \(1 no label\).*stray.png: others have a class"
    ):
        read(tmp_path)
    assert whole(read(tmp_path, bad="skip")) == EXPECTED


FLAT = {f"{i}.png": png(picture) for i, picture in enumerate(pictures())}
TABLES = {
    "labels.csv": "file_name,label\n" + "".join(f"{i}.png,{NAMES[i % 3]}\n" for i in range(12)),
    "labels.json": json.dumps({f"{i}.png": NAMES[i % 3] for i in range(12)}),
    "metadata.jsonl": "".join(json.dumps({"file_name": f"{i}.png", "label": NAMES[i % 3]}) + "\n" for i in range(12)),
    "metadata.csv": "id,image,category\n" + "".join(f"{i},./{i}.png,{NAMES[i % 3]}\n" for i in range(12)),
}


@pytest.mark.parametrize("name", TABLES)
def test_classes_from_a_table_beside_the_pictures(tmp_path, name):
    assert whole(read(written(tmp_path, FLAT | {name: TABLES[name].encode()}))) == EXPECTED


@pytest.mark.parametrize(("labels", "classes"), [((-1,), ()), ((-1, 1), ("-1", "1")), ((-1, "cat"), ("-1", "cat"))])
def test_minus_one_for_all_is_no_class(tmp_path, labels, classes):
    table = {f"{i}.png": labels[i % len(labels)] for i in range(12)}
    data = read(written(tmp_path, FLAT | {"labels.json": json.dumps(table).encode()}))
    assert {*data.class_names} == {*classes} and len(whole(data)) == 12


@pytest.mark.parametrize("name", ["labels.csv", "labels.json"])
def test_classes_from_a_table_elsewhere(tmp_path, name):
    written(tmp_path / "x", FLAT)
    (tmp_path / name).write_text(TABLES[name])
    data = read(tmp_path / "x", labels=str(tmp_path / name))
    assert whole(data) == EXPECTED


def test_the_table_named_may_be_in_the_folder(tmp_path):
    written(tmp_path, FLAT | {"notes/mine.csv": TABLES["labels.csv"].encode()})
    assert whole(read(tmp_path, labels="notes/mine.csv")) == EXPECTED


@pytest.mark.parametrize("mark", [", ", ";", "\t"])
def test_tables_as_spreadsheets_write_them(tmp_path, mark):
    table = "\ufeff" + TABLES["labels.csv"].replace(",", mark).replace("\n", "\r\n")
    assert whole(read(written(tmp_path, FLAT | {"labels.csv": table.encode()}))) == EXPECTED


def test_nested_objects_have_what_the_outer_says(tmp_path):
    rows = [
        {"image": "0.png", "category": "cat", "variations": {"a": {"image": "1.png"}, "b": {"image": "2.png"}}},
        *({"image": f"{i}.png", "category": "dog"} for i in range(3, 12)),
    ]
    written(tmp_path, FLAT | {"labels.json": json.dumps(rows).encode()})
    assert Counter(whole(read(tmp_path)).values()) == {"cat": 3, "dog": 9}


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("a,b\n0.png,x\n", None, r"which column holds the classes\? say which with data.label_key; columns: a, b"),
        ("file,label\nq.png,x\n", None, "no column names the pictures; columns: file, label"),
        ("file,label\n0.png,x\n", "lable", r"which column holds the classes\? did you mean 'label'"),
        ("", None, "no column names the pictures"),
    ],
)
def test_tables_that_do_not_fit_say_why(tmp_path, text, key, words):
    written(tmp_path, FLAT | {"labels.csv": text.encode()})
    with pytest.raises(UndiffuseError, match=words):
        read(tmp_path, label_key=key)


def test_a_whole_path_is_one_picture_and_a_name_that_several_bear_is_none(tmp_path):
    places = {"a/0.png": "cat", "b/a/0.png": "dog", "b/1.png": None, "c/1.png": None}
    written(tmp_path, {name: FLAT[f"{i}.png"] for i, name in enumerate(places)})
    (tmp_path / "labels.csv").write_text("file,label\nb/a/0.png,dog\na/0.png,cat\n1.png,owl\n")
    items = {item.name: item for item in find_source(DataSpec(str(tmp_path))).items()}
    assert {name: item.label for name, item in items.items()} == places
    assert {name for name, item in items.items() if isinstance(item.content, BadPicture)} == {"b/1.png", "c/1.png"}


def test_one_picture_of_two_classes_is_refused(tmp_path):
    written(tmp_path, FLAT | {"labels.csv": (TABLES["labels.csv"] + "./0.png,dog\n").encode()})
    with pytest.raises(UndiffuseError, match=r"labels.csv: 0.png is of class 'cat' and of class 'dog'; one is wanted"):
        read(tmp_path)


@pytest.mark.parametrize("junk", [b"\xff\xfe\x00", b"{", b"[1, 2]", b"[" * 100_000])
def test_junk_tables_are_one_line(tmp_path, junk):
    written(tmp_path, FLAT | {"labels.json": junk})
    with pytest.raises(UndiffuseError, match=r"labels.json: "):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.zip", zipped(files())),
        ("x.tar", tarred(files())),
        ("x.tar.gz", tarred(files(), "w:gz")),
        ("x.tgz", tarred({f"./top/{name}": data for name, data in files().items()}, "w:gz")),
        ("x.tar.xz", tarred(files(), "w:xz")),
        ("x.zip", zipped(FLAT | {"labels.csv": TABLES["labels.csv"].encode()})),
        ("x.tar", tarred(FLAT | {"labels.json": TABLES["labels.json"].encode()})),
    ],
)
def test_archives_are_read_without_unpacking(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert whole(read(tmp_path / name)) == EXPECTED


def test_webdataset_shards_by_folder_and_by_pattern(tmp_path):
    folder = shards(tmp_path / "x")
    expected = {key: str(NAMES.index(name)) for key, name in EXPECTED.items()}
    assert whole(read(folder)) == expected
    assert whole(read(folder / "*.tar")) == expected
    assert len(whole(read(folder / "000.tar"))) == 6


def test_a_zip_with_backslashes_has_folders(tmp_path):
    """As some programs of Windows write them, folders among them."""
    names = {f"C:\\data\\{name}".replace("/", "\\"): data for name, data in files().items()}
    (tmp_path / "x.zip").write_bytes(zipped(names | {"C:\\data\\cat\\": b"", "..\\up.png": b"junk"}))
    assert whole(read(tmp_path / "x.zip")) == EXPECTED


def test_select_takes_some_of_an_archive(tmp_path):
    (tmp_path / "x.zip").write_bytes(zipped({f"a/{n}": d for n, d in files().items()} | {"b/sheet.png": b"junk"}))
    data = read(tmp_path / "x.zip", select="a/*/*.png")
    assert whole(data) == EXPECTED


def test_only_what_may_be_labels_is_read_twice(tmp_path, monkeypatch):
    """A small zip can hold many large files that are none."""
    monkeypatch.setattr("undiffuse.data.sources.contents.NOTE", 100)
    extra = {"cat/0.json": b" " * 101, "notes.csv": b"x", "labels.csv": (TABLES["labels.csv"]).encode()[:6000]}
    (tmp_path / "x.zip").write_bytes(zipped(files() | extra | {"cat/1.json": b" " * 100}))
    notes = find_source(DataSpec(str(tmp_path / "x.zip")))._contents.notes
    assert set(notes) == {"labels.csv", "cat/1.json"}


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_what_is_no_archive_is_said(tmp_path, name):
    (tmp_path / name).write_bytes(b"junk" * 200)
    with pytest.raises(UndiffuseError, match="not a readable"):
        read(tmp_path / name)


@pytest.mark.parametrize("rows", [3, 3.5, 10])
def test_a_tar_file_cut_short_is_not_a_smaller_set(tmp_path, rows):
    whole_file = tarred(files())
    (tmp_path / "x.tar").write_bytes(whole_file[: int(rows * 512)])
    with pytest.raises(UndiffuseError, match=r"cut short|not a readable tar"):
        read(tmp_path / "x.tar")


def test_an_encrypted_or_damaged_member_is_one_bad_picture(tmp_path):
    content = bytearray(zipped(files()))
    content[content.index(b"IHDR") + 20] ^= 255
    (tmp_path / "x.zip").write_bytes(bytes(content))
    data = read(tmp_path / "x.zip", bad="skip")
    assert len(whole(data)) == 11 and any("1 unreadable" in note for note in data.notes)


def test_an_unreadable_file_is_one_bad_picture(tmp_path):
    written(tmp_path, files() | {"cat/x.png": b""})
    (tmp_path / "cat/x.png").unlink()
    (tmp_path / "cat/x.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(
        UndiffuseError,
        match=r"1 of 13 pictures cannot be used \(1 unreadable\).*cat/x.png: cannot be read \(No such file",
    ):
        read(tmp_path)


# -- names and paths --------------------------------------------------------------------------------------------------


def test_paths_hold_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert anywhere("pictures") == str(tmp_path / "pictures")
    assert anywhere("digits") == "digits" and anywhere("hub:ylecun/mnist") == "hub:ylecun/mnist"
    (tmp_path / "copy").mkdir()
    assert anywhere("hub:copy") == f"hub:{tmp_path / 'copy'}"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/no/such/folder", "unknown data source '/no/such/folder'; no such file or folder"),
        ("pictures.zip", "unknown data source 'pictures.zip'; no such file or folder"),
        ("some-pictures-1.2.0.tgz", "no such file; fetch it with: npm pack some-pictures@1.2.0"),
        ("*.tar", "no file matches this pattern"),
        ("~nobody-of-this-name/x", "no such file or folder"),
        ("hub:", "wants a data set's name"),
        ("hub::default", "wants a data set's name"),
        ("x.docx", "not a kind of data set; give a folder"),
        ("empty", "no pictures here"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.docx").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UndiffuseError, match=words):
        read(source)
