"""Statistics of real images, made once and kept in the user's cache under a key of all that defines them."""

import os
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from undiffuse.metrics.frechet import FeatureSums


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "undiffuse" / "statistics"


def kept(key: str, make: Callable[[], FeatureSums]) -> FeatureSums:
    """From the cache, else made and, where that is possible, kept. key: everything that the sums depend on."""
    path = cache_folder() / f"{blake2b(key.encode(), digest_size=16).hexdigest()}.safetensors"
    try:
        return FeatureSums(**load_file(path))
    except (OSError, SafetensorError, TypeError):
        pass
    sums = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        save_file({name: np.ascontiguousarray(getattr(sums, name)) for name in ("count", "total", "outer")}, aside)
        aside.replace(path)
    except OSError:
        pass  # the next call makes them again, no more is lost
    return sums
