"""What is wrong with a configuration, in one line: the key by its dotted name, what it should be, what it is."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from undiffuse.errors import nearest


def first_complaint(error: ValidationError, schema: type[BaseModel], also: list[str]) -> str:
    """The first thing that pydantic found wrong, in words. also: keys that are read before the schema is."""
    known = [*_keys(schema), *also]
    first = _telling(error.errors(), known)
    key = _key_of(first["loc"], known)
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'; {_near(key, known)}"
    if first["type"] == "preset":
        return str(first["msg"])
    if first["type"] == "value_error":  # of a check of our own, which says it all
        return str(first["ctx"]["error"])
    return f"{key}: {first['msg'].lower().replace('tuple', 'list')}, got {repr(first['input'])[:80]}"


def _telling(errors: list[Any], known: list[str]) -> Any:
    """The first, but where a list was given in place of a number or a list, what is wrong with it as a list."""
    first = errors[0]
    if not isinstance(first["input"], list):
        return first
    same = [error for error in errors if _key_of(error["loc"], known) == _key_of(first["loc"], known)]
    return max(reversed(same), key=lambda error: len(error["loc"]))


def _key_of(place: tuple[int | str, ...], known: list[str]) -> str:
    """The dotted name of a key, without the kinds that pydantic tries in turn and places in lists."""
    names = [".".join(map(str, place[:n])) for n in range(len(place), 0, -1)]
    return next((name for name in names if name in known), names[0] if names else "")


def _near(key: str, known: list[str]) -> str:
    """The nearest key; if none is near, its section's, else the sections."""
    section = [name for name in known if name.startswith(f"{key.split('.')[0]}.")]
    sections = list(dict.fromkeys(name.split(".")[0] + ".*" * ("." in name) for name in known))
    hint = nearest(key, known)
    return hint if hint.startswith("did") else nearest(key, section or sections)


def _keys(section: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
