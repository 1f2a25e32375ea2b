"""What every sampler is, and the one loop that runs them all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.split import Split
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.rng import Generator
from undiffuse.shapes import Data, Times

Memory = Any  # whatever a multistep solver wants back at its next step; None at the first


@runtime_checkable
class Sampler(Protocol):
    """A step from x_t to x_s, s < t. Keeps nothing between steps: memory goes in and comes out."""

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]: ...


@dataclass(frozen=True)
class Frame:
    """The state at time t, and the first guess of x0 of the step that led there."""

    t: float
    x: Data
    x0: Data


class _Watched:
    """Passes a denoise on and remembers its first guess of the step."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise
        self.guess: Split | None = None

    def __call__(self, x_t: Data, t: Times) -> Split:
        guess = self.denoise(x_t, t)
        if self.guess is None:
            self.guess = guess
        return guess


def trajectory(
    process: Process, denoise: Denoise, sampler: Sampler, x_T: Data, times: Sequence[float], rng: Generator
) -> Iterator[Frame]:
    """Run the reverse process down `times` (falling, first where x_T stands, usually T, last usually 0).

    Yields a Frame after each step. Progress bars, animations and return-all are its consumers.
    """
    times = [float(t) for t in times]
    if len(times) < 2 or any(s >= t for t, s in pairwise(times)) or times[0] > process.T or times[-1] < 0:
        raise UsageError(f"times must fall strictly from at most T = {process.T} to at least 0, got {times[:3]}...")
    x, memory = x_T, None
    for t, s in pairwise(times):
        watched = _Watched(denoise)
        with torch.no_grad():  # not around the generator: its caller's code would run inside
            x, memory = sampler.step(process, watched, x, t, s, rng, memory)
        if watched.guess is None:
            raise UndiffuseError(f"{type(sampler).__name__} took a step without asking the denoiser")
        yield Frame(s, x, watched.guess.x0)
