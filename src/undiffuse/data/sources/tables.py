"""Label files: which column is which, by evidence over the whole file, and what every row says of its picture."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from undiffuse.data.sources.finding import Finder, Found
from undiffuse.data.sources.labelling import Labelled
from undiffuse.data.sources.parts import PartName, kinds_in, part_word
from undiffuse.data.sources.rows import LabelFile, is_list_of_pairs, rows_of
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError, UsageError, nearest

TABLES = ("labels.csv", "labels.json", "metadata.csv", "metadata.jsonl", "metadata.json")
PUBLISHED = ("dataset.json", "_annotations.coco.json", "val_annotations.txt")  # NVlabs', Roboflow's, Tiny ImageNet's
NO_CLASS = "-1"
LABEL_KEYS = ("label", "class", "category", "labels", "target", "class_name")
PART_KEYS = ("split", "partition")  # columns of parts; the following are, if all that they say is parts
PERHAPS_PART_KEYS = ("part", "subset", "set", "dataset", "datasplit", "phase", "usage", "fold")
RIVAL = 0.5  # a column that names this share of what another one names may be meant instead
Row = Mapping[str, Any]


class RowSays(NamedTuple):
    """What a row says: the file as it is written, its class, its part, the pictures it names."""

    file: str
    label: str | None
    part: PartName | None
    found: Found


def tables_among(names: Sequence[str]) -> list[str]:
    """The label files among these names: of each folder the first that is known. Hidden ones are none."""
    found: dict[str, str] = {}
    for known in (*TABLES, *PUBLISHED):
        for name in names:
            folder, _, file = name.rpartition("/")
            if file == known and not any(part.startswith(".") or part == "__MACOSX" for part in folder.split("/")):
                found.setdefault(folder, name)
    return sorted(found.values())


def read_labels(tables: Sequence[LabelFile], names: Sequence[str], spec: DataSpec) -> Labelled:
    """Classes and parts from tables whose rows name the files. Where all classes are -1 there are none: so `undiffuse
    sample` says that a model has no classes. Raises UndiffuseError and UsageError for what is ambiguous or names
    nothing.
    """
    labels, used = Labelled(), list[LabelFile]()
    for table in tables:
        if not table.asked and table.origin.endswith("dataset.json") and not is_list_of_pairs(table.text):
            labels.notes.append(f"{table.origin}: not taken for labels; data.labels says to read it")
            continue
        used.append(table)
        rows = rows_of(table, len(names))
        if rows is None:
            labels.notes.append(f"{table.origin}: says no classes")
            continue
        said, notes = _read_rows(rows, Finder(names, table.folder), table.origin, spec)
        labels.notes += notes
        if {row.label for row in said} == {NO_CLASS}:
            said = [row._replace(label=None) for row in said]
        _take(said, len(names), table.origin, labels)
    labels.unclear = {name: why for name, why in labels.unclear.items() if name not in labels.of}
    covered = [f"{table.folder}/" if table.folder and not table.asked else "" for table in used]
    for name in names:
        if any(name.startswith(folder) for folder in covered):
            labels.of.setdefault(name, None)
    return labels


def _take(said: list[RowSays], count: int, origin: str, labels: Labelled) -> None:
    """Put what the rows say beside the pictures that they name; tell of rows that name none, or several.

    A row whose path agrees with a picture's further than another's does names it alone. A picture named only by rows
    that name others too has no class.
    """
    own: dict[str, RowSays] = {}
    several: list[RowSays] = []
    nowhere: list[RowSays] = []
    for row in sorted(said, key=lambda row: -row.found.agreeing):
        names = row.found.names
        if len(names) > 1:
            several.append(row)
        elif names and (first := own.setdefault(names[0], row)).found.agreeing == row.found.agreeing:
            _check_agree(first, row, origin)
        else:
            nowhere.append(row)
    if not own and not several:
        first_file = said[0].file if said else "none"
        raise UndiffuseError(f"{origin}: names none of the {count} pictures (its first: {first_file})")
    for name, row in own.items():
        labels.add(name, row.label, None if row.part is None else row.part.held_out, origin)
    alike = {id(row.found.names): row for row in several if row.label is not None}  # of one name, one list
    for row in alike.values():
        labels.unclear |= {name: _why_unclear(row, name, origin) for name in row.found.names}
    labels.notes += _counted(nowhere, several, len(said), origin)


def _check_agree(first: RowSays, row: RowSays, origin: str) -> None:
    """Refuse two rows that name one picture and say two things of it."""
    name, rows = row.found.names[0], "" if first.file == row.file else f" (rows {first.file} and {row.file})"
    if first.label != row.label:
        raise UndiffuseError(
            f"{origin}: {name} is of class '{first.label}' and of class '{row.label}'; one is wanted{rows}"
        )
    if first.part and row.part and first.part.held_out != row.part.held_out:
        raise UndiffuseError(
            f"{origin}: {name} is to be trained on and held out; one is wanted{rows}, or data.split=none"
        )


def _why_unclear(row: RowSays, name: str, origin: str) -> str:
    other = next(other for other in row.found.names if other != name)
    file = PurePath(origin).name
    return f"{row.file} in {file} may be {other} too; write their paths there, or take some pictures with data.select"


def _counted(nowhere: list[RowSays], several: list[RowSays], count: int, origin: str) -> list[str]:
    notes = []
    if nowhere:
        notes.append(f"{origin}: {len(nowhere):,} of {count:,} rows name no picture, first {nowhere[0].file}")
    if several:
        first = f"{several[0].file}: {', '.join(several[0].found.names[:2])}"
        told = f"{len(several):,} of {count:,} rows name several pictures by one name, first {first}"
        notes.append(f"{origin}: {told}; these have no class by them")
    return notes


# -- columns ----------------------------------------------------------------------------------------------------------


def _read_rows(rows: Sequence[Row], find: Finder, origin: str, spec: DataSpec) -> tuple[list[RowSays], list[str]]:
    """What every row says that names a file and a class; and lines that tell which columns they are."""
    columns = [str(column) for column in Counter(column for row in rows for column in row) if column is not None]
    files, by_stem = _file_column(rows, find, origin, columns, spec.file_key)
    labels = _label_column(rows, origin, columns, files, spec.label_key)
    others = [column for column in columns if column not in (files, labels)]
    parts = None if spec.split == "none" else _part_column(rows, origin, others)
    look = find.by_stem if by_stem else find.by_path
    full = [row for row in rows if row.get(files) not in (None, "") and _is_label(row.get(labels))]
    wrong = [row for row in rows if row.get(files) not in (None, "") and row.get(labels) not in (None, "")]
    if wrong and not full:
        value = f"{wrong[0][labels]!r:.40}"
        raise UndiffuseError(f"{origin}: the class of {wrong[0][files]} is {value}; text or a whole number is wanted")
    said = []
    for row in full:
        part = None if parts is None else part_word(str(row.get(parts) or ""))
        if parts is not None and part is None:
            raise UsageError(f"{origin}: {row[files]} has no part in column '{parts}'; fill it, or data.split=none")
        said.append(RowSays(str(row[files]), str(row[labels]), part, _of_part(look(str(row[files])), part)))
    notes = [f"classes by {origin}: column '{labels}', files by column '{files}'"]
    return said, notes + ([] if parts is None else [f"parts by {origin}: column '{parts}'"])


def _of_part(found: Found, part: PartName | None) -> Found:
    """Of several pictures of one name, that which lies in a folder of the row's part, if it is one."""
    if part is None or len(found.names) < 2:
        return found
    inside = [name for name in found.names if part.kind in kinds_in(name.split("/")[:-1])]
    return Found(inside, found.agreeing) if len(inside) == 1 else found


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | bool) and value != ""


