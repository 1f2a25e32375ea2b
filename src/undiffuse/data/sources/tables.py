"""Label files: which column is which, by evidence over the whole file, and which pictures every row names."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from undiffuse.data.sources.base import DEEPEST_FOLDER
from undiffuse.data.sources.rows import LabelFile, is_list_of_pairs, rows_of
from undiffuse.errors import UndiffuseError, UsageError, nearest

TABLES = ("labels.csv", "labels.json", "metadata.csv", "metadata.jsonl", "metadata.json")
PUBLISHED = ("dataset.json", "_annotations.coco.json", "val_annotations.txt")  # NVlabs', Roboflow's, Tiny ImageNet's
NO_CLASS = "-1"
LABEL_KEYS = ("label", "class", "category", "labels", "target", "class_name")
RIVAL = 0.5  # a column that names this share of what another one names may be meant instead
Row = Mapping[str, Any]
Pair = tuple[str, str | None, list[str]]  # of a row: the file as it is written, its class, the pictures it names


@dataclass
class Labelled:
    """What label files say: the class of each picture that lies beside or below one, None if it is not named, and lines
    to tell of it."""

    of: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def tables_among(names: Sequence[str]) -> list[str]:
    """The label files among these names: of each folder the first that is known. Hidden ones are none."""
    found: dict[str, str] = {}
    for known in (*TABLES, *PUBLISHED):
        for name in names:
            folder, _, file = name.rpartition("/")
            if file == known and not any(part.startswith(".") or part == "__MACOSX" for part in folder.split("/")):
                found.setdefault(folder, name)
    return sorted(found.values())


def read_labels(tables: Sequence[LabelFile], names: Sequence[str], key: str | None, file_key: str | None) -> Labelled:
    """Classes from tables whose rows name the files. Where all are -1 there are none: so `undiffuse sample` says that a
    model has no classes. Raises UndiffuseError and UsageError for what is ambiguous or names nothing.
    """
    labels, used = Labelled(), list[LabelFile]()
    for table in tables:
        if not table.asked and table.origin.endswith("dataset.json") and not is_list_of_pairs(table.text):
            labels.notes.append(f"{table.origin}: not taken for labels; data.labels says to read it")
            continue
        used.append(table)
        rows = rows_of(table)
        if rows is None:
            labels.notes.append(f"{table.origin}: says no classes")
            continue
        pairs, note = _pairs(rows, _Finder(names, table.folder), table.origin, key, file_key)
        labels.notes.append(note)
        if {label for _, label, _ in pairs} == {NO_CLASS}:
            pairs = [(file, None, found) for file, _, found in pairs]
        _take(pairs, names, table.origin, labels)
    covered = [f"{table.folder}/" if table.folder and not table.asked else "" for table in used]
    for name in names:
        if any(name.startswith(folder) for folder in covered):
            labels.of.setdefault(name, None)
    return labels


def _take(pairs: list[Pair], names: Sequence[str], origin: str, labels: Labelled) -> None:
    """Put the rows' classes beside the pictures that they name; tell of rows that name none, or several."""
    own: set[str] = set()
    for _, label, found in pairs:
        for name in found:
            if labels.of.setdefault(name, label) != label:
                other = labels.of[name]
                raise UndiffuseError(f"{origin}: {name} is of class '{other}' and of class '{label}'; one is wanted")
        own.update(found)
    if not own:
        first = pairs[0][0] if pairs else "none"
        raise UndiffuseError(f"{origin}: names none of the {len(names)} pictures (its first: {first})")
    if nowhere := [file for file, _, found in pairs if not found]:
        labels.notes.append(f"{origin}: {len(nowhere):,} of {len(pairs):,} rows name no picture, first {nowhere[0]}")
    if several := [f"{file}: {', '.join(found[:2])}" for file, _, found in pairs if len(found) > 1]:
        told = f"{len(several):,} of {len(pairs):,} rows name several pictures by one name, first {several[0]}"
        labels.notes.append(f"{origin}: {told}")


# -- columns ----------------------------------------------------------------------------------------------------------


def _pairs(
    rows: Sequence[Row], find: "_Finder", origin: str, key: str | None, file_key: str | None
) -> tuple[list[Pair], str]:
    """File, class and pictures of every row that has the first two; and a line that tells which columns they are."""
    columns = [str(column) for column in Counter(column for row in rows for column in row) if column is not None]
    files, by_stem = _file_column(rows, find, origin, columns, file_key)
    labels = _label_column(rows, origin, columns, files, key)
    look = find.by_stem if by_stem else find.by_path
    full = [row for row in rows if row.get(files) not in (None, "") and _is_label(row.get(labels))]
    pairs: list[Pair] = [(str(row[files]), str(row[labels]), look(str(row[files]))) for row in full]
    return pairs, f"classes by {origin}: column '{labels}', files by column '{files}'"


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | bool) and value != ""


