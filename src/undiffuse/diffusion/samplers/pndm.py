"""Pseudo numerical methods for diffusion models: Liu et al. 2022 (arXiv 2202.09778)."""

from dataclasses import dataclass

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers.base import Memory
from undiffuse.diffusion.samplers.multistep import SOLVABLE, log_snr, with_eps
from undiffuse.diffusion.split import Split
from undiffuse.rng import Generator
from undiffuse.shapes import Data

ADAMS_BASHFORTH = (55 / 24, -59 / 24, 37 / 24, -9 / 24)  # eq. 12


@dataclass(frozen=True)
class PNDM:
    """A DDIM step with eps from classical methods: three Runge-Kutta steps (eq. 13), then Adams-Bashforth (eq. 12).

    Second order. The weights are those of equal steps, so spacings far from equal lose the order. Four network calls in
    each of the first three steps, then one. A step from lambda below -5.1, or one to 0 before there are four guesses,
    is DDIM.
    """

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        guess = denoise(x_t, t)
        if log_snr(process, t) < SOLVABLE:
            return process.carried(guess, s), None
        past = [guess.eps, *(memory or ())][:4]
        if len(past) == 4:
            terms = [w * eps for w, eps in zip(ADAMS_BASHFORTH, past, strict=True)]
            eps = sum(terms[1:], terms[0])
        else:
            eps = guess.eps if s == 0 else _runge_kutta(process, denoise, x_t, guess.eps, t, s)
        return process.carried(with_eps(x_t, eps, guess), s), past


def _runge_kutta(process: Process, denoise: Denoise, x_t: Data, first: Data, t: float, s: float) -> Data:
    scales, middle = process.scales(t), (t + s) / 2

    def moved(eps: Data, to: float) -> Data:
        return process.carried(Split.from_eps(x_t, eps, *scales), to)

    second = denoise(moved(first, middle), middle).eps
    third = denoise(moved(second, middle), middle).eps
    fourth = denoise(moved(third, s), s).eps
    return (first + 2 * second + 2 * third + fourth) / 6
