"""What a row of a label file names, and which part it says; label files beside archives, and of single pictures."""

import unicodedata

import pytest
from layouts import CLASSES, lines, mistakes, rows, tar_of, told

from made import written, zipped
from undiffuse.data.prepare import dataset
from undiffuse.data.sources import find_source
from undiffuse.data.sources.rows import LabelFile
from undiffuse.data.sources.tables import read_labels
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError, UsageError


def lying(folder, files, way):
    """The files in a folder, or each of its folders in an archive of its own."""
    if way == "folder":
        return written(folder, files)
    tops = {name.split("/")[0] for name in files if "/" in name}
    for top in tops:
        inside = {name.removeprefix(f"{top}/"): x for name, x in files.items() if name.startswith(f"{top}/")}
        written(folder, {f"{top}.{way}": zipped(inside) if way == "zip" else tar_of(inside)})
    return written(folder, {name: x for name, x in files.items() if "/" not in name})


def two_parts(first=0):
    """train/0.png ... and test/0.png ..., of which no two of one name are of one class."""
    files = {f"train/{i}.png": told(i, i % 3) for i in range(12)}
    return files | {f"test/{i}.png": told(i + 100, (i + 1) % 3, True) for i in range(first, first + 6)}


# -- which picture ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["folder", "zip", "tar"])
@pytest.mark.parametrize("name", ["{}.png", "{}"])
def test_a_bare_name_that_two_parts_have_is_no_class_of_either(tmp_path, way, name):
    table = lines(("file", "label"), *((name.format(i), CLASSES[i % 3]) for i in range(12)))
    place = lying(tmp_path / "x", two_parts() | {"labels.csv": table.encode()}, way)
    with pytest.raises(UndiffuseError, match=r"12 of 18 .*12 unclear label.*may be (train|test)/0.png too"):
        dataset(DataSpec(str(place)))
    data = dataset(DataSpec(str(place), bad="skip"))
    assert mistakes(data, split=False) == [] and len(data.train) + len(data.held_out) == 6
    assert any("6 of 12 rows name several pictures by one name" in note for note in data.notes)


def test_two_rows_of_one_bare_name_say_what_is_true(tmp_path):
    """Each may be meant of either: it is not a picture of two classes."""
    table = lines(("file", "label"), *((f"{i % 6}.png", CLASSES[i % 3]) for i in range(12)), ("6.png", "cat"))
    place = written(tmp_path, two_parts() | {"labels.csv": table.encode()})
    with pytest.raises(UndiffuseError, match=r"test/0.png: 0.png in labels.csv may be train/0.png too"):
        dataset(DataSpec(str(place)))


def test_a_name_that_very_many_bear_labels_none(tmp_path):
    """4,000 rows of one name, of 4,000 pictures."""
    names = [f"{i}/image.png" for i in range(4_000)]
    table = LabelFile("", lines(("file", "label"), *(("image.png", "cat") for _ in names)), "labels.csv")
    said = read_labels([table], names, DataSpec("x"))
    assert len(said.unclear) == 4_000 and not any(said.of.values())


def test_a_row_of_another_part_is_not_of_this_one(tmp_path):
    """A table of the whole set beside a part of it."""
    names = [(f"train/{i}.png", CLASSES[i % 3]) for i in range(12)] + [(f"test/{i}.png", "wolf") for i in range(12, 24)]
    files = {f"set/train/{i}.png": told(i, i % 3) for i in range(12)}
    files |= {f"set/train/{i}.png": told(i, None) for i in range(12, 16)}
    place = written(tmp_path, files | {"labels.csv": lines(("file", "label"), *names).encode()})
    data = dataset(DataSpec(str(place), bad="skip"))
    assert mistakes(data, split=False) == [] and data.class_names == CLASSES
    assert any("12 of 24 rows name no picture, first test/12.png" in note for note in data.notes)


def test_the_path_that_agrees_further_is_meant(tmp_path):
    """b/0.png is not there, and not a/0.png, which has a row of its own."""
    table = lines(
        ("file", "label"),
        *((f"b/{i}.png", "wolf") for i in range(6)),
        *((f"a/{i}.png", CLASSES[i % 3]) for i in range(18)),
    )
    files = {f"a/{i}.png": x for i, _, x in rows(18)} | {"c/99.png": told(99, 0), "labels.csv": table.encode()}
    data = dataset(DataSpec(str(written(tmp_path, files)), bad="skip"))
    assert mistakes(data, split=False) == [] and data.class_names == CLASSES


