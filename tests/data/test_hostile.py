"""Files that were made to mislead, to take the machine down, or to forge what a command says: one line each."""

import io
import pickle
from itertools import product

import numpy as np
import pytest
from corpus import noisy, saved
from PIL import Image

from made import NAMES, cifar_binary, cifar_python, files, idx, idx_folder, pictures, png, written
from undiffuse.data import decode
from undiffuse.data.check import check_data
from undiffuse.data.prepare import dataset
from undiffuse.data.sources.base import printable
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError, in_a_message


def refused(path, words, **spec):
    with pytest.raises(UndiffuseError, match=words) as error:
        dataset(DataSpec(str(path), **spec))
    assert "\n" not in str(error.value)


# -- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dotted", [False, True])
def test_two_folders_of_idx_files_are_two_sets(tmp_path, dotted):
    idx_folder(tmp_path / "a", dotted=dotted)
    idx_folder(tmp_path / "b", dotted=dotted, n=20)
    assert [len(dataset(DataSpec(str(tmp_path / name))).train) for name in "ab"] == [12, 20]
    (tmp_path / "b" / f"train-images{'-.'[dotted]}idx3-ubyte").write_bytes(idx(pictures(20, (8, 8))))
    refused(tmp_path / "b", "sizes, from 8x8 to 28x28")


def test_the_same_files_by_a_name_and_by_their_path_have_their_own_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDIFFUSE_DATA", str(tmp_path))
    idx_folder(tmp_path / "fashion-mnist")
    plain = dataset(DataSpec(str(tmp_path / "fashion-mnist")))
    named = dataset(DataSpec("fashion-mnist"))
    assert plain.class_names == ("0", "1", "2") and named.class_names[:2] == ("T-shirt/top", "Trouser")
    assert dataset(DataSpec(str(tmp_path / "fashion-mnist"))).class_names == ("0", "1", "2")


def test_a_picture_refused_for_its_cost_is_read_with_a_larger_budget(tmp_path, monkeypatch):
    content = saved(noisy((64, 64)), "JPEG", progressive=True)
    monkeypatch.setattr(decode, "MOST_SCANNED", 64 * 64 * 4)
    folder = written(tmp_path / "x", {"slow.jpg": content, "0.png": png(pictures(1, (64, 64, 3))[0])})
    spec = DataSpec(str(folder), held_out=0.0, bad="skip")
    assert len(dataset(spec).train) == 1
    assert len(dataset(DataSpec(str(folder), held_out=0.0, bad="skip", budget=100.0)).train) == 2
    assert len(dataset(spec).train) == 1


def test_the_passes_of_several_pictures_in_one_jpeg_file_are_counted(tmp_path, monkeypatch):
    """MPO, as cameras with two lenses write it."""
    content = io.BytesIO()
    noisy((64, 64)).save(content, "MPO", save_all=True, append_images=[noisy((64, 64))], progressive=True)
    monkeypatch.setattr(decode, "MOST_SCANNED", 64 * 64 * 4)
    with Image.open(io.BytesIO(content.getvalue())) as image:
        assert image.format == "MPO"
    refused(written(tmp_path / "x", {"0.jpg": content.getvalue()}), r"64 x 64 in \d+ passes", held_out=0.0)


# -- CIFAR ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [b"\x85", b"\x85R", b"a]"])
def test_a_pickle_of_things_within_things_without_end(tmp_path, box):
    """Hashing, or letting go of, tuples two million deep ends the interpreter without a word."""
    cifar_python(tmp_path / "x")
    (tmp_path / "x" / "data_batch_1").write_bytes(b"\x80\x02})" + box * 2_000_000 + b"K\x01s.")
    refused(tmp_path / "x", r"not a pickle of data: .*(more than 1,000 lists|stack)")


def test_two_classes_of_one_name(tmp_path):
    cifar_binary(tmp_path / "x")
    (tmp_path / "x" / "batches.meta.txt").write_text("cat\ncat\nowl\n")
    refused(tmp_path / "x", r"batches\.meta\.txt names two classes 'cat'; give each its own name")


@pytest.mark.parametrize("names", [[5, 6, 7], [b"\xff", b"b", b"c"], [[], [], []]])
def test_classes_that_are_not_named_in_text(tmp_path, names):
    cifar_python(tmp_path / "x")
    (tmp_path / "x" / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, 2))
    refused(tmp_path / "x", r"batches\.meta: the names of classes are not text in UTF-8")


