"""Noise families: zero mean and unit variance at every SNR, so that Var(x_t) = 1 for unit-variance data.

All in units of sigma. Between s < t the exact chain of a family, if it has one, reads

    eps_t = kept eps_s + sqrt(1 - kept^2) xi,    kept = (signal_t / signal_s) (sigma_s / sigma_t) = sqrt(SNR_t / SNR_s)

docs/noise.md derives each family's xi and says what is exact and what is a heuristic.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from undiffuse.diffusion.split import expand
from undiffuse.errors import UsageError
from undiffuse.rng import Generator
from undiffuse.shapes import Data, Float64Array, Tensor

Shape = tuple[int, ...]
LARGEST_SHAPE = 1e10  # shape k of a Gamma law that is drawn as such; its skew is 2 / sqrt(k)


class Noise(ABC):
    """A family declares what is exact for it, so that whatever needs more can refuse it by name.

    exact is a subset of
      "chain"      single steps compose to the jump (`increment` draws xi),
      "flow"       the law of eps is the same at every t and has a density, so data moved along E[eps | x_t] keep the
                   law of x_t: DDIM with eta = 0, any ODE solver (Lipman et al. 2023),
      "posterior"  q(x_s | x_t, x_0) is the Gaussian of Ho et al. 2020, eq. 6-7: the bound, a learned variance,
      "score"      score = -eps / sigma, hence the score and, with "posterior", likelihoods.
    """

    name: ClassVar[str]
    exact: ClassVar[frozenset[str]]

    def __str__(self) -> str:
        """The family with its parameters, as a model remembers it."""
        return self.name

    @abstractmethod
    def draw(self, shape: Shape, snr: Float64Array, rng: Generator) -> Tensor:
        """eps of the jump to a time with this SNR (scalar or [b]): E eps = 0, Var eps = 1. float32 on the CPU."""

    def increment(self, shape: Shape, kept: Float64Array, snr: Float64Array, rng: Generator) -> Tensor:
        """xi of the step to a time t with this SNR: zero mean, unit variance. float32 on the CPU.

        Raises UsageError for a family without a chain.
        """
        raise UsageError(f"the noise '{self.name}' has no chain of single steps, only the jump to each t")

    def renewal(self, shape: Shape, kept: Float64Array, snr: Float64Array, rng: Generator) -> Tensor:
        """xi of a reverse step to a time s with this SNR that keeps this share of the guessed eps.

        The chain's own where there is one: then noise is taken away deterministically and put back as the chain does.
        Else Gaussian, which has the right moments and no more.
        """
        return self.increment(shape, kept, snr, rng) if "chain" in self.exact else rng.normal(shape)

    def bridge(self, eps: Data, kept: Float64Array, snr: Float64Array, rng: Generator) -> Tensor:
        """eps_s given eps_t, s < t, snr that of s: what ancestral sampling with the small variance draws."""
        xi = self.renewal(tuple(eps.shape), kept, snr, rng).to(eps)
        share = np.asarray(kept, np.float64)
        return expand(share, eps) * eps + expand(np.sqrt(1 - share**2), eps) * xi

    def density(self, eps: np.ndarray, snr: float) -> np.ndarray:
        """The law of eps at a time with this SNR. Raises UsageError where it is not known."""
        raise UsageError(f"the noise '{self.name}' states no density")


class Gaussian(Noise):
    """eps ~ N(0, 1): everything in Ho et al. 2020 is exact."""

    name = "gaussian"
    exact = frozenset({"chain", "flow", "posterior", "score"})

    def draw(self, shape: Shape, snr: Float64Array, rng: Generator) -> Tensor:
        """Standard normal at every SNR."""
        return rng.normal(shape)

    def increment(self, shape: Shape, kept: Float64Array, snr: Float64Array, rng: Generator) -> Tensor:
        """Sums of Gaussians are Gaussian."""
        return rng.normal(shape)

    def density(self, eps: np.ndarray, snr: float) -> np.ndarray:
        return np.asarray(np.exp(-(eps**2) / 2) / math.sqrt(2 * math.pi))


class Laplace(Noise):
    """eps of density exp(-sqrt(2) |eps|) / sqrt(2): the Laplace law of unit variance, scale 1 / sqrt(2).

    It is self-decomposable: eps_t = c eps_s + (0 with probability c^2, else another such eps) is Laplace again, as
    (1 + c^2 w^2 / 2)^-1 (c^2 + (1 - c^2) (1 + w^2 / 2)^-1) = (1 + w^2 / 2)^-1 says of the characteristic functions.
    """

    name = "laplace"
    exact = frozenset({"chain", "flow"})

    def draw(self, shape: Shape, snr: Float64Array, rng: Generator) -> Tensor:
        return rng.laplace(shape).float() * 0.5**0.5

    def increment(self, shape: Shape, kept: Float64Array, snr: Float64Array, rng: Generator) -> Tensor:
        """0 with probability kept^2, else Laplace of variance 1 / (1 - kept^2)."""
        share = _columns(kept, len(shape)) ** 2
        stays = torch.from_numpy(rng.uniform(shape).numpy() < share)
        root = torch.from_numpy(np.asarray(np.sqrt(np.maximum(1 - share, 1e-30)))).float()
        return torch.where(stays, 0.0, self.draw(shape, snr, rng) / root)

    def density(self, eps: np.ndarray, snr: float) -> np.ndarray:
        return np.asarray(np.exp(-math.sqrt(2) * np.abs(eps)) / math.sqrt(2))


@dataclass(frozen=True)
class Gamma(Noise):
    """eps = (G - k) / sqrt(k), G ~ Gamma(k, 1), k = 1 / (theta^2 SNR) (Nachmani et al. 2021, their eq. for k-bar_t).

    Sums of Gammas of one scale are Gamma: the chain adds Gamma(k_t - k_s), and given the sum the part that was there at
    s is a Beta(k_s, k_t - k_s) share of it, so `bridge` is the exact posterior given x0; at a guessed x0 only its mean
    is right, which docs/noise.md measures: good for theta up to 0.01, wrong from 0.03 on. The law changes with t, from
    rare large spikes near the data to Gaussian at T; beyond k = 1e10, with a skew of 2e-5, it is taken for Gaussian.
    """

    theta: float = 0.001
    name: ClassVar[str] = "gamma"
    exact: ClassVar[frozenset[str]] = frozenset({"chain"})

    def __post_init__(self) -> None:
        if not 0 < self.theta <= 1:
            raise UsageError(f"theta of Gamma noise must lie in (0, 1], got {self.theta}")

    def __str__(self) -> str:
        return f"gamma, theta = {self.theta:g}"

    def draw(self, shape: Shape, snr: Float64Array, rng: Generator) -> Tensor:
        return self._centred(self._k(snr), shape, rng)

    def increment(self, shape: Shape, kept: Float64Array, snr: Float64Array, rng: Generator) -> Tensor:
        share = 1 - np.asarray(kept, np.float64) ** 2
        with np.errstate(invalid="ignore"):
            return self._centred(np.where(share > 0, self._k(snr) * share, 0.0), shape, rng)

    def bridge(self, eps: Data, kept: Float64Array, snr: Float64Array, rng: Generator) -> Tensor:
        """(B (k_t + sqrt(k_t) eps_t) - k_s) / sqrt(k_s); a guessed eps below the law's support counts as its edge."""
        shape, share = tuple(eps.shape), np.asarray(kept, np.float64) ** 2
        k_s = np.broadcast_to(_columns(self._k(snr), len(shape)), shape)
        share = np.broadcast_to(_columns(share, len(shape)), shape)
        small = k_s < LARGEST_SHAPE * share
        k_t = np.where(small, k_s, 1.0) / np.where(small, share, 1.0)
        a, b = np.where(small & (k_s > 0), k_s, 1.0), np.where(small, k_t - k_s, 1.0)
        part = rng.beta(a, np.maximum(b, 1e-300)).numpy()
        whole = np.maximum(k_t + np.sqrt(k_t) * eps.double().cpu().numpy(), 0.0)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            exact = (part * whole - k_s) / np.sqrt(k_s)
        plain = super().bridge(eps, kept, snr, rng)
        known = torch.from_numpy(np.where(k_s > 0, exact, 0.0)).to(eps)
        return torch.where(torch.from_numpy(small).to(eps.device), known, plain)

    def density(self, eps: np.ndarray, snr: float) -> np.ndarray:
        k = float(self._k(np.float64(snr)))
        if k == 0:
            raise UsageError("gamma noise at t = 0 is the number 0, which has no density")
        if k > LARGEST_SHAPE:
            return Gaussian().density(eps, snr)
        g = np.maximum(k + math.sqrt(k) * eps, 1e-300)
        log = (k - 1) * np.log(g) - g - math.lgamma(k) + math.log(k) / 2
        return np.where(k + math.sqrt(k) * eps > 0, np.exp(log), 0.0)

    def _k(self, snr: Float64Array) -> Float64Array:
        """0 at t = 0, infinite where no signal is left."""
        with np.errstate(divide="ignore", over="ignore"):
            return np.asarray(1 / (self.theta**2 * np.asarray(snr, np.float64)))

    @staticmethod
    def _centred(k: Float64Array, shape: Shape, rng: Generator) -> Tensor:
        """(G - k) / sqrt(k), 0 for k = 0 and normal for a large k."""
        k = np.broadcast_to(_columns(k, len(shape)), shape)
        drawn = rng.gamma(np.where(k < LARGEST_SHAPE, k, 1.0)).numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            eps = np.where(k > 0, (drawn - k) / np.sqrt(k), 0.0)
        if (k < LARGEST_SHAPE).all():
            return torch.from_numpy(eps).float()
        return torch.where(torch.from_numpy(k < LARGEST_SHAPE), torch.from_numpy(eps).float(), rng.normal(shape))


