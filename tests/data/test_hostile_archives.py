"""Archives that were made to mislead or to take the machine down: told in a line, or read as what they are."""

import gzip
import io
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib

import pytest

from made import NAMES, cifar_python, files, pictures, png, tarred, written, zipped
from undiffuse.data.budget import Budget
from undiffuse.data.check import check_data
from undiffuse.data.prepare import dataset
from undiffuse.data.sources import find_source
from undiffuse.data.sources.members import members_of
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError

PICTURE = png(pictures(1, seed=9)[0])
HEADERS = tarfile.GNU_FORMAT


def header(name: str, size=0, kind=tarfile.REGTYPE, link="") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def tar(*raw: bytes, end=True) -> bytes:
    """Twelve pictures, then these blocks."""
    content = b"".join(_member(name, data) for name, data in files().items())
    return content + b"".join(raw) + bytes(1024) * end


def _member(name: str, data: bytes) -> bytes:
    return header(name, len(data)).tobuf(HEADERS) + data + bytes(-len(data) % 512)


def flat(n=12) -> dict[str, bytes]:
    return {f"{i}.png": png(picture) for i, picture in enumerate(pictures(n))}


def repeated(*content: tuple[str, bytes]) -> bytes:
    """A zip file that may hold a name twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for name, data in content:
            archive.writestr(name, data)
    return buffer.getvalue()


def read(path, content: bytes, **spec):
    path.write_bytes(content)
    return dataset(DataSpec(str(path), held_out=0.0, **spec))


def refused(path, content: bytes, words: str, **spec) -> None:
    with pytest.raises(UndiffuseError, match=words) as error:
        read(path, content, **spec)
    assert "\n" not in str(error.value)


def passed_over(path, **spec) -> str:
    source = find_source(DataSpec(str(path), **spec))
    return source.passed_over()


# -- tar --------------------------------------------------------------------------------------------------------------


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    content = tarred(files() | {"last.zip": zipped({"other/0.png": PICTURE})})
    data = read(tmp_path / "x.tar", content)
    assert len(data.train) == 12 and data.class_names == NAMES
    assert "1 .zip (last.zip)" in passed_over(tmp_path / "x.tar")
    assert len(read(tmp_path / "a.zip", tarred(files())).train) == 12
    assert len(read(tmp_path / "b.tar", zipped(files())).train) == 12


@pytest.mark.parametrize("packed", [False, True])
def test_hard_links_are_files_and_other_links_are_counted(tmp_path, packed):
    links = (
        header("owl/hard.png", 0, tarfile.LNKTYPE, "./cat/0.png"),
        header("owl/again.png", 0, tarfile.LNKTYPE, "cat/0.png"),
        header("dog/lost.png", 0, tarfile.LNKTYPE, "cat/99.png"),
        header("dog/soft.png", 0, tarfile.SYMTYPE, "../cat/0.png"),
        header("folder", 0, tarfile.SYMTYPE, "cat"),
        header("notes.txt", 0, tarfile.SYMTYPE, "cat"),
        header("cat/pipe.png", 0, tarfile.FIFOTYPE),
        header("cat/whole.png", 0, tarfile.DIRTYPE),
    )
    content = tar(*(info.tobuf(HEADERS) for info in links))
    path = tmp_path / ("x.tar.gz" if packed else "x.tar")
    data = read(path, gzip.compress(content) if packed else content)
    assert len(data.train) == 14 and data.train.labels.bincount().tolist() == [4, 4, 6]
    told = passed_over(path)
    assert "2 by symbolic links (dog/soft.png)" in told and "1 by links to nothing (dog/lost.png)" in told
    assert "1 not a file (cat/pipe.png)" in told


def test_a_sparse_file_is_counted(tmp_path):
    info = header("cat/holes.png", 512, tarfile.GNUTYPE_SPARSE)
    block = bytearray(info.tobuf(HEADERS))
    block[386:410] = b"%011o\0%011o\0" % (0, 512)
    block[483:495] = b"%011o\0" % 1024
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert len(read(tmp_path / "x.tar", tar(bytes(block) + bytes(512))).train) == 12
    assert passed_over(tmp_path / "x.tar") == "1 sparse (cat/holes.png)"


@pytest.mark.parametrize("name", ["/", ".", "..", "a/.."])
def test_files_that_have_no_name_are_counted(tmp_path, name):
    content = tar(_member(name, PICTURE))
    for spec in ({}, {"select": "*"}):
        assert len(read(tmp_path / "x.tar", content, **spec).train) == 12
        assert passed_over(tmp_path / "x.tar", **spec) == f"1 without a name ({name})"
    assert len(read(tmp_path / "x.zip", zipped(files() | {name: PICTURE}), select="*").train) == 12


def negative(size: int) -> bytes:
    block = bytearray(header("cat/less.png").tobuf(HEADERS))
    block[124:136] = b"\xff" + (size % 2**88).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [-1, -512, -1024, -5000])
def test_a_size_below_nothing(tmp_path, size):
    """It leads back to a header that was read before, for ever (CVE-2025-8194)."""
    words = "has a size that no file has|not a readable tar file"
    refused(tmp_path / "x.tar", tar(negative(size)), words)
    refused(tmp_path / "x.tar", tar(pax(b"size=%d" % size), header("a").tobuf(HEADERS)), words)
    cifar_python(tmp_path / "cifar")
    batches = {path.name: path.read_bytes() for path in sorted((tmp_path / "cifar").iterdir())}
    content = tarred(batches)[: -10240 % 512 or None].rstrip(b"\0")
    content += bytes(-len(content) % 512)
    refused(tmp_path / "cifar-10.tar", content + negative(size) + bytes(1024), words)


def pax(*records: bytes, kind=tarfile.XHDTYPE, raw=b"") -> bytes:
    body = raw
    for record in records:
        length = len(record) + 2
        while len(b"%d %s\n" % (length, record)) != length:
            length += 1
        body += b"%d %s\n" % (length, record)
    return header("pax", len(body), kind).tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


@pytest.mark.parametrize(
    "notes",
    [
        pax(raw=b"1" * 500_000),
        pax(b"comment=" + b"1" * 500_000),
        pax(b"comment=" + b"a" * (2 << 20)),
        pax(b"comment=" + b"a" * 900_000) * 3,
        pax(*(b"k%d=v" % i for i in range(5000)), kind=tarfile.XGLTYPE),
        header("name", 2 << 20, tarfile.GNUTYPE_LONGNAME).tobuf(HEADERS) + b"a" * (2 << 20),
    ],
)
def test_notes_that_would_take_hours_or_gigabytes(tmp_path, notes):
    """Rows of digits take tarfile the square of their number (CVE-2024-6232)."""
    began = time.monotonic()
    content = tar(notes, *(_member(f"cat/z{i}.txt", b"") for i in range(3)))
    refused(tmp_path / "x.tar.gz", gzip.compress(content), r"not a readable tar file|more than 100 notes on every file")
    assert time.monotonic() - began < 5


def test_usual_notes_are_read(tmp_path):
    """Times, owners and long names, as Python and GNU tar write them."""
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", format=form) as archive:
            for name, data in files().items():
                info = header(f"{name[:3]}/{'x' * 300}/{name[4:]}", len(data))
                info.mtime, info.pax_headers = 1.5, {"SCHILY.xattr.user.note": "é" * 300}
                archive.addfile(info, io.BytesIO(data))
        data = read(tmp_path / f"{form}.tar.gz", buffer.getvalue())
        assert len(data.train) == 12 and data.class_names == NAMES


def test_two_tars_in_one_file(tmp_path):
    content = tarred(files())
    refused(
        tmp_path / "x.tar", content + tarred({"owl/x.png": PICTURE}), "goes on after its end mark: several tar files"
    )
    assert len(read(tmp_path / "x.tar", content + bytes(50_000)).train) == 12


def test_listing_tells_where_it_is(tmp_path):
    (tmp_path / "x.tar").write_bytes(tarred(files()))
    seen = []

    def watch(items, total, what):
        for item in items:
            seen.append(what)
            yield item

    check_data(DataSpec(str(tmp_path / "x.tar")), watch)
    assert seen.count("file listed") == 12


# -- names that stand twice -------------------------------------------------------------------------------------------


def test_two_files_of_one_name(tmp_path):
    words = "holds cat/0.png twice; unpack it"
    refused(tmp_path / "x.zip", repeated(*files().items(), ("cat/0.png", PICTURE)), words)
    refused(tmp_path / "x.tar", tar(_member("cat/0.png", PICTURE)), words)
    notes = [("0.png", PICTURE), ("0.cls", b"a"), ("1.png", PICTURE), ("1.cls", b"b"), ("0.cls", b"b")]
    refused(tmp_path / "x.zip", repeated(*notes), "holds 0.cls twice")
    tables = [("labels.csv", b"file,label\n0.png,a\n"), ("labels.csv", b"file,label\n0.png,b\n")]
    refused(tmp_path / "x.zip", repeated(*flat().items(), *tables), "holds labels.csv twice")
    unread = [("readme.txt", b"a"), ("readme.txt", b"b")]
    assert len(read(tmp_path / "x.zip", repeated(*files().items(), *unread)).train) == 12


# -- zip --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_gives_more_than_it_says(tmp_path, kind):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, data in files().items():
            archive.writestr(name, data)
        with archive.open("cat/more.png", "w") as file:
            file.write(PICTURE)
            for _ in range(300):
                file.write(bytes(1 << 20))
    content = bytearray(buffer.getvalue())
    entry = content.rindex(b"PK\1\2")
    content[entry + 16 : entry + 20] = struct.pack("<I", zlib.crc32(PICTURE))
    content[entry + 24 : entry + 28] = struct.pack("<I", len(PICTURE))
    (tmp_path / "x.zip").write_bytes(bytes(content))
    tracemalloc.start()
    sizes = [len(member.read()) for member in members_of(Budget(tmp_path / "x.zip")) if "more" in member.name]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [len(PICTURE)] and most < 100 << 20


def test_every_kind_of_packing_is_read(tmp_path):
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for name, data in files().items():
                archive.writestr(name, data)
        assert len(read(tmp_path / f"{kind}.zip", buffer.getvalue()).train) == 12


def test_an_encrypted_zip_says_so(tmp_path):
    content = bytearray(zipped(files()))
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            content[at + flags] |= 1
    words = r"no usable picture: cat/0\.png: cannot be read from the archive \(encrypted; unpack it with its password\)"
    refused(tmp_path / "x.zip", bytes(content), words)


# -- label files in archives ------------------------------------------------------------------------------------------


def table(*names: str, coding="utf-8") -> bytes:
    return ("file,label\n" + "".join(f"{i}.png,{names[i % len(names)]}\n" for i in range(12))).encode(coding)


def test_label_files_are_utf_8_in_archives_too(tmp_path):
    words = r"labels\.csv: not text in UTF-8 \(byte \d+\); save it again as UTF-8"
    for coding in ("latin-1", "utf-16"):
        refused(tmp_path / "x.zip", zipped(flat() | {"labels.csv": table("pâté", "pâtè", coding=coding)}), words)
    notes = {f"{i}.cls": ("pé", "pè")[i % 2].encode("latin-1") for i in range(12)}
    refused(tmp_path / "x.zip", zipped(flat() | notes), r"0\.cls: not text in UTF-8")
    notes = {f"{i}.json": '{"label": "é"}'.encode("latin-1") for i in range(12)}
    refused(tmp_path / "x.zip", zipped(flat() | notes), r"0\.json: not text in UTF-8")
    marked = read(tmp_path / "x.zip", zipped(flat() | {"l.csv": b"\xef\xbb\xbf" + table("a", "b")}), labels="l.csv")
    assert marked.class_names == ("a", "b")


def test_a_label_file_that_cannot_be_read_is_not_passed_over(tmp_path):
    content = zipped(flat() | {"labels.csv": table("a", "b") + b"\n" * (64 << 20)})
    refused(tmp_path / "x.zip", content, r"labels\.csv: 67,\d+,\d+ bytes, and at most 67,108,864 are read")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in (flat() | {"labels.csv": table("a", "b")}).items():
            archive.writestr(name, data)
    damaged = buffer.getvalue().replace(b"3.png,b\n", b"3.png,c\n")
    refused(tmp_path / "x.zip", damaged, r"labels\.csv: cannot be read from the archive \(Bad CRC-32")
    notes = {f"{i}.cls": b"a" for i in range(12)} | {"3.cls": b"b" * (2 << 20)}
    refused(tmp_path / "x.zip", zipped(flat() | notes), r"3\.cls: 2,097,152 bytes, and at most 1,048,576 are read")


def test_a_folder_tells_of_archives_in_it(tmp_path):
    written(tmp_path / "x", files() | {"more.zip": zipped(files()), "old.tar.gz": b""})
    assert passed_over(tmp_path / "x") == "1 .zip (more.zip), 1 .tar.gz (old.tar.gz)"


def test_names_without_end(tmp_path):
    content = tar(pax(b"path=cat/" + b"a" * 20_000 + b".png"), _member("a", PICTURE))
    refused(tmp_path / "x.tar", content, "is a name of 20,008 letters; the file is damaged")


def test_pictures_with_a_label_file_and_an_archive_of_others(tmp_path):
    folder = written(tmp_path / "x", flat() | {"labels.csv": table("a", "b"), "old.zip": zipped({"z.png": PICTURE})})
    words = r"the archives here are read \(old\.zip\); data\.select='\*\.png' reads the 12"
    with pytest.raises(UndiffuseError, match=words):
        dataset(DataSpec(str(folder), held_out=0.0))
    assert dataset(DataSpec(str(folder), held_out=0.0, select="*.png")).class_names == ("a", "b")
