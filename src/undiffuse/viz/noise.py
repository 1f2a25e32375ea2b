"""Noise families side by side: what a white pixel becomes, drawn and by the exact density, and a picture."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from undiffuse import images
from undiffuse.viz import style

BINS, REACH = 80, 4.2


@dataclass(frozen=True)
class Cell:
    """One family at one time. drawn: x_t of white pixels; density: float -> exact density at `at`; picture: uint8."""

    t: float
    drawn: np.ndarray
    at: np.ndarray
    density: np.ndarray
    picture: np.ndarray


def plot_noise(rows: dict[str, list[Cell]]) -> Figure:
    """A row for each family, a column for each time; in every cell the noisy picture, a histogram and the density."""
    columns = len(next(iter(rows.values())))
    sheet = style.figure(2.3 * columns + 1.0, 1.55 * len(rows) + 0.8)
    style.heading(sheet, "A white pixel and a picture in each family's noise (bars drawn, line exact)")
    grid = np.atleast_2d(sheet.subplots(len(rows), columns, sharex=True))
    for axes_row, (name, cells) in zip(grid, rows.items(), strict=True):
        for axes, cell in zip(axes_row, cells, strict=True):
            _cell(axes, cell)
        axes_row[0].set_ylabel(name, fontsize=style.NORMAL_TEXT, color=style.INK)
    for axes, cell in zip(grid[0], next(iter(rows.values())), strict=True):
        axes.set_title(f"t = {style.time_text(cell.t)}", fontsize=style.NORMAL_TEXT, color=style.INK)
    for axes in grid[-1]:
        axes.set_xlabel("x_t where x₀ = 1", fontsize=style.SMALL_TEXT, color=style.MUTED)
    return sheet


def _cell(axes: Axes, cell: Cell) -> None:
    edges = np.linspace(-REACH, REACH, BINS + 1)
    counts, _ = np.histogram(cell.drawn, edges)
    heights = counts / (len(cell.drawn) * np.diff(edges))
    axes.stairs(heights, edges, fill=True, color=style.ACCENT, alpha=0.35)
    axes.plot(cell.at, cell.density, color=style.SERIES[1], linewidth=1.1)
    axes.set_ylim(0, 1.25 * max(float(heights.max()), 1e-9))
    axes.set_xlim(-REACH, REACH)
    axes.set_yticks([])
    axes.tick_params(colors=style.MUTED, labelsize=style.SMALL_TEXT, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(style.RULE)
    inset = axes.inset_axes((0.0, 0.42, 0.3, 0.56))
    inset.imshow(images.grid(cell.picture[None], columns=1).squeeze(), cmap="gray", vmin=0, vmax=255)
    inset.set_axis_off()
