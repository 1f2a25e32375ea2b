"""DPM-Solver++, multistep: Lu et al. 2022 (arXiv 2211.01095)."""

from dataclasses import dataclass

import numpy as np

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers.base import Memory
from undiffuse.diffusion.samplers.multistep import Past, log_snr, with_x0
from undiffuse.errors import UsageError
from undiffuse.rng import Generator
from undiffuse.shapes import Data


@dataclass(frozen=True)
class DPMpp:
    """x_s = (sigma_s / sigma_t) x_t + (signal_s - signal_t sigma_s / sigma_t) x0, x0 extrapolated from past guesses.

    order 1: the guess itself, which is DDIM. order 2: algorithm 2 of the paper, half a step along the line through two
    guesses. order 3: the exact mean of the parabola through three (the paper's code halves its last coefficient, which
    makes that one of second order). Of that order in lambda; the first steps and the one to s = 0 are of lower order,
    so runs that start amid the data (lambda from -1 on) have at most the second. Steps over twice as long as the one
    before extrapolate less (Past.within, Past.ahead). One network call a step.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise UsageError(f"DPM-Solver++ has order 1, 2 or 3, got {self.order}")

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        guess, here = denoise(x_t, t), log_snr(process, t)
        past = (memory or Past()).seen(here, guess.x0, self.order)
        h = log_snr(process, s) - here
        return process.carried(with_x0(x_t, past.ahead(h), guess), s), past


@dataclass(frozen=True)
class DPMppSDE:
    """SDE-DPM-Solver++(2M): a draw of the posterior q(x_s | x_t, x0) at the x0 of DPMpp(2).

    With the guess itself it is ancestral sampling with the small variance, in lambda's letters
    x_s = (sigma_s / sigma_t) e^-h x_t + signal_s (1 - e^-2h) x0 + sigma_s sqrt(1 - e^-2h) z. Bias of order
    1 / steps or less; one network call a step.
    """

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        guess, here = denoise(x_t, t), log_snr(process, t)
        past = (memory or Past()).seen(here, guess.x0, 2)
        if s == 0:
            return guess.x0, past
        x0 = past.ahead(log_snr(process, s) - here)
        to = process.posterior(with_x0(x_t, x0, guess), t, s)
        kept = np.exp(here - log_snr(process, s))
        z = process.noise.renewal(tuple(x_t.shape), np.float64(kept), process.schedule.snr(s), rng).to(x_t)
        return to.mean + to.var.sqrt() * z, past
