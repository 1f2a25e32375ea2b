"""Features of real images, made once and kept in the user's cache under a key of all that defines them."""

from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from undiffuse.files import cache
from undiffuse.files.writing import whole
from undiffuse.metrics.base import Rows


def cached_features(key: str, make: Callable[[], Rows]) -> Rows:
    """Features from the cache, else made and, where that is possible, kept. key: everything that the features depend
    on.

    The file holds its key and a digest of the features: one of other images that got this name, or that was cut or
    changed, is not taken but made anew.
    """
    path = cache.folder("statistics") / f"{blake2b(key.encode(), digest_size=16).hexdigest()}.safetensors"
    try:
        with safe_open(path, "np") as file:
            features = file.get_tensor("features")
            if file.metadata() == _about(key, features):
                return features
    except (OSError, SafetensorError, TypeError, ValueError):  # the last two: not numbers that numpy knows
        pass
    features = np.ascontiguousarray(make())
    with suppress(OSError, SafetensorError):  # the next call makes them again, no more is lost
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path, lasting=False) as aside:
            save_file({"features": features}, aside, _about(key, features))
    return features


def _about(key: str, features: np.ndarray) -> dict[str, str]:
    return {"key": key, "digest": blake2b(features.tobytes(), digest_size=16).hexdigest()}