def test_two_classes_of_one_picture_are_told_by_their_rows(tmp_path):
    table = lines(("file", "label"), ("old/0.png", "cat"), ("new/0.png", "dog"), ("1.png", "cat"))
    place = written(tmp_path, {f"{i}.png": told(i, 0) for i in range(6)} | {"labels.csv": table.encode()})
    with pytest.raises(
        UndiffuseError, match=r"0.png is of class 'cat' and of class 'dog'; .* \(rows old/0.png and new/0.png\)"
    ):
        dataset(DataSpec(str(place)))


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_letter_with_an_accent_is_one_letter(tmp_path, forms):
    files, written_so = (lambda text, form=form: unicodedata.normalize(form, text) for form in forms)
    table = lines(("file", "label"), *((written_so(f"é{i}"), written_so("ä") + CLASSES[i % 3]) for i in range(18)))
    parts = {files(f"train/é{i}.png"): x for i, _, x in rows(18)} | {"labels.csv": table.encode()}
    data = dataset(DataSpec(str(written(tmp_path, parts))))
    names = tuple(unicodedata.normalize("NFC", "ä") + name for name in CLASSES)
    assert mistakes(data, names, split=False) == [] and data.class_names == names


def test_a_folder_with_an_accent_is_one_class_in_both_parts(tmp_path):
    files = {unicodedata.normalize("NFC", f"train/é{c}/{i}.png"): x for i, c, x in rows(18)}
    files |= {unicodedata.normalize("NFD", f"test/é{c}/{i}.png"): x for i, c, x in rows(6, True, 100)}
    data = dataset(DataSpec(str(written(tmp_path, files))))
    assert mistakes(data, tuple(unicodedata.normalize("NFC", f"é{c}") for c in range(3))) == []


# -- which part -------------------------------------------------------------------------------------------------------


def table_of_parts(tmp_path, column, words, **asked):
    """18 pictures to train on and 6 held out, in one folder."""
    every = [*((*row, words[0]) for row in rows(18)), *((*row, words[1]) for row in rows(6, True, 100))]
    table = lines(("file", "label", column), *((f"{i}.png", CLASSES[c], part) for i, c, _, part in every))
    files = {f"{i}.png": x for i, _, x, _ in every} | {"labels.csv": table.encode()}
    return dataset(DataSpec(str(written(tmp_path, files)), **asked))


@pytest.mark.parametrize("column", ["split", "Split", "partition", "data set", "subset"])
@pytest.mark.parametrize("words", [("train", "test"), ("Training", "VALID"), ("train_set", "dev")])
def test_a_column_of_parts_is_followed(tmp_path, column, words):
    data = table_of_parts(tmp_path, column, words)
    assert mistakes(data) == [] and (len(data.train), len(data.held_out)) == (18, 6)
    assert any(note.endswith(f"labels.csv: column '{column}'") and note.startswith("parts by") for note in data.notes)


@pytest.mark.parametrize("words", [(0, 1), ("a", "b"), ("train", "unlabeled"), ("train", "")])
def test_a_column_of_parts_that_says_something_else_is_asked_about(tmp_path, words):
    wanted = r"labels.csv: (column 'split' says \w+, and which part is that\?|100.png has no part).*data.split=none"
    with pytest.raises(UsageError, match=wanted):
        table_of_parts(tmp_path, "split", words)
    data = table_of_parts(tmp_path, "split", words, split="none")
    assert mistakes(data, split=False) == [] and len(data.train) + len(data.held_out) == 24


def test_another_column_is_no_column_of_parts(tmp_path):
    data = table_of_parts(tmp_path, "set", (1, 2))
    assert mistakes(data, split=False) == [] and len(data.held_out) < 6


def test_a_column_and_folders_that_disagree_are_refused(tmp_path):
    table = [(f"{part}/{i}.png", CLASSES[i % 3], part) for part in ("train", "test") for i in range(6)]
    files = {name: told(k, k % 6 % 3, name[1] == "e") for k, (name, _, _) in enumerate(table)}
    head = ("file", "label", "split")
    data = dataset(DataSpec(str(written(tmp_path / "a", files | {"labels.csv": lines(head, *table).encode()}))))
    assert mistakes(data) == []
    table[0] = (*table[0][:2], "test")
    place = written(tmp_path / "b", files | {"labels.csv": lines(head, *table).encode()})
    with pytest.raises(UndiffuseError, match=r"train/0.png is held out by its label file and to train on by its place"):
        dataset(DataSpec(str(place)))


def test_tables_of_which_one_says_parts_are_asked_about(tmp_path):
    one = lines(("file", "label", "split"), *((f"{i}.png", CLASSES[i % 3], "train") for i in range(6)))
    other = lines(("file", "label"), *((f"{i}.png", CLASSES[i % 3]) for i in range(6)))
    files = {f"{place}/{i}.png": told(i, i % 3) for place in "ab" for i in range(6)}
    place = written(tmp_path, files | {"a/labels.csv": one.encode(), "b/labels.csv": other.encode()})
    with pytest.raises(UndiffuseError, match=r"the part of some pictures, and of 6 others only the class \(b/0.png"):
        dataset(DataSpec(str(place)))


