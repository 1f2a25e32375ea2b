"""Curves: noise schedules side by side, and how a training run went."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from undiffuse.diffusion.schedule import NoiseSchedule
from undiffuse.errors import UndiffuseError
from undiffuse.viz import style

Columns = dict[str, np.ndarray]  # name -> float64 [n], NaN where a value is missing
Curve = Callable[[Axes, Columns], None]

STEP = "step (updates)"
QUARTER_KEYS = ("loss_q1", "loss_q2", "loss_q3", "loss_q4")
QUARTER_NAMES = ("t ≤ T/4 (fine detail)", "T/4 < t ≤ T/2", "T/2 < t ≤ 3T/4", "3T/4 < t (mostly noise)")
TRAINING_COLUMNS = ("loss", *QUARTER_KEYS, "grad_norm", "lr", "images_per_s")
QUALITY_COLUMNS = ("frechet", "stderr", "raw", "floor")
MOST_POINTS = 2000  # more cannot be told apart on a page
FEW_POINTS = 30  # so few are shown as dots, and not smoothed


# -- schedules ----------------------------------------------------------------------------------------------------


def plot_schedules(schedules: Mapping[str, NoiseSchedule]) -> Figure:
    """beta, alpha_bar and log10 SNR over t, one curve per schedule; the legend tells when half the data is gone.

    Raises UndiffuseError if there is nothing to draw.
    """
    if not schedules:
        raise UndiffuseError("no schedules to plot; name at least one")
    sheet = style.figure(12.5, 4.4)
    style.heading(sheet, "How fast each schedule turns data into noise")
    beta, left, snr = sheet.subplots(1, 3)
    spare = iter(
        color for color in style.SERIES if color not in {style.SCHEDULE_COLORS.get(name) for name in schedules}
    )
    for name, schedule in schedules.items():
        color = style.SCHEDULE_COLORS.get(name) or next(spare, style.MUTED)
        _schedule_curves((beta, left, snr), name, schedule, color)
    _schedule_labels(beta, left, snr)
    return sheet


def half_time(schedule: NoiseSchedule) -> float:
    """The t at which alpha_bar = 1/2, where signal and noise are equally strong (SNR = 1)."""
    return float(schedule.time_of(0.0))


def _schedule_curves(panels: tuple[Axes, Axes, Axes], name: str, schedule: NoiseSchedule, color: str) -> None:
    beta, left, snr = panels
    t, half = np.arange(schedule.T + 1), half_time(schedule)
    ratio = np.asarray(schedule.snr(t[1:]))
    ratio = np.where(ratio > 0, ratio, np.nan)  # zero terminal SNR has no logarithm
    dots = "o" if schedule.T == 1 else None
    beta.plot(t[1:], schedule.beta[1:], color=color, marker=dots, label=name)
    left.plot(t, schedule.alpha_bar, color=color, label=f"{name}: half at t = {half:.0f}")
    snr.plot(t[1:], np.log10(ratio), color=color, marker=dots, label=name)
    left.plot([half], [0.5], "o", color=color, markersize=5)
    snr.plot([half], [0.0], "o", color=color, markersize=5)


def _schedule_labels(beta: Axes, left: Axes, snr: Axes) -> None:
    style.panel(beta, "Noise added in each step", style.TIME, r"$\beta_t$  (share of variance, log scale)")
    style.panel(left, "Information left", style.TIME, r"$\bar{\alpha}_t$  (share of variance that is data)")
    style.panel(snr, "Signal against noise", style.TIME, r"$\log_{10}$ SNR  (0: equally strong)")
    style.log_axis(beta)
    left.set_ylim(0, 1.02)
    left.axhline(0.5, color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    snr.axhline(0, color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    style.legend(beta, "upper left")
    style.legend(left, "upper right")
    style.legend(snr, "lower left")
    for axes in (beta, left, snr):
        style.count_axis(axes)


# -- training -----------------------------------------------------------------------------------------------------


def plot_training(records: list[dict[str, Any]]) -> Figure:
    """Loss, loss by quarter of time, gradient norm, learning rate and speed over the steps.

    records: the lines of metrics.jsonl; any value but `step` may be missing, None or NaN. Raises UndiffuseError where
    there are no records, or a value is not a number.
    """
    columns = to_columns(records)
    sheet = style.figure(12, 7.2, pad=0.12)
    style.heading(sheet, "How training went")
    places = sheet.add_gridspec(2, 6)
    for (row, columns_of), curve in zip(_PLACES, TRAINING.values(), strict=True):
        curve(sheet.add_subplot(places[row, columns_of]), columns)
    return sheet


def training_panels(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """The panels of `plot_training` one by one, for a page that arranges them itself: title -> Figure."""
    columns, panels = to_columns(records), {}
    for i, (title, curve) in enumerate(TRAINING.items()):
        panels[title] = style.figure(4.2, 2.8) if i < 2 else style.figure(3.4, 2.5)  # two in a row, then three
        curve(panels[title].add_subplot(), columns)
    return panels


def quality_panel(records: list[dict[str, Any]]) -> Figure:
    """The samples' distance over the steps, with averaged and raw weights, beside real pictures'; the best is marked.

    records: the lines of quality.jsonl, as metrics.jsonl's are read.
    """
    columns, sheet = to_columns(records, QUALITY_COLUMNS), style.figure(4.2, 2.8)
    axes = sheet.add_subplot()
    style.panel(axes, "Distance of samples from real pictures", STEP, "Fréchet distance (log scale)")
    steps, value, error = (columns[name] for name in ("step", "frechet", "stderr"))
    _line(axes, steps, columns["raw"], color=style.SERIES[1], linewidth=1.2, label="raw weights")
    _line(axes, steps, value, color=style.ACCENT, linewidth=1.8, label="averaged weights")
    axes.fill_between(steps, value - error, value + error, color=style.ACCENT, alpha=0.2, linewidth=0)
    _line(axes, steps, columns["floor"], color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="real pictures")
    if (best := best_row(columns)) is not None:
        message = f"best: {steps[best]:,.0f}"
        axes.plot(
            steps[best], value[best], "o", color=style.ACCENT, markersize=7, markerfacecolor="none", label=message
        )
    _finish(axes, columns, QUALITY_COLUMNS[:1], log=True)
    style.legend_below(axes)
    return sheet


def best_row(columns: Columns) -> int | None:
    """The row where averaged weights measured best; None if nothing was measured."""
    value = columns["frechet"]
    return int(np.nanargmin(value)) if np.isfinite(value).any() else None


def to_columns(records: list[dict[str, Any]], names: Sequence[str] = TRAINING_COLUMNS) -> Columns:
    """Lines to float64 columns in order of `step`. A resumed run repeats steps: the later line counts."""
    if not records:
        raise UndiffuseError("nothing was recorded yet; train first")
    try:
        lines = {float(record["step"]): record for record in records}
        steps = sorted(lines)
        table = {name: np.array([lines[step].get(name) for step in steps], np.float64) for name in names}
    except KeyError as error:
        raise UndiffuseError("a training record has no 'step'") from error
    except (TypeError, ValueError) as error:
        raise UndiffuseError(f"a training record holds something that is not a number: {error}") from error
    return {"step": np.array(steps), **{name: np.where(np.isfinite(x), x, np.nan) for name, x in table.items()}}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean over `window` values that skips NaN; the window shrinks at both ends. [n] -> [n]."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    at = np.arange(len(values))
    low, high = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, len(values))
    count = counts[high] - counts[low]
    return np.where(count > 0, (sums[high] - sums[low]) / np.maximum(count, 1), np.nan)


def _loss(axes: Axes, columns: Columns) -> None:
    style.panel(axes, "Loss", STEP, "mean loss (log scale)")
    _raw_and_smooth(axes, columns, "loss", style.ACCENT, "smoothed")
    _finish(axes, columns, ("loss",), log=True)
    if axes.get_legend_handles_labels()[1]:
        style.legend(axes, "upper right")


def _loss_by_time(axes: Axes, columns: Columns) -> None:
    style.panel(axes, "Loss by quarter of time", STEP, "mean loss (log scale)")
    for name, label, color in zip(QUARTER_KEYS, QUARTER_NAMES, style.QUARTER_COLORS, strict=True):
        _raw_and_smooth(axes, columns, name, color, label, raw=False)
    _finish(axes, columns, QUARTER_KEYS, log=True)
    if axes.get_legend_handles_labels()[1]:
        style.legend_below(axes)


def _grad_norm(axes: Axes, columns: Columns) -> None:
    style.panel(axes, "Gradient norm", STEP, "norm before clipping")
    _raw_and_smooth(axes, columns, "grad_norm", style.SERIES[3], "smoothed")
    _finish(axes, columns, ("grad_norm",), log=True)


def _learning_rate(axes: Axes, columns: Columns) -> None:
    style.panel(axes, "Learning rate", STEP, "learning rate (per update)")
    _line(axes, columns["step"], columns["lr"], color=style.SERIES[2], linewidth=1.6)
    _finish(axes, columns, ("lr",), log=False)


def _speed(axes: Axes, columns: Columns) -> None:
    style.panel(axes, "Speed", STEP, "images per second")
    _raw_and_smooth(axes, columns, "images_per_s", style.SERIES[1], "smoothed")
    _finish(axes, columns, ("images_per_s",), log=False)


def _raw_and_smooth(axes: Axes, columns: Columns, name: str, color: str, label: str, *, raw: bool = True) -> None:
    """The values thin and pale, their running mean strong; a handful of values is drawn as it is."""
    steps, values = columns["step"], columns[name]
    if not np.isfinite(values).any():
        return
    if len(steps) < FEW_POINTS:
        _line(
            axes,
            steps,
            values,
            color=color,
            linewidth=1.6,
            marker="o",
            markersize=3.5,
            label=label if not raw else None,
        )
        return
    if raw:
        _line(axes, steps, values, color=color, linewidth=0.6, alpha=0.45, label="each record")
    _line(axes, steps, smooth(values, max(5, len(steps) // 40)), color=color, linewidth=1.8, label=label)


def _line(axes: Axes, steps: np.ndarray, values: np.ndarray, **look: Any) -> None:
    stride = -(-len(steps) // MOST_POINTS)
    known = np.isfinite(values)[::stride]
    if len(steps) == 1:
        look |= {"marker": "o", "markersize": 3.5}
    axes.plot(steps[::stride][known], values[::stride][known], **look)


def _finish(axes: Axes, columns: Columns, names: tuple[str, ...], log: bool) -> None:
    values = np.concatenate([columns[name] for name in names])
    values = values[np.isfinite(values)]
    if not len(values):
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=style.MUTED)
        axes.set(xticks=[], yticks=[])
        return
    if log and (values > 0).all():
        style.log_axis(axes)
    elif (values >= 0).all():
        style.plain_axis(axes, float(values.max()))
    style.count_axis(axes)
    if len(columns["step"]) == 1:
        axes.set_xticks(columns["step"])


TRAINING: dict[str, Curve] = {
    "Loss": _loss,
    "Loss by quarter of time": _loss_by_time,
    "Gradient norm": _grad_norm,
    "Learning rate": _learning_rate,
    "Speed": _speed,
}
_PLACES = ((0, slice(0, 3)), (0, slice(3, 6)), (1, slice(0, 2)), (1, slice(2, 4)), (1, slice(4, 6)))
