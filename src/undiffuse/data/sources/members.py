"""The files in zip and tar archives, one after the other, read without unpacking them."""

import bz2
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from undiffuse.data.budget import PACKED, Budget, open_tar, open_zip, tar_headers
from undiffuse.data.sources.base import MAX_BYTES, in_a_line
from undiffuse.data.spec import BadPicture
from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import check_regular

ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # a file's header; the end of an empty archive
TAR_MARK, TAR_MARK_AT = b"ustar", 257
PIECE, SMALL_PIECE = 1 << 16, 1 << 12  # bytes asked for at once; of a kind of packing that gives thousands for one
LINK = "by symbolic links"
ENCRYPTED = 1  # a bit of a zip member's flags
TAIL, TAILS = 1 << 20, 16  # bytes looked at behind the end of a tar, and how many times


class Member(NamedTuple):
    """A file in an archive. why: it is not read, in a word. link: the file in the same archive whose content it has."""

    name: str
    size: int
    read: Callable[[], bytes]
    why: str = ""
    link: str = ""


def member_content(size: int, read: Callable[[], bytes]) -> bytes | BadPicture:
    if size > MAX_BYTES:
        return BadPicture("too large", f"larger than {MAX_BYTES >> 20} MiB")
    try:
        return read()
    except MemoryError:
        return BadPicture("too large", "too large for the memory")
    except Exception as error:  # what damaged archives make their readers raise has no end
        return BadPicture("unreadable", f"cannot be read from the archive ({in_a_line(error)})")


def members_of(budget: Budget) -> Iterator[Member]:
    """Every file, those too that are not read; folders are none."""
    try:
        check_regular(budget.path)
        is_zip = _is_zip(budget.path)
    except (OSError, ValueError) as error:
        raise UndiffuseError(f"{budget.path}: cannot be read ({in_a_line(error)})") from error
    for member in _zip_members(budget) if is_zip else _tar_members(budget):
        nameless = PurePosixPath(member.name).name in ("", ".", "..")
        yield member._replace(why="without a name") if nameless else member


def _is_zip(path: Path) -> bool:
    """By its first bytes, for a tar file may end with a zip file; by its name if the zip file does not begin it."""
    with path.open("rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    if start.startswith(ZIP_STARTS):
        return True
    is_tar = start[TAR_MARK_AT:].startswith(TAR_MARK) or start.startswith(tuple(mark for mark, _ in PACKED))
    return path.suffix.lower() == ".zip" and not is_tar


# -- zip --------------------------------------------------------------------------------------------------------------


def _zip_members(budget: Budget) -> Iterator[Member]:
    try:
        with open_zip(budget) as archive:
            for info in archive.infolist():
                name = info.filename.replace("\\", "/")  # as some programs of Windows write it
                if not name.endswith("/"):
                    yield Member(name, info.file_size, partial(_unpacked, archive, info))
    except UndiffuseError:
        raise
    except Exception as error:
        raise UndiffuseError(f"{budget.path}: not a readable zip file ({in_a_line(error)})") from error


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Piece by piece, for a member may give more than it says: then its checksum is wrong."""
    if info.flag_bits & ENCRYPTED:
        raise ValueError("encrypted; unpack it with its password")
    if info.compress_type == zipfile.ZIP_BZIP2:
        return _bunzipped(archive, info)
    with archive.open(info) as file:
        data = b"".join(iter(partial(file.read, SMALL_PIECE if info.compress_type == zipfile.ZIP_LZMA else PIECE), b""))
    if len(data) < info.file_size:
        raise EOFError("ends early")
    return data


def _bunzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Of a kind of packing whose smallest piece may give gigabytes: zipfile takes all of them."""
    raw = copy(info)
    raw.compress_type, raw.file_size = zipfile.ZIP_STORED, info.compress_size
    del raw.CRC  # it is of what comes out
    with archive.open(raw) as file:
        data = bz2.BZ2Decompressor().decompress(file.read(), info.file_size)
    if zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile("Bad CRC-32")
    return data


# -- tar --------------------------------------------------------------------------------------------------------------


def _tar_members(budget: Budget) -> Iterator[Member]:
    try:
        with open_tar(budget) as archive:
            for info in tar_headers(archive, budget):
                if not info.isdir():
                    yield _tar_member(archive, info)
            _check_end(archive, budget.path)
    except UndiffuseError:
        raise
    except Exception as error:
        raise UndiffuseError(f"{budget.path}: not a readable tar file ({in_a_line(error)})") from error


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    link = info.linkname.removeprefix("./") if info.islnk() else ""
    kinds = {LINK: info.issym(), "sparse": info.issparse(), "not a file": not (info.isreg() or link)}
    why = next((kind for kind, holds in kinds.items() if holds), "")
    return Member(info.name.removeprefix("./"), info.size, partial(_extract, archive, info), why, link)


def _check_end(archive: tarfile.TarFile, path: object) -> None:
    """tarfile takes the end of the file for the end of the archive, so that one cut short reads as a smaller set; and
    an end within it, where two were written into one file, for the end of all."""
    file: Any = archive.fileobj
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise UndiffuseError(f"{path}: a tar file without its end mark: cut short? Fetch or write it again")
    for _ in range(TAILS):
        tail = file.read(TAIL)
        if tail != bytes(len(tail)):
            raise UndiffuseError(f"{path}: goes on after its end mark: several tar files in one? Give them one by one")


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    data = b"" if file is None else file.read()
    if len(data) < info.size:
        raise EOFError("ends early")
    return data
