"""Where undiffuse keeps what it can make again."""

import os
from pathlib import Path

from undiffuse.errors import UndiffuseError


def home() -> Path | None:
    """The user's folder; None for a user who has none, such as a bare number in a container."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def folder(kind: str = "") -> Path:
    """$XDG_CACHE_HOME/undiffuse/KIND, else ~/.cache/undiffuse/KIND (XDG Base Directory Specification).

    kind: "data" (prepared pictures), "samples" (jobs of `evaluate`), "statistics" (features of real images); "" is the
    whole, with compiled kernels in it.

    Raises UndiffuseError where there is neither.
    """
    if own := os.environ.get("XDG_CACHE_HOME"):
        return Path(own) / "undiffuse" / kind
    if (at_home := home()) is None:
        raise UndiffuseError("this user has no home folder to keep things in: set XDG_CACHE_HOME to a folder's path")
    return at_home / ".cache" / "undiffuse" / kind
