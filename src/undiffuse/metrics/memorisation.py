"""Memorisation: are samples nearer to the images that a model was trained on than to others of the same kind?"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Nearest:
    """The nearest of some images to each sample. squared [n]: squared distance; row [n]: which image it is."""

    squared: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, blocks: Iterable[np.ndarray]) -> "Nearest":
        """Of samples [n, d] among the rows of blocks [*, d] that come one after the other; the first, if several.

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


def share_nearer(train: Nearest, held_out: Nearest) -> float:
    """How many samples are nearer to a train image than to any held-out one; a tie is half (fair to two images).

    Fresh data of the same law would give N / (N + M) with N train and M held-out images, since its nearest neighbour is
    as likely any of them; a model that copies gives 1. All of the train images are looked at, as a copy may be of any;
    so the two sets differ in size, and N / (N + M) in place of 1/2 makes up for it. (Meehan, Chaudhuri & Dasgupta 2020
    compare the same three sets by how far samples and held-out images lie from train images.)
    """
    return float(((train.squared < held_out.squared) + 0.5 * (train.squared == held_out.squared)).mean())
