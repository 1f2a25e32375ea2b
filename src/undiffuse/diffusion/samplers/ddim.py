"""Denoising diffusion implicit models: Song, Meng & Ermon 2021."""

from dataclasses import dataclass

import numpy as np

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers.base import Memory
from undiffuse.diffusion.split import expand
from undiffuse.errors import UsageError
from undiffuse.rng import Generator
from undiffuse.shapes import Data


@dataclass(frozen=True)
class DDIM:
    """x_s = signal_s x0 + sqrt(sigma_s^2 - var) eps + sqrt(var) z,  var = eta^2 * posterior variance (eq. 12 and 16).

    eta scales the standard deviation: 0 is deterministic, 1 is ancestral sampling with the small variance (but for
    Gamma noise, whose ancestral step draws the posterior at the guess instead of the chain's noise).
    First order in the step for eta = 0; one network call a step.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UsageError(f"eta must lie in [0, 1], got {self.eta}")

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        guess = denoise(x_t, t)
        if self.eta == 0 or s == 0:
            return process.carried(guess, s), None
        signal, sigma = (expand(scale, x_t) for scale in process.scales(s))
        var = self.eta**2 * process.posterior(guess, t, s).var
        stays = (sigma**2 - var).clamp(min=0).sqrt()
        kept = np.float64(stays / sigma)
        z = process.noise.renewal(tuple(x_t.shape), kept, process.schedule.snr(s), rng).to(x_t)
        return signal * guess.x0 + stays * guess.eps + var.sqrt() * z, None
