"""Losses compare two splits, the true and the guessed one, and give one number per datum. They never see a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch.nn.functional as F

from undiffuse.diffusion.process import Process
from undiffuse.diffusion.split import Split
from undiffuse.errors import UsageError, nearest
from undiffuse.shapes import PerDatum, Tensor, Times

FIELDS = ("eps", "x0", "v", "score")
Distance = Callable[[Tensor, Tensor], Tensor]  # elementwise

DISTANCES: dict[str, Distance] = {
    "l2": lambda guess, truth: (guess - truth) ** 2,
    "l1": lambda guess, truth: (guess - truth).abs(),
    "huber": lambda guess, truth: F.huber_loss(guess, truth, reduction="none"),  # delta = 1
}


@runtime_checkable
class Loss(Protocol):
    def __call__(self, process: Process, truth: Split, guess: Split, t: Times) -> PerDatum: ...


@dataclass(frozen=True)
class Simple:
    """|eps - eps_theta|^2 (Ho et al. 2020, eq. 14), averaged over the datum as their code does; or another field.

    field: the split's field that is compared ("eps", "x0", "v", "score"), usually the one the network predicts.
    distance: "l2" (squared), "l1" (absolute) or "huber" (delta = 1).
    """

    field: str = "eps"
    distance: str = "l2"

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise UsageError(f"unknown loss '{self.distance}'; {nearest(self.distance, list(DISTANCES))}")
        if self.field not in FIELDS:
            raise UsageError(f"a loss cannot compare '{self.field}'; {nearest(self.field, FIELDS)}")

    def __call__(self, process: Process, truth: Split, guess: Split, t: Times) -> PerDatum:
        error = DISTANCES[self.distance](getattr(guess, self.field), getattr(truth, self.field))
        return error.flatten(1).mean(1)


LOSSES: dict[str, Callable[[str], Loss]] = {  # name -> predicted field -> loss
    "l2": lambda field: Simple(field, "l2"),
    "l1": lambda field: Simple(field, "l1"),
    "huber": lambda field: Simple(field, "huber"),
}
