"""Label files of several formats, as rows: CSV, JSON, COCO's, and the lists that published data sets come with."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import parse_json

FEW_CELLS = 100_000


@dataclass(frozen=True)
class LabelFile:
    """A label file: where it lies among the pictures ("" at the top or outside), what messages call it, and whether it
    was asked for."""

    folder: str
    text: str
    origin: str
    asked: bool = False


def rows_of(table: LabelFile) -> list[dict[str, Any]] | None:
    """CSV with a header, in commas, semicolons or tabs; JSON (a list of objects, an object from name to class, COCO's,
    NVlabs'); JSON lines; the lists of Tiny ImageNet and CelebA. None: the file says that there are no classes."""
    text, origin = table.text, table.origin
    suffix = PurePosixPath(origin.lower()).suffix
    try:
        if suffix in (".csv", ".tsv"):
            first = text.partition("\n")[0]
            delimiter = max(",;\t", key=first.count)
            reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
            return _bounded((dict(row) for row in reader), table)
        if suffix == ".txt":
            return _listed(text)
        raw: Any = [parse_json(line) for line in text.splitlines() if line.strip()] if suffix == ".jsonl" else None
        raw = parse_json(text) if raw is None else raw
    except UndiffuseError:
        raise
    except (ValueError, csv.Error) as error:
        raise UndiffuseError(f"{origin}: cannot be read as labels ({str(error)[:100]})") from error
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
    rows = _bounded((part for row in objects for part in _flat(row)), table)
    if not rows:
        raise UndiffuseError(f"{origin}: labels are a list of objects, or an object from file name to class")
    return rows


def _bounded(rows: Iterator[dict[str, Any]], table: LabelFile) -> list[dict[str, Any]]:
    """The rows, whose cells are no more than the file has letters: a short file can stand for very many, by a wide
    header over empty rows, or by what many objects share."""
    kept, cells = [], 0
    for row in rows:
        cells += len(row)
        if cells > len(table.text) + FEW_CELLS:
            raise UndiffuseError(f"{table.origin}: more cells than letters; give every row its own columns")
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
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) > 2 and len(lines[0]) == 1 and lines[0][0].isdigit() and len(lines[2]) == len(lines[1]) + 1:
        return [dict(zip(["file_name", *lines[1]], line, strict=False)) for line in lines[2:]]
    return [{"file_name": line[0], "label": line[1]} for line in lines if len(line) > 1]


def _coco(raw: dict[str, Any], origin: str) -> list[dict[str, Any]]:
    """COCO's: images and the categories of their annotations. One category a picture is a class."""
    try:
        names = {one["id"]: str(one["name"]) for one in raw.get("categories", [])}
        files = {one["id"]: str(one["file_name"]) for one in raw["images"]}
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
