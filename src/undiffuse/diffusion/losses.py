"""Losses compare two splits, the true and the guessed one, and give one number per datum. They never see a model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch.nn.functional as F

from undiffuse.diffusion.likelihood import bound_term
from undiffuse.diffusion.process import Process, as_times
from undiffuse.diffusion.split import Split, expand
from undiffuse.errors import UsageError, nearest
from undiffuse.shapes import Float64Array, PerDatum, Tensor, Times

FIELDS = ("eps", "x0", "v", "score", "mean")
HYBRID = 0.001  # Nichol & Dhariwal 2021, section 3.1: lambda of L_hybrid = L_simple + lambda L_vlb
Distance = Callable[[Tensor, Tensor], Tensor]  # elementwise

DISTANCES: dict[str, Distance] = {
    "l2": lambda guess, truth: (guess - truth) ** 2,
    "l1": lambda guess, truth: (guess - truth).abs(),
    "huber": lambda guess, truth: F.huber_loss(guess, truth, reduction="none"),  # delta = 1
}

# Weights of the squared error of x0, as functions of the signal-to-noise ratio; "none" weighs the compared field by 1.
Weight = Callable[[Float64Array], Float64Array]
WEIGHTINGS: dict[str, Weight | None] = {
    "none": None,
    "snr": lambda snr: snr,  # the plain error of eps: Ho et al. 2020, eq. 14
    "min_snr": lambda snr: np.minimum(snr, 5.0),  # Hang et al. 2023, gamma = 5
    "truncated_snr": lambda snr: np.maximum(snr, 1.0),  # Salimans & Ho 2022, section 4
    "p2": lambda snr: snr / (1 + snr),  # Choi et al. 2022, eq. 8, k = gamma = 1
    "edm": lambda snr: snr + 4.0,  # Karras et al. 2022, table 1: 1 / sigma^2 + 1 / sigma_data^2, sigma_data = 0.5
}
# The squared error of a field in units of that of x0, for splits that share x_t: eps-MSE = SNR x0-MSE, and so on.
SCALES: dict[str, Weight] = {
    "x0": lambda snr: np.ones_like(snr),
    "eps": lambda snr: snr,
    "v": lambda snr: snr + 1,
    "score": lambda snr: snr * (snr + 1),  # score = -eps / sigma, 1 / sigma^2 = SNR + 1
}


@runtime_checkable
class Loss(Protocol):
    def __call__(self, process: Process, truth: Split, guess: Split, t: Times) -> PerDatum: ...


@dataclass(frozen=True)
class Simple:
    """|eps - eps_theta|^2 (Ho et al. 2020, eq. 14), averaged over the datum as their code does; or another field.

    field: what is compared ("eps", "x0", "v", "score", "mean" of the posterior), usually what the network predicts.
    distance: "l2" (squared), "l1" (absolute) or "huber" (delta = 1).
    weight: a row of WEIGHTS; all but "none" stand for weights of the squared error of x0, whatever the field.
    """

    field: str = "eps"
    distance: str = "l2"
    weight: str = "none"

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise UsageError(f"unknown loss '{self.distance}'; {nearest(self.distance, list(DISTANCES))}")
        if self.field not in FIELDS:
            raise UsageError(f"a loss cannot compare '{self.field}'; {nearest(self.field, FIELDS)}")
        if self.weight not in WEIGHTINGS:
            raise UsageError(f"unknown weighting '{self.weight}'; {nearest(self.weight, list(WEIGHTINGS))}")
        if self.weight != "none" and (self.distance != "l2" or self.field not in SCALES):
            raise UsageError(
                f"weighting '{self.weight}' is defined for the l2 loss of {', '.join(SCALES)}; "
                f"leave it at 'none' for {self.distance} of {self.field}"
            )

    def __call__(self, process: Process, truth: Split, guess: Split, t: Times) -> PerDatum:
        if self.field == "score":
            check_score(process)
        error = DISTANCES[self.distance](*(_field(process, split, t, self.field) for split in (guess, truth)))
        return (error * expand(self.factor(process, t), error)).flatten(1).mean(1)

    def factor(self, process: Process, t: Times) -> Float64Array:
        """The factor of the compared field's error at t."""
        weight, times = WEIGHTINGS[self.weight], as_times(t)
        if weight is None:
            return np.ones_like(times)
        snr = process.schedule.snr(times)
        if self.field in ("eps", "score") and np.any(snr == 0):
            raise UsageError(
                f"weighting '{self.weight}' of {self.field} has no meaning where no signal is left (beta_T = 1); "
                "compare 'v' or 'x0'"
            )
        return weight(snr) / SCALES[self.field](snr)


@dataclass(frozen=True)
class ScoreMatching:
    """sigma_t^2 |score - score_theta|^2: denoising score matching with Song & Ermon 2019's weight (section 4.2).

    The same number as the squared error of eps, whatever the network predicts. Gaussian noise only.
    """

    def __call__(self, process: Process, truth: Split, guess: Split, t: Times) -> PerDatum:
        check_score(process)
        error = (guess.score - truth.score) ** 2
        return (error * expand(process.scales(t)[1] ** 2, error)).flatten(1).mean(1)


def check_score(process: Process, what: str = "score matching") -> None:
    """Raise UsageError for a noise family whose score is not -eps / sigma."""
    if "score" not in process.noise.exact:
        raise UsageError(
            f"{what} needs Gaussian noise: score = -eps / sigma holds for no other, not '{process.noise.name}' noise"
        )


@dataclass(frozen=True)
class VLB:
    """T L_{t-1} in bits per dimension (L_0 at t = 1): for t uniform in 1..T its mean is the bound but for L_T.

    levels: of the data's grid, for L_0.
    """

    levels: int

    def __call__(self, process: Process, truth: Split, guess: Split, t: Times) -> PerDatum:
        return process.T * bound_term(process, truth, guess, t, self.levels)


@dataclass(frozen=True)
class Hybrid:
    """L_simple + 0.001 L_vlb (Nichol & Dhariwal 2021, eq. 16); the second teaches the variance alone, not the mean."""

    simple: Simple
    levels: int

    def __call__(self, process: Process, truth: Split, guess: Split, t: Times) -> PerDatum:
        still = replace(guess, x0=guess.x0.detach(), eps=guess.eps.detach())
        return self.simple(process, truth, guess, t) + HYBRID * VLB(self.levels)(process, truth, still, t)


def _field(process: Process, split: Split, t: Times, name: str) -> Tensor:
    if name == "mean":
        times = as_times(t)
        return process.posterior(split, times, times - 1).mean
    value: Tensor = getattr(split, name)
    return value


@dataclass(frozen=True)
class Choice:
    """What a configuration says of its loss: the predicted field, the weighting, the levels of the data's grid."""

    field: str
    weight: str = "none"
    levels: int = 256


LOSSES: dict[str, Callable[[Choice], Loss]] = {
    "l2": lambda choice: Simple(choice.field, "l2", choice.weight),
    "l1": lambda choice: Simple(choice.field, "l1", choice.weight),
    "huber": lambda choice: Simple(choice.field, "huber", choice.weight),
    "vlb": lambda choice: VLB(choice.levels),
    "hybrid": lambda choice: Hybrid(Simple(choice.field, "l2", choice.weight), choice.levels),
    "score_matching": lambda choice: ScoreMatching(),
}
