"""What a row of a table holds as its picture, or names: a file of the same set, and no other."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from undiffuse.data.sources.base import MAX_BYTES, in_a_line
from undiffuse.data.spec import BadPicture

WITHIN = ("zip://", "tar://", "gzip://", "bz2://", "xz://")  # a file in a packed one: zip://a.png::PLACE


def row_content(value: Any, roots: tuple[str, ...]) -> bytes | BadPicture:
    """The bytes in a row, or of the file that it names. roots: see roots_of."""
    match value:
        case {"bytes": bytes() as content}:
            return content
        case {"path": str() as path}:
            outside = f"{path[:120]}: not a file of this data set, so it is not opened"
            return _fetch(path) if is_within(path, roots) else BadPicture("unreadable", outside)
        case bytes() as content:
            return content
        case None | {"bytes": None}:
            return BadPicture("empty", "the row has no picture")
    return BadPicture("not a picture", f"the row holds {type(value).__name__}")


def roots_of(path: Path, files: Iterable[str]) -> tuple[str, ...]:
    """The beginnings of the places of all that is of a set: on the hub with its commit, on this machine its folder."""
    far = {found[0] for name in files if (found := re.match(r"[a-z]+://[^@]+@[^/]+/", name))}
    here = os.path.realpath(path if path.is_dir() else path.parent).removesuffix(os.sep) + os.sep
    return tuple(sorted(far)) or (here,)


def is_within(path: str, roots: tuple[str, ...]) -> bool:
    """Whether a path out of a row leads to a file of this set: a row may name any file of this machine, or any address.
    Of a file in an archive the archive counts."""
    *inner, place = path.split("::")
    if not all(part.startswith(WITHIN) for part in inner):
        return False
    if "://" in place:
        return place.startswith(roots) and ".." not in place.split("/")
    place = os.path.realpath(place)
    return place.startswith(roots) and Path(place).is_file()


def _fetch(path: str) -> bytes | BadPicture:
    """The file at a path, from this machine or from where the hub keeps it."""
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            content = bytes(file.read(MAX_BYTES + 1))
    except Exception as error:
        return BadPicture("unreadable", f"{path}: {in_a_line(error)}")
    return content if len(content) <= MAX_BYTES else BadPicture("too large", f"larger than {MAX_BYTES >> 20} MiB")
