"""The conformance checks pass what is sound and catch what is not."""

import pytest
import torch

from undiffuse.diffusion.noise import NOISES, Gamma, Gaussian, Laplace, Uniform
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


class WrongDensity(Laplace):
    def density(self, eps, snr):
        return Gaussian().density(eps, snr)


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        (Wide(), "variance 2"),
        (NotAChain(), "is not the jump there"),
        (Shifted(), "mean 0.05"),
        (Doubles(), "float32"),
        (Global(), "draw from rng alone"),
        (Company(), "depend on its company"),
        (Boastful(), "another law"),
        (Drifting(0.3), "another law at SNR 100"),
        (Undeclared(), "does not declare 'chain'"),
        (WrongDensity(), "draws and density"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_broken_families_are_caught(noise, said):
    with pytest.raises(AssertionError, match=said) as caught:
        check_noise(noise)
    assert "\n" not in str(caught.value)
