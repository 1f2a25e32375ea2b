"""Pictures to one shape: transparency on a background, channels, size. Arrays are uint8 [h, w, c]."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from undiffuse.data.spec import BadPicture, DataSpec, colour

Size = tuple[int, int]
PIXELS_IN_FLOATS = 1 << 20
LUMA = np.array([299, 587, 114]) / 1000  # ITU-R BT.601, as Pillow's "L"


def shaped(picture: np.ndarray, transparent: bool, spec: DataSpec, size: Size, channels: int) -> np.ndarray:
    """uint8 [*size, channels]. Raises BadPicture where channels cannot become those asked for."""
    fill = colour(spec.background) if spec.background is not None else (255,) * 3 if transparent else (0,) * 3
    if transparent and channels != 4:
        picture = _on_background(picture, np.array(fill))
    picture = _with_channels(picture, channels)
    if picture.shape[:2] == size:
        return picture
    fitted = FITTING[spec.fit]
    if transparent and channels == 4 and fitted is not _framed:
        return _premultiplied(picture, lambda x, frame: fitted(x, size, frame), _fill(fill, channels, transparent))
    return fitted(picture, size, _fill(fill, channels, transparent))


def _premultiplied(
    picture: np.ndarray, fit: Callable[[np.ndarray, np.ndarray], np.ndarray], frame: np.ndarray
) -> np.ndarray:
    """Fit colours in proportion to their alpha: what is clear has no colour, so none of it reaches the edges (Porter &
    Duff 1984). Where all is clear the colour is that of the pixels themselves."""
    clear, alpha = fit(picture, frame), picture[..., 3:].astype(np.float32)
    bands = [fit(picture[..., c : c + 1] * alpha / 255, frame[c : c + 1]) for c in range(3)]
    fitted = np.concatenate([*bands, fit(alpha, frame[3:])], -1)
    share = fitted[..., 3:] / 255
    with np.errstate(divide="ignore", invalid="ignore"):
        shown = np.where(share > 0.5 / 255, fitted[..., :3] / share, clear[..., :3])
    return np.concatenate([shown, fitted[..., 3:]], -1).round().clip(0, 255).astype(np.uint8)


def _by_rows(picture: np.ndarray, work: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What `work` makes of the rows, a few at a time: a large picture takes many times its size in floats."""
    at_once = max(1, PIXELS_IN_FLOATS // picture.shape[1])
    parts = [work(picture[row : row + at_once]) for row in range(0, len(picture), at_once)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _on_background(picture: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """alpha c + (1 - alpha) background, rounded to nearest."""
    behind = fill if picture.shape[-1] == 4 or len(set(fill)) > 1 else fill[:1]

    def laid(rows: np.ndarray) -> np.ndarray:
        alpha = rows[..., -1:] / 255
        return np.round(alpha * rows[..., :-1] + (1 - alpha) * behind).astype(np.uint8)

    return _by_rows(picture, laid)


def _with_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    found = picture.shape[-1]
    if found == channels:
        return picture
    if (found, channels) == (3, 1):
        return _by_rows(picture, lambda rows: np.round(rows @ LUMA).astype(np.uint8)[..., None])
    if (found, channels) == (1, 3):
        return picture.repeat(3, axis=-1)
    if channels == 4 and found in (1, 2, 3):
        shades = picture[..., :1].repeat(3, axis=-1) if found < 3 else picture
        alpha = picture[..., 1:] if found == 2 else np.full((*picture.shape[:2], 1), 255, np.uint8)
        return np.concatenate([shades, alpha], -1)
    raise BadPicture("other channels", f"{found} channels where {channels} are wanted")


def _fill(fill: tuple[int, ...], channels: int, transparent: bool) -> np.ndarray:
    """The frame's colour in as many channels."""
    if channels == 3:
        return np.array(fill, np.uint8)
    if channels == 4:
        return np.array([*fill, 0 if transparent else 255], np.uint8)
    return np.full(channels, round(float(np.array(fill) @ LUMA)), np.uint8)


def _crop(picture: np.ndarray, size: Size, fill: np.ndarray) -> np.ndarray:
    """The largest box of size's proportions around the middle, scaled to it."""
    height, width = picture.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    tall, wide = min(size[0] / scale, height), min(size[1] / scale, width)  # rounding may put one beyond
    left, top = (width - wide) / 2, (height - tall) / 2
    return _resized(picture, size, (left, top, left + wide, top + tall))


def _inside(picture: np.ndarray, size: Size, fill: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    small = (min(size[0], max(1, round(height * scale))), min(size[1], max(1, round(width * scale))))
    return _framed(_resized(picture, small), size, fill)


def _stretch(picture: np.ndarray, size: Size, fill: np.ndarray) -> np.ndarray:
    return _resized(picture, size)


def _resized(picture: np.ndarray, size: Size, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """Lanczos with support scaled to the reduction, so antialiased; bytes are rounded to nearest."""
    height, width = size
    bands = [Image.fromarray(np.ascontiguousarray(picture[..., c])) for c in range(picture.shape[-1])]
    resized = [band.resize((width, height), Image.Resampling.LANCZOS, box) for band in bands]
    return np.stack([np.asarray(band) for band in resized], -1)


def _framed(picture: np.ndarray, size: Size, fill: np.ndarray) -> np.ndarray:
    """Cut at the middle where it is larger, framed evenly (an odd pixel right and below) where it is smaller."""
    out = np.empty((*size, picture.shape[-1]), picture.dtype)
    out[:] = fill
    source, target = zip(
        *(_overlap(have, want) for have, want in zip(picture.shape[:2], size, strict=True)), strict=True
    )
    out[target] = picture[source]
    return out


def _overlap(have: int, want: int) -> tuple[slice, slice]:
    shared, before = min(have, want), abs(have - want) // 2
    return (
        (slice(before, before + shared), slice(0, shared))
        if have > want
        else (slice(0, have), slice(before, before + shared))
    )


FITTING: dict[str, Callable[[np.ndarray, Size, np.ndarray], np.ndarray]] = {
    "crop": _crop,
    "pad": _framed,
    "inside": _inside,
    "stretch": _stretch,
}
