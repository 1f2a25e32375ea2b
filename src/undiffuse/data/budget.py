"""What a file of data may cost: how much an archive may unpack to, how long one picture may take.

A few bytes can stand for more than any machine holds. What real sets take is far below these limits; `data.budget`
multiplies them all for a file that is trusted.
"""

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import check_regular

FREE = 256 << 20  # bytes that any archive may unpack to
RATIO = 100  # bytes out for each byte in, beyond those
MOST_UNPACKED = 1 << 40  # bytes
MOST_MEMBERS = 4_000_000
MOST_AT_ONCE = 512 << 20  # bytes that one member, or what describes it, takes in memory
MOST_SCANNED = 2_000_000_000  # pixels times passes over them: seconds of decoding
MOST_NOTES, FEW_NOTES = 1 << 20, 4096  # bytes of a tar file's notes: on a file, and on all; too few to be counted
MOST_SHARED = 100  # notes on all files of a tar
DIGITS = re.compile(rb"\d{256}")
ZIP_HEADER = 30  # bytes at least, before a member's name
PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open))


@dataclass(frozen=True)
class Budget:
    """What the archive at `path` may cost. times: data.budget."""

    path: Path
    times: float = 1.0

    def check_unpacked(self, count: int) -> None:
        """Raise UndiffuseError if so many bytes are too many to come out of this file."""
        most = min(FREE + RATIO * self._size, MOST_UNPACKED)
        if count > most * self.times:
            self._refuse(
                f"unpacks to {count >> 20:,} MiB or more, from {self._size / 2**20:,.1f} MiB: at most {RATIO} times "
                f"its size and {FREE >> 20} MiB are read, and {MOST_UNPACKED >> 40} TiB in all"
            )

    def check_members(self, count: int) -> None:
        if count > MOST_MEMBERS * self.times:
            self._refuse(f"holds more than {int(MOST_MEMBERS * self.times):,} files")

    def check_at_once(self, count: int) -> None:
        """Raise UndiffuseError if so many bytes are too many for one read."""
        if count > MOST_AT_ONCE:
            raise UndiffuseError(f"{self.path}: a member's name or note of {count >> 20:,} MiB: the file is damaged")

    def check_there(self, place: int) -> None:
        """Raise UndiffuseError for a place beyond the end of the file, which is not packed."""
        if place > self._size:
            raise UndiffuseError(f"{self.path}: ends within a file that it holds: cut short? Fetch or write it again")

    @cached_property
    def _size(self) -> int:
        return self.path.stat().st_size

    def _refuse(self, why: str) -> None:
        raise UndiffuseError(f"{self.path}: {why}; if you trust the file: data.budget={max(10, 10 * self.times):g}")


@contextmanager
def open_zip(budget: Budget) -> Iterator[zipfile.ZipFile]:
    """A zip file whose members lie side by side and unpack to what the budget allows."""
    check_regular(budget.path)
    with zipfile.ZipFile(budget.path) as archive:
        members = archive.infolist()
        budget.check_members(len(members))
        budget.check_unpacked(sum(member.file_size for member in members))
        _check_apart(members, budget.path)
        yield archive


def _check_apart(members: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuse members that share bytes: so a small file can hold a large one many times over."""
    placed = sorted(members, key=lambda member: member.header_offset)
    for one, other in pairwise(placed):
        end = one.header_offset + ZIP_HEADER + len(one.filename) + one.compress_size  # at least
        if end > other.header_offset:
            both = f"{one.filename:.40} and {other.filename:.40}"
            raise UndiffuseError(f"{path}: {both} lie over each other in it; no program packs files so")


@contextmanager
def open_tar(budget: Budget) -> Iterator[tarfile.TarFile]:
    """A tar file, packed or not, that stops where the budget ends."""
    with open_packed(budget) as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
        yield archive


class _Header(tarfile.TarInfo):
    """A header whose notes (pax) are looked at before tarfile reads them: digits in rows take it the square of their
    number (CVE-2024-6232)."""

    def _proc_pax(self, archive: Any) -> Any:
        if not 0 <= self.size <= MOST_NOTES:
            raise tarfile.HeaderError(f"notes on a file of {self.size:,} bytes, and at most {MOST_NOTES:,} are read")
        archive.noted = getattr(archive, "noted", 0) + max(0, self.size - FEW_NOTES)
        if archive.noted > MOST_NOTES or DIGITS.search(archive.fileobj.peek(_in_blocks(self.size))):
            raise tarfile.HeaderError("notes on its files that no program writes")
        return super()._proc_pax(archive)  # type: ignore[misc]

    def _proc_gnulong(self, archive: Any) -> Any:
        if not 0 <= self.size <= MOST_NOTES:
            raise tarfile.HeaderError(f"a name of {self.size:,} bytes, and at most {MOST_NOTES:,} are read")
        return super()._proc_gnulong(archive)  # type: ignore[misc]


def _in_blocks(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def tar_headers(archive: tarfile.TarFile, budget: Budget) -> Iterator[tarfile.TarInfo]:
    """What a tar file holds, header by header. Raises UndiffuseError for sizes that lead back (CVE-2025-8194)."""
    end = 0
    for count, info in enumerate(archive, 1):
        budget.check_members(count)
        if info.size < 0 or archive.offset <= end:
            raise UndiffuseError(f"{budget.path}: {info.name:.80} has a size that no file has; the file is damaged")
        if len(archive.pax_headers) > MOST_SHARED:
            raise UndiffuseError(f"{budget.path}: more than {MOST_SHARED} notes on every file; no program writes them")
        end = archive.offset
        yield info
        archive.members.clear()  # type: ignore[attr-defined]  # or it remembers every file of a shard


@contextmanager
def open_packed(budget: Budget) -> Iterator[Any]:
    """A file unpacked on the way, by what its first bytes say it is packed with, that stops where the budget ends."""
    check_regular(budget.path)
    with budget.path.open("rb") as file:
        start = file.read(8)
    unpack = next((unpack for mark, unpack in PACKED if start.startswith(mark)), None)
    with unpack(budget.path, "rb") if unpack else budget.path.open("rb") as file:
        yield Metered(file, budget, plain=unpack is None)


class Metered:
    """A file that is unpacked as it is read, as far as the budget allows."""

    def __init__(self, file: Any, budget: Budget, plain: bool = False) -> None:
        self._file, self._budget, self._plain, self._again = file, budget, plain, b""

    def read(self, count: int = -1) -> bytes:
        if self._again:
            data, self._again = self._again[:count], self._again[count:]
            return data
        self._budget.check_at_once(max(count, 0))
        data = self._file.read(count if count >= 0 else MOST_AT_ONCE)
        self._budget.check_unpacked(self.tell())
        return data

    def peek(self, count: int) -> bytes:
        """What the next read of so many bytes gives: no packed file has to be unpacked from its beginning for it."""
        self._again = self.read(count)
        return self._again

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        if self._plain:
            self._budget.check_there(place)
        self._budget.check_unpacked(place)
        self._again = b""
        return int(self._file.seek(place, whence))

    def tell(self) -> int:
        return int(self._file.tell()) - len(self._again)
