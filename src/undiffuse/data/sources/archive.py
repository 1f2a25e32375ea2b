"""Zip and tar files (also webdataset's shards), read without unpacking them."""

import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from undiffuse.data.sources.base import MAX_BYTES, Item, in_a_line, opened_lines, stamp_of
from undiffuse.data.sources.labelling import (
    KEYS,
    TABLES,
    Place,
    Places,
    by_folders,
    by_table,
    pictures_of,
    table_beside,
)
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
NOTE, NOTES = 1 << 20, (".cls", ".json")  # of a label file beside a picture: bytes at most, suffixes
Member = tuple[str, int, Callable[[], bytes]]  # name, size, read


@dataclass(frozen=True)
class Archive:
    """One archive, or several that together are one set. Classes come from folders, from a label file at the top or
    outside, or, as webdataset has it, from NAME.cls or NAME.json beside NAME.png."""

    paths: tuple[Path, ...]
    spec: DataSpec
    levels: int = 256

    @property
    def name(self) -> str:
        return self.paths[0].name + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")

    def classes(self) -> None:
        return None

    def stamp(self) -> str:
        return stamp_of([*self.paths, *([Path(self.spec.labels)] if self.spec.labels else [])])

    def items(self) -> Iterator[Item]:
        names, notes = self._list()
        wanted = pictures_of(names, self.spec.select)
        if not wanted:
            raise UndiffuseError(
                f"{self.name}: no pictures in it" + (f" that match {self.spec.select}" if self.spec.select else "")
            )
        places, kept = self._places(wanted, names, notes), set(wanted)
        for path in self.paths:
            for name, size, read in _members(path):
                if name in kept:
                    yield places.item(name, _content(size, read))

    def _list(self) -> tuple[list[str], dict[str, bytes]]:
        """The names of all files, and the contents of those that may hold labels."""
        names, notes = [], {}
        for path in self.paths:
            for name, size, read in _members(path):
                names.append(name)
                if size <= (64 * NOTE if name in (self.spec.labels, *TABLES) else NOTE * name.endswith(NOTES)):
                    content = _content(size, read)
                    notes[name] = b"" if isinstance(content, BadPicture) else content
        return names, notes

    def _places(self, wanted: Sequence[str], names: Sequence[str], notes: dict[str, bytes]) -> Places:
        if self.spec.labels is not None:
            outside = Path(self.spec.labels)
            inside = next((name for name in notes if name == self.spec.labels), None)
            text = notes[inside].decode(errors="replace") if inside else opened_lines(outside)
            return by_table(wanted, text, self.spec.labels, self.spec.label_key)
        beside = {name: _note(name, notes, self.spec.label_key) for name in wanted}
        if any(label is not None for label in beside.values()):
            return Places({name: Place(label) for name, label in beside.items()})
        table = table_beside(names)
        if table is not None and table in notes:
            return by_table(wanted, notes[table].decode(errors="replace"), table, self.spec.label_key)
        return by_folders(wanted)


def _note(name: str, notes: dict[str, bytes], key: str | None) -> str | None:
    """webdataset: the files of one sample share their name up to the first dot."""
    path = PurePosixPath(name)
    stem = str(path.with_name(path.name.split(".")[0]))
    if (plain := notes.get(f"{stem}.cls")) is not None:
        return plain.decode(errors="replace").strip() or None
    try:
        raw: Any = json.loads(notes.get(f"{stem}.json", b"{}"))
    except (ValueError, RecursionError):
        return None
    found = [raw[known] for known in ((key,) if key else KEYS) if known in raw] if isinstance(raw, dict) else []
    return str(found[0]) if found and isinstance(found[0], str | int) else None


def _content(size: int, read: Callable[[], bytes]) -> bytes | BadPicture:
    if size > MAX_BYTES:
        return BadPicture("too large", f"larger than {MAX_BYTES >> 20} MiB")
    try:
        return read()
    except MemoryError:
        return BadPicture("too large", "too large for the memory")
    except Exception as error:  # what damaged archives make their readers raise has no end
        return BadPicture("unreadable", f"cannot be read from the archive ({in_a_line(error)})")


def _members(path: Path) -> Iterator[Member]:
    is_zip = path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)
    yield from _zip_members(path) if is_zip else _tar_members(path)


def _zip_members(path: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield info.filename, info.file_size, lambda info=info: archive.read(info)  # type: ignore[misc]
    except Exception as error:
        raise UndiffuseError(f"{path}: not a readable zip file ({in_a_line(error)})") from error


def _tar_members(path: Path) -> Iterator[Member]:
    try:
        with tarfile.open(path) as archive:
            for info in archive:
                if info.isreg() and not info.issparse():
                    yield info.name.removeprefix("./"), info.size, lambda info=info: _extract(archive, info)  # type: ignore[misc]
                archive.members.clear()  # type: ignore[attr-defined]  # or it remembers every file of a shard
            _closed(archive, path)
    except UndiffuseError:
        raise
    except Exception as error:
        raise UndiffuseError(f"{path}: not a readable tar file ({in_a_line(error)})") from error


def _closed(archive: tarfile.TarFile, path: Path) -> None:
    """tarfile takes the end of the file for the end of the archive, so that one cut short reads as a smaller set."""
    file: Any = archive.fileobj
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise UndiffuseError(f"{path}: a tar file without its end mark: cut short? Fetch or write it again")


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    data = b"" if file is None else file.read()
    if len(data) < info.size:
        raise EOFError("ends early")
    return data
