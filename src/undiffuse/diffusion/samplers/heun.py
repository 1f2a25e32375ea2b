"""Euler's and Heun's methods on Karras et al. 2022's ODE, and their stochastic sampler (arXiv 2206.00364)."""

from dataclasses import dataclass
from math import isfinite, log

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers.base import Memory
from undiffuse.diffusion.samplers.multistep import SOLVABLE, log_snr, with_eps
from undiffuse.errors import UsageError
from undiffuse.rng import Generator
from undiffuse.shapes import Data

CHURN_MOST = log(2) / 2  # gamma <= sqrt(2) - 1 (algorithm 2)


@dataclass(frozen=True)
class Euler:
    """dy / d rho = eps with y = x / signal, rho = sigma / signal (eq. 1 and 3), a straight step.

    The same update as DDIM(0), in other letters. First order; one network call a step.
    """

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        return process.carried(denoise(x_t, t), s), None


@dataclass(frozen=True)
class Heun:
    """Heun's method on the same ODE: the mean of eps at both ends of the step (algorithm 1).

    Second order. Two network calls a step; one where it starts below lambda = -5.1 (y is all noise there) or ends at 0.
    """

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        guess = denoise(x_t, t)
        x_s = process.carried(guess, s)
        if s == 0 or log_snr(process, t) < SOLVABLE:
            return x_s, None
        eps = (guess.eps + denoise(x_s, s).eps) / 2
        return process.carried(with_eps(x_t, eps, guess), s), None


@dataclass(frozen=True)
class EDM:
    """Heun's method after noise is added at each step: up to lambda_t - churn h, h the step's own length (algorithm 2).

    gamma = exp(churn h) - 1, at most sqrt(2) - 1. The paper's gamma = S_churn / N is, for N equal steps of lambda over
    a range L, churn = S_churn / L; tied to the step, the noise stays in proportion on any times. No noise above T
    and before the step to 0. Bias of order 1 / steps or less; network calls as Heun's.
    """

    churn: float = 1.0

    def __post_init__(self) -> None:
        if not (self.churn >= 0 and isfinite(self.churn)):
            raise UsageError(f"churn must be at least 0, got {self.churn}")

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        here, there = log_snr(process, t), log_snr(process, s)
        rise = min(self.churn * (there - here), CHURN_MOST)
        if rise > 0 and isfinite(there) and here > SOLVABLE:
            higher = min(float(process.schedule.time_of(here - rise)), float(process.T))
            x_t, t = process.renoise(x_t, t, max(higher, t), rng), max(higher, t)
        return Heun().step(process, denoise, x_t, t, s, rng)
