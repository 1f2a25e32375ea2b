"""Wrappers that change a guess on its way to the sampler: Denoise -> Denoise."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from undiffuse.diffusion.denoiser import Bound, Denoise
from undiffuse.diffusion.process import as_times
from undiffuse.diffusion.split import Split, expand
from undiffuse.errors import UsageError
from undiffuse.shapes import Data, Float64Array, Labels, Mask, Times


def guided(
    bound: Bound, w: float, null: int, between: tuple[float, float] = (0.0, 1.0), rescale: float = 0.0
) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): (1 - w) * unconditional + w * conditional, affine in the split.

    w = 1 is off, w = 0 unconditional (their weight is w - 1). Both branches run as one batch; `null` is the label that
    means none, num_classes. The variance is the conditional branch's. between: the t / T where it acts; elsewhere the
    conditional branch alone is asked (Kynkaanniemi et al. 2024). rescale: how far each image's x0 is brought back to
    the standard deviation of the conditional branch's, 0..1 (Lin et al. 2024, eq. 15 and 16, there for the prediction).
    """
    if w == 1:
        return bound
    if bound.y is None:
        raise UsageError("guidance needs labels; this model is unconditional, so leave guidance at 1")
    if not 0 <= between[0] <= between[1] <= 1:
        raise UsageError(f"guidance acts between two numbers in 0..1, the lower first; got {between[0]}, {between[1]}")
    return _Guided(bound, bound.y, w, null, between, rescale)


@dataclass(frozen=True)
class _Guided:
    bound: Bound
    y: Labels
    w: float
    null: int
    between: tuple[float, float]
    rescale: float

    def __call__(self, x_t: Data, t: Times) -> Split:
        low, high = self.between
        share = as_times(t) / self.bound.denoiser.process.T
        acts = (low <= share) & (share <= high)
        if not acts.any():
            return self.bound(x_t, t)
        y = torch.cat([self.y, torch.full_like(self.y, self.null)])
        both = self.bound.denoiser(torch.cat([x_t, x_t]), _twice(t), y)
        x0, x0_null = both.x0.chunk(2)
        eps, eps_null = both.eps.chunk(2)
        fraction = None if both.var_fraction is None else both.var_fraction.chunk(2)[0]
        signal, sigma = self.bound.denoiser.process.scales(t)
        w = expand(np.where(acts, self.w, 1.0), x_t)
        mixed = Split((1 - w) * x0_null + w * x0, (1 - w) * eps_null + w * eps, signal, sigma, fraction)
        if self.rescale == 0 or x0[0].numel() == 1:  # one number has no spread
            return mixed
        ratio = _spread(x0) / _spread(mixed.x0).clamp(min=1e-12)
        scaled = mixed.x0 * (self.rescale * torch.where(_where(acts, x_t), ratio, 1.0) + 1 - self.rescale)
        return replace(Split.from_x0(x_t, scaled, signal, sigma), var_fraction=fraction)


def _spread(x: Data) -> torch.Tensor:
    """Standard deviation of each image, [b, 1, ...]."""
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def _where(acts: np.ndarray | np.bool, like: Data) -> torch.Tensor:
    return torch.from_numpy(np.asarray(acts)).to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def _twice(t: Times) -> Times:
    times = as_times(t)
    return np.concatenate([times, times]) if times.ndim else times


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Clamp x0 to the data's range and re-derive eps from x_t, so that the two still share x_t."""
    return _moved(denoise, lambda x0: x0.clamp(low, high))


def thresholded(denoise: Denoise, share: float = 0.995) -> Denoise:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3), eps re-derived from x_t.

    Each image's x0 is clamped to [-a, a] and divided by a, where a is that share's quantile of |x0|, at least 1. In
    float32 whatever the data's type, for quantiles know no other.
    """
    if not 0.5 < share <= 1:
        raise UsageError(f"the share of dynamic thresholding must lie in (0.5, 1], got {share}")

    def inside(x0: Data) -> Data:
        a = torch.quantile(x0.flatten(1).abs().float(), share, dim=1).clamp(min=1).to(x0)
        a = a.reshape(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-a, a) / a

    return _moved(denoise, inside)


def known(denoise: Denoise, x0: Data, where: Mask) -> Denoise:
    """Pixels that are known (`where`, broadcast against x0) are guessed as what they are, eps re-derived from x_t.

    Every sampler then takes them the way that ends in x0, its noise included: in ancestral sampling with the small
    variance by draws of q(x_s | x_t, x0), which leave x_s with the law that Lugmayr et al. 2022, eq. 8a, draws anew for
    each s. A larger variance leaves them noisier than s says, by what it is larger.
    """
    return _moved(denoise, lambda guessed: torch.where(where, x0, guessed))


def mixed(one: Denoise, other: Denoise, share: Float64Array) -> Denoise:
    """(1 - share) * one + share * other, affine in the split; share: [b]. For what lies between two classes."""

    def mix(x_t: Data, t: Times) -> Split:
        a, b, w = one(x_t, t), other(x_t, t), expand(share, x_t)
        return Split((1 - w) * a.x0 + w * b.x0, (1 - w) * a.eps + w * b.eps, a.signal, a.sigma, a.var_fraction)

    return mix


LogProb = Callable[[Data, Times], torch.Tensor]  # x_t, t -> log p(y | x_t) of each image, differentiable in x_t


def steered(denoise: Denoise, log_prob: LogProb, scale: float = 1.0) -> Denoise:
    """Classifier guidance (Dhariwal & Nichol 2021, algorithm 2): eps - scale * sigma * grad log p(y | x_t).

    log_prob: any differentiable classifier of noisy images; x0 follows from eps. Gaussian noise, whose score eps is.
    Where an image's signal is 0 its x_t says nothing of y, and the guess stays.
    """

    def steer(x_t: Data, t: Times) -> Split:
        guess = denoise(x_t, t)
        says = np.asarray(guess.signal) > 0
        if not says.any():
            return guess
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            (slope,) = torch.autograd.grad(log_prob(x, t).sum(), x)
        there = Split.from_eps(x_t, guess.eps - scale * expand(guess.sigma, x_t) * slope, guess.signal, guess.sigma)
        x0, eps = (torch.where(_where(says, x_t), *pair) for pair in ((there.x0, guess.x0), (there.eps, guess.eps)))
        return replace(guess, x0=x0, eps=eps)

    return steer


def _moved(denoise: Denoise, move: Callable[[Data], Data]) -> Denoise:
    def moved(x_t: Data, t: Times) -> Split:
        guess = denoise(x_t, t)
        there = Split.from_x0(x_t, move(guess.x0), guess.signal, guess.sigma)
        return replace(there, var_fraction=guess.var_fraction)

    return moved
