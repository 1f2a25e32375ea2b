"""Pictures of 16 bits a channel: all their levels, of which Pillow keeps the upper half of colours alone."""

import sys
from typing import Any

import numpy as np
from PIL import Image

WIDE_MODES = {"I;16", "I;16B", "I;16L", "I"}  # gray, whole
LARGEST = 65_535
ORDERS = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # where the upper byte lies, the lower
OTHER_HALF = {f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA") for order, other in ORDERS.items()}
GRAY_ALPHA = "LA;16B"


def is_deep(image: Image.Image) -> bool:
    """Whether a picture that was opened, and not yet decoded, has 16 bits a channel."""
    return is_deep_gray(image) or _raw_mode(image) in OTHER_HALF


def is_deep_gray(image: Image.Image) -> bool:
    return image.mode in WIDE_MODES or _raw_mode(image) == GRAY_ALPHA


def halves(image: Image.Image, again: Image.Image) -> list[Image.Image]:
    """The same picture opened twice, so that decoding the one gives the upper bytes and the other the lower ones; of
    gray both in one; of gray with transparency its bytes as four channels."""
    if image.mode in WIDE_MODES:
        return [image]
    if _raw_mode(image) == GRAY_ALPHA:
        _set_raw_mode(image, "RGBA")
        return [image]
    _set_raw_mode(again, OTHER_HALF[_raw_mode(image)])
    return [image, again]


def levels_of(decoded: list[Image.Image], gray: bool) -> np.ndarray:
    """Levels 0..65535 [h, w, c] of what `halves` gave, once decoded."""
    high, *low = (np.asarray(image) for image in decoded)
    if low:
        return high.astype(np.uint16) * 256 + low[0]
    if gray and high.ndim == 3:
        return high[..., 0::2].astype(np.uint16) * 256 + high[..., 1::2]
    return high[..., None]


def to_bytes(levels: np.ndarray, bits: int, transparent: bool) -> np.ndarray:
    """uint8: the largest level of `bits` becomes 255, and of alpha 65535. Raises ValueError for
    levels beyond the bits."""
    most = 2**bits - 1
    colours = colours_of(levels, transparent)
    if colours.min() < 0 or colours.max() > most:
        raise ValueError(f"levels beyond {bits} bits")
    shades = _table(most)[colours]
    if colours.shape == levels.shape:
        return shades
    return np.concatenate([shades, _table(LARGEST)[levels[..., -1:]]], -1)


def colours_of(levels: np.ndarray, transparent: bool) -> np.ndarray:
    """The levels without alpha, if a channel is that."""
    return levels[..., :-1] if transparent and levels.shape[-1] in (2, 4) else levels


def clear_where(levels: np.ndarray, clear: Any) -> np.ndarray | None:
    """Alpha uint8 [h, w, 1]: 0 where there is the colour that the file calls transparent; None if it calls none."""
    wanted = (clear,) if isinstance(clear, int) else clear
    if not isinstance(wanted, tuple) or len(wanted) != levels.shape[-1]:
        return None
    return np.where((levels == np.array(wanted)).all(-1, keepdims=True), 0, 255).astype(np.uint8)


def _table(most: int) -> np.ndarray:
    return np.round(np.arange(most + 1) * (255 / most)).astype(np.uint8)


def _raw_mode(image: Image.Image) -> str:
    """How the file lays out its pixels; "" where Pillow does not say."""
    tile: Any = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _set_raw_mode(image: Any, raw: str) -> None:
    if raw == "RGBA":
        image._mode = raw
    tiles = []
    for tile in image.tile:
        name, extents, offset, arguments = tile
        arguments = (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw
        tiles.append(type(tile)(name, extents, offset, arguments))
    image.tile = tiles
