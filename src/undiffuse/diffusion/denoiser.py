"""A network that guesses the split. The network knows nothing of diffusion: (x, t, y) -> tensor."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from undiffuse.diffusion.process import Process, as_times
from undiffuse.diffusion.split import PREDICTIONS, Split
from undiffuse.errors import UndiffuseError, UsageError, nearest
from undiffuse.native.threads import sharing
from undiffuse.shapes import Data, Float64Array, Labels, Tensor, Times

PREDICTED = (*PREDICTIONS, "mean")  # what a network may say
SOLVES_FOR_X0 = ("eps", "score")  # by dividing by signal_t
Denoise = Callable[[Data, Times], Split]  # what samplers take; wrappers map Denoise -> Denoise


@runtime_checkable
class Backbone(Protocol):
    """x_t [b, *d], t float32 [b] in [0, T], y int64 [b] or None -> [b, *d] (learned variance: twice the channels)."""

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Denoiser:
    """(x_t, t, y) -> Split, from a backbone that predicts eps, x0, v, the score, or the posterior's mean at t - 1.

    With learned variance the output's second half of channels is the variance: var_fraction = (output + 1) / 2
    (as Nichol & Dhariwal 2021's code maps it; their section 3.1 leaves it unconstrained).
    """

    backbone: Backbone
    process: Process
    prediction: str = "eps"

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTED:
            raise UsageError(f"unknown prediction '{self.prediction}'; {nearest(self.prediction, PREDICTED)}")
        if self.prediction in SOLVES_FOR_X0 and self.process.schedule.beta[-1] == 1:
            raise UsageError(
                f"prediction '{self.prediction}' cannot work with beta_T = 1: x_T holds nothing of x0 to solve for; "
                "take 'v' or 'x0'"
            )
        if self.prediction == "score" and "score" not in self.process.noise.exact:
            raise UsageError(
                f"prediction 'score' needs Gaussian noise: score = -eps / sigma holds for no other, not for "
                f"'{self.process.noise.name}' noise; take 'eps'"
            )

    def __call__(self, x_t: Data, t: Times, y: Labels | None = None) -> Split:
        sharing.look(torch.get_num_threads())
        times = as_times(t)
        at = torch.from_numpy(times).to(x_t.device, torch.float32).expand(len(x_t))
        output = self.backbone(x_t, at, y)
        output = output.to(torch.promote_types(output.dtype, torch.float32))  # half precision ends here
        fraction = None
        learned = self.process.variance == "learned"
        b, c, *size = x_t.shape
        needed = [b, 2 * c if learned else c, *size]
        if list(output.shape) != needed:
            raise UndiffuseError(f"the network gave {list(output.shape)} where {needed} is needed")
        if learned:
            output, raw = output.chunk(2, dim=1)
            fraction = (raw + 1) / 2
        return replace(self._read(x_t, output, times), var_fraction=fraction)

    def _read(self, x_t: Data, output: Data, times: Float64Array) -> Split:
        if self.prediction == "mean":
            return self.process.from_mean(x_t, output, times, np.maximum(times - 1, 0))
        return PREDICTIONS[self.prediction](x_t, output, *self.process.schedule.scales(times))


@dataclass(frozen=True)
class Bound:
    """A denoiser with its labels filled in: (x_t, t) -> Split."""

    denoiser: Denoiser
    y: Labels | None = None

    def __call__(self, x_t: Data, t: Times) -> Split:
        return self.denoiser(x_t, t, self.y)


def bind(denoiser: Denoiser, y: Labels | None = None) -> Bound:
    """Fix the labels, which samplers know nothing of."""
    return Bound(denoiser, y)
