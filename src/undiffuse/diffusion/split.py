"""The one idea: a noisy datum is a split of signal and noise, x_t = signal * x0 + sigma * eps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from undiffuse.shapes import Data, Float64Array, Tensor


def expand(coefficient: Float64Array, like: Tensor) -> Tensor:
    """A float64 coefficient, scalar or [b], made ready to multiply data [b, *d]. The only place that broadcasts.

    A scalar stays a float64 number (a 0-d tensor does not promote its partner, and lives on every device); [b] becomes
    [b, 1, ...] in the data's dtype and device.
    """
    array = torch.from_numpy(np.array(coefficient, np.float64))
    if array.ndim == 0:
        return array
    return array.to(device=like.device, dtype=like.dtype).reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Split:
    """x0 and eps with their scales (float64, scalar or [b]). The predicted one of the two is kept as predicted.

    var_fraction: with learned variance, where log var lies between small (0) and large (1); shaped like x0.
    """

    x0: Data
    eps: Data
    signal: Float64Array
    sigma: Float64Array
    var_fraction: Data | None = None

    def rows(self, chosen: np.ndarray) -> "Split":
        """The split of some data of the batch; chosen: bool [b]."""
        mask = torch.from_numpy(chosen).to(self.x0.device)
        signal, sigma = (np.broadcast_to(scale, chosen.shape)[chosen] for scale in (self.signal, self.sigma))
        fraction = None if self.var_fraction is None else self.var_fraction[mask]
        return Split(self.x0[mask], self.eps[mask], signal, sigma, fraction)

    @property
    def x_t(self) -> Data:
        """signal * x0 + sigma * eps."""
        return expand(self.signal, self.x0) * self.x0 + expand(self.sigma, self.x0) * self.eps

    @property
    def v(self) -> Data:
        """signal * eps - sigma * x0 (Salimans & Ho 2022, section 4)."""
        return expand(self.signal, self.x0) * self.eps - expand(self.sigma, self.x0) * self.x0

    @property
    def score(self) -> Data:
        """grad log q(x_t | x0) = -eps / sigma. Gaussian noise only; sigma > 0."""
        return -self.eps / expand(self.sigma, self.x0)

    @classmethod
    def from_eps(cls, x_t: Data, eps: Data, signal: Float64Array, sigma: Float64Array) -> "Split":
        """x0 = (x_t - sigma * eps) / signal; signal > 0."""
        return cls((x_t - expand(sigma, x_t) * eps) / expand(signal, x_t), eps, signal, sigma)

    @classmethod
    def from_x0(cls, x_t: Data, x0: Data, signal: Float64Array, sigma: Float64Array) -> "Split":
        """eps = (x_t - signal * x0) / sigma; sigma > 0."""
        return cls(x0, (x_t - expand(signal, x_t) * x0) / expand(sigma, x_t), signal, sigma)

    @classmethod
    def from_v(cls, x_t: Data, v: Data, signal: Float64Array, sigma: Float64Array) -> "Split":
        """x0 = signal * x_t - sigma * v, eps = sigma * x_t + signal * v; finite at every t."""
        a, b = expand(signal, x_t), expand(sigma, x_t)
        return cls(a * x_t - b * v, b * x_t + a * v, signal, sigma)

    @classmethod
    def from_score(cls, x_t: Data, score: Data, signal: Float64Array, sigma: Float64Array) -> "Split":
        """eps = -sigma * score. Gaussian noise only; signal > 0."""
        return cls.from_eps(x_t, -expand(sigma, x_t) * score, signal, sigma)


Reader = Callable[[Tensor, Tensor, Float64Array, Float64Array], Split]
PREDICTIONS: dict[str, Reader] = {
    "eps": Split.from_eps,
    "x0": Split.from_x0,
    "v": Split.from_v,
    "score": Split.from_score,
}
