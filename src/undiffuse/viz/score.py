"""A model's score beside the exact scores of its training set and of the held-out set: what it knows by heart."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from undiffuse.diffusion.finite import Comparison
from undiffuse.viz import style


@dataclass(frozen=True)
class Scores:
    """Comparisons named by the images that were made noisy, then by the set whose exact score it is."""

    train_train: Comparison
    held_out_train: Comparison
    held_out_held_out: Comparison


def plot_score(scores: Scores, n: int) -> Figure:
    """Left: distance of the model's score from exact ones. Right: mean squared errors of x0."""
    sheet = style.figure(10.5, 4.4)
    style.heading(sheet, f"The model's score beside the exact scores of its data: {n} noisy images at each time")
    distance, error = sheet.subplots(1, 2)
    _distance(distance, scores)
    _error(error, scores)
    return sheet


def _distance(axes: Axes, scores: Scores) -> None:
    for found, color, name in (
        (scores.train_train, style.ACCENT, "train images, exact score of the train set"),
        (scores.held_out_held_out, style.SERIES[1], "held-out images, exact score of the held-out set"),
        (scores.held_out_train, style.SERIES[2], "held-out images, exact score of the train set"),
    ):
        axes.plot(found.t, found.distance, color=color, marker=style.dots(len(found.t)), label=name)
    _times(axes)
    style.panel(axes, "Distance of the model's score from an exact one", style.TIME, "RMS difference / RMS exact score")
    axes.set_ylim(bottom=0)
    style.legend(axes, "lower left")


def _error(axes: Axes, scores: Scores) -> None:
    train, held_out = scores.train_train, scores.held_out_train
    for t, values, color, line, width, name in (
        (train.t, train.mse, style.ACCENT, "-", 3.0, "model, train images"),
        (held_out.t, held_out.mse, style.SERIES[1], "-", 1.2, "model, held-out images"),
        (train.t, train.mse_exact, style.ACCENT, ":", 1.5, "exact score of the train set, train images"),
        (held_out.t, held_out.mse_exact, style.SERIES[1], ":", 1.5, "exact score of the train set, held-out images"),
    ):
        axes.plot(t, values, line, color=color, linewidth=width, marker=style.dots(len(t)), label=name)
    _times(axes)
    axes.set_yscale("log")
    low = min(train.mse.min(), held_out.mse.min()) / 3  # the exact score's own error falls to nothing
    high = max(train.mse.max(), held_out.mse_exact.max())
    axes.set_ylim(low, high * (high / low) ** 0.45)  # room for the legend
    style.panel(axes, "Mean squared error of x₀", style.TIME, "mean square, x in [−1, 1]")
    style.legend(axes, "upper left")


def _times(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
