"""One look for every picture: the palette, the type sizes and the bare panel. Object-oriented Matplotlib, no pyplot."""

from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

Corner = Literal["upper left", "upper right", "lower left"]

# The three inks become CSS variables in the report, so a curve follows the reader's light or dark page.
INK = "#1d2530"
MUTED = "#5d6875"
RULE = "#dde2e8"
PAPER = "#ffffff"

ACCENT = "#2f74d0"
# Middle tones that read on white and on near-black, and that colour-blind readers can tell apart.
SERIES = (ACCENT, "#d9751c", "#12988a", "#b04a9a", "#8a7a1f", "#7b6be0")
# Quarters of time are ordered, so their colours are: from the data's end (warm) to the noise's (cool).
QUARTER_COLORS = ("#dd9b17", "#d9603b", "#b04a9a", "#6f6ad8")
SCHEDULE_COLORS = {"linear": SERIES[1], "cosine": SERIES[0], "sigmoid": SERIES[2], "quadratic": SERIES[3]}

SMALL_TEXT, NORMAL_TEXT, LARGE_TEXT = 8.0, 9.0, 12.0  # points
DPI = 144
TIME = "time t  (0 = data, T = noise)"


def figure(width: float | int, height: float | int, pad: float = 0.04) -> Figure:
    """An empty sheet; width, height and the padding above and below each panel in inches."""
    return Figure(
        figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=pad, w_pad=0.08), facecolor=PAPER
    )


def heading(sheet: Figure, text: str) -> None:
    """The title of a whole sheet, at its left edge."""
    sheet.suptitle(text, x=0.01, ha="left", fontsize=LARGE_TEXT, fontweight="bold", color=INK)


def panel(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and axis labels with their units; a light grid instead of a box."""
    axes.set_title(title, loc="left", fontsize=NORMAL_TEXT + 1, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=NORMAL_TEXT, color=MUTED)
    axes.set_ylabel(y, fontsize=NORMAL_TEXT, color=MUTED)
    axes.set_facecolor("none")
    axes.grid(True, color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, labelsize=SMALL_TEXT, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(MUTED)


def count_axis(axes: Axes, ticks: int = 5) -> None:
    """Whole numbers below, thousands separated."""
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=(1, 2, 2.5, 5, 10)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def plain_axis(axes: Axes, top: float) -> None:
    """A y axis from 0 to a little over `top`, with few and short numbers."""
    axes.set_ylim(0, top * 1.08 or 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if top >= 10 else f"{value:.3g}"))


def log_axis(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers, at least two: even steps, or parts of decades, by its range."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1, 1.5, 2, 3, 4, 5, 7) if high / low < 20 else (1, 2, 5) if high / low < 200 else (1,)
    axes.yaxis.set_major_locator(MaxNLocator(5) if high / low < 2 else LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend(axes: Axes, place: Corner) -> None:
    """A legend without a box."""
    axes.legend(loc=place, fontsize=SMALL_TEXT, labelcolor=INK, frameon=False, handlelength=1.4)


def legend_below(axes: Axes) -> None:
    """A legend in two columns under the x axis and its label, for panels full of curves."""
    sheet = axes.get_figure(root=True)
    assert sheet is not None
    down = ScaledTranslation(0, -30 / 72, sheet.dpi_scale_trans)  # 30 points
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.02, 0),
        bbox_transform=axes.transAxes + down,
        ncols=2,
        fontsize=SMALL_TEXT,
        labelcolor=INK,
        frameon=False,
        handlelength=1.4,
        columnspacing=1.6,
    )


def dots(count: int) -> str:
    """Markers where a line has so few points that it could not be seen."""
    return "." if count < 4 else ""


def time_text(t: float | int) -> str:
    """A time for a caption: whole numbers plain, fractions with three digits."""
    return f"{t:.0f}" if t == round(t) or abs(t) >= 100 else f"{t:.3g}"
