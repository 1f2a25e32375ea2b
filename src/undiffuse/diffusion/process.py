"""The diffusion process: a schedule, a noise family and a reverse variance. Any time to any time, no model in sight."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from undiffuse.diffusion.noise import Gaussian, Noise
from undiffuse.diffusion.schedule import NoiseSchedule
from undiffuse.diffusion.split import Split, expand
from undiffuse.errors import UndiffuseError, UsageError, nearest
from undiffuse.rng import Generator
from undiffuse.shapes import Data, Float64Array, Tensor, Times

VARIANCES = ("small", "large", "learned")
DECODERS = ("posterior", "beta")
EXTREME = 40.0  # a learned log variance beyond this is held here: squares over such variances stay finite in float32


@dataclass(frozen=True)
class Normal:
    """N(mean, var); var is a variance (not std, not log) and broadcasts against mean."""

    mean: Data
    var: Tensor

    @property
    def log_var(self) -> Tensor:
        return self.var.log()


@dataclass(frozen=True)
class Process:
    """x_t = signal_t x0 + sigma_t eps, forwards and backwards.

    variance: the reverse step's, "small" (beta-tilde), "large" (beta) or "learned" (Split.var_fraction says where).
    decoder: variance of p(x_0 | x_1) for "small" and "large": "posterior" at (t, s) = (2, 1) as in Ho et al. 2020's
    code, or "beta" for beta_1.
    """

    schedule: NoiseSchedule
    noise: Noise = field(default_factory=Gaussian)
    variance: Literal["small", "large", "learned"] = "small"
    decoder: Literal["posterior", "beta"] = "posterior"

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            raise UsageError(f"unknown variance '{self.variance}'; {nearest(self.variance, VARIANCES)}")
        if self.decoder not in DECODERS:
            raise UsageError(f"unknown decoder '{self.decoder}'; {nearest(self.decoder, DECODERS)}")
        if self.variance == "learned" and "posterior" not in self.noise.exact:
            raise UsageError(
                f"a learned variance needs Gaussian noise: it lies between the variances of Gaussian posteriors, which "
                f"'{self.noise.name}' has not; take 'small' or 'large'"
            )

    @property
    def T(self) -> int:
        return self.schedule.T

    def scales(self, t: Times) -> tuple[Float64Array, Float64Array]:
        """(signal, sigma) at t, float64, scalar or [b]."""
        return self.schedule.scales(as_times(t))

    # -- forwards -------------------------------------------------------------------------------------------------

    def prior(self, shape: tuple[int, ...], rng: Generator) -> Data:
        """x_T: noise of unit variance, float32 on the CPU."""
        return self.noise.draw(shape, self.schedule.snr(self.T), rng)

    def corrupt(self, x0: Data, t: Times, rng: Generator) -> Split:
        """The jump: x_t = signal_t x0 + sigma_t eps (Ho et al. 2020, eq. 4), any t at once."""
        t = as_times(t)
        eps = self.noise.draw(tuple(x0.shape), self.schedule.snr(t), rng).to(x0)
        return Split(x0, eps, *self.schedule.scales(t))

    def renoise(self, x_s: Data, s: Times, t: Times, rng: Generator) -> Data:
        """Upwards, s <= t: x_t = r x_s + sqrt(var_ts) xi, r = signal_t / signal_s, var_ts = 1 - r^2.

        Raises UsageError for a noise family without a chain.
        """
        s, t = as_times(s), as_times(t)
        ratio, var = self._gap(t, s)
        xi = self.noise.increment(tuple(x_s.shape), self._kept(t, s), self.schedule.snr(t), rng).to(x_s)
        return expand(ratio, x_s) * x_s + expand(np.sqrt(var), x_s) * xi

    def step(self, x: Data, t: Times, rng: Generator) -> Data:
        """One step of the chain: x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eta (Ho et al. 2020, eq. 2)."""
        t = as_times(t)
        return self.renoise(x, t - 1, t, rng)

    def trajectory(self, x0: Data, rng: Generator) -> Iterator[Data]:
        """x_1, x_2, ..., x_T, each from the one before by a single step."""
        x = x0
        for t in range(1, self.T + 1):
            x = self.step(x, t, rng)
            yield x

    # -- backwards ------------------------------------------------------------------------------------------------

    def from_mean(self, x_t: Data, mean: Data, t: Times, s: Times) -> Split:
        """The split whose posterior q(x_s | x_t, x0) has this mean: x0 = (mean - a x_t) / b, with the posterior's a, b.

        What a network that predicts the posterior mean itself says (Ho et al. 2020, section 3.2), s = t - 1.
        """
        t, s = as_times(t), as_times(s)
        of_x_t, of_x0, _ = self._posterior_coefficients(t, s)
        x0 = (mean - expand(of_x_t, mean) * x_t) / expand(of_x0, mean)
        return Split.from_x0(x_t, x0, *self.schedule.scales(t))

    def posterior(self, split: Split, t: Times, s: Times) -> Normal:
        """q(x_s | x_t, x0), exact for any s < t and Gaussian noise.

        mean = r sigma_s^2 / sigma_t^2 x_t + signal_s var_ts / sigma_t^2 x0,  var = var_ts sigma_s^2 / sigma_t^2.
        At s = t - 1 this is Ho et al. 2020, eq. 6-7; at s = 0 it is x0 with variance 0.
        """
        t, s = as_times(t), as_times(s)
        mean_x_t, mean_x0, var = self._posterior_coefficients(t, s)
        x0 = split.x0
        return Normal(expand(mean_x_t, x0) * split.x_t + expand(mean_x0, x0) * x0, expand(var, x0))

    def reverse(self, split: Split, t: Times, s: Times) -> Normal:
        """p(x_s | x_t): the posterior's mean at the guessed x0, and this process's variance.

        small = the posterior's; large = var_ts; learned = exp(f log large + (1 - f) log small), f = split.var_fraction
        (Nichol & Dhariwal 2021, eq. 15). At s = 0, where the posterior's variance is 0, small and large are
        `decoder_var` and learned starts from the posterior's at (2, 1); a sampler adds no noise there.
        """
        t, s = as_times(t), as_times(s)
        mean = self.posterior(split, t, s).mean
        small, large = self._posterior_coefficients(t, s)[2], self._gap(t, s)[1]
        if self.variance == "learned":
            log_var = self._interpolate(split, np.where(s == 0, self._first_var, small), large)
            return Normal(mean, log_var.exp())
        fixed = large if self.variance == "large" else small
        return Normal(mean, expand(np.where(s == 0, self.decoder_var, fixed), mean))

    def carried(self, split: Split, s: Times) -> Data:
        """The state at another time that has the same x0 and eps: signal_s x0 + sigma_s eps (Song, Meng & Ermon 2021,
        eq. 12, eta = 0)."""
        signal, sigma = (expand(scale, split.x0) for scale in self.scales(s))
        return signal * split.x0 + sigma * split.eps

    def drawn(self, split: Split, t: Times, s: Times, rng: Generator) -> Data:
        """x_s of the reverse step: mean + sqrt(var) z (Ho et al. 2020, Algorithm 2), and the mean alone at s = 0.

        Other noise families with the small variance: signal_s x0 + sigma_s eps_s, eps_s drawn by `Noise.bridge`.
        """
        t, s = as_times(t), as_times(s)
        to = self.reverse(split, t, s)
        if (s == 0).all():
            return to.mean
        kept, snr, shape = self._kept(t, s), self.schedule.snr(s), tuple(split.x0.shape)
        if self.variance == "small" and "posterior" not in self.noise.exact:
            signal, sigma = (expand(scale, split.x0) for scale in self.schedule.scales(s))
            return signal * split.x0 + sigma * self.noise.bridge(split.eps, kept, snr, rng)
        std = to.var.sqrt() * expand(np.asarray(s > 0, np.float64), to.mean)
        return to.mean + std * self.noise.renewal(shape, kept, snr, rng).to(split.x0)

    @property
    def decoder_var(self) -> float:
        """Variance of p(x_0 | x_1): the posterior's at (t, s) = (2, 1), or beta_1."""
        return float(self.schedule.beta[1]) if self.decoder == "beta" else self._first_var

    @property
    def _first_var(self) -> float:
        """The posterior's variance at (t, s) = (2, 1), the smallest that is not 0; beta_1 when T = 1 has no t = 2."""
        if self.T == 1:
            return float(self.schedule.beta[1])
        return float(self._posterior_coefficients(np.float64(2), np.float64(1))[2])

    # -- coefficients, float64 ------------------------------------------------------------------------------------

    def _gap(self, t: Float64Array, s: Float64Array) -> tuple[Float64Array, Float64Array]:
        """r = signal_t / signal_s and var_ts = 1 - r^2, both from the difference of the logs (no cancellation)."""
        _ordered(s, t, s <= t, "s must not exceed t")
        with np.errstate(invalid="ignore"):  # -inf - -inf for s = t = T with beta_T = 1
            log_ratio = self.schedule.log_alpha_bar_at(t) - self.schedule.log_alpha_bar_at(s)
        log_ratio = np.where(s == t, 0.0, log_ratio)
        return np.exp(log_ratio / 2), -np.expm1(log_ratio)

    def _kept(self, t: Float64Array, s: Float64Array) -> Float64Array:
        """The correlation of eps_s and eps_t, s <= t: sqrt(SNR_t / SNR_s) = r sigma_s / sigma_t."""
        ratio, _ = self._gap(t, s)
        (_, sigma_s), (_, sigma_t) = self.schedule.scales(s), self.schedule.scales(t)
        return np.where(s == t, 1.0, ratio * sigma_s / np.where(sigma_t > 0, sigma_t, 1.0))

    def _posterior_coefficients(self, t: Float64Array, s: Float64Array) -> tuple[Float64Array, ...]:
        """(of x_t in the mean, of x0 in the mean, variance) of q(x_s | x_t, x0)."""
        _ordered(s, t, s < t, "s must be below t")
        ratio, var_ts = self._gap(t, s)
        signal_s, sigma_s = self.schedule.scales(s)
        _, sigma_t = self.schedule.scales(t)
        return ratio * sigma_s**2 / sigma_t**2, signal_s * var_ts / sigma_t**2, var_ts * sigma_s**2 / sigma_t**2

    def _interpolate(self, split: Split, small: Float64Array, large: Float64Array) -> Tensor:
        if split.var_fraction is None:
            raise UndiffuseError("learned variance needs a model that predicts it; this one gives no var_fraction")
        low, high = (expand(np.log(var), split.x0) for var in (small, large))
        return (split.var_fraction * (high - low) + low).clamp(-EXTREME, EXTREME)


def _ordered(s: Float64Array, t: Float64Array, holds: np.ndarray | np.bool, rule: str) -> None:
    if not np.all(holds):
        first = np.argmin(holds)
        s, t = (np.broadcast_to(time, np.shape(holds)).flat[first] for time in (s, t))
        raise UndiffuseError(f"{rule}, got s = {s:g}, t = {t:g}")


def as_times(t: Times) -> Float64Array:
    """A time or times as NumPy float64, scalar or [b]."""
    if isinstance(t, Tensor):
        t = t.detach().cpu().numpy()
    return np.asarray(t, np.float64)
