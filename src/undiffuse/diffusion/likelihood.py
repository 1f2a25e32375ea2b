"""The variational bound on -log p(x_0) (Ho et al. 2020, eq. 5), term by term, in bits per dimension:

    L_T     = KL(q(x_T | x_0) || N(0, 1))
    L_{t-1} = E KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)),  t = 2..T
    L_0     = E -log p(x_0 | x_1), the decoder's Gaussian integrated over the data's own grid (eq. 13)

Gaussian noise only. All functions take data [b, *d] and give [b], the mean over the datum's dimensions; a term is one
draw of the expectation over x_t. Nothing here is infinite for finite input: see `log_interval`.
"""

import math

import numpy as np
import torch

from undiffuse.diffusion.process import Normal, Process, as_times
from undiffuse.diffusion.split import Split
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.shapes import Data, PerDatum, Tensor, Times

LN2 = math.log(2)
FARTHEST = 1e15  # standard deviations: what lies beyond is as unlikely, and its square is still finite in float32
LEGENDRE_NODES, LEGENDRE_WEIGHTS = (torch.from_numpy(table) for table in np.polynomial.legendre.leggauss(5))


def bits(nats: Tensor) -> PerDatum:
    """Nats per dimension [b, *d] to bits per dimension [b]."""
    return nats.flatten(1).mean(1) / LN2


def normal_kl(one: Normal, other: Normal) -> Tensor:
    """KL(one || other) of independent Gaussians, nats, elementwise; 0 where the two are the same."""
    gap = one.log_var - other.log_var
    square = (one.mean - other.mean) ** 2 * (-other.log_var).exp()
    return 0.5 * (torch.expm1(gap) - gap + square)


def log_interval(low: Tensor, high: Tensor) -> Tensor:
    """log P(low < z < high) for z ~ N(0, 1), elementwise and finite wherever low < high; either may be infinite.

    Far from 0 it is a difference of logs of the lower tail (mirrored where that is the smaller one); where that would
    cancel, for intervals short beside 1 and 1 / |middle|, the density integrated by Gauss and Legendre's five nodes.
    """
    flip = low + high > 0
    low, high = (torch.where(flip, -high, low), torch.where(flip, -low, high))
    low, high = low.clamp(-FARTHEST, FARTHEST), high.clamp(-FARTHEST, FARTHEST)
    width, middle = high - low, (high + low) / 2
    short = width * (width + middle.abs()) < 0.5
    top = _log_below(high)
    drop = _log_below(low) - top
    apart = top + torch.log(-torch.expm1(torch.where(short, -1.0, drop).clamp(max=-1e-30)))
    half = torch.where(short, width, 0.1).clamp(min=1e-30) / 2
    u = half[..., None] * LEGENDRE_NODES.to(half)
    inner = -torch.where(short, middle, 0.0)[..., None] * u - u**2 / 2 + LEGENDRE_WEIGHTS.to(half).log()
    near = half.log() + torch.logsumexp(inner, -1) - middle**2 / 2 - math.log(2 * math.pi) / 2
    return torch.where(short, near, apart)


def _log_below(x: Tensor) -> Tensor:
    """log P(z < x); torch's log_ndtr, but with a finite gradient far below 0 as well."""
    deep = torch.where(x < -1, x, -1.0)
    tail = torch.log(torch.special.erfcx(deep * -(0.5**0.5)) / 2) - deep**2 / 2
    return torch.where(x < -1, tail, torch.special.log_ndtr(x.clamp(min=-1)))


def discretised(x0: Data, decoder: Normal, levels: int) -> Tensor:
    """log p(x_0 | x_1), nats, elementwise: the Gaussian's mass in x0's bin of the grid of `levels` values in [-1, 1].

    The bins of -1 and 1 reach to infinity (Ho et al. 2020, eq. 13). Images off the grid are refused.
    """
    check_grid(x0, levels)
    half, std = 1 / (levels - 1), (0.5 * decoder.log_var).exp()
    low, high = (x0 - decoder.mean - half) / std, (x0 - decoder.mean + half) / std
    low = torch.where(x0 < -1 + half, -math.inf, low)
    high = torch.where(x0 > 1 - half, math.inf, high)
    return log_interval(low, high)


