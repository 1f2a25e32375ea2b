"""What archives hold, before any picture is looked at: names, and the small files that may hold labels."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from undiffuse.data.budget import Budget
from undiffuse.data.sources.base import MAX_BYTES, PICTURE_STARTS, check_depth, printable
from undiffuse.data.sources.labelling import Labelled
from undiffuse.data.sources.members import member_content, members_of
from undiffuse.data.sources.tables import LABEL_KEYS, PUBLISHED, TABLES
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import parse_json

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
NOTE, NOTES = 1 << 20, (".cls", ".json")  # of a label file beside a picture: bytes at most, suffixes


@dataclass(frozen=True)
class Contents:
    """What archives hold. names: of all files, by their keys in the set; notes: contents of those that may hold labels;
    inside: each file's archive, as a folder would be called, and its name there; unnamed: files without a suffix that
    begin as pictures do; alike: names stand in several archives, so that keys begin with the archive's.
    """

    names: list[str]
    notes: dict[str, bytes]
    inside: dict[str, tuple[str, str]]
    unnamed: set[str]
    alike: bool

    @property
    def archives(self) -> list[str]:
        return list(dict.fromkeys(archive for archive, _ in self.inside.values()))

    def archive(self, key: str) -> str:
        return self.inside[key][0]

    def inner(self, key: str) -> str:
        """A file's name in its archive."""
        return self.inside[key][1]

    def text(self, key: str) -> str:
        """A label file's text. Raises UndiffuseError."""
        try:
            return self.notes[key].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UndiffuseError(f"{key}: not UTF-8; save it again as UTF-8") from error

    def as_folders(self, keys: Iterable[str]) -> dict[str, str]:
        """The files' names as if their archives were folders, and their keys: so a file beside the archives names them.
        Of a single archive the names within are those."""
        alone = len(self.archives) == 1
        return {self.inner(key) if alone else "/".join(self.inside[key]): key for key in keys}


def keys_of(paths: Sequence[Path], alike: bool) -> dict[Path, str]:
    """What the keys of an archive's files begin with."""
    return {path: f"{name}/" if alike else "" for path, name in _called(paths).items()}


def contents_of(paths: Sequence[Path], spec: DataSpec) -> Contents:
    owners: list[tuple[Path, str]] = []
    notes: dict[tuple[Path, str], bytes] = {}
    unnamed: set[tuple[Path, str]] = set()
    for path in paths:
        for name, size, read in members_of(Budget(path, spec.budget)):
            check_depth(name, path)
            owners.append((path, name))
            file = name.rpartition("/")[2]
            most = 64 * NOTE if name == spec.labels or file in (*TABLES, *PUBLISHED) else NOTE * name.endswith(NOTES)
            bare = "." not in file and 8 <= size <= MAX_BYTES
            if size <= most or bare:
                content = member_content(size, read)
                content = b"" if isinstance(content, BadPicture) else content
                if bare and content.startswith(PICTURE_STARTS):
                    unnamed.add((path, name))
                elif not bare:
                    notes[path, name] = content
    pictures = [name for _, name in owners if not name.endswith(NOTES)]
    alike = len(paths) > 1 and len(set(pictures)) < len(pictures)
    before = keys_of(paths, alike)
    folders = {path: _without_suffix(name) for path, name in _called(paths).items()}
    return Contents(
        [before[path] + name for path, name in owners],
        {before[path] + name: content for (path, name), content in notes.items()},
        {before[path] + name: (folders[path], name) for path, name in owners},
        {before[path] + name for path, name in unnamed},
        alike,
    )


def _called(paths: Sequence[Path]) -> dict[Path, str]:
    """The archives' names, with the folders that they do not share."""
    top = os.path.commonpath([path.absolute().parent for path in paths])
    return {path: path.absolute().relative_to(top).as_posix() for path in paths}


def _without_suffix(name: str) -> str:
    found = [suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix)]
    return name[: -max(map(len, found))] if found else name


# -- label files beside single pictures -------------------------------------------------------------------------------


def notes_beside(names: Sequence[str], notes: Mapping[str, bytes], spec: DataSpec) -> Labelled:
    """Classes by the NAME.cls or NAME.json beside each NAME.png, as webdataset has it; {} if there are none."""
    used: set[str] = set()
    found = {name: _note(name, notes, spec.label_key, used) for name in names}
    if all(label is None for label in found.values()):
        return Labelled()
    told = ["classes by the .cls or .json beside each picture"]
    unused = [name for name in notes if name.endswith(".cls") and name not in used]
    if unused:
        told.append(f"of no picture that is read: {len(unused):,} .cls files, first {printable(unused[0])}")
    return Labelled(dict(found), notes=told)


def _note(name: str, notes: Mapping[str, bytes], key: str | None, used: set[str]) -> str | None:
    """The class in the note of the longest name that is the picture's up to a dot: a.0.jpg has a.0.cls, or a.cls, which
    is webdataset's rule."""
    path = PurePosixPath(name)
    pieces = path.name.split(".")
    for count in range(len(pieces) - 1, 0, -1):
        stem = str(path.with_name(".".join(pieces[:count])))
        if (plain := notes.get(f"{stem}.cls")) is not None:
            used.add(f"{stem}.cls")
            return plain.decode(errors="replace").strip() or None
        if (label := _in_json(notes.get(f"{stem}.json", b"{}"), key)) is not None:
            return label
    return None


def _in_json(content: bytes, key: str | None) -> str | None:
    try:
        raw: Any = parse_json(content)
    except ValueError:
        return None
    found = [raw[known] for known in ((key,) if key else LABEL_KEYS) if known in raw] if isinstance(raw, dict) else []
    return str(found[0]) if found and isinstance(found[0], str | int) else None