@dataclass(frozen=True)
class Mixture(Noise):
    """Two Gaussians of equal weight at -m and m, of variance 1 - m^2 (as Nachmani et al. 2021 mix); the jump alone."""

    m: float = 0.8
    name: ClassVar[str] = "mixture"
    exact: ClassVar[frozenset[str]] = frozenset({"flow"})

    def __post_init__(self) -> None:
        if not 0 < self.m < 1:
            raise UsageError(f"m of mixture noise must lie in (0, 1), got {self.m}")

    def __str__(self) -> str:
        return f"mixture, m = {self.m:g}"

    def draw(self, shape: Shape, snr: Float64Array, rng: Generator) -> Tensor:
        side = torch.where(rng.uniform(shape) < 0.5, -self.m, self.m).float()
        return side + (1 - self.m**2) ** 0.5 * rng.normal(shape)

    def density(self, eps: np.ndarray, snr: float) -> np.ndarray:
        std = (1 - self.m**2) ** 0.5
        return sum(Gaussian().density((eps - m) / std, snr) / (2 * std) for m in (-self.m, self.m))


class Uniform(Noise):
    """eps ~ U(-sqrt(3), sqrt(3)); the jump alone."""

    name = "uniform"
    exact = frozenset({"flow"})

    def draw(self, shape: Shape, snr: Float64Array, rng: Generator) -> Tensor:
        return ((2 * rng.uniform(shape) - 1) * 3**0.5).float()

    def density(self, eps: np.ndarray, snr: float) -> np.ndarray:
        return np.where(np.abs(eps) <= 3**0.5, 1 / 12**0.5, 0.0)


def _columns(numbers: Float64Array, ndim: int) -> np.ndarray:
    """A scalar, or [b] as [b, 1, ...]."""
    array = np.asarray(numbers, np.float64)
    return array.reshape(-1, *[1] * (ndim - 1)) if array.ndim else array


NOISES: dict[str, type[Noise]] = {kind.name: kind for kind in (Gaussian, Laplace, Gamma, Mixture, Uniform)}
