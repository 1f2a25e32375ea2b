"""What an evaluation found: numbers with their errors, how they were measured, and pictures of the closest samples."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from undiffuse.metrics.base import Estimate


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The samples closest to a train image, and the real images nearest to each: uint8 [k, h, w, c], and the distances
    to those, [k], in grey levels of the data by root mean square."""

    generated: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    to_train: list[float]
    to_held_out: list[float]


@dataclass(frozen=True)
class Evaluation:
    """The measures of a model or of pictures.

    metrics: each measure by name. per_class: for those that are also taken of one class alone, name -> class ->
    Estimate; empty without classes. protocol: everything that the numbers depend on, as JSON holds it. neighbours: the
    samples nearest to a train image; None where memorisation was not measured.
    """

    metrics: dict[str, Estimate]
    per_class: dict[str, dict[str, Estimate]]
    protocol: dict[str, Any]
    neighbours: Neighbours | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """{"metrics": {name: {value, stderr, floor, unit, n}}, "protocol": {...}}: what is written as JSON.

        Between them, where there are several classes, "per_class": {name: {class: {value, stderr, floor, unit, n}}}.
        """
        by_class = {name: _as_dicts(classes) for name, classes in self.per_class.items()}
        return {
            "metrics": _as_dicts(self.metrics),
            **({"per_class": by_class} if by_class else {}),
            "protocol": self.protocol,
        }


def _as_dicts(estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.as_dict() for name, estimate in estimates.items()}
