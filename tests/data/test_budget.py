"""What a stranger's file may cost: small files that stand for much are refused in a line, in little time and memory."""

import gzip
import io
import os
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from corpus import noisy, saved
from typing_extensions import TypedDict

from made import files, idx, pictures, png, tarred, written, zipped
from undiffuse.data import budget, decode
from undiffuse.data.check import check_data
from undiffuse.data.generated import read_images
from undiffuse.data.prepare import dataset
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import DEEPEST, checked_record, parse_json, read_text

MANY = 3 << 20


class Numbers(TypedDict):
    a: int


@pytest.fixture
def little(monkeypatch):
    """Limits that a test reaches in little time: 1 MiB free, then a hundred bytes for each."""
    monkeypatch.setattr(budget, "FREE", 1 << 20)
    monkeypatch.setattr(budget, "MOST_MEMBERS", 50)


def refused(path, words, **spec):
    with pytest.raises(UndiffuseError, match=words) as error:
        dataset(DataSpec(str(path), **spec))
    assert "\n" not in str(error.value)
    return str(error.value)


def bomb(count=200 << 20) -> dict[str, bytes]:
    return files(4) | {"cat/note.txt": bytes(count)}


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_packed_tar_that_unpacks_to_very_much(tmp_path, little, mode):
    path = tmp_path / f"x.tar.{mode[2:]}"
    path.write_bytes(tarred(bomb(), mode))
    assert path.stat().st_size < MANY // 10
    assert "data.budget=10" in refused(path, r"unpacks to \d+ MiB or more, from 0\.\d MiB: at most 100 times its size")
    assert len(dataset(DataSpec(str(path), budget=1e6)).train) == 3


def test_a_zip_that_unpacks_to_very_much(tmp_path, little):
    path = tmp_path / "x.zip"
    path.write_bytes(zipped(bomb()))
    refused(path, "unpacks to 200 MiB or more")
    assert len(dataset(DataSpec(str(path), budget=1e6)).train) == 3


def test_arrays_and_idx_files_that_unpack_to_very_much(tmp_path, little):
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((3000, 200, 200), np.uint8))
    refused(tmp_path / "x.npz", "unpacks to 114 MiB or more")
    with pytest.raises(UndiffuseError, match="unpacks to 114 MiB or more"):
        read_images(tmp_path / "x.npz")
    place = tmp_path / "idx"
    place.mkdir()
    (place / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((3000, 200, 200), np.uint8))))
    refused(place, "unpacks to 12 MiB or more")


