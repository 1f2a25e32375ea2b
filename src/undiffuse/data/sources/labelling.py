"""Which class a picture file belongs to, and which part: from folders' names, or from a CSV or JSON file."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from undiffuse.data.sources.base import Item, natural, printable
from undiffuse.data.spec import BadPicture
from undiffuse.errors import UndiffuseError, UsageError, nearest

PICTURE_SUFFIXES = {
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".avif",
    ".tga",
    ".apng",
}
TRAIN_FOLDERS = {"train", "training"}
HELD_OUT_FOLDERS = {"test", "testing", "val", "valid", "validation", "heldout", "held_out", "held-out"}
TABLES = ("labels.csv", "labels.json", "metadata.csv", "metadata.jsonl", "metadata.json")
NO_CLASS = "-1"
KEYS = ("label", "class", "category", "labels", "target", "class_name")


@dataclass(frozen=True)
class Place:
    """What a file's place says of it: its class's name and whether it is held out; None where nobody says."""

    label: str | None = None
    held_out: bool | None = None


@dataclass(frozen=True)
class Places:
    """The places of all files."""

    of: dict[str, Place]

    def item(self, name: str, content: bytes | BadPicture) -> Item:
        place = self.of.get(name, Place())
        label = None if place.label is None else printable(place.label)
        return Item(printable(name), content, label, place.held_out)


def pictures_of(names: Sequence[str], select: str | None) -> list[str]:
    """The names that look like pictures by their suffix, or match the pattern, in natural order; not hidden files."""

    def wanted(name: str) -> bool:
        path = PurePosixPath(name)
        if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
            return False
        if select is not None:
            return path.match(select) or fnmatchcase(name, select)
        return path.suffix.lower() in PICTURE_SUFFIXES

    return sorted(filter(wanted, names), key=natural)


def by_folders(names: Sequence[str]) -> Places:
    """The first folder below those that all share is the class; above it, train/ and test/ (val/, ...) are parts."""
    parts = {name: PurePosixPath(name).parts[:-1] for name in names}
    depth = _shared(list(parts.values()))
    below = {name: folders[depth:] for name, folders in parts.items()}
    split = bool(below) and all(
        folders and folders[0].lower() in TRAIN_FOLDERS | HELD_OUT_FOLDERS for folders in below.values()
    )
    places = {}
    for name, folders in below.items():
        held_out = folders[0].lower() in HELD_OUT_FOLDERS if split else None
        classes = folders[1:] if split else folders
        places[name] = Place(classes[0] if classes else None, held_out)
    return Places(places)


def _shared(paths: list[tuple[str, ...]]) -> int:
    """The number of leading folders that all paths share."""
    depth = 0
    while paths and all(len(path) > depth and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    return depth


def table_beside(names: Sequence[str]) -> str | None:
    """The label file that lies at the top, if there is one."""
    return next((name for known in TABLES for name in names if name == known), None)


def by_table(names: Sequence[str], text: str, origin: str, key: str | None) -> Places:
    """Classes from a table whose rows name the files: by whole path, by the end of the path, or by stem.

    Where all are -1 there are none: so `undiffuse sample` says that a model has no classes.
    """
    pairs: list[tuple[str, str | None]] = [*_pairs(_rows(text, origin), names, origin, key)]
    if {label for _, label in pairs} == {NO_CLASS}:
        pairs = [(file, None) for file, _ in pairs]
    find = _finder(names)
    places: dict[str, Place] = {}
    for file, label in pairs:
        for name in find(file):
            if (other := places.setdefault(name, Place(label)).label) != label:
                raise UndiffuseError(f"{origin}: {name} is of class '{other}' and of class '{label}'; one is wanted")
    if not places:
        raise UndiffuseError(
            f"{origin}: names none of the {len(names)} pictures (its first: {pairs[0][0] if pairs else 'none'})"
        )
    return Places(places)


def _rows(text: str, origin: str) -> list[dict[str, Any]]:
    """CSV with a header, in commas, semicolons or tabs; JSON (a list of objects, or an object from name to class); JSON
    lines."""
    try:
        if origin.endswith(".csv"):
            first = text.partition("\n")[0]
            delimiter = max(",;\t", key=first.count)
            return [dict(row) for row in csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)]
        if origin.endswith(".jsonl"):
            raw: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            raw = json.loads(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise UndiffuseError(f"{origin}: cannot be read as labels ({str(error)[:100]})") from error
    if isinstance(raw, dict):
        raw = [{"file_name": name, "label": label} for name, label in raw.items()]
    rows = [part for row in raw if isinstance(row, dict) for part in _flat(row)] if isinstance(raw, list) else []
    if not rows:
        raise UndiffuseError(f"{origin}: labels are a list of objects, or an object from file name to class")
    return rows


def _flat(row: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """The object itself, then those within it, which have what it says unless they say otherwise."""
    yield row
    shared = {key: value for key, value in row.items() if not isinstance(value, dict | list)}
    for value in row.values():
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for child in inner:
            if isinstance(child, dict) and depth < 4:
                yield from _flat(shared | child, depth + 1)


def _pairs(rows: list[dict[str, Any]], names: Sequence[str], origin: str, key: str | None) -> list[tuple[str, str]]:
    """File and class of every row that has both."""
    columns = [str(column) for column in Counter(column for row in rows for column in row)]
    file_key = _file_column(rows, names, columns)
    if file_key is None:
        raise UndiffuseError(f"{origin}: no column names the pictures; columns: {', '.join(columns[:12]) or 'none'}")
    label_key = key or next((column for known in KEYS for column in columns if column.lower() == known), None)
    if label_key not in columns:
        hint = nearest(key, columns) if key else f"say which with data.label_key; columns: {', '.join(columns[:12])}"
        raise UsageError(f"{origin}: which column holds the classes? {hint}")
    full = [row for row in rows if row.get(file_key) and _is_label(row.get(label_key))]
    return [(str(row[file_key]), str(row[label_key])) for row in full]


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | bool) and value != ""


def _file_column(rows: list[dict[str, Any]], names: Sequence[str], columns: list[str]) -> str | None:
    """The column whose values name the most pictures."""
    find = _finder(names)
    hits = {column: sum(bool(find(str(row.get(column)))) for row in rows[:2000]) for column in columns}
    best = max(hits, key=lambda column: hits[column], default=None)
    return best if best is not None and hits[best] else None


def _finder(names: Sequence[str]) -> Callable[[str], list[str]]:
    """A whole path means one file; an end of a path, or a stem, all files that have it."""
    ends: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        for end in {"/".join(path.parts[start:]) for start in range(len(path.parts))} | {path.stem}:
            ends.setdefault(end, []).append(name)
    ends |= {name: [name] for name in names}
    return lambda file: ends.get(file.removeprefix("./"), [])
