"""What a measure gives: a number, how sure it is, and what real data would score."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from undiffuse.rng import permutation

GROUPS = 10
Rows = np.ndarray  # [n, d], float32 or float64


@dataclass(frozen=True)
class Estimate:
    """value ± stderr in `unit`, from n generated images.

    floor is the same measure of real images: for most, of as many train images in the samples' place (all, if there are
    fewer), which is what a perfect model would score; see each measure. None where there is none to compare with.
    says: what the protocol must know besides.
    """

    value: float
    stderr: float | None
    floor: float | None
    unit: str
    n: int
    says: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("value", "stderr", "floor", "unit", "n")}


def dealt(rows: np.ndarray, groups: int) -> list[np.ndarray]:
    """Rows in groups at random: in order, a group can be a whole class."""
    rows = rows[permutation(len(rows), 0, "groups")]
    return [rows[start::groups] for start in range(groups)]


def jackknife(left_out: Sequence[float]) -> float:
    """Standard error of a number, from its values without each of g groups in turn (Efron & Tibshirani 1993, 11.5)."""
    values, g = np.array(left_out), len(left_out)
    return float(np.sqrt((g - 1) / g * ((values - values.mean()) ** 2).sum()))


def combined_error(stderrs: Sequence[float | None]) -> float | None:
    """The error of a mean of independent estimates; steadier than the spread of a few of them."""
    known = [stderr for stderr in stderrs if stderr is not None]
    return float(np.sqrt(np.square(known).sum()) / len(known)) if len(known) == len(stderrs) else None


def spread_error(values: np.ndarray) -> float:
    """Standard error of the mean over sampling seeds."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))
