"""Pictures of 16 bits a channel: all their levels, of which Pillow keeps the upper half of colours alone."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from undiffuse.data.tiff import has_planes, white_is_zero

WIDE_MODES = {"I;16", "I;16B", "I;16L", "I"}  # gray, whole
LARGEST = 65_535
LEVELS_AT_ONCE = 1 << 22
ORDERS = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # where the upper byte lies, the lower
MODES = ("RGB", "RGBA", "RGBX", *"RGBA")  # pixels, or of a plane alone
OTHER_HALF = {f"{mode};16{order}": f"{mode};16{other}" for mode in MODES for order, other in ORDERS.items()}
GRAY_ALPHA = "LA;16B"


def is_deep(image: Image.Image) -> bool:
    """Whether a picture that was opened, and not yet decoded, has 16 bits a channel."""
    return is_deep_gray(image) or _raw_mode(image) in OTHER_HALF


def put_right(image: Any) -> bool:
    """Tell Pillow how a TIFF file's separate planes lie, of which it knows only those of 8 bits; False where that does
    not help."""
    if has_planes(image) and image.mode in ("LA", "PA"):
        return False
    if not has_planes(image) or not (raws := [raw for raw in _raw_modes(image) if len(raw) == 1]):
        return not has_planes(image) or _raw_mode(image) not in OTHER_HALF  # which libtiff unpacks
    bits, order = {*image.tag_v2.get(258, (1,))}, "L" if image.tag_v2.prefix == b"II" else "B"
    if bits == {16} and image.mode in ("I;16", "I;16B"):
        _set_raw_mode(image, lambda raw: image.mode)
    elif bits == {16} and image.mode in ("RGB", "RGBA"):
        _set_raw_mode(image, lambda raw: f"{raw};16{order}")
    else:
        return bits == {8} and not white_is_zero(image)
    return len(raws) == len(image.tile)


def is_inverted(image: Image.Image) -> bool:
    """Whether the largest level of 16 bits is black; of fewer bits Pillow sees to it."""
    return image.mode in WIDE_MODES and white_is_zero(image)


def is_deep_gray(image: Image.Image) -> bool:
    return image.mode in WIDE_MODES or _raw_mode(image) == GRAY_ALPHA


def halves(image: Image.Image, again: Image.Image) -> list[Image.Image]:
    """The same picture opened twice, so that decoding the one gives the upper bytes and the other the lower ones; of
    gray both in one; of gray with transparency its bytes as four channels."""
    if image.mode in WIDE_MODES:
        return [image]
    if _raw_mode(image) == GRAY_ALPHA:
        _set_mode(image, "RGBA")
        _set_raw_mode(image, lambda raw: "RGBA")
        return [image]
    _set_raw_mode(again, lambda raw: OTHER_HALF[raw])
    return [image, again]


def levels_of(decoded: list[Image.Image], gray: bool) -> np.ndarray:
    """Levels 0..65535 [h, w, c] of what `halves` gave, once decoded."""
    high = np.asarray(decoded[0])
    if len(decoded) > 1:
        levels = high.astype(np.uint16)
        del high  # of the largest pictures each of these takes hundreds of MiB
        levels <<= 8
        levels |= np.asarray(decoded[1])
        return levels
    if gray and high.ndim == 3:
        return high[..., 0::2].astype(np.uint16) * 256 + high[..., 1::2]
    return high[..., None]


def to_bytes(levels: np.ndarray, bits: int, transparent: bool, inverted: bool = False) -> np.ndarray:
    """uint8: the largest level of `bits` becomes 255 (inverted: 0), and of alpha 65535. Raises ValueError for
    levels beyond the bits."""
    most = 2**bits - 1
    colours = colours_of(levels, transparent)
    if colours.min() < 0 or colours.max() > most:
        raise ValueError(f"levels beyond {bits} bits")
    shades, alphas = _table(most)[::-1] if inverted else _table(most), _table(LARGEST)
    count = colours.shape[-1]
    pixels = np.empty(levels.shape, np.uint8)
    rows = max(1, LEVELS_AT_ONCE // max(1, levels[0].size))
    for first in range(0, len(levels), rows):  # NumPy makes eight bytes of each level that it looks up
        part = slice(first, first + rows)
        pixels[part, ..., :count] = shades[colours[part]]
        pixels[part, ..., count:] = alphas[levels[part, ..., count:]]
    return pixels


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


def _raw_modes(image: Any) -> list[str]:
    """How the file lays out the pixels of each piece of it; nothing where Pillow does not say."""
    told = (tile[3] for tile in getattr(image, "tile", None) or ())
    first = (arguments[0] if isinstance(arguments, tuple) and arguments else arguments for arguments in told)
    return [raw if isinstance(raw, str) else "" for raw in first]


def _raw_mode(image: Image.Image) -> str:
    return next(iter(_raw_modes(image)), "")


def _set_mode(image: Any, mode: str) -> None:
    image._mode = mode


def _set_raw_mode(image: Any, change: Callable[[str], str]) -> None:
    tiles = []
    for tile, raw in zip(image.tile, _raw_modes(image), strict=True):
        name, extents, offset, arguments = tile
        arguments = (change(raw), *arguments[1:]) if isinstance(arguments, tuple) else change(raw)
        tiles.append(type(tile)(name, extents, offset, arguments))
    image.tile = tiles
