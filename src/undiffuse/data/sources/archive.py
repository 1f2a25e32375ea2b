"""Zip and tar files (also webdataset's shards), read without unpacking them."""

import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from undiffuse.data.budget import Budget, open_tar, open_zip
from undiffuse.data.sources.base import MAX_BYTES, PICTURE_STARTS, Item, check_depth, in_a_line, opened_lines, stamp_of
from undiffuse.data.sources.labelling import Place, Places, passed_over, pictures_of, placed, side_of
from undiffuse.data.sources.rows import LabelFile
from undiffuse.data.sources.tables import LABEL_KEYS, PUBLISHED, TABLES, read_labels, tables_among
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import check_regular, parse_json

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
NOTE, NOTES = 1 << 20, (".cls", ".json")  # of a label file beside a picture: bytes at most, suffixes
Member = tuple[str, int, Callable[[], bytes]]  # name, size, read


@dataclass(frozen=True)
class Archive:
    """One archive, or several that together are one set. Classes come from folders, from label files inside or outside,
    or, as webdataset has it, from NAME.cls or NAME.json beside NAME.png."""

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
        places = self._places
        for path in self.paths:
            for name, size, read in _members(Budget(path, self.spec.budget)):
                if (key := self._key(path, name)) in places.of:
                    yield places.item(key, _content(size, read))

    def remarks(self) -> tuple[str, ...]:
        """How classes and parts were found."""
        return self._places.notes

    def passed_over(self) -> str:
        """Pictures that are not read, counted."""
        if self.spec.select is not None:
            return ""  # a choice
        names, unnamed = self._contents.names, self._contents.unnamed
        return passed_over(names, pictures_of(names, None), lambda key: key in unnamed)

    def _key(self, path: Path, name: str) -> str:
        """A file's name within the set: of archives that number alike, with the archive's own."""
        return f"{path.name}/{name}" if self._contents.alike else name

    @cached_property
    def _contents(self) -> "Contents":
        return _listed(self.paths, self.spec)

    @cached_property
    def _places(self) -> Places:
        contents, spec = self._contents, self.spec
        wanted = pictures_of(contents.names, spec.select)
        if not wanted:
            raise UndiffuseError(
                f"{self.name}: no pictures in it" + (f" that match {spec.select}" if spec.select else "")
            )
        tables = self._tables()
        if tables:
            labels = read_labels(tables, wanted, spec.label_key, spec.file_key)
            places = self._placed(wanted, labels.of)
            return Places(places.of, (*labels.notes, *places.notes))
        beside = {name: _note(name, contents.notes, spec.label_key) for name in wanted}
        if any(label is not None for label in beside.values()):
            places = self._placed(wanted, beside)
            return Places(places.of, ("classes by the .cls or .json beside each picture", *places.notes))
        return self._placed(wanted, {})

    def _tables(self) -> list[LabelFile]:
        asked, contents = self.spec.labels, self._contents
        if asked is not None:
            inside = asked in contents.notes
            text = contents.notes[asked].decode(errors="replace") if inside else opened_lines(Path(asked))
            return [LabelFile(asked.rpartition("/")[0] if inside else "", text, asked, asked=True)]
        found = [name for name in tables_among(contents.names) if name in contents.notes]
        return [
            LabelFile(name.rpartition("/")[0], contents.notes[name].decode("utf-8-sig", "replace"), name)
            for name in found
        ]

    def _placed(self, wanted: Sequence[str], labels: Mapping[str, str | None]) -> Places:
        """Parts by the archives' names, such as train-000.tar and test-000.tar, else by folders within; classes as
        `labels` says, else by folders within."""
        sides = {path.name: side_of(path.name) for path in self.paths}
        by_archive = self.spec.split != "none" and {*sides.values()} == {True, False}
        owners = {self._key(path, name): (path.name, name) for path, name in self._contents.owners}
        spec = replace(self.spec, split="none") if by_archive else self.spec
        inner = placed(
            [*dict.fromkeys(owners[key][1] for key in wanted)], spec, {owners[key][1]: None for key in labels}
        )
        found = {}
        for key in wanted:
            archive, name = owners[key]
            if name in inner.of:  # or it lies outside of the parts
                side = sides[archive] if by_archive else inner.of[name].held_out
                found[key] = Place(labels.get(key, inner.of[name].label), side)
        if not by_archive:
            return Places(found, inner.notes)
        told = ", ".join(f"{name} {'held out' if side else 'to train on'}" for name, side in list(sides.items())[:4])
        return Places(found, (f"parts by archives: {told}" + (" ..." if len(sides) > 4 else ""),))


