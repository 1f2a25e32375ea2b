"""Diffusion exponential integrator sampler: Zhang & Chen 2023 (arXiv 2204.13902)."""

from dataclasses import dataclass

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers.base import Memory
from undiffuse.diffusion.samplers.multistep import SOLVABLE, Past, log_snr, with_eps
from undiffuse.errors import UsageError
from undiffuse.rng import Generator
from undiffuse.shapes import Data


@dataclass(frozen=True)
class DEIS:
    """The exact mean of the polynomial of degree q through the last q + 1 guesses of eps, as a polynomial of lambda.

    Adams-Bashforth with the paper's exponential weight (its eq. 15). The paper's variants take the polynomial in t or
    in sigma / signal; in lambda, as here and in diffusers, it does not bend where a schedule's table does. Order q + 1,
    less in the first steps (at most 2 for runs that start amid the data, lambda from -1 on) and in long ones
    (Past.within); from lambda below -5.1 and to s = 0 it is DDIM. One network call a step.
    """

    q: int = 2

    def __post_init__(self) -> None:
        if self.q not in (0, 1, 2, 3):
            raise UsageError(f"DEIS takes a polynomial of degree q = 0, 1, 2 or 3, got {self.q}")

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        guess, here = denoise(x_t, t), log_snr(process, t)
        if here < SOLVABLE:
            return process.carried(guess, s), None
        past = (memory or Past()).seen(here, guess.eps, self.q + 1)
        h = log_snr(process, s) - here
        eps = past.within(h).mean(h, sign=-1)
        return process.carried(with_eps(x_t, eps, guess), s), past
