"""Going back up to come down again: Lugmayr et al. 2022 (RePaint, arXiv 2201.09865), section 4.2."""

from dataclasses import dataclass
from itertools import pairwise

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers.base import Memory, Sampler
from undiffuse.errors import UsageError
from undiffuse.rng import Generator
from undiffuse.shapes import Data

LEAST_LEFT = 0.01  # of x_s that is left when it is put back into the noise of t


@dataclass(frozen=True)
class Resampled:
    """A sampler that walks each step from t to s `repeats` times and puts noise back between: x_t ~ q(x_t | x_s).

    What is painted and what is known come to fit each other that way (there: r resamplings, algorithm 1). sampler: any;
    way: the times it visits, which hold t and s; the stretch between is the jump length j. A multistep solver begins
    anew after the noise: what it remembers of x_t is of other noise. Where q would leave less than a hundredth of x_s,
    at the end of the forward process, the stretch is walked once: again would be from the start. Network calls: the
    sampler's over each stretch, times `repeats`; PNDM, which begins anew in each, makes four in each one's first steps.
    """

    sampler: Sampler
    way: tuple[float, ...]
    repeats: int

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"repeats must be at least 1, got {self.repeats}")

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        stretch = [t, *(u for u in self.way if s < u < t), s]
        (before, _), (after, _) = process.scales(t), process.scales(s)
        repeats = self.repeats if float(before) > LEAST_LEFT * float(after) else 1
        for left in reversed(range(repeats)):
            x_s, kept = x_t, memory
            for a, b in pairwise(stretch):
                x_s, kept = self.sampler.step(process, denoise, x_s, a, b, rng, kept)
            if left:
                x_t, memory = process.renoise(x_s, s, t, rng), None
        return x_s, kept
