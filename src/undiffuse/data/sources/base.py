"""What every source of pictures offers."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from stat import S_ISREG
from typing import Protocol, runtime_checkable

import numpy as np

from undiffuse.data.spec import BadPicture
from undiffuse.errors import UndiffuseError, escaped, is_control
from undiffuse.files.reading import read_text

MAX_BYTES = 512 * 1024 * 1024  # of one encoded picture
MOST_LETTERS = 8192  # letters, with all folders
DEEPEST_FOLDER = 64  # folders within each other, in a name
CODES = {*"tnrxuU\\"}  # letters after a backslash that make it one
LONGEST_NUMBER = 4000  # digits; Python reads no more than 4,300


@dataclass(frozen=True)
class Item:
    """One picture as it is found. content: the bytes of a file, an array uint8 [h, w, c], or why there is neither.

    label: a class name, None if there is none; held_out: the source says so, None if it does not say.
    """

    name: str
    content: bytes | np.ndarray | BadPicture
    label: str | None = None
    held_out: bool | None = None


@runtime_checkable
class Source(Protocol):
    """A place where pictures come from. Reading it twice gives the same items in the same order."""

    @property
    def name(self) -> str:
        """The source's name in messages."""

    @property
    def levels(self) -> int:
        """Grey levels of the source's arrays; pictures in files have 256."""

    def classes(self) -> tuple[str, ...] | None:
        """Names in the order of their indices; None: those that are found, in natural order."""

    def stamp(self) -> str | None:
        """Changes whenever what `items` gives may have changed, and is quick to have; None: reading it all is quick."""

    def items(self) -> Iterator[Item]: ...


@runtime_checkable
class Telling(Protocol):
    """A source that tells how it was read."""

    def remarks(self) -> tuple[str, ...]:
        """How classes and parts were found, a line each."""

    def passed_over(self) -> str:
        """Pictures that are there and not read, counted; "" if there are none."""


def stamp_of(paths: Iterable[Path]) -> str:
    """A stamp of files: their names, sizes, times of modification and of change of status (which no copy can set
    back)."""
    digest = blake2b(digest_size=16)
    for path in paths:
        try:
            found = path.stat()
            facts = (str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        except OSError as error:
            facts = (str(path), -1, error.errno or 0, 0, 0)
        digest.update(repr(facts).encode())
    return digest.hexdigest()


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sorting key under which 2.png comes before 10.png."""
    return [
        (0, int(part[:LONGEST_NUMBER]), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]


def check_depth(name: str, origin: object) -> None:
    """Refuse a file's name that is longer, or goes through more folders, than anybody makes."""
    if len(name) > MOST_LETTERS:
        raise UndiffuseError(f"{origin}: {name[:40]}... is a name of {len(name):,} letters; the file is damaged")
    if name.count("/") > DEEPEST_FOLDER:
        raise UndiffuseError(f"{origin}: {name[:40]}... lies more than {DEEPEST_FOLDER} folders deep")


def picture_bytes(path: Path) -> bytes:
    """A picture's file. Raises BadPicture."""
    content = read_bytes(path)
    if isinstance(content, BadPicture):
        raise content
    return content


def read_bytes(path: Path) -> bytes | BadPicture:
    try:
        found = path.stat()
        if not S_ISREG(found.st_mode):  # a pipe may never begin, a device never end
            return BadPicture("unreadable", "not a file")
        if found.st_size > MAX_BYTES:
            return BadPicture("too large", f"larger than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except PermissionError:
        return BadPicture("unreadable", "no permission to read it")
    except OSError as error:
        return BadPicture("unreadable", f"cannot be read ({error.strerror})")


PICTURE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def begins_as_a_picture(path: Path) -> bool:
    """Whether a file without a suffix begins with the mark of a format that is read."""
    try:
        found = path.stat()
        if not (S_ISREG(found.st_mode) and found.st_size):  # the system's own files are empty, and may block
            return False
        with path.open("rb") as file:
            return file.read(8).startswith(PICTURE_STARTS)
    except OSError:
        return False


def printable(name: str) -> str:
    """A name that goes into any file, see errors.escaped. Two names never become one: what looks like a code is written
    with a second backslash."""
    if "\\" in name:
        pairs = pairwise([*name, " "])
        name = "".join(one * (2 if one == "\\" and (then in CODES or is_control(then)) else 1) for one, then in pairs)
    return escaped(name)


def in_a_line(error: Exception) -> str:
    """An error of a library about a file, short enough to be quoted."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:120]


def opened_lines(path: Path) -> str:
    """The text of a label file. Raises UndiffuseError."""
    try:
        return read_text(path)
    except OSError as error:
        raise UndiffuseError(f"{path}: cannot be read ({in_a_line(error)})") from error
    except ValueError as error:
        again = "; save it again as UTF-8" if "UTF-8" in str(error) else ""
        raise UndiffuseError(f"{path}: {error}{again}") from error
