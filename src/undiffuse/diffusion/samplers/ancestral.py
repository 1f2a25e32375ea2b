"""Ancestral sampling: Ho et al. 2020, Algorithm 2, at any stride."""

from dataclasses import dataclass

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers.base import Memory
from undiffuse.rng import Generator
from undiffuse.shapes import Data


@dataclass(frozen=True)
class Ancestral:
    """x_s = mean of p(x_s | x_t) + sqrt(var) z, and the mean alone at s = 0 (z = 0 in Algorithm 2's last step).

    Other noise families draw the noise of x_s given the guessed one in their own way (Noise.bridge, docs/noise.md).
    The variance is the process's. Small is exact for data that is one point, large for N(0, 1); for data of variance
    between, strided small is too narrow and strided large too wide: only the exact reverse variance keeps the law.
    One network call a step.
    """

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        return process.drawn(denoise(x_t, t), t, s, rng), None