def _file_column(
    rows: Sequence[Row], find: Finder, origin: str, columns: list[str], key: str | None
) -> tuple[str, bool]:
    """The column that names the pictures, and whether by their names without suffix.

    By evidence over all rows: a column of paths goes before one of bare stems, for numbers of rows look like stems; of
    two columns that name pictures alike, and not the same ones, neither is taken.
    """
    if key is not None and key not in columns:
        raise UsageError(f"{origin}: data.file_key: {nearest(key, columns)}")
    for by_stem, look in enumerate((find.by_path, find.by_stem)):
        named = {column: [look(str(row.get(column))) for row in rows] for column in ([key] if key else columns)}
        counts = {column: len({name for found in cells for name in found.names}) for column, cells in named.items()}
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


def _part_column(rows: Sequence[Row], origin: str, columns: list[str]) -> str | None:
    """The column of parts, by its usual name and what it says; None if there is none."""
    for column in columns:
        usual = re.sub(r"[^a-z]", "", column.lower())
        values = {str(row[column]) for row in rows if row.get(column) not in (None, "")}
        if usual not in (*PART_KEYS, *PERHAPS_PART_KEYS) or not values:
            continue
        unknown = sorted(value for value in values if part_word(value) is None)
        if not unknown:
            return column
        if usual in PART_KEYS:
            raise UsageError(
                f"{origin}: column '{column}' says {unknown[0][:40]}, and which part is that? Write train, val or test "
                "there, or leave the column out with data.split=none"
            )
    return None
