"""Strips: pictures in rows that can be read, with names at the left and the time under each column."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from undiffuse.errors import UndiffuseError, elided, escaped
from undiffuse.images import visible
from undiffuse.viz import style

# All lengths are in pixels of the finished sheet: then each pixel of a picture is a whole number of the sheet's.
STRIP_DPI = 200
CELL = 104  # a picture's longer side, about
GAP, BREAK, MARGIN = 8, 26, 28
LINE = 34  # a line of text
MOST_PAIRS = 6
LONGEST_NAME = 40  # letters
ABREAST = 4  # neighbours in a row: no more, or they are too small on a telephone
STRIP_TIME = "time t"

HAlign = Literal["left", "center", "right"]
VAlign = Literal["top", "center"]


@dataclass(frozen=True)
class StripRow:
    """name: written at the left; pictures: uint8 [k, h, w, c]; apart: a wider gap above; below: a word under each."""

    name: str
    pictures: np.ndarray
    apart: bool = False
    below: Sequence[str] = ()

    @property
    def words(self) -> int:
        """Pixels that the words below take."""
        return LINE if self.below else 0


def forward_strips(rows: Mapping[str, np.ndarray], times: Sequence[float | int]) -> Figure:
    """How data becomes noise: one row for each schedule or noise family.

    rows: name -> uint8 [k, h, w, c], k pictures at the k times. Raises UndiffuseError where shapes do not fit.
    """
    drawn = [StripRow(name, pictures) for name, pictures in rows.items()]
    return _sheet("From data to noise", drawn, times, "0 = data, T = noise")


def reverse_strips(x: np.ndarray, x0: np.ndarray, times: Sequence[float | int]) -> Figure:
    """How noise becomes pictures: for each of one to six images the state x_t and, below it, the guess of x0.

    x, x0: uint8 [n, k, h, w, c] at the k times, in the order in which they were made (t falls). Raises UndiffuseError.
    """
    if x.ndim != 5 or x.shape != x0.shape or not 1 <= len(x) <= MOST_PAIRS:
        raise UndiffuseError(
            f"states and guesses must be two alike uint8 [n, k, h, w, c] with n from 1 to {MOST_PAIRS}, "
            f"got {list(x.shape)} and {list(x0.shape)}"
        )
    drawn: list[StripRow] = []
    for i, (states, guesses) in enumerate(zip(x, x0, strict=True)):
        drawn += [StripRow("state xₜ", states, apart=i > 0), StripRow("guess of x₀", guesses)]
    return _sheet("From noise to pictures", drawn, times, "T = noise, 0 = picture")


def sample_grid(images: np.ndarray, labels: Sequence[str], title: str = "Generated pictures by class") -> Figure:
    """Pictures in rows by class, the class's name at the left; classes in order of first appearance.

    images: uint8 [n, h, w, c]; labels: n names. (`undiffuse.images.grid` lays out pictures without names.)
    """
    if len(images) != len(labels) or not len(labels):
        raise UndiffuseError(f"one label for each picture is needed, got {len(images)} pictures, {len(labels)} labels")
    names = np.array(labels, dtype=object)
    drawn = [StripRow(name, images[names == name]) for name in dict.fromkeys(labels)]
    return _sheet(title, drawn)


def neighbour_strips(generated: np.ndarray, rows: Mapping[str, tuple[np.ndarray, Sequence[float]]]) -> Figure:
    """Generated pictures, uint8 [n, h, w, c], each above real ones that are near to it.

    rows: what they are -> one for each generated picture, uint8 [n, h, w, c], and the n distances to it. Raises
    UndiffuseError where shapes do not fit.
    """
    drawn: list[StripRow] = []
    for start in range(0, len(generated), ABREAST):
        these = slice(start, start + ABREAST)
        drawn.append(StripRow("generated", generated[these], apart=start > 0))
        for name, (pictures, distances) in rows.items():
            lines = [f"{distance:#.3g}" for distance in distances[these]]
            drawn.append(StripRow(name, pictures[these], below=lines))
    return _sheet("Closest to the training pictures", drawn)


@dataclass(frozen=True)
class Layout:
    """The places of things on a figure: the pictures' left edge, each row's top, a picture's width and height."""

    left: int
    tops: list[int]
    w: int
    h: int

    @property
    def bottom(self) -> int:
        return self.tops[-1] + self.h

    def column(self, i: int) -> int:
        return self.left + i * (self.w + GAP)


