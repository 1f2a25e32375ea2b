"""Label files of several formats, as rows: CSV, JSON, COCO's, and the lists that published data sets come with."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import parse_json

FEW_CELLS = 100_000
MOST_LABEL_ROWS, ROWS_A_PICTURE, CELLS_A_ROW = (
    2_000_000,
    20,
    5,
)  # read; each picture adds some


@dataclass(frozen=True)
class LabelFile:
    """A label file: where it lies among the pictures ("" at the top or outside), what messages call it, and whether it
    was asked for."""

    folder: str
    text: str
    origin: str
    asked: bool = False


def rows_of(table: LabelFile, pictures: int = 0) -> list[dict[str, Any]] | None:
    """CSV with a header, in commas, semicolons or tabs; JSON (a list of objects, an object from name to class, COCO's,
    NVlabs'); JSON lines; the lists of Tiny ImageNet and CelebA. None: the file says that there are no classes.

    pictures: how many there are, for a file of very many more rows is refused.
    """
    suffix = PurePosixPath(table.origin.lower()).suffix
    most = MOST_LABEL_ROWS + ROWS_A_PICTURE * pictures
    try:
        if suffix in (".csv", ".tsv"):
            return _of_csv(table, most)
        if suffix == ".txt":
            return _bounded(_listed(table.text), table, most)
        if (boxes := table.text.count("{") + table.text.count("[")) > most:
            raise UndiffuseError(f"{table.origin}: {boxes:,} lists and objects, and at most {most:,} are read")
        raw: Any = _json_lines(table.text) if suffix == ".jsonl" else parse_json(table.text, once=True)
    except UndiffuseError:
        raise
    except ValueError as error:
        raise UndiffuseError(f"{table.origin}: cannot be read as labels ({str(error)[:100]})") from error
    return _of_json(raw, table, most)


def _of_csv(table: LabelFile, most: int) -> list[dict[str, Any]]:
    text = "\n".join(_lines(table.text))
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    columns = list(filter(None, reader.fieldnames or []))
    if twice := next((column for column in columns if columns.count(column) > 1), None):
        raise UndiffuseError(f"{table.origin}: two columns are called '{twice}'; give each its own name")
    try:
        return _bounded((dict(row) for row in reader), table, most)
    except csv.Error as error:
        open_quote = "; a quotation mark is not closed" if "end of data" in str(error) or "after" in str(error) else ""
        raise ValueError(f"the row at line {reader.line_num + 1:,}: {error}{open_quote}") from error


def _lines(text: str) -> list[str]:
    """By the ends that Linux, Windows and old Macs write, and no others: a name may hold those."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _json_lines(text: str) -> list[Any]:
    values = []
    for count, line in enumerate(_lines(text), 1):
        try:
            values += [parse_json(line, once=True)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {count:,}: {error}") from error
    return values


def _of_json(raw: Any, table: LabelFile, most: int) -> list[dict[str, Any]] | None:
    origin = table.origin
    if isinstance(raw, dict) and {"images", "annotations"} <= raw.keys():
        return _coco(raw, origin)
    if isinstance(raw, dict) and [*raw] == ["labels"] and isinstance(raw["labels"], list | None):
        pairs = raw["labels"]
        return (
            None if pairs is None else [{"file_name": str(one), "label": label} for one, label in _twos(pairs, origin)]
        )
    if isinstance(raw, dict):
        raw = [{"file_name": name, "label": label} for name, label in raw.items()]
    objects = (row for row in raw if isinstance(row, dict)) if isinstance(raw, list) else iter(())
    rows = _bounded((part for row in objects for part in _flat(row)), table, most)
    if not rows:
        raise UndiffuseError(f"{origin}: labels are a list of objects, or an object from file name to class")
    return rows


def _bounded(rows: Iterable[dict[str, Any]], table: LabelFile, most: int) -> list[dict[str, Any]]:
    """The rows, whose cells are no more than the file has letters: a short file can stand for very many, by a wide
    header over empty rows, or by what many objects share. Each takes hundreds of bytes."""
    kept, cells = list[dict[str, Any]](), 0
    for row in rows:
        cells += len(row)
        if cells > len(table.text) + FEW_CELLS:
            raise UndiffuseError(f"{table.origin}: more cells than letters; give every row its own columns")
        if len(kept) >= most or cells > CELLS_A_ROW * most:
            raise UndiffuseError(
                f"{table.origin}: more than {most:,} rows, or cells for them; keep those of the pictures"
            )
        kept.append(row)
    return kept


def _twos(pairs: list[Any], origin: str) -> Iterator[tuple[Any, Any]]:
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise UndiffuseError(f"{origin}: 'labels' is a list of [file name, class], not of {str(pair)[:40]}")
        yield pair[0], pair[1]


def _listed(text: str) -> list[dict[str, Any]]:
    """Lines of words: a count, names of attributes and then rows, as CelebA's lists; or file and class, as Tiny
    ImageNet's val_annotations.txt."""
    lines = [line.split() for line in _lines(text) if line.strip()]
    if len(lines) > 2 and len(lines[0]) == 1 and lines[0][0].isdigit() and len(lines[2]) == len(lines[1]) + 1:
        return [dict(zip(["file_name", *lines[1]], line, strict=False)) for line in lines[2:]]
    return [{"file_name": line[0], "label": line[1]} for line in lines if len(line) > 1]


def _coco(raw: dict[str, Any], origin: str) -> list[dict[str, Any]]:
    """COCO's: images and the categories of their annotations. One category a picture is a class."""
    try:
        names = _by_id(raw.get("categories", []), "name", origin)
        files = _by_id(raw["images"], "file_name", origin)
        classes: dict[Any, set[str]] = {}
        for one in raw["annotations"]:
            classes.setdefault(one["image_id"], set()).add(names.get(one["category_id"], str(one["category_id"])))
    except (KeyError, TypeError) as error:
        raise UndiffuseError(f"{origin}: not COCO's format ({type(error).__name__}: {error})") from error
    for key, found in classes.items():
        if len(found) > 1:
            both = " and ".join(sorted(found)[:2])
            raise UndiffuseError(f"{origin}: {files.get(key)} has objects of {both}; a class a picture is wanted")
    return [{"file_name": file, "label": next(iter(classes[key]))} for key, file in files.items() if key in classes]


def _by_id(objects: Any, key: str, origin: str) -> dict[Any, str]:
    """What `key` says in each of these objects, by their ids. Raises UndiffuseError where an id says two things."""
    found: dict[Any, str] = {}
    for one in objects:
        if found.setdefault(one["id"], str(one[key])) != str(one[key]):
            both = f"{found[one['id']]} and {one[key]}"
            raise UndiffuseError(f"{origin}: the id {one['id']} is that of {both}; give each its own")
    return found


def _flat(row: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """The object itself, then those within it, which have what it says unless they say otherwise."""
    yield row
    shared = {key: value for key, value in row.items() if not isinstance(value, dict | list)}
    for value in row.values():
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for child in inner:
            if isinstance(child, dict) and depth < 4:
                yield from _flat(shared | child, depth + 1)


def is_list_of_pairs(text: str) -> bool:
    """As NVlabs' dataset_tool writes dataset.json, a name that others use for something else."""
    try:
        raw = parse_json(text)
    except ValueError:
        return False
    return isinstance(raw, dict) and [*raw] == ["labels"] and isinstance(raw["labels"], list | None)
