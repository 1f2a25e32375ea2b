"""What the theory says, written from the alpha_bar table alone: none of it calls the formulas under test."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import ndtr

import undiffuse as ud

NAMES = ("linear", "cosine", "sigmoid", "quadratic")
SAMPLED = {  # our word for an update -> (variance of the process, sampler)
    "small": ("small", ud.samplers.Ancestral()),
    "large": ("large", ud.samplers.Ancestral()),
    "exact": ("learned", ud.samplers.Ancestral()),
    "ddim 0": ("small", ud.samplers.DDIM(0.0)),
    "ddim 0.5": ("small", ud.samplers.DDIM(0.5)),
    "ddim 1": ("small", ud.samplers.DDIM(1.0)),
}


def schedule(name: str, T: int = 1000) -> ud.NoiseSchedule:
    return getattr(ud.NoiseSchedule, name)(T)


def alpha_bar_at(schedule: ud.NoiseSchedule, t):
    """log alpha_bar linear between the integers."""
    return np.exp(np.interp(t, np.arange(schedule.T + 1), np.log(schedule.alpha_bar)))


@dataclass(frozen=True)
class Line:
    """x_s = slope x_t + shift + noise z."""

    slope: float
    shift: float
    noise: float

    def __call__(self, mean: float, var: float) -> tuple[float, float]:
        return self.slope * mean + self.shift, self.slope**2 * var + self.noise**2


@dataclass(frozen=True)
class Data:
    """Scalars of law N(mu, std^2): every law of theirs is Gaussian and closed."""

    mu: float = 0.4
    std: float = 0.3

    def marginal(self, ab: float) -> tuple[float, float]:
        """Mean and variance of q(x_t)."""
        return ab**0.5 * self.mu, ab * self.std**2 + 1 - ab

    def guess(self, ab: float) -> tuple[float, float]:
        """(slope, shift) of E[x0 | x_t] = mu + signal std^2 / var(x_t) (x_t - signal mu)."""
        mean, var = self.marginal(ab)
        gain = ab**0.5 * self.std**2 / var
        return gain, self.mu - gain * mean

    def left(self, ab: float) -> float:
        """Var(x0 | x_t)."""
        return self.std**2 * (1 - ab) / self.marginal(ab)[1]

    def flow(self, x, ab_t: float, ab_s: float):
        """The exact probability-flow map: for Gaussian data it keeps (x - mean) / std."""
        (mean_t, var_t), (mean_s, var_s) = self.marginal(ab_t), self.marginal(ab_s)
        return mean_s + (x - mean_t) * (var_s / var_t) ** 0.5

    def line(self, kind: str, ab_t: float, ab_s: float) -> Line:
        """One step of the update called `kind` in `SAMPLED`; no noise into s = 0."""
        gain, shift = self.guess(ab_t)
        beta = 1 - ab_t / ab_s
        small = beta * (1 - ab_s) / (1 - ab_t)
        if kind.startswith("ddim"):
            var = float(kind.split()[1]) ** 2 * small
            on_eps = (1 - ab_s - var) ** 0.5 / (1 - ab_t) ** 0.5
            on_x0, on_x_t = ab_s**0.5 - on_eps * ab_t**0.5, on_eps
        else:
            on_x0, on_x_t = ab_s**0.5 * beta / (1 - ab_t), (ab_t / ab_s) ** 0.5 * (1 - ab_s) / (1 - ab_t)
            var = {"small": small, "large": beta, "exact": small + on_x0**2 * self.left(ab_t)}[kind]
        return Line(on_x_t + on_x0 * gain, on_x0 * shift, var**0.5 if ab_s < 1 else 0.0)

    def lines(self, kind: str, alpha_bars) -> list[Line]:
        return [self.line(kind, ab_t, ab_s) for ab_t, ab_s in pairwise(alpha_bars)]

    def denoiser(self, process: ud.Process, times=()):
        """The exact denoiser; with `times` it also states the exact reverse variance of the step from each of them."""
        following = dict(pairwise(times))

        def denoise(x_t: torch.Tensor, t: float) -> ud.Split:
            ab = float(alpha_bar_at(process.schedule, t))
            gain, shift = self.guess(ab)
            guess = ud.Split.from_x0(x_t, gain * x_t + shift, np.float64(ab**0.5), np.float64((1 - ab) ** 0.5))
            if process.variance != "learned":
                return guess
            fraction = self._fraction(ab, float(alpha_bar_at(process.schedule, following[t])))
            return ud.Split(guess.x0, guess.eps, guess.signal, guess.sigma, torch.full_like(x_t, fraction))

        return denoise

    def _fraction(self, ab_t: float, ab_s: float) -> float:
        """Where the log of the exact variance lies between those of small and large."""
        if ab_s == 1:
            return 0.0
        small, large, exact = (2 * np.log(self.line(kind, ab_t, ab_s).noise) for kind in ("small", "large", "exact"))
        return float((exact - small) / (large - small))


WEIGHT, MEANS, STDS = np.array([0.4, 0.6]), np.array([-0.6, 0.5]), np.array([0.1, 0.25])


@dataclass(frozen=True)
class Mixture:
    """Numbers of a law of two Gaussians: everything about them at every t is known, and no map is affine."""

    schedule: ud.NoiseSchedule

    def at(self, t: float):
        ab = float(alpha_bar_at(self.schedule, t))
        return ab, ab**0.5 * MEANS, (ab * STDS**2 + 1 - ab) ** 0.5

    def draw(self, t: float, n: int, seed: int) -> np.ndarray:
        _, means, stds = self.at(t)
        rng = np.random.default_rng(seed)
        which = (rng.random((n, 1)) > WEIGHT[0]).astype(int)
        return means[which] + stds[which] * rng.standard_normal((n, 1))

    def cdf(self, x: np.ndarray, t: float, side: int = 1) -> np.ndarray:
        """P(x_t < x); with side -1, P(x_t > x)."""
        _, means, stds = self.at(t)
        return sum(w * ndtr(side * (x - m) / s) for w, m, s in zip(WEIGHT, means, stds, strict=True))

    def denoise(self, x_t: torch.Tensor, t: float) -> ud.Split:
        """The exact denoiser, float64, of data of any shape whose numbers are independent."""
        ab, means, stds = self.at(t)
        x = x_t.double().numpy()[..., None]
        log = np.log(WEIGHT) - np.log(stds) - (x - means) ** 2 / (2 * stds**2)
        share = np.exp(log - log.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        x0 = (share * (MEANS + ab**0.5 * STDS**2 / stds**2 * (x - means))).sum(-1)
        return ud.Split.from_x0(x_t.double(), torch.from_numpy(x0), np.float64(ab**0.5), np.float64((1 - ab) ** 0.5))

    def flow(self, x: np.ndarray, t: float, s: float) -> np.ndarray:
        """The exact probability-flow map: one number's flow rises and keeps its quantile."""
        below, above = self.cdf(x, t), self.cdf(x, t, -1)
        low, high = np.full_like(x, -9.0), np.full_like(x, 9.0)
        for _ in range(60):
            middle = (low + high) / 2
            short = np.where(below < above, self.cdf(middle, s) < below, self.cdf(middle, s, -1) > above)
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        return (low + high) / 2


def run(process: ud.Process, denoise, sampler, x_T: torch.Tensor, times, seed: int = 0) -> list[ud.Frame]:
    return list(ud.trajectory(process, denoise, sampler, x_T, times, ud.rng.fold(seed, "steps")))


def assert_law(x, mean: float, var: float, sigmas: float = 4.0) -> None:
    """A Gaussian sample's mean and std lie within so many standard errors of the law's; a point mass is met exactly."""
    x = np.asarray(x, np.float64).ravel()
    std, root = var**0.5, len(x) ** 0.5
    assert abs(x.mean() - mean) <= sigmas * std / root + 1e-5, (x.mean(), mean)
    assert abs(x.std() - std) <= sigmas * std / root / 2**0.5 + 1e-5, (x.std(), std)


def near(value, rel: float):
    """pytest.approx without its silent absolute tolerance of 1e-12, which would swallow small variances."""
    return pytest.approx(value, rel=rel, abs=0)


@contextmanager
def refused(error: type[Exception], said: str) -> Iterator[None]:
    """What must fail, fails with its message (literally, somewhere in it), and the message is one line."""
    with pytest.raises(error, match=re.escape(said)) as caught:
        yield
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
