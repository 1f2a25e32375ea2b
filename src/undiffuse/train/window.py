"""What training says of itself: means over the steps since it last spoke."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

QUARTER_COUNT = 4


@dataclass(frozen=True)
class Report:
    """Estimates of the mean loss over all t, from the steps since the last report. skipped: in all.

    loss_q: over each quarter of t, None where no t fell. With weighted times both are means of weight * loss: no other
    than those of uniform times in expectation, where a ratio to the sum of the weights would be swayed by rare ones.

    extra: `scale` and `overflows` of fp16; `micro_batch`, how many pictures a process handles at once, if not all.
    """

    step: int
    loss: float | None
    loss_q: tuple[float | None, ...]
    grad_norm: float | None
    lr: float
    images_per_s: float
    skipped: int
    extra: dict[str, float | int] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """The line of metrics.jsonl."""
        quarters = {f"loss_q{i + 1}": value for i, value in enumerate(self.loss_q)}
        numbers = {"grad_norm": self.grad_norm, "lr": self.lr, "images_per_s": self.images_per_s}
        return {"step": self.step, "loss": self.loss, **quarters, **numbers, "skipped": self.skipped, **self.extra}


class Window:
    """Sums since the last report, over all t and by quarter: weighted losses, the rows they stand for, and those drawn.

    Rows that were drawn otherwise than uniformly stand for as many as would have fallen there of uniform ones.
    """

    def __init__(self, T: int) -> None:
        self.shares = np.bincount(_quarter(np.arange(1, T + 1) / T), minlength=1 + QUARTER_COUNT) / T
        self.shares[0] = 1.0
        self.sums = np.zeros((3, 1 + QUARTER_COUNT))
        self.steps, self.updates, self.norm, self.seconds = 0, 0, 0.0, 0.0

    def add(self, losses: np.ndarray, weight: np.ndarray, t_over_T: np.ndarray, norm: float) -> None:
        quarter = _quarter(t_over_T)
        fell = np.bincount(quarter, minlength=1 + QUARTER_COUNT)
        fell[0] = len(quarter)
        self.sums[0] += np.bincount(quarter, losses * weight, 1 + QUARTER_COUNT)
        self.sums[0, 0] += (losses * weight).sum()
        self.sums[1] += fell if (weight == 1).all() else len(quarter) * self.shares
        self.sums[2] += fell
        self.updates += 1
        self.norm += norm

    def means(self, sums: np.ndarray) -> tuple[float | None, ...]:
        """Loss, then by quarter; None where nothing fell."""
        return tuple(float(a / n) if fell else None for a, n, fell in zip(*sums, strict=True))


def _quarter(t_over_T: np.ndarray) -> np.ndarray:
    """t in (0, T] -> 1..4"""
    return np.asarray(np.ceil(t_over_T * QUARTER_COUNT).astype(int))
