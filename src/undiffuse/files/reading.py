"""Small files that anybody may have written: regular ones, of a size that text has, JSON of a depth that records have.

Each function raises OSError for what the system refuses and ValueError, in one line, for everything else.
"""

import errno
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

MOST_TEXT = 64 << 20  # bytes
DEEPEST = 32  # lists and objects within each other
LONG_NUMBER = re.compile(r"\d{19}")  # beyond 64 bits, perhaps

_Record = TypeVar("_Record")


def check_regular(path: Path, most: int | None = None) -> None:
    """Refuse what is no regular file, for a pipe may never begin and a device never end; most: bytes."""
    found = path.stat()
    if S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not S_ISREG(found.st_mode):
        raise ValueError("not a regular file")
    if most is not None and found.st_size > most:
        raise ValueError(f"{found.st_size:,} bytes, and at most {most:,} are read")


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """A file in UTF-8, with or without a byte order mark."""
    check_regular(path, most)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:  # some files say 0 and have more
        raise ValueError(f"more than {most:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not text in UTF-8: {error.reason} at byte {error.start:,}") from error


def parse_json(text: str | bytes, once: bool = False) -> Any:
    """JSON whose whole numbers fit into 64 bits, and whose lists and objects are at most `DEEPEST` deep. once: a key
    that stands twice in an object must say the same."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", "replace")
    try:
        of_64_bits = _of_64_bits if LONG_NUMBER.search(text) else None
        value = json.loads(text, parse_int=of_64_bits, object_pairs_hook=_made_once if once else None)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level, depth = [value], 0
    while boxes := [box for box in level if isinstance(box, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(_TOO_DEEP)
        level = [inner for box in boxes for inner in (box.values() if isinstance(box, dict) else box)]
    return value


_TOO_DEEP = f"lists and objects more than {DEEPEST} deep"


def _made_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs) and (twice := [key for key, value in pairs if made[key] != value]):
        raise ValueError(f"'{twice[0][:40]}' stands twice and says two things")
    return made


def _of_64_bits(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else None
    if value is None or not -(2**63) <= value < 2**63:
        raise ValueError(f"the number {digits[:12]}... is beyond 64 bits")
    return value


def read_json(path: Path, most: int = MOST_TEXT) -> Any:
    """The value that a file holds as JSON."""
    return parse_json(read_text(path, most))


def checked_record(schema: type[_Record], value: Any) -> _Record:
    """The value as this type, a TypedDict or another annotation with ranges: nothing is converted. ValueError says
    which key is wrong, and how."""
    try:
        made: _Record = _adapter(schema).validate_python(value, strict=True)  # type: ignore[arg-type]
        return made
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"]))
        found = "" if first["type"] == "missing" else f", got {first['input']!r:.40}"
        raise ValueError(f"{key + ': ' if key else ''}{first['msg'].lower()}{found}") from None


@lru_cache(maxsize=64)
def _adapter(schema: Any) -> Any:
    return TypeAdapter(schema)