def check_grid(x0: Data, levels: int) -> None:
    """Raise UndiffuseError unless x0 holds only the values -1, ..., 1 of a grid of this many levels."""
    needed = f"likelihoods need images on the data's own grid of {levels} levels in [-1, 1]; these"
    if not x0.numel() or not x0.isfinite().all():
        raise UndiffuseError(f"{needed} hold NaN or infinity, or nothing")
    low, high = float(x0.min()), float(x0.max())
    if low < -1 - 1e-6 or high > 1 + 1e-6:
        raise UndiffuseError(f"{needed} reach from {low:.4g} to {high:.4g}")
    steps = (x0.detach().double() + 1) * (levels - 1) / 2
    off = float((steps - steps.round()).abs().max())
    if off > 1e-3:
        raise UndiffuseError(f"{needed} are off it by {off:.3g} of a level (were they resized?)")


BOUND = "the variational bound"


def check_gaussian(process: Process, what: str = BOUND, why: str = "its terms are Gaussian KLs") -> None:
    """Raise UsageError for a noise family whose posterior or score is not the Gaussian's: what needs it, and why."""
    if not {"posterior", "score"} <= process.noise.exact:
        raise UsageError(f"{what} needs Gaussian noise: {why}; this is '{process.noise.name}' noise")


def prior_term(process: Process, x0: Data) -> PerDatum:
    """L_T: KL(N(signal_T x0, sigma_T^2) || N(0, 1)), bits per dimension; needs no network."""
    check_gaussian(process)
    signal, sigma = process.scales(process.T)
    one = torch.ones((), dtype=torch.float64)
    return bits(normal_kl(Normal(float(signal) * x0, float(sigma) ** 2 * one), Normal(torch.zeros_like(x0), one)))


def step_term(process: Process, truth: Split, guess: Split, t: Times) -> PerDatum:
    """L_{t-1} for t >= 2: KL of the true posterior and the reverse step, bits per dimension."""
    check_gaussian(process)
    times = as_times(t)
    return bits(normal_kl(process.posterior(truth, times, times - 1), process.reverse(guess, times, times - 1)))


def decoder_term(process: Process, truth: Split, guess: Split, levels: int | None) -> PerDatum:
    """L_0, from splits at t = 1: -log p(x_0 | x_1), bits per dimension.

    levels: of the data's grid; None for data that are not quantised, whose density it then is.
    """
    check_gaussian(process)
    decoder = process.reverse(guess, 1, 0)
    if levels is not None:
        return -bits(discretised(truth.x0, decoder, levels))
    square = (truth.x0 - decoder.mean) ** 2 * (-decoder.log_var).exp()
    return bits(0.5 * (square + decoder.log_var + math.log(2 * math.pi)))


def bound_term(process: Process, truth: Split, guess: Split, t: Times, levels: int | None) -> PerDatum:
    """The term of integer times t in 1..T: L_0 where t = 1, else L_{t-1}; bits per dimension [b]."""
    times = np.broadcast_to(as_times(t), (len(truth.x0),))
    first = times == 1
    if first.all():
        return decoder_term(process, truth, guess, levels)
    if not first.any():
        return step_term(process, truth, guess, times)
    steps = step_term(process, truth.rows(~first), guess.rows(~first), times[~first])
    zeroth = decoder_term(process, truth.rows(first), guess.rows(first), levels)
    place = torch.from_numpy(np.argsort(np.argsort(first, kind="stable"), kind="stable")).to(steps.device)
    return torch.cat([steps, zeroth])[place]
