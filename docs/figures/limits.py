"""What a fixed reverse variance costs as T grows: the bound minus the data's entropy, for Gaussian data.

Run: python docs/figures/limits.py OUT.png

Data N(0.4, 0.3^2), the exact denoiser; every term by the library's own `bound_term` and `prior_term`, expectations over
x0 and eps by three Gauss-Hermite nodes each, which are exact for what is at most a square of a linear function of both.
"""

import math
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes

from undiffuse import NoiseSchedule, Process, Split
from undiffuse.diffusion.likelihood import bound_term, prior_term
from undiffuse.viz import style

MU, STD = 0.4, 0.3
NODES, WEIGHTS = (-(3**0.5), 0.0, 3**0.5), (1 / 6, 4 / 6, 1 / 6)
ENTROPY = 0.5 * math.log2(2 * math.pi * math.e * STD**2)
STEPS = (30, 60, 120, 250, 500, 1000, 2000, 4000)
SETTINGS = {  # name: (variance of the process, its decoder, colour)
    "small": ("small", "posterior", style.SERIES[1]),
    "large": ("large", "beta", style.SERIES[0]),
    "exact": ("learned", "posterior", style.SERIES[2]),
}


def gap(schedule: NoiseSchedule, kind: str) -> float:
    """The bound minus the entropy, bits."""
    variance, decoder, _ = SETTINGS[kind]
    process = Process(schedule, variance=variance, decoder=decoder)
    pairs = torch.tensor(list(product(NODES, NODES)), dtype=torch.float64)
    weights = torch.tensor([a * b for a, b in product(WEIGHTS, WEIGHTS)], dtype=torch.float64)
    x0, eps = MU + STD * pairs[:, :1], pairs[:, 1:]
    total = float(weights @ prior_term(process, x0)) - ENTROPY
    for t in range(1, schedule.T + 1):
        truth = Split(x0, eps, *process.scales(t))
        total += float(weights @ bound_term(process, truth, guessed(process, truth.x_t, t, kind), t, None))
    return total


def guessed(process: Process, x_t: torch.Tensor, t: int, kind: str) -> Split:
    """E[x0 | x_t], and for kind "exact" the fraction that makes the reverse variance Var(x_{t-1} | x_t)."""
    signal, sigma = (float(scale) for scale in process.scales(t))
    gain = signal * STD**2 / (signal**2 * STD**2 + sigma**2)
    guess = Split.from_x0(x_t, MU + gain * (x_t - signal * MU), np.float64(signal), np.float64(sigma))
    if kind != "exact":
        return guess
    left = STD**2 * (1 - gain * signal)
    small, large, on_x0 = (float(part(process, t)) for part in (small_var, large_var, x0_in_the_mean))
    wanted = left if t == 1 else small + on_x0**2 * left
    low = process.decoder_var if t == 1 else small
    fraction = torch.full_like(x_t, math.log(wanted / low) / math.log(large / low))
    return Split(guess.x0, guess.eps, guess.signal, guess.sigma, fraction)


def large_var(process: Process, t: int) -> float:
    return float(process.schedule.beta[t])


def small_var(process: Process, t: int) -> float:
    alpha_bar = process.schedule.alpha_bar
    return float(process.schedule.beta[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]))


def x0_in_the_mean(process: Process, t: int) -> float:
    alpha_bar = process.schedule.alpha_bar
    return float(alpha_bar[t - 1] ** 0.5 * process.schedule.beta[t] / (1 - alpha_bar[t]))


def wrong_prior(schedule: NoiseSchedule) -> float:
    """KL(q(x_T) || N(0, 1)), bits."""
    left = float(schedule.alpha_bar[-1])
    mean, var_less_1 = left**0.5 * MU, left * (STD**2 - 1)
    return 0.5 * (var_less_1 - math.log1p(var_less_1) + mean**2) / math.log(2)


def draw(axes: Axes, name: str) -> None:
    schedules = [getattr(NoiseSchedule, name)(T) for T in STEPS]
    for kind, (_, _, color) in SETTINGS.items():
        values = [gap(schedule, kind) for schedule in schedules]
        print(name, kind, [f"{value:.3g}" for value in values])
        axes.plot(STEPS, values, "o" if kind == "exact" else "o-", color=color, markersize=4, label=f"{kind} variance")
    axes.plot(STEPS, [wrong_prior(s) for s in schedules], color=SETTINGS["exact"][2], label="KL(q(x_T) ‖ N(0, 1))")
    limit = (np.euler_gamma + 1 - math.log(2)) / 2 / math.log(2)
    axes.axhline(limit, color=style.MUTED, linestyle=":", linewidth=1)
    axes.annotate(f"γ/2 + (1 − ln 2)/2 nats = {limit:.3f} bits", (STEPS[-1], limit), (0, -12), ha="right",
                  textcoords="offset points", fontsize=style.SMALL_TEXT, color=style.MUTED)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    style.panel(axes, f"{name} schedule", "number of steps T", "bound minus entropy, bits per dimension")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    style.legend(axes, "lower left")


if __name__ == "__main__":
    sheet = style.figure(10.5, 4.2)
    style.heading(sheet, "What the reverse variance costs: Gaussian data, exact denoiser")
    for axes, name in zip(sheet.subplots(1, 2, sharey=True), ("linear", "cosine"), strict=True):
        draw(axes, name)
    sheet.savefig(Path(sys.argv[1]), dpi=sheet.dpi)
