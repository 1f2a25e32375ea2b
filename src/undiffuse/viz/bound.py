"""The variational bound of a model as a picture: terms by t, rate against distortion, errors, what is decoded when."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from undiffuse import images
from undiffuse.diffusion.bound import Bits, mean_and_error
from undiffuse.errors import UndiffuseError
from undiffuse.viz import style


def plot_bound(bits: Bits, decoded: list[tuple[int, np.ndarray]]) -> Figure:
    """Terms by t, the rate-distortion curve (Ho et al. 2020, fig. 5) and mean squared errors; below, `decoded`.

    bits: with every t (K = T). decoded: (t, uint8 [n, h, w, c]), what the model makes of a held-out image at time t.
    """
    if bits.terms.shape[1] != bits.T:
        raise UndiffuseError("this picture needs every term; leave the number of times out")
    sheet = Figure(figsize=(12.5, 6.6), dpi=style.DPI, layout=ConstrainedLayoutEngine(), facecolor=style.PAPER)
    value, stderr = bits.mean()
    style.heading(sheet, f"Variational bound: {value:.4f} ± {stderr:.4f} bits per dimension, n = {len(bits.prior)}")
    above, below = np.ravel(np.asarray(sheet.subfigures(2, 1, height_ratios=(1.9, 1))))
    terms, rate, errors = above.subplots(1, 3)
    _terms(terms, bits)
    _rate(rate, bits)
    _errors(errors, bits)
    cells = below.subplots(1, len(decoded))
    for axes, (t, pictures) in zip(np.atleast_1d(cells), decoded, strict=True):
        _decoded(axes, t, pictures, float(received(bits)[t]))
    below.suptitle(
        "Progressive decoding: the guess of x₀ from x_t, and the bits per dimension received by then",
        x=0.01, ha="left", fontsize=style.NORMAL_TEXT + 1, fontweight="bold", color=style.INK,
    )  # fmt: skip
    return sheet


def received(bits: Bits) -> np.ndarray:
    """Bits per dimension that a receiver has who knows x_t, for t = 0..T: L_T and the terms above t, mean over data."""
    terms = bits.terms.double().mean(0).numpy()  # [T], t = 1..T
    above = np.concatenate([terms[::-1].cumsum()[::-1], [0.0]])  # the terms t+1..T, for t = 0..T
    return np.asarray(above + float(bits.prior.double().mean()))


def _terms(axes: Axes, bits: Bits) -> None:
    mean = bits.terms.double().mean(0).numpy()
    spread = bits.terms.double().std(0).numpy() / len(bits.terms) ** 0.5
    t = np.arange(1, bits.T + 1)
    axes.plot(t, mean, color=style.ACCENT, marker=style.dots(bits.T))
    low = np.maximum(mean - 2 * spread, mean / 10)  # a log axis has no room below 0
    axes.fill_between(t, low, mean + 2 * spread, color=style.ACCENT, alpha=0.25, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(mean[1:].min(initial=mean.max()), mean.max() * 1e-8) / 2)  # L_0, often next to 0, in words
    first, error = mean_and_error(bits.terms[:, 0])
    prior, doubt = mean_and_error(bits.prior)
    axes.text(0.97, 0.95, f"L₀ = {first:.3g} ± {error:.1g}\nL_T = {prior:.3g} ± {doubt:.1g}", transform=axes.transAxes,
              ha="right", va="top", fontsize=style.SMALL_TEXT, color=style.INK)  # fmt: skip
    style.panel(axes, "Terms of the bound (band: ± 2 standard errors)", style.TIME, "bits per dimension")


def _rate(axes: Axes, bits: Bits) -> None:
    """Distortion: root mean squared error of the guess of x0, on the scale 0..255."""
    root = np.sqrt(bits.mse_x0.double().mean(0).numpy()) * 127.5
    rate = received(bits)[1:]
    axes.plot(rate, root, color=style.ACCENT)
    for share in (0.1, 0.5):
        t = max(round(share * bits.T), 1)
        axes.plot(rate[t - 1], root[t - 1], "o", color=style.SERIES[1], markersize=4)
        axes.annotate(f"t = {t}", (rate[t - 1], root[t - 1]), (6, 4), textcoords="offset points",
                      fontsize=style.SMALL_TEXT, color=style.INK)  # fmt: skip
    style.panel(axes, "Rate against distortion", "rate: bits per dimension received", "RMSE of x₀ (0 to 255)")


def _errors(axes: Axes, bits: Bits) -> None:
    t = np.arange(1, bits.T + 1)
    for name, values, color in (("ε", bits.mse_eps, style.SERIES[1]), ("x₀", bits.mse_x0, style.ACCENT)):
        axes.plot(t, values.double().mean(0).numpy(), color=color, marker=style.dots(bits.T), label=f"of {name}")
    axes.set_yscale("log")
    style.panel(axes, "Mean squared errors", style.TIME, "mean square, x in [−1, 1]")
    axes.legend(frameon=False, fontsize=style.SMALL_TEXT, labelcolor=style.INK)


def _decoded(axes: Axes, t: int, pictures: np.ndarray, rate: float) -> None:
    axes.imshow(images.grid(pictures, columns=1).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"t = {t}\n{rate:.2f} bits", fontsize=style.SMALL_TEXT, color=style.MUTED)
