"""Memorisation: are samples nearer to the images that a model was trained on than to others of the same kind?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Nearest:
    """The nearest of some images to each sample. squared [n]: squared distance; row [n]: which image it is."""

    squared: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, blocks: Iterable[np.ndarray]) -> "Nearest":
        """The nearest rows to samples [n, d] among blocks [*, d] that come one after the other; the first, if several.

        Grey levels are whole numbers, for which float64 is exact: equal pictures are at distance 0 and ties are ties.
        """
        x = np.asarray(samples, np.float64)
        squared, row = np.full(len(x), np.inf), np.full(len(x), -1)
        x2, done = (x * x).sum(1), 0
        for block in blocks:
            y = np.asarray(block, np.float64)
            near = x @ y.T
            near *= -2
            near += (y * y).sum(1)
            best = near.argmin(1)
            least = near[np.arange(len(x)), best] + x2
            closer = least < squared
            squared[closer], row[closer] = least[closer], done + best[closer]
            done += len(y)
        return cls(squared, row)

    @classmethod
    def together(cls, parts: Sequence["Nearest"]) -> "Nearest":
        """The nearest rows of several sets of samples, as one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("squared", "row")))


def split_error(train: Nearest, held_out: Nearest, N: int, M: int) -> float:
    """Standard deviation of `share_nearer` over all ways to hold out M of the N + M real images, for these samples.

    With m_j the share of samples whose nearest of all real images is j, L = N + M and p = N / L, the share is the sum
    of m_j over the train images, which are drawn without replacement, so that its variance is
    p (1 - p) (sum m_j^2 - 1 / L) L / (L - 1) (Cochran 1977, theorem 2.2): what chance makes of samples that know
    nothing of the split. It is larger than the binomial p (1 - p) / n where many samples have the same nearest image.
    (Here ties are given to train images.)
    """
    total = N + M
    row = np.where(train.squared <= held_out.squared, train.row, N + held_out.row)
    mass = np.bincount(row, minlength=total) / len(row)
    spread = max(float((mass**2).sum()) - 1 / total, 0.0)
    return float(np.sqrt(N * M / total**2 * spread * total / (total - 1)))


def share_nearer(train: Nearest, held_out: Nearest) -> float:
    """The share of samples that are nearer to a train image than to any held-out one; a tie is half (fair to two
    images).

    Fresh data of the same law would give N / (N + M) with N train and M held-out images, since its nearest neighbour is
    as likely any of them; a model that copies gives 1. All of the train images are looked at, as a copy may be of any;
    so the two sets differ in size, and N / (N + M) in place of 1/2 makes up for it. (Meehan, Chaudhuri & Dasgupta 2020
    compare the same three sets by how far samples and held-out images lie from train images.)
    """
    return float(((train.squared < held_out.squared) + 0.5 * (train.squared == held_out.squared)).mean())