def test_a_name_that_is_larger_than_memory(tmp_path):
    """GNU tar's long names are read whole: one of 600 MiB of zeros takes half a MiB in a packed file."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 600 << 20
    with gzip.open(tmp_path / "x.tar.gz", "wb", 1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(600):
            file.write(bytes(1 << 20))
    refused(tmp_path / "x.tar.gz", "a member's name or note of 600 MiB|not a readable tar|unpacks to")


def test_too_many_members(tmp_path, little):
    for name, data in (("x.zip", zipped(files(60))), ("x.tar", tarred(files(60)))):
        (tmp_path / name).write_bytes(data)
        assert "data.budget=10" in refused(tmp_path / name, "holds more than 50 files")
    folder = written(tmp_path / "folder", files(60))
    refused(folder, "holds more than 50 files")
    assert len(dataset(DataSpec(str(folder), budget=2.0, held_out=0.0)).train) == 60


def test_members_that_lie_over_each_other(tmp_path):
    """As in Fifield's better zip bomb (2019): every entry of the directory leads to the same bytes."""
    data = bytearray(zipped(files(3)))
    first = data.index(b"PK\x01\x02")
    entries = [i for i in range(first, len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    for entry in entries:
        data[entry + 42 : entry + 46] = struct.pack("<I", 0)
    (tmp_path / "x.zip").write_bytes(bytes(data))
    refused(tmp_path / "x.zip", "lie over each other")


def test_names_through_a_thousand_folders(tmp_path):
    deep = "a/" * 3000 + "0.png"
    (tmp_path / "x.zip").write_bytes(zipped({deep: png(pictures(1)[0])}))
    refused(tmp_path / "x.zip", "more than 64 folders deep")
    (tmp_path / "x.tar").write_bytes(tarred({deep: png(pictures(1)[0])}))
    refused(tmp_path / "x.tar", "more than 64 folders deep")
    here = tmp_path / "deep"
    here.mkdir()
    handle = os.open(here, os.O_RDONLY)
    for _ in range(100):
        os.mkdir("a", dir_fd=handle)
        inner = os.open("a", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    refused(here, "more than 64 folders deep")


def of_two(*names) -> dict[str, bytes]:
    return {f"{names[i % 2]}/{i}.png": png(x) for i, x in enumerate(pictures(6))}


def test_names_and_labels_of_thousands_of_digits(tmp_path):
    number = "7" * 200
    folder = written(
        tmp_path / "folder", {f"{(number, 'a')[i % 2]}/{i}.png": png(x) for i, x in enumerate(pictures(6))}
    )
    assert dataset(DataSpec(str(folder))).class_names == (number, "a")
    (tmp_path / "x.zip").write_bytes(
        zipped({f"{('9' * 5000, 'a')[i % 2]}/{i}.png": png(x) for i, x in enumerate(pictures(6))})
    )
    assert dataset(DataSpec(str(tmp_path / "x.zip"))).class_names == ("9" * 5000, "a")
    written(folder, {"labels.json": b'[{"file": "0.png", "label": ' + b"7" * 5000 + b"}]"})
    refused(folder, r"labels\.json: cannot be read as labels \(the number 777777777777\.\.\. is beyond 64 bits")


def test_a_progressive_picture_of_very_many_passes(tmp_path, monkeypatch):
    content = saved(noisy((64, 64)), "JPEG", progressive=True)
    monkeypatch.setattr(decode, "MOST_SCANNED", 64 * 64 * 4)
    folder = written(tmp_path / "x", {f"{i}.jpg": content + bytes([i]) for i in range(6)})
    refused(folder, r"64 x 64 in \d+ passes.*data\.budget=10")
    assert len(dataset(DataSpec(str(folder), budget=100.0, held_out=0.0)).train) == 6


def test_cells_that_no_letter_of_the_file_stands_for(tmp_path):
    folder = written(tmp_path / "x", files(3))
    (folder / "labels.csv").write_text(",".join(f"c{i}" for i in range(20_000)) + "\n" + "x\n" * 20_000)
    refused(folder, r"labels\.csv: more cells than letters")
    (folder / "labels.csv").unlink()
    shared = ",".join(f'"k{i}": 0' for i in range(5000))
    (folder / "labels.json").write_text(f'[{{{shared}, "inside": [{",".join(["{}"] * 5000)}]}}]')
    refused(folder, r"labels\.json: more cells than letters")


def test_what_is_no_regular_file(tmp_path):
    pipe = tmp_path / "x.zip"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        refused(path, "neither a file nor a folder")
    folder = written(tmp_path / "folder", files(3))
    for name, words in (
        ("labels.csv", r"labels\.csv: not a regular file"),
        ("cat/9.png", "1 of 4 pictures cannot"),
    ):
        os.mkfifo(folder / name)
        refused(folder, words)
        (folder / name).unlink()
    refused(folder, "/dev/zero: not a regular file", labels="/dev/zero")


def test_json_has_a_depth_a_width_and_a_size(tmp_path):
    assert parse_json("[" * DEEPEST + "]" * DEEPEST)
    for text, words in (
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "more than 32 deep"),
        ("[" * 100_000, "more than 32 deep"),
        ("9" * 5000, "beyond 64 bits"),
        (str(2**63), "beyond 64 bits"),
        ("{", "double quotes"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_json(text)
    assert parse_json(f"[{2**63 - 1}, {-(2**63)}, 1.5]") == [2**63 - 1, -(2**63), 1.5]
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(tmp_path / "x") == "abc"
    with pytest.raises(ValueError, match="6 bytes, and at most 5 are read"):
        read_text(tmp_path / "x", 5)
    with pytest.raises(ValueError, match="a: input should be a valid integer, got '1'"):
        checked_record(Numbers, {"a": "1"})


def test_a_long_walk_tells_and_stops(tmp_path):
    """Every folder passes the watch: so a face can say where it is, and Ctrl-C comes through."""
    folder = written(tmp_path / "x", {f"{i}/{i}.png": png(x) for i, x in enumerate(pictures(20))})
    seen = []

    def watch(items, total, what):
        for item in items:
            seen.append(what)
            if len(seen) == 10:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        check_data(DataSpec(str(folder)), watch)
    assert seen == ["folder looked through"] * 10


def test_pictures_that_neither_disk_nor_memory_holds(tmp_path, monkeypatch):
    folder = written(tmp_path / "x", files(12))
    monkeypatch.setattr("undiffuse.processes.machine.memory", lambda: 1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1 << 20}))
    refused(folder, "12 pictures of 4096x4096 take 576 MiB, more than the cache .* has room for", size=(4096, 4096))


def test_honest_archives_are_read(tmp_path):
    """Stored, packed, in folders, with a comment, with a prefix."""
    content = files(30)
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        archive.comment = b"made by hand"
        for name, data in content.items():
            archive.writestr(name, data)
    for name, data in (("a.zip", plain.getvalue()), ("b.zip", b"#!/bin/sh\n" + zipped(content))):
        (tmp_path / name).write_bytes(data)
        assert len(dataset(DataSpec(str(tmp_path / name), held_out=0.0)).train) == 30
