"""Wrappers that change a guess on its way to the sampler: Denoise -> Denoise."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from undiffuse.diffusion.denoiser import Bound, Denoise
from undiffuse.diffusion.process import as_times
from undiffuse.diffusion.split import Split
from undiffuse.errors import UsageError
from undiffuse.shapes import Data, Labels, Times


def guided(bound: Bound, w: float, null: int) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): (1 - w) * unconditional + w * conditional, affine in the split.

    w = 1 is off, w = 0 unconditional (their weight is w - 1). Both branches run as one batch; `null` is the label that
    means none, num_classes. The variance is the conditional branch's.
    """
    if w == 1:
        return bound
    if bound.y is None:
        raise UsageError("guidance needs labels; this model is unconditional, so leave guidance at 1")
    return _Guided(bound, bound.y, w, null)


@dataclass(frozen=True)
class _Guided:
    bound: Bound
    y: Labels
    w: float
    null: int

    def __call__(self, x_t: Data, t: Times) -> Split:
        y = torch.cat([self.y, torch.full_like(self.y, self.null)])
        both = self.bound.denoiser(torch.cat([x_t, x_t]), _twice(t), y)
        x0, x0_null = both.x0.chunk(2)
        eps, eps_null = both.eps.chunk(2)
        fraction = None if both.var_fraction is None else both.var_fraction.chunk(2)[0]
        signal, sigma = self.bound.denoiser.process.scales(t)
        w = self.w
        return Split((1 - w) * x0_null + w * x0, (1 - w) * eps_null + w * eps, signal, sigma, fraction)


def _twice(t: Times) -> Times:
    times = as_times(t)
    return np.concatenate([times, times]) if times.ndim else times


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Clamp x0 to the data's range and re-derive eps from x_t, so that the two still share x_t."""

    def clip(x_t: Data, t: Times) -> Split:
        guess = denoise(x_t, t)
        inside = Split.from_x0(x_t, guess.x0.clamp(low, high), guess.signal, guess.sigma)
        return replace(inside, var_fraction=guess.var_fraction)

    return clip
