"""Inception Score from class probabilities, by mergeable sums."""

from dataclasses import dataclass

import numpy as np

from undiffuse.metrics.base import GROUPS, dealt, jackknife


@dataclass(frozen=True)
class ClassSums:
    """Counts, sums of class probabilities and of their negative entropies, in groups so that an error can be had.

    count [g], total [g, k], information [g]: sums of 1, p and sum_y p(y) ln p(y).
    """

    count: np.ndarray
    total: np.ndarray
    information: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray, groups: int = GROUPS) -> "ClassSums":
        """Sums over class probabilities [n, k]."""
        parts = dealt(np.asarray(p, np.float64), groups)
        informations = [np.where(part > 0, part * np.log(np.where(part > 0, part, 1)), 0).sum() for part in parts]
        counts = np.array([len(part) for part in parts], np.float64)
        return cls(counts, np.stack([part.sum(0) for part in parts]), np.array(informations))

    def merge(self, other: "ClassSums") -> "ClassSums":
        return ClassSums(self.count + other.count, self.total + other.total, self.information + other.information)

    def score(self, without: int | None = None) -> float:
        """exp of the mean over x of KL(p(y | x) || p(y)) (Salimans et al. 2016, section 4), between 1 and k; of all
        groups or of all but one."""
        keep = np.arange(len(self.count)) != (-1 if without is None else without)
        n = self.count[keep].sum()
        marginal = self.total[keep].sum(0) / n
        seen = marginal[marginal > 0]
        return float(np.exp(self.information[keep].sum() / n - (seen * np.log(seen)).sum()))


def inception_score(p: np.ndarray) -> tuple[float, float | None]:
    """The score of all rows of p [n, k] at once, and its delete-a-group jackknife error (None: under two a group).

    The mean of ten splits' scores, which the paper prints, is the score of n / 10 images: their marginal is rougher.
    """
    sums = ClassSums.of(p)
    if len(p) < 2 * GROUPS:
        return sums.score(), None
    return sums.score(), jackknife([sums.score(without=group) for group in range(GROUPS)])
