"""Likelihood by the probability-flow ODE (Song et al. 2021, section 4.3 and appendix D.2), beside the bound.

With the angle phi of signal = cos(phi), sigma = sin(phi), a datum whose x0 and eps stand still moves by v, so the ODE
whose marginals are those of the process is

    dx / dphi = v(x, t(phi)),    d log p(x) / dphi = -tr(dv / dx)        (their eq. 13 and, differentiated, 39)

from t = 1 to T, where p is N(0, 1). The trace is estimated with one vector of random signs for each datum (Hutchinson,
their eq. 40), kept along its whole way. Between two integers the network is asked at times it was not trained at.
Gaussian noise only. All results are [n], bits per dimension.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from undiffuse.diffusion.bound import mean_and_error
from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.likelihood import bits, check_gaussian, check_grid, decoder_term
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.schedule import NoiseSchedule
from undiffuse.diffusion.split import expand
from undiffuse.errors import UsageError, nearest
from undiffuse.rng import Generator, per_row
from undiffuse.shapes import Data, PerDatum, Tensor, Watch, unwatched, watch_items

FLOW_BLOCK = 64  # data at a time: a network call is kept for its gradient
DEQUANTISATIONS = ("noise", "uniform")


@dataclass(frozen=True)
class Flow:
    """An upper bound on -log2 P(x_0) per dimension of each datum: in the mean over draws, up to the solver's error.

    density: -log2 p_1(x_1), by the ODE. rest: from the density of x_1 to the probability of x_0 on its grid.
    """

    density: Tensor
    rest: Tensor
    steps: int

    @property
    def total(self) -> Tensor:
        return self.density + self.rest

    def mean(self) -> tuple[float, float]:
        """Over the data: (bits per dimension, its standard error, which holds the noise of the draws as well)."""
        return mean_and_error(self.total)


@dataclass(frozen=True)
class State:
    """A state on the way from t = 1 to T: x_t, and the integral of tr(dv / dx) over phi so far, nats, float64 [b]."""

    t: float
    x: Data
    growth: PerDatum


def integrate_flow(
    process: Process,
    denoise: Callable[[slice], Denoise],
    x0: Data,
    levels: int | None,
    steps: int = 50,
    *,
    dequantise: str = "noise",
    seed: int = 0,
    watch: Watch = unwatched,
) -> Flow:
    """`steps` steps by Runge and Kutta's method of order 4, uniform in half_log_snr; four calls and gradients each.

    levels: of the data's grid; None takes x0 for continuous data, whose density at t = 1 is returned.
    dequantise: how x_1 comes from data on a grid.
      "noise": x_1 ~ q(x_1 | x_0) and -log P(x_0) <= E[log q(x_1 | x_0) - log p_1(x_1) + L_0], as in the variational
        bound, whose terms for t >= 2 the ODE replaces.
      "uniform": x_1 = x_0 + u, u uniform on the bin, and -log P(x_0) <= E[-log p_1(x_1)] - log(bin) (Theis et al.
        2016; Song et al. 2021 do so). Only for bins narrower than sigma_1, or models trained on such data: else p_1 is
        a row of spikes that u misses.
    Draws of datum i come from (seed, i) alone. Raises as `bound.estimate_bound` does.
    """
    check_gaussian(process, "the likelihood by the ODE", "it takes q(x_1 | x_0) and the law at T for Gaussian")
    if levels is not None:
        check_grid(x0, levels)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UsageError(f"the ODE takes a whole number of steps, at least 1, not {steps!r}")
    check_dequantisation(dequantise)
    starts, ends = [], []

    def states() -> Iterator[State]:
        for first in range(0, len(x0), FLOW_BLOCK):
            rows = slice(first, min(first + FLOW_BLOCK, len(x0)))
            draws, guessing = per_row(seed, "ode", rows=range(rows.start, rows.stop)), denoise(rows)
            x, rest = _start(process, guessing, x0[rows], levels, dequantise, draws=draws)
            starts.append(rest)
            yield from path(process, guessing, x, _signs(x, draws), steps)

    total = -(-len(x0) // FLOW_BLOCK) * steps
    for state in watch_items(watch, states(), total, f"step of the ODE, of {steps}"):
        if state.t == process.T:
            ends.append(_density(state))
    return Flow(torch.cat(ends).cpu(), torch.cat(starts).cpu(), steps)


def check_dequantisation(name: str) -> None:
    """Raise UsageError for an unknown one."""
    if name not in DEQUANTISATIONS:
        raise UsageError(f"unknown dequantisation '{name}'; {nearest(str(name), DEQUANTISATIONS)}")


def path(process: Process, denoise: Denoise, x: Data, signs: Data, steps: int) -> Iterator[State]:
    """The classical Runge-Kutta method of order 4 from x at t = 1; a state after each step, the last at T."""
    growth = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for t, s in pairwise(_times(process.schedule, steps)):
        angles = _angle(process, t), _angle(process, s)
        h, middle = angles[1] - angles[0], _time_at(process, sum(angles) / 2)
        v1, trace1 = _velocity(denoise, x, t, signs)
        v2, trace2 = _velocity(denoise, x + h / 2 * v1, middle, signs)
        v3, trace3 = _velocity(denoise, x + h / 2 * v2, middle, signs)
        v4, trace4 = _velocity(denoise, x + h * v3, s, signs)
        x = x + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        growth = growth + h / 6 * (trace1 + 2 * trace2 + 2 * trace3 + trace4)
        yield State(s, x, growth)


def _velocity(denoise: Denoise, x: Data, t: float, signs: Data) -> tuple[Data, PerDatum]:
    """v and an unbiased estimate of tr(dv / dx): signs . (dv / dx)^T signs."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = denoise(x, t).v
        (product,) = torch.autograd.grad((v * signs).sum(), x)
    return v.detach(), (product * signs).flatten(1).double().sum(1)


