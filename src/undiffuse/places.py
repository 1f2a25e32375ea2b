"""Where undiffuse keeps what it can make again."""

import os
from pathlib import Path


def user_cache() -> Path:
    """$XDG_CACHE_HOME/undiffuse, else ~/.cache/undiffuse (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "undiffuse"
