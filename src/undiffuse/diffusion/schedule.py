r"""Variance schedules: how fast the forward process turns data into noise. NumPy float64, no torch.

The forward process adds noise in T steps (Ho et al. 2020, eq. 2), and any t is reached in one jump (eq. 4):

    q(x_t | x_{t-1}) = N(sqrt(alpha_t) x_{t-1}, beta_t),           alpha_t = 1 - beta_t
    q(x_t | x_0)     = N(sqrt(alpha_bar_t) x_0, 1 - alpha_bar_t),  alpha_bar_t = prod_{i<=t} alpha_i

Tables are indexed by t itself, 0..T: index 0 is the data (beta_0 = 0, alpha_bar_0 = 1). Between integers
log alpha_bar is linear in t, so every float t in [0, T] is a time.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from undiffuse.errors import UndiffuseError, UsageError

ArrayLike = float | int | np.ndarray | np.generic | Sequence[float]
Table = np.ndarray  # float64 [T + 1]
Floats = np.ndarray | np.float64  # float64, in the shape of the times asked for

BETA_FIRST, BETA_LAST = 1e-4, 0.02  # Ho et al. 2020, section 4, for T = 1000
SIGNAL_WARN, SIGNAL_REFUSE = 0.05, 0.3  # sqrt(alpha_bar_T): sampling starts from pure noise, so little may remain


class ScheduleWarning(UserWarning):
    """The schedule is usable but leaves a trace of the data at T."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A table of beta_t, t = 1..T, and everything that follows from it.

    beta: float64 [T + 1], beta[0] = 0, every other in (0, 1); only the last may be 1 (zero terminal SNR).
    most_left: the largest sqrt(alpha_bar_T); what is above 0.05 is warned of. Raises UndiffuseError, with the offending
    value, for anything else.
    """

    beta: Table
    name: str = "betas"
    most_left: float = SIGNAL_REFUSE

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", _frozen(np.array(self.beta, np.float64)))
        self._validate()

    # -- constructors ---------------------------------------------------------------------------------------------

    @classmethod
    def linear(cls, T: int = 1000) -> "NoiseSchedule":
        """beta from 1e-4 to 0.02 in equal steps (Ho et al. 2020), times 1000 / T (Nichol & Dhariwal 2021's code)."""
        return cls._scaled("linear", np.linspace(BETA_FIRST, BETA_LAST, _count(T)))

    @classmethod
    def quadratic(cls, T: int = 1000) -> "NoiseSchedule":
        """sqrt(beta) in equal steps between the linear schedule's end points, times 1000 / T."""
        return cls._scaled("quadratic", np.linspace(BETA_FIRST**0.5, BETA_LAST**0.5, _count(T)) ** 2)

    @classmethod
    def sigmoid(cls, T: int = 1000) -> "NoiseSchedule":
        """beta a logistic curve over (-6, 6) between the linear schedule's end points, times 1000 / T.

        A sigmoid of beta. A sigmoid of alpha_bar (as in some codebases) is another schedule.
        """
        logistic = 1 / (1 + np.exp(-np.linspace(-6, 6, _count(T))))
        return cls._scaled("sigmoid", BETA_FIRST + (BETA_LAST - BETA_FIRST) * logistic)

    @classmethod
    def cosine(cls, T: int = 1000) -> "NoiseSchedule":
        """alpha_bar_t = f(t) / f(0), f(t) = cos^2(pi/2 (t/T + s) / (1 + s)), s = 0.008, beta_t at most 0.999.

        Nichol & Dhariwal 2021, eq. 17 and the text below it.
        """
        u = (np.arange(_count(T) + 1) / T + 0.008) / 1.008 * np.pi / 2
        beta = np.sin(u[1:] - u[:-1]) * np.sin(u[1:] + u[:-1]) / np.cos(u[:-1]) ** 2  # 1 - f(t) / f(t - 1), exactly
        return cls._prepend("cosine", np.minimum(beta, 0.999))

    @classmethod
    def from_betas(cls, betas: ArrayLike, name: str = "betas", most_left: float = SIGNAL_REFUSE) -> "NoiseSchedule":
        """Your own beta_1..beta_T. most_left: 1 takes those of a model that was trained so, whatever is left at T."""
        return cls._prepend(name, np.asarray(betas, np.float64), most_left)

    @classmethod
    def from_alpha_bar(cls, alpha_bar: ArrayLike, name: str = "alpha_bar") -> "NoiseSchedule":
        """Your own alpha_bar, either for t = 1..T or with alpha_bar_0 = 1 in front."""
        table = np.asarray(alpha_bar, np.float64)
        if table.ndim == 1 and len(table) and table[0] != 1:
            table = np.concatenate([[1.0], table])
        if table.ndim != 1 or len(table) < 2:
            raise UndiffuseError("alpha_bar must be a list of numbers, one for each t")
        if not (np.isfinite(table).all() and (np.diff(table) < 0).all() and table[-1] >= 0):
            raise UndiffuseError("alpha_bar must fall strictly from 1 towards 0; give it for t = 1..T in order")
        return cls._prepend(name, 1 - table[1:] / table[:-1])

    def zero_terminal_snr(self) -> "NoiseSchedule":
        """This schedule's sqrt(alpha_bar_t), t = 1..T, shifted to end at 0 and scaled to begin where it did.

        Lin et al. 2024 (Common diffusion noise schedules and sample steps are flawed), algorithm 1. Then beta_T = 1 and
        x_T holds nothing of the data: a network must predict v or x0. Raises UsageError for T = 1.
        """
        if self.T == 1:
            raise UsageError("a schedule of one step cannot both begin as it does and end at zero SNR; take a larger T")
        signal = np.exp(self.log_alpha_bar / 2)
        first, last = signal[1], signal[-1]
        signal = np.concatenate([[1.0], (signal[1:] - last) * (first / (first - last))])
        signal[-1] = 0.0
        if not (np.diff(signal**2) < 0).all() or signal[1] ** 2 == 1 or signal[-2] ** 2 < 1e-290:
            raise UsageError(
                f"the schedule '{self.name}' cannot be rescaled to zero terminal SNR: in float64 alpha_bar does not "
                "fall at every step; take betas that are neither so small nor so large"
            )
        return self.from_alpha_bar(signal**2, f"{self.name}, zero terminal SNR")

    # -- tables [T + 1] -------------------------------------------------------------------------------------------

    @property
    def T(self) -> int:
        return len(self.beta) - 1

    @cached_property
    def alpha(self) -> Table:
        """1 - beta."""
        return _frozen(1 - self.beta)

    @cached_property
    def alpha_bar(self) -> Table:
        """prod of alpha up to t; alpha_bar[0] = 1."""
        return _frozen(np.exp(self.log_alpha_bar))

    @cached_property
    def log_alpha_bar(self) -> Table:
        """Summed in log space, which keeps 1 - alpha_bar accurate near t = 0; -inf at T for zero terminal SNR."""
        with np.errstate(divide="ignore"):
            return _frozen(np.cumsum(np.log1p(-self.beta)))

    # -- any time in [0, T] ---------------------------------------------------------------------------------------

    def log_alpha_bar_at(self, t: ArrayLike) -> Floats:
        """log alpha_bar at float times, linear between integers.

        With zero terminal SNR the last interval has no finite slope; there sqrt(alpha_bar) is linear instead.
        """
        t = np.asarray(t, np.float64)
        if not ((t >= 0) & (t <= self.T)).all():
            raise UndiffuseError(
                f"t must lie in [0, {self.T}], got {t.min():g}" + ("" if t.ndim == 0 else f" to {t.max():g}")
            )
        if self.beta[-1] < 1:
            return np.interp(t, np.arange(self.T + 1), self.log_alpha_bar)
        head = np.interp(np.minimum(t, self.T - 1), np.arange(self.T), self.log_alpha_bar[:-1])
        with np.errstate(divide="ignore"):
            return head + 2 * np.log(np.minimum(1, self.T - t))

    def scales(self, t: ArrayLike) -> tuple[Floats, Floats]:
        """(signal, sigma) = (sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)), float64, in the shape of t."""
        log_alpha_bar = self.log_alpha_bar_at(t)
        return np.exp(log_alpha_bar / 2), np.sqrt(0 - np.expm1(log_alpha_bar))

    def snr(self, t: ArrayLike) -> Floats:
        """alpha_bar / (1 - alpha_bar); infinite at t = 0."""
        with np.errstate(over="ignore"):
            return np.exp(2 * self.half_log_snr(t))

    def half_log_snr(self, t: ArrayLike) -> Floats:
        """lambda_t = log(signal / sigma) (Lu et al. 2022); +inf at t = 0."""
        log_alpha_bar = self.log_alpha_bar_at(t)
        with np.errstate(divide="ignore"):
            return log_alpha_bar / 2 - np.log(0 - np.expm1(log_alpha_bar)) / 2

    def time_of(self, half_log_snr: ArrayLike) -> Floats:
        """The inverse of `half_log_snr`. Values beyond the schedule's range give 0 or T."""
        log_alpha_bar = -np.logaddexp(0, -2 * np.asarray(half_log_snr, np.float64))
        if self.beta[-1] < 1:
            return np.interp(-log_alpha_bar, -self.log_alpha_bar, np.arange(self.T + 1))
        table = self.log_alpha_bar[:-1]
        head = np.interp(-log_alpha_bar, -table, np.arange(self.T))
        tail = self.T - np.exp((log_alpha_bar - table[-1]) / 2)
        return np.where(log_alpha_bar < table[-1], tail, head)

    # -- validation -----------------------------------------------------------------------------------------------

    @classmethod
    def _scaled(cls, name: str, betas: np.ndarray) -> "NoiseSchedule":
        """A formula made for T = 1000, scaled so that the same amount of noise arrives in T steps."""
        T = len(betas)
        scaled = betas * (1000 / T)
        if scaled[-1] >= 1:
            raise UsageError(
                f"the {name} schedule with T = {T} has beta_T = {scaled[-1]:.4g}, which must be below 1; "
                f"take T of at least {int(1000 * BETA_LAST) + 1}, or the cosine schedule"
            )
        return cls._prepend(name, scaled)

    @classmethod
    def _prepend(cls, name: str, betas: np.ndarray, most_left: float = SIGNAL_REFUSE) -> "NoiseSchedule":
        if betas.ndim != 1 or not len(betas):
            raise UndiffuseError("betas must be a list of numbers, one for each t = 1..T")
        return cls(np.concatenate([[0.0], betas]), name, most_left)

    def _validate(self) -> None:
        if self.beta.ndim != 1 or len(self.beta) < 2 or self.beta[0] != 0:
            raise UndiffuseError("beta must be a table indexed by t = 0..T with beta[0] = 0; see from_betas")
        bad = ~((self.beta > 0) & (self.beta < 1))
        bad[0] = False
        bad[-1] &= self.beta[-1] != 1
        if bad.any():
            t = int(np.argmax(bad))
            raise UndiffuseError(
                f"beta must lie in (0, 1), but beta_{t} = {self.beta[t]:.6g} ({self.name}, T = {self.T})"
            )
        left = float(np.exp(self.log_alpha_bar[-1] / 2))
        message = f"sqrt(alpha_bar_T) = {left:.4g} ({self.name}, T = {self.T}): that much of the data is left at T, "
        if left > self.most_left:
            raise UndiffuseError(message + f"at most {self.most_left:g} is allowed; take larger betas or more steps")
        if left > SIGNAL_WARN:
            warnings.warn(message + "but sampling starts from pure noise", ScheduleWarning, stacklevel=4)


def _frozen(table: Table) -> Table:
    table.setflags(write=False)
    return table


def _count(T: int) -> int:
    if T < 1:
        raise UsageError(f"T must be at least 1, got {T}")
    return int(T)


SCHEDULES: dict[str, Callable[[int], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "cosine": NoiseSchedule.cosine,
    "sigmoid": NoiseSchedule.sigmoid,
    "quadratic": NoiseSchedule.quadratic,
}
