"""What training says of itself: means over the steps since it last spoke."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

QUARTERS = 4


@dataclass(frozen=True)
class Report:
    """Means over the steps since the last report. loss_q: by quarter of t, None where no t fell. skipped: in all.

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
    """Sums since the last report: of weighted losses (all, then by quarter of t), and of the weights."""

    def __init__(self) -> None:
        self.sums = np.zeros((2, 1 + QUARTERS))
        self.steps, self.updates, self.norm, self.seconds = 0, 0, 0.0, 0.0

    def add(self, losses: np.ndarray, weight: np.ndarray, t_over_T: np.ndarray, norm: float) -> None:
        quarter = np.ceil(t_over_T * QUARTERS).astype(int)  # t in (0, T] -> 1..4
        for place in (np.zeros_like(quarter), quarter):
            self.sums[0] += np.bincount(place, losses * weight, 1 + QUARTERS)
            self.sums[1] += np.bincount(place, weight, 1 + QUARTERS)
        self.updates += 1
        self.norm += norm

    def means(self, sums: np.ndarray) -> tuple[float | None, ...]:
        """Loss, then by quarter; None where nothing fell."""
        return tuple(float(a / n) if n else None for a, n in zip(*sums, strict=True))
