"""The conformance checks pass what is sound and catch what is not."""

import numpy as np
import pytest
import torch

from undiffuse.diffusion.noise import NOISES, Gamma, Gaussian, Laplace, Uniform
from undiffuse.errors import UsageError
from undiffuse.testing import check_noise


@pytest.mark.parametrize("noise", [*(kind() for kind in NOISES.values()), Gamma(0.3)], ids=str)
def test_our_own_families_conform(noise):
    check_noise(noise)


class Wide(Laplace):
    """The one public implementation's mistake: scale 1, so variance 2."""

    def draw(self, shape, snr, rng):
        return rng.laplace(shape).float()


class NotAChain(Laplace):
    def increment(self, shape, kept, snr, rng):
        return self.draw(shape, snr, rng)


class Shifted(Uniform):
    def draw(self, shape, snr, rng):
        return super().draw(shape, snr, rng) + 0.05


class Doubles(Gaussian):
    def draw(self, shape, snr, rng):
        return rng.normal(shape).double()


class Global(Gaussian):
    def draw(self, shape, snr, rng):
        return torch.empty(shape).normal_()


class Company(Gaussian):
    def draw(self, shape, snr, rng):
        eps = rng.normal(shape)
        return eps - eps.mean() / 2


class Boastful(Uniform):
    exact = frozenset({"flow", "score"})


class Drifting(Gamma):
    exact = frozenset({"chain", "flow"})


class Undeclared(Laplace):
    exact = frozenset({"flow"})


class Atoms(Uniform):
    """Unit variance, one law at every time, and no density: nothing can flow."""

    def draw(self, shape, snr, rng):
        return 2 * (rng.uniform(shape) < 0.5).float() - 1

    def density(self, eps, snr):
        raise UsageError("none")


class Backwards(Gaussian):
    def bridge(self, eps, kept, snr, rng):
        return -super().bridge(eps, kept, snr, rng)


class Loud(Laplace):
    def renewal(self, shape, kept, snr, rng):
        return 3 * rng.normal(shape)


class Late(Gamma):
    """Normal at SNR 1 and below, not nearer to the data."""

    exact = frozenset({"chain", "posterior", "score"})


class NoStep(Uniform):
    exact = frozenset({"flow", "chain"})


class OnceRight(Gaussian):
    def density(self, eps, snr):
        return super().density(eps, snr) if snr == 1.0 else Laplace().density(eps, snr)


class Unsummed(Laplace):
    def density(self, eps, snr):
        return 2 * super().density(eps, snr)


class Blown(Gaussian):
    def draw(self, shape, snr, rng):
        return rng.normal(shape) * (float("inf") if np.all(snr == 0) else 1.0)


class WrongDensity(Laplace):
    def density(self, eps, snr):
        return Gaussian().density(eps, snr)


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        (Wide(), "variance of eps at SNR 100: (1.9|2)"),
        (NotAChain(), "is not the jump there"),
        (Shifted(), "mean of eps at SNR 100: 0.05"),
        (Doubles(), "float32"),
        (Global(), "draw from rng alone"),
        (Company(), "depend on its company"),
        (Boastful(), r"eps is not N\(0, 1\)"),
        (Drifting(0.3), "another law at SNR 100"),
        (Undeclared(), "does not declare 'chain'"),
        (WrongDensity(), "draws and density"),
        (Atoms(), "values of eps repeat"),
        (Backwards(), "covariance of eps_t and bridge"),
        (Loud(), "variance of renewal"),
        (Late(0.01), r"not N\(0, 1\) at SNR 100"),
        (NoStep(), "has no increment"),
        (OnceRight(), "draws and density at SNR 100"),
        (Unsummed(), "sums to 2"),
        (Blown(), "draws at SNR 0 are not all finite"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_broken_families_are_caught(noise, said):
    with pytest.raises(AssertionError, match=said) as caught:
        check_noise(noise)
    assert "\n" not in str(caught.value)