@dataclass(frozen=True)
class Contents:
    """What archives hold. names: of all files; notes: contents of those that may hold labels; owners: each file with
    its archive; unnamed: files without a suffix that begin as pictures do; alike: names stand in several archives."""

    names: list[str]
    notes: dict[str, bytes]
    owners: list[tuple[Path, str]]
    unnamed: set[str]
    alike: bool


def _listed(paths: Sequence[Path], spec: DataSpec) -> Contents:
    owners: list[tuple[Path, str]] = []
    notes: dict[tuple[Path, str], bytes] = {}
    unnamed: set[tuple[Path, str]] = set()
    for path in paths:
        for name, size, read in _members(Budget(path, spec.budget)):
            check_depth(name, path)
            owners.append((path, name))
            file = name.rpartition("/")[2]
            most = 64 * NOTE if name == spec.labels or file in (*TABLES, *PUBLISHED) else NOTE * name.endswith(NOTES)
            bare = "." not in file and 8 <= size <= MAX_BYTES
            if size <= most or bare:
                content = _content(size, read)
                content = b"" if isinstance(content, BadPicture) else content
                if bare and content.startswith(PICTURE_STARTS):
                    unnamed.add((path, name))
                elif not bare:
                    notes[path, name] = content
    pictures = [name for _, name in owners if not name.endswith(NOTES)]
    alike = len(paths) > 1 and len(set(pictures)) < len(pictures)

    def key(path: Path, name: str) -> str:
        return f"{path.name}/{name}" if alike else name

    return Contents(
        [key(*owner) for owner in owners],
        {key(*owner): content for owner, content in notes.items()},
        owners,
        {key(*owner) for owner in unnamed},
        alike,
    )


def _note(name: str, notes: dict[str, bytes], key: str | None) -> str | None:
    """webdataset: the files of one sample share their name up to the first dot."""
    path = PurePosixPath(name)
    stem = str(path.with_name(path.name.split(".")[0]))
    if (plain := notes.get(f"{stem}.cls")) is not None:
        return plain.decode(errors="replace").strip() or None
    try:
        raw: Any = parse_json(notes.get(f"{stem}.json", b"{}"))
    except ValueError:
        return None
    found = [raw[known] for known in ((key,) if key else LABEL_KEYS) if known in raw] if isinstance(raw, dict) else []
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


def _members(budget: Budget) -> Iterator[Member]:
    path = budget.path
    try:
        check_regular(path)
        is_zip = path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)
    except (OSError, ValueError) as error:
        raise UndiffuseError(f"{path}: cannot be read ({in_a_line(error)})") from error
    yield from _zip_members(budget) if is_zip else _tar_members(budget)


def _zip_members(budget: Budget) -> Iterator[Member]:
    try:
        with open_zip(budget) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield info.filename, info.file_size, lambda info=info: archive.read(info)  # type: ignore[misc]
    except UndiffuseError:
        raise
    except Exception as error:
        raise UndiffuseError(f"{budget.path}: not a readable zip file ({in_a_line(error)})") from error


def _tar_members(budget: Budget) -> Iterator[Member]:
    try:
        with open_tar(budget) as archive:
            for count, info in enumerate(archive, 1):
                budget.check_members(count)
                if info.isreg() and not info.issparse():
                    yield info.name.removeprefix("./"), info.size, lambda info=info: _extract(archive, info)  # type: ignore[misc]
                archive.members.clear()  # type: ignore[attr-defined]  # or it remembers every file of a shard
            _closed(archive, budget.path)
    except UndiffuseError:
        raise
    except Exception as error:
        raise UndiffuseError(f"{budget.path}: not a readable tar file ({in_a_line(error)})") from error


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
