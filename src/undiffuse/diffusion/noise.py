"""Noise families: zero mean and unit variance at every SNR, so that Var(x_t) = 1 for unit-variance data."""

from abc import ABC, abstractmethod
from typing import ClassVar

from undiffuse.rng import Generator
from undiffuse.shapes import Float64Array, Tensor


class Noise(ABC):
    """A family declares what is exact for it, so that whatever needs more can refuse it by name.

    exact is a subset of
      "chain"      single steps x_t = r x_s + eta compose to the jump (`increment` draws eta),
      "posterior"  q(x_s | x_t, x_0) is the Gaussian of Ho et al. 2020, eq. 6-7, so reverse noise is Gaussian too,
      "score"      score = -eps / sigma, hence likelihoods, the bound and ODE solvers.
    """

    name: ClassVar[str]
    exact: ClassVar[frozenset[str]]

    @abstractmethod
    def draw(self, shape: tuple[int, ...], snr: Float64Array, rng: Generator) -> Tensor:
        """eps of the jump to a time with this SNR (scalar or [b]): E eps = 0, Var eps = 1. float32 on the CPU."""

    @abstractmethod
    def increment(
        self, shape: tuple[int, ...], ratio: Float64Array, snr_s: Float64Array, snr_t: Float64Array, rng: Generator
    ) -> Tensor:
        """eta / std(eta) of the step x_t = ratio x_s + eta, s < t: unit variance too. float32 on the CPU."""


class Gaussian(Noise):
    """eps ~ N(0, 1): everything in Ho et al. 2020 is exact."""

    name = "gaussian"
    exact = frozenset({"chain", "posterior", "score"})

    def draw(self, shape: tuple[int, ...], snr: Float64Array, rng: Generator) -> Tensor:
        """Standard normal at every SNR."""
        return rng.normal(shape)

    def increment(
        self, shape: tuple[int, ...], ratio: Float64Array, snr_s: Float64Array, snr_t: Float64Array, rng: Generator
    ) -> Tensor:
        """Sums of Gaussians are Gaussian."""
        return rng.normal(shape)


NOISES: dict[str, type[Noise]] = {"gaussian": Gaussian}
