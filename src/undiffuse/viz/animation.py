"""Animations: denoising as a GIF, with the time written below the pictures."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from undiffuse.errors import UndiffuseError
from undiffuse.images import grid, write_gif
from undiffuse.viz.style import time_text

_Item = TypeVar("_Item")
BAR, TEXT, EDGE = 30, 13, 6  # pixels: height of the caption, of its letters, space around
DARK, DIM, LIGHT = 24, 84, 235  # grey levels
MOST_FRAMES = 60  # five seconds; a thousand steps would be megabytes
GREYS = 16  # enough for the eye; noise in 256 greys makes a GIF half as large again


def denoising_gif(
    path: Path,
    frames: Iterable[tuple[float | int, np.ndarray]],
    T: float | int | None = None,
    columns: int | None = None,
    seconds: float | int = 0.08,
    *,
    hold: float | int = 2.0,
) -> None:
    """Write an endless animation of (t, uint8 [n, h, w, c]) frames, t falling; the last is held for `hold` seconds.

    Of more than MOST_FRAMES frames an even choice is shown, the first and the last among them.

    T: where the progress bar starts (default: the first frame's t). columns: of the grid. seconds: per frame.
    Raises UndiffuseError if there are no frames.
    """
    pictures: list[np.ndarray] = []
    for t, images in thinned(list(frames)):
        T = T or t
        sheet = grid(images, columns, scale=max(1, round(48 / max(images.shape[1:3]))))  # noise makes large files
        if sheet.shape[-1] == 1:
            sheet = _fewer_greys(sheet)
        pictures.append(np.concatenate([sheet, _caption(float(t), float(T), sheet.shape[1], sheet.shape[2])]))
    if not pictures:
        raise UndiffuseError(f"{path}: no frames to animate")
    write_gif(path, pictures, float(seconds), float(hold))


def thinned(frames: list[_Item], most: int = MOST_FRAMES) -> list[_Item]:
    """At most `most` of the frames, evenly spread, with both ends."""
    if len(frames) <= most:
        return frames
    return [frames[i] for i in np.linspace(0, len(frames) - 1, most).round().astype(int)]


def _caption(t: float, T: float, width: int, channels: int) -> np.ndarray:
    """A bar with `t = ...` and the progress from T to 0. uint8 [BAR, width, channels]."""
    bar = Image.new("L", (width, BAR), DARK)
    draw = ImageDraw.Draw(bar)
    draw.text((EDGE, 4), f"t = {time_text(t)}", fill=LIGHT, font=ImageFont.load_default(size=TEXT))
    done = 1 - min(max(t / T, 0.0), 1.0) if T else 1.0
    room = width - 2 * EDGE
    draw.rectangle((EDGE, BAR - 7, EDGE + room - 1, BAR - 5), fill=DIM)
    if round(done * room):
        draw.rectangle((EDGE, BAR - 7, EDGE + round(done * room) - 1, BAR - 5), fill=LIGHT)
    return np.repeat(np.asarray(bar)[..., None], channels, axis=-1)


def _fewer_greys(sheet: np.ndarray) -> np.ndarray:
    """256 grey levels to GREYS of them, black and white kept."""
    step = 255 / (GREYS - 1)
    return (np.round(sheet / step) * step).round().astype(np.uint8)