def _sheet(title: str, rows: list[StripRow], times: Sequence[float | int] = (), below: str = "") -> Figure:
    """Title, rows of pictures, times and what they mean, placed pixel by pixel."""
    _check(rows, times)
    rows = [replace(row, name=elided(escaped(row.name), LONGEST_NAME), pictures=visible(row.pictures)) for row in rows]
    layout = _layout(rows)
    columns = max(len(row.pictures) for row in rows)
    ends = (layout.column(columns) - GAP, MARGIN + _width(title, style.LARGE_TEXT, "bold"), layout.left + _width(below))
    width = max(ends) + MARGIN
    sheet, axes = _canvas(width, layout.bottom + rows[-1].words + MARGIN + (2 * LINE if len(times) else 0))
    axes.text(MARGIN, MARGIN, title, fontsize=style.LARGE_TEXT, fontweight="bold", color=style.INK, va="top")
    for row, top in zip(rows, layout.tops, strict=True):
        _write(axes, (layout.left - 2 * GAP, top + layout.h / 2), row.name, ("right", "center"))
        for i, picture in enumerate(row.pictures):
            _show(axes, picture, (layout.column(i), top, layout.w, layout.h))
        for i, word in enumerate(row.below):
            _write(axes, (layout.column(i) + layout.w / 2, top + layout.h + GAP), word, ("center", "top"), style.MUTED)
    if len(times):
        _write_times(axes, layout, times, below)
    return sheet


def _write_times(axes: Axes, layout: Layout, times: Sequence[float | int], below: str) -> None:
    y = layout.bottom + GAP
    _write(axes, (layout.left - 2 * GAP, y), STRIP_TIME, ("right", "top"), style.MUTED)
    for i, t in enumerate(times):
        _write(axes, (layout.column(i) + layout.w / 2, y), style.time_text(t), ("center", "top"))
    _write(axes, (layout.left, y + LINE), below, ("left", "top"), style.MUTED)


def _layout(rows: list[StripRow]) -> Layout:
    sides = rows[0].pictures.shape[1:3]
    scale = max(1, round(CELL / max(sides)))
    h, w = (side * scale for side in sides)
    left = MARGIN + max(_width(name) for name in (STRIP_TIME, *(row.name for row in rows))) + 2 * GAP
    top, tops = MARGIN + LINE + 2 * GAP, []
    for row in rows:
        top += BREAK if row.apart else 0
        tops.append(top)
        top += h + GAP + row.words
    return Layout(left, tops, w, h)


def _check(rows: list[StripRow], times: Sequence[float | int]) -> None:
    if not rows or not len(rows[0].pictures):
        raise UndiffuseError("no pictures to lay out")
    for row in rows:
        shape = row.pictures.shape
        if row.pictures.dtype != np.uint8 or len(shape) != 4 or shape[1:] != rows[0].pictures.shape[1:]:
            raise UndiffuseError(f"'{row.name}': pictures must be uint8 [k, h, w, c], all alike, got {list(shape)}")
        if len(row.below) not in (0, shape[0]):
            raise UndiffuseError(f"'{row.name}': {shape[0]} pictures with {len(row.below)} words below them")
        if len(times) and len(times) != shape[0]:
            raise UndiffuseError(f"'{row.name}': {shape[0]} pictures at {len(times)} times")


def _canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """A figure whose one axes covers it, in pixels, y downwards."""
    sheet = Figure(figsize=(width / STRIP_DPI, height / STRIP_DPI), dpi=STRIP_DPI, facecolor=style.PAPER)
    axes = sheet.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    return sheet, axes


def _show(axes: Axes, picture: np.ndarray, box: tuple[int, int, int, int]) -> None:
    x, y, w, h = box
    channels = max(3, picture.shape[-1])  # grey too: a colour map would shift some greys by one
    colors = np.broadcast_to(picture, (*picture.shape[:2], channels))
    axes.imshow(colors, extent=(x, x + w, y + h, y), interpolation="nearest", aspect="auto")


def _write(
    axes: Axes, at: tuple[float | int, float | int], text: str, align: tuple[HAlign, VAlign], color: str = style.INK
) -> None:
    """Text at a pixel. A name from outside may hold a dollar sign: it is never read as mathematics."""
    across, along = align
    axes.text(*at, text, ha=across, va=along, fontsize=style.NORMAL_TEXT, color=color, parse_math=False)


def _width(text: str, size: float = style.NORMAL_TEXT, weight: str = "normal") -> int:
    """Pixels that a line of text takes."""
    if not text.strip():
        return 0  # Matplotlib has no path for nothing
    font = FontProperties(size=size, weight=weight)
    path = TextPath((0, 0), text.replace("$", "S"), prop=font)
    return math.ceil(path.get_extents().x1 * STRIP_DPI / 72)