def _times(schedule: NoiseSchedule, steps: int) -> list[float]:
    """1 = t_0 < ... < t_steps = T, uniform in half_log_snr; one last step to T where that has no logarithm."""
    if schedule.T == 1:
        return [1.0, 1.0]
    last = float(schedule.T if schedule.beta[-1] < 1 else schedule.T - 1)
    left = max(steps - int(schedule.T - last), 1)
    ends = np.asarray(schedule.half_log_snr([1.0, last]))
    inner = np.asarray(schedule.time_of(np.linspace(ends[0], ends[1], left + 1)[1:-1]))
    return [*dict.fromkeys([1.0, *inner.tolist(), last, float(schedule.T)])]


def _angle(process: Process, t: float) -> float:
    signal, sigma = process.scales(t)
    return math.atan2(float(sigma), float(signal))


def _time_at(process: Process, angle: float) -> float:
    return float(process.schedule.time_of(-math.log(math.tan(angle))))


def _start(
    process: Process, denoise: Denoise, x0: Data, levels: int | None, dequantise: str, *, draws: Generator
) -> tuple[Data, PerDatum]:
    """x_1, and what turns its density into the probability of x_0, bits per dimension."""
    if levels is None:
        return x0, torch.zeros(len(x0), device=x0.device)
    if dequantise == "uniform":
        bin_width = 2 / (levels - 1)
        u = draws.uniform(x0.shape).to(x0) - 0.5
        return x0 + bin_width * u, torch.full((len(x0),), -math.log2(bin_width), device=x0.device)
    truth = process.corrupt(x0, 1, draws)
    with torch.no_grad():
        decoder = decoder_term(process, truth, denoise(truth.x_t, 1), levels)
    log_q = -(truth.eps**2) / 2 - math.log(2 * math.pi) / 2 - torch.log(expand(truth.sigma, x0))
    return truth.x_t, decoder + bits(log_q)


def _signs(x: Data, draws: Generator) -> Data:
    return torch.where(draws.uniform(x.shape) < 0.5, -1.0, 1.0).to(x)


def _density(end: State) -> PerDatum:
    """-log2 p_1(x_1) per dimension = (-log2 N(x_T; 0, 1) - growth / ln 2) / d."""
    nats = (end.x.double() ** 2 / 2 + math.log(2 * math.pi) / 2).flatten(1)
    return (nats.mean(1) - end.growth / nats.shape[1]) / math.log(2)