# -- names ------------------------------------------------------------------------------------------------------------


def test_no_two_names_become_one():
    assert printable("a\x1bz") == "a\\x1bz" and printable("a\\x1bz") == "a\\\\x1bz"
    assert printable("a\\b") == "a\\b" and printable("Zoë 👨‍👩‍👧") == "Zoë 👨‍👩‍👧"
    assert printable("\u202ed\u2028\udcff") == "\\u202ed\\u2028\\udcff"
    names = ["".join(signs) for length in range(1, 6) for signs in product("\\x1bn\x1b", repeat=length)]
    assert len({printable(name) for name in names}) == len(names)


def test_classes_that_look_alike_stay_two(tmp_path):
    two = ("a\x1bz", "a\\x1bz")
    contents = files().values()
    folder = written(tmp_path / "x", {f"{two[i % 2]}/{i}.png": content for i, content in enumerate(contents)})
    assert dataset(DataSpec(str(folder))).class_names == ("a\\\\x1bz", "a\\x1bz")


def test_a_message_is_one_line_of_text():
    assert in_a_message("a\nb\x1b[31m\u202e\u2028\x85 é") == "a\\nb\\x1b[31m\\u202e\\u2028\\x85 é"
    long = in_a_message(f"labels.csv: {'z' * 100_000}.png names no picture; leave it out")
    assert (
        len(long) < 260 and long.startswith("labels.csv: zzz") and long.endswith(".png names no picture; leave it out")
    )
    assert len(in_a_message("a b " * 50_000)) == 2000 and len(in_a_message("\x1b " * 50_000)) == 2000


def test_check_of_names_that_forge(tmp_path, capsys, monkeypatch):
    """Names of files and classes, of a label file's columns and rows, of the folder itself."""
    from undiffuse.cli import main

    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": tmp_path / "cache")
    ends = "\nno trouble found\n\x1b[31m\u202e"
    flat = {f"{i}{ends * (i % 2)}.png": content for i, content in enumerate(files().values())}
    rows = "".join(f'"{i}{ends * (i % 2)}.png",{("a", "b" * 9000)[i % 2]}\n' for i in range(12))
    table = f'file,label\n"nowhere{ends}.png",c\n"{"z" * 100_000}.png",c\n{rows}'
    folder = written(
        tmp_path / f'it\'s "x"\n\xa0\\n: #{ends}', flat | {"labels.csv": table.encode(), "bad\x1b.png": b""}
    )
    main(["check", str(folder), "--set", "data.bad=skip", "--out", str(tmp_path / "sheet.png")])
    out, err = capsys.readouterr()
    assert f"b{'b' * 100}" in out and "nowhere" in out and "bad\\" in out and not err, err
    assert all(line.replace("\xa0", " ").isprintable() and len(line) < 2100 for line in (out + err).split("\n"))
    assert sum("no trouble found" in line and len(line) < 40 for line in out.splitlines()) == 0
    assert (tmp_path / "sheet.png").stat().st_size < 1 << 20
    assert main(["check", str(tmp_path / "nowhere\x1b\u202e")]) == 2
    assert capsys.readouterr().err.rstrip("\n").isprintable()


@pytest.mark.parametrize("name", ["a #b", "2024", "[x]", "a: b", "it's", "C:\\new", "a\nb", "\udcff"])
def test_any_folder_can_be_trained_on(tmp_path, monkeypatch, name):
    from undiffuse import config
    from undiffuse.pipeline import build

    monkeypatch.chdir(written(tmp_path, {f"{name}/{path}": content for path, content in files().items()}))
    chosen = config.load("folder", [f"data.source={name}"])
    assert len(build.dataset(chosen).class_names) == len(NAMES)
    written(tmp_path / "run", {"config.yaml": chosen.as_yaml().encode()})
    assert config.read(tmp_path / "run/config.yaml").data.source == name


def test_damage_that_the_checksum_tells(tmp_path):
    content = bytearray(saved(noisy((64, 64)), "PNG"))
    content[content.index(b"IDAT") + 3000] ^= 16
    found = check_data(DataSpec(str(written(tmp_path / "x", files(4) | {"cat/9.png": bytes(content)})), size=(8, 8)))
    assert any("9.png: cannot be decoded: the checksum of its IDAT chunk is wrong" in told for _, told in found.rows)
    assert np.array(found.trouble)[0].startswith("1 damaged")
