"""What archives hold, before any picture is looked at: names, and the small files that may hold labels."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from undiffuse.data.budget import Budget
from undiffuse.data.sources.base import MAX_BYTES, PICTURE_STARTS, check_depth, printable
from undiffuse.data.sources.labelling import Labelled, pictures_of
from undiffuse.data.sources.members import Member, member_content, members_of
from undiffuse.data.sources.tables import LABEL_KEYS, PUBLISHED, TABLES
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import MOST_TEXT, parse_json
from undiffuse.shapes import Watch, unwatched, watch_items

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
NOTE, NOTES = 1 << 20, (".cls", ".json")  # of a label file beside a picture: bytes at most, suffixes


@dataclass(frozen=True)
class Contents:
    """What archives hold. names: of all files, by their keys in the set; notes: contents of those that may hold labels;
    inside: each file's archive, as a folder would be called, and its name there; unnamed: files without a suffix that
    begin as pictures do; alike: names stand in several archives, so that keys begin with the archive's; links: files
    that have another's content; unread: those that are not read, by why; faults: why a label file cannot be.
    """

    names: list[str]
    notes: dict[str, bytes]
    inside: dict[str, tuple[str, str]]
    unnamed: set[str]
    alike: bool
    links: dict[str, list[str]] = field(default_factory=dict)
    unread: dict[str, list[str]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

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
        if key in self.faults:
            raise UndiffuseError(f"{key}: {self.faults[key]}")
        return text_of(self.notes[key], key)

    def as_folders(self, keys: Iterable[str]) -> dict[str, str]:
        """The files' names as if their archives were folders, and their keys: so a file beside the archives names them.
        Of a single archive the names within are those."""
        alone = len(self.archives) == 1
        return {self.inner(key) if alone else "/".join(self.inside[key]): key for key in keys}


def text_of(content: bytes, origin: str) -> str:
    """Text in UTF-8, with or without a byte order mark. Raises UndiffuseError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UndiffuseError(f"{origin}: not text in UTF-8 (byte {error.start:,}); save it again as UTF-8") from error


def keys_of(paths: Sequence[Path], alike: bool) -> dict[Path, str]:
    """What the keys of an archive's files begin with."""
    return {path: f"{name}/" if alike else "" for path, name in _called(paths).items()}


def contents_of(paths: Sequence[Path], spec: DataSpec, watch: Watch = unwatched) -> Contents:
    lists = [_list_of(path, spec, watch) for path in paths]
    pictures = [name for one in lists for name in one.names if not name.endswith(NOTES)]
    alike = len(paths) > 1 and len(set(pictures)) < len(pictures)
    before = keys_of(paths, alike)
    folders = {path: _without_suffix(name) for path, name in _called(paths).items()}
    every = Contents([], {}, {}, set(), alike)
    for path, one in zip(paths, lists, strict=True):
        first = before[path]
        every.names.extend(first + name for name in one.names)
        every.notes.update({first + name: content for name, content in one.notes.items()})
        every.inside.update({first + name: (folders[path], name) for name in one.names})
        every.unnamed.update(first + name for name in one.unnamed)
        every.links.update({first + name: [first + link for link in links] for name, links in one.links.items()})
        every.faults.update({first + name: why for name, why in one.faults.items()})
        for why, names in one.unread.items():
            every.unread.setdefault(why, []).extend(names)
    return every


def _list_of(path: Path, spec: DataSpec, watch: Watch) -> Contents:
    """What one archive holds. Raises UndiffuseError for two files of one name."""
    listed, seen = Contents([], {}, {}, set(), False), set[str]()
    for member in watch_items(watch, members_of(Budget(path, spec.budget)), None, "file listed"):
        name = member.name
        check_depth(name, path)
        if member.why or (member.link and member.link not in seen):
            listed.unread.setdefault(member.why or "by links to nothing", []).append(name)
            continue
        if name in seen and (_matters(name, spec) or _may_be_labels(name, spec)):
            raise UndiffuseError(f"{path}: holds {name} twice; unpack it, and pack it again with one of them")
        if name not in seen:
            seen.add(name)
            listed.names.append(name)
        if member.link:
            listed.links.setdefault(member.link, []).append(name)
            _follow(member.link, name, listed, spec)
        else:
            _look_into(member, listed, spec)
    return listed


def _matters(name: str, spec: DataSpec) -> bool:
    return bool(pictures_of([name], spec.select))


def _may_be_labels(name: str, spec: DataSpec) -> bool:
    return name == spec.labels or name.endswith(".cls") or name.rpartition("/")[2] in (*TABLES, *PUBLISHED)


def _follow(target: str, name: str, listed: Contents, spec: DataSpec) -> None:
    """A label file that is a link: its content lies before it, where a packed file has been passed."""
    if target in listed.notes:
        listed.notes[name] = listed.notes[target]
    elif _may_be_labels(name, spec):
        listed.faults[name] = f"a link to {target}; pack it as a file"


def _look_into(member: Member, listed: Contents, spec: DataSpec) -> None:
    """Keep what may hold labels, and note what begins as a picture does."""
    name, file = member.name, member.name.rpartition("/")[2]
    table = name == spec.labels or file in (*TABLES, *PUBLISHED)
    most = MOST_TEXT if table else NOTE * name.endswith(NOTES)
    bare = "." not in file and 8 <= member.size <= MAX_BYTES and not table
    if member.size > most and not bare:
        if _may_be_labels(name, spec):
            listed.faults[name] = f"{member.size:,} bytes, and at most {most:,} are read"
        return
    content = member_content(member.size, member.read)
    if isinstance(content, BadPicture):
        listed.faults.update({} if bare else {name: str(content)})
    elif not bare:
        listed.notes[name] = content
    elif content.startswith(PICTURE_STARTS):
        listed.unnamed.add(name)


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
            return text_of(plain, f"{stem}.cls").strip() or None
        if (label := _in_json(notes.get(f"{stem}.json", b"{}"), f"{stem}.json", key)) is not None:
            return label
    return None


def _in_json(content: bytes, origin: str, key: str | None) -> str | None:
    try:
        raw: Any = parse_json(text_of(content, origin))
    except UndiffuseError:
        raise
    except ValueError:
        return None
    found = [raw[known] for known in ((key,) if key else LABEL_KEYS) if known in raw] if isinstance(raw, dict) else []
    return str(found[0]) if found and isinstance(found[0], str | int) else None