def _file_column(
    rows: Sequence[Row], find: "_Finder", origin: str, columns: list[str], key: str | None
) -> tuple[str, bool]:
    """The column that names the pictures, and whether by their names without suffix.

    By evidence over all rows: a column of paths goes before one of bare stems, for numbers of rows look like stems; of
    two columns that name pictures alike, and not the same ones, neither is taken.
    """
    if key is not None and key not in columns:
        raise UsageError(f"{origin}: data.file_key: {nearest(key, columns)}")
    for by_stem, look in enumerate((find.by_path, find.by_stem)):
        named = {column: [look(str(row.get(column))) for row in rows] for column in ([key] if key else columns)}
        counts = {column: len({name for found in cells for name in found}) for column, cells in named.items()}
        best = max(counts, key=lambda column: counts[column], default=None)
        if best is None or not counts[best]:
            continue
        rivals = [
            column for column in counts if counts[column] >= RIVAL * counts[best] and named[column] != named[best]
        ]
        if rivals:
            both = " and ".join(f"'{column}'" for column in [best, *rivals][:3])
            raise UsageError(f"{origin}: columns {both} both name pictures; say which with data.file_key")
        return best, bool(by_stem)
    raise UndiffuseError(f"{origin}: no column names the pictures; columns: {', '.join(columns[:12]) or 'none'}")


def _label_column(rows: Sequence[Row], origin: str, columns: list[str], files: str, key: str | None) -> str:
    """The column of classes: as asked, or the one with a usual name; of several, those that say the same."""
    if key is not None and key in columns:
        return key
    usual = [column for known in LABEL_KEYS for column in columns if column.lower() == known and column != files]
    if key is not None or not usual:
        hint = nearest(key, columns) if key else f"say which with data.label_key; columns: {', '.join(columns[:12])}"
        raise UsageError(f"{origin}: which column holds the classes? {hint}")
    pairs = {tuple(str(row.get(column)) for column in usual) for row in rows}
    if any(len({pair[i] for pair in pairs}) != len(pairs) for i in range(len(usual))):
        both = " and ".join(f"'{column}'" for column in usual)
        raise UsageError(f"{origin}: columns {both} could hold the classes; say which with data.label_key")
    words = [usual[i] for i in range(len(usual)) if not all(re.fullmatch(r"-?\d+", pair[i]) for pair in pairs)]
    return (words or usual)[0]


# -- names ------------------------------------------------------------------------------------------------------------


class _Finder:
    """Finds the pictures that a cell of a label file names, those below its own folder first."""

    def __init__(self, names: Sequence[str], folder: str) -> None:
        base = f"{folder}/" if folder else ""
        below = {name.removeprefix(base): name for name in names if name.startswith(base)}
        self._below = below or {name: name for name in names}  # a folder of label files alone is not theirs
        self._whole = {name: [name] for name in names} | {inner: [name] for inner, name in self._below.items()}
        self._ends = _ends(self._below, lambda path: path)
        self._stems: dict[str, list[str]] | None = None
        self._lower: tuple[dict[str, list[str]], dict[str, list[str]]] | None = None

    def by_path(self, cell: str) -> list[str]:
        """By whole path, else by its end, as far as both go: paths of another machine end like ours. Case matters only
        where it must."""
        path = re.sub(r"^(?:[A-Za-z]:)?[/\\]+|^(?:\.[/\\])+", "", cell.strip()).replace("\\", "/")
        if "." not in path.rpartition("/")[2] and path not in self._whole:
            return []  # it may be a stem
        if self._lower is None:
            self._lower = _lowered(self._whole), _lowered(self._ends)
        for whole, ends, asked in ((self._whole, self._ends, path), (*self._lower, path.lower())):
            if asked in whole:
                return whole[asked]
            parts = asked.split("/")[-DEEPEST_FOLDER:]
            for start in range(len(parts)):
                if found := ends.get("/".join(parts[start:])):
                    return found
        return []

    def by_stem(self, cell: str) -> list[str]:
        """By a path or its end without the suffix."""
        if self._stems is None:
            self._stems = _ends(self._below, lambda path: path.with_suffix(""))
        return self._stems.get(cell.strip().removeprefix("./").replace("\\", "/"), [])


def _ends(below: Mapping[str, str], cut: Callable[[PurePosixPath], PurePosixPath]) -> dict[str, list[str]]:
    """Every end of every path -> the pictures whose paths end so."""
    ends: dict[str, list[str]] = {}
    for inner, name in below.items():
        parts = cut(PurePosixPath(inner)).parts
        for start in range(len(parts)):
            ends.setdefault("/".join(parts[start:]), []).append(name)
    return ends


def _lowered(known: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The same whatever the case."""
    lower: dict[str, list[str]] = {}
    for key, names in known.items():
        lower.setdefault(key.lower(), []).extend(names)
    return lower