# -- label files and archives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["zip", "tar"])
@pytest.mark.parametrize("asked", [None, "labels.csv"])
@pytest.mark.parametrize("start", [0, 100])
def test_a_label_file_beside_archives_is_of_them(tmp_path, way, asked, start):
    """Whether the archives number alike or not."""
    files = two_parts(start)
    numbers = {name: int(name.split("/")[1][:-4]) + name.startswith("test") for name in files}
    table = lines(("file", "label"), *((name, CLASSES[number % 3]) for name, number in numbers.items()))
    place = lying(tmp_path / "x", files | {"labels.csv": table.encode()}, way)
    data = dataset(DataSpec(str(place), labels=asked))
    assert mistakes(data) == [] and (len(data.train), len(data.held_out)) == (12, 6)
    assert any(note.startswith(f"classes by {place}/labels.csv") for note in data.notes)
    before = find_source(DataSpec(str(place), labels=asked)).stamp()
    (place / "labels.csv").write_text(table + "gone.png,cat\n")
    assert find_source(DataSpec(str(place), labels=asked)).stamp() != before


def test_a_label_file_asked_for_lies_beside_the_archive_or_in_it(tmp_path):
    table = lines(("file", "label"), *((f"{i}.png", CLASSES[i % 3]) for i in range(18))).encode("utf-8-sig")
    files = {f"{i}.png": x for i, _, x in rows(18)}
    written(tmp_path, {"a/x.zip": zipped(files), "a/mine.csv": table, "b/x.zip": zipped(files | {"mine.csv": table})})
    for place in "ab":
        data = dataset(DataSpec(str(tmp_path / place / "x.zip"), labels="mine.csv"))
        assert mistakes(data, split=False) == [] and data.class_names == CLASSES
    with pytest.raises(UndiffuseError, match=r"other.csv: cannot be read \(No such file"):
        dataset(DataSpec(str(tmp_path / "a" / "x.zip"), labels="other.csv"))


def test_a_label_file_beside_archives_that_have_their_own_is_told(tmp_path):
    own = lines(("file", "label"), *((f"{i}.png", CLASSES[i % 3]) for i in range(18))).encode()
    files = {f"{i}.png": x for i, _, x in rows(18)} | {"labels.csv": own}
    written(tmp_path, {"x.zip": zipped(files), "labels.csv": b"file,label\n0.png,wolf\n"})
    data = dataset(DataSpec(str(tmp_path)))
    assert mistakes(data, split=False) == []
    assert f"{tmp_path}/labels.csv: not read, for there are label files in the archives" in data.notes


def test_a_label_file_in_an_archive_must_be_text_as_one_in_a_folder_must(tmp_path):
    table = lines(("file", "label"), *((f"{i}.png", "müde") for i in range(6))).encode("latin-1")
    (tmp_path / "x.zip").write_bytes(zipped({f"{i}.png": told(i, 0) for i in range(6)} | {"labels.csv": table}))
    with pytest.raises(UndiffuseError, match=r"labels.csv: .*save it again as UTF-8"):
        dataset(DataSpec(str(tmp_path / "x.zip")))


def test_pictures_beside_archives_are_counted(tmp_path):
    files = {f"{CLASSES[c]}/{i}.png": x for i, c, x in rows(18)}
    place = written(tmp_path / "x", {"a.tgz": tar_of(files), "preview.png": told(99, 0)})
    data = dataset(DataSpec(str(place)))
    assert mistakes(data, split=False) == [] and "not read: 1 .png (preview.png)" in data.notes


def test_where_somebody_works_is_no_part(tmp_path):
    table = lines(("file", "label"), *((f"/home/me/dev/{i}.png", CLASSES[i % 3]) for i in range(18)))
    files = {f"train/{i}.png": x for i, _, x in rows(18)} | {"labels.csv": table.encode()}
    assert mistakes(dataset(DataSpec(str(written(tmp_path, files)))), split=False) == []


# -- labels beside single pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "note"),
    [
        ("frame.{:03d}.png", "frame.{:03d}.cls"),
        ("a{}.v1.png", "a{}.v1.cls"),
        ("a{}.v1.png", "a{}.cls"),
        ("s/{}.left.v2.png", "s/{}.left.cls"),
    ],
)
def test_a_note_beside_a_picture_whose_name_has_dots(tmp_path, picture, note):
    files = {picture.format(i): x for i, _, x in rows(18)} | {note.format(i): str(c).encode() for i, c, _ in rows(18)}
    (tmp_path / "x.tar").write_bytes(tar_of(files))
    data = dataset(DataSpec(str(tmp_path / "x.tar")))
    assert mistakes(data, ("0", "1", "2"), split=False) == []
    assert not any(".cls files" in note for note in data.notes)


def test_notes_of_no_picture_are_counted(tmp_path):
    """In an archive, and in one that was unpacked."""
    files = {f"{i}.png": x for i, _, x in rows(18)} | {f"{i}.cls": str(c).encode() for i, c, _ in rows(21)}
    written(tmp_path, {"x.tar": tar_of(files)} | {f"x/{name}": content for name, content in files.items()})
    for name in ("x.tar", "x"):
        data = dataset(DataSpec(str(tmp_path / name)))
        assert mistakes(data, ("0", "1", "2"), split=False) == []
        assert "of no picture that is read: 3 .cls files, first 18.cls" in data.notes
