"""Frechet distance between two sets of images, from mergeable sums of their features."""

from dataclasses import dataclass

import numpy as np

from undiffuse.errors import UndiffuseError
from undiffuse.metrics.base import GROUPS, dealt, jackknife

MANY_FEATURES = 512  # features, beyond which the error is linearised


@dataclass(frozen=True)
class FeatureSums:
    """Counts, sums and sums of outer products of features, kept in groups so that a standard error can be had.

    Adding two of them is exact and in any order gives the same mean and covariance up to float64 rounding.
    count [g], total [g, d], outer [g, d, d].
    """

    count: np.ndarray
    total: np.ndarray
    outer: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, groups: int = GROUPS) -> "FeatureSums":
        """Sums over float64 [n, d]."""
        if not np.isfinite(features).all():
            raise UndiffuseError("some features are not finite: the images hold NaN or infinity")
        parts = dealt(features, groups)
        return cls(
            np.array([len(part) for part in parts], np.float64),
            np.stack([part.sum(0) for part in parts]),
            np.stack([part.T @ part for part in parts]),
        )

    def merge(self, other: "FeatureSums") -> "FeatureSums":
        return FeatureSums(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def n(self) -> int:
        return int(self.count.sum())

    def moments(self, without: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean [d] and covariance [d, d] (divided by n - 1), of all groups or of all but one."""
        keep = np.arange(len(self.count)) != (-1 if without is None else without)
        n = self.count[keep].sum()
        if n < 2:
            raise UndiffuseError("a Frechet distance needs at least 2 images on each side")
        mean = self.total[keep].sum(0) / n
        return mean, (self.outer[keep].sum(0) - n * np.outer(mean, mean)) / (n - 1)


Moments = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """Moments that others are compared with, and the symmetric root of their covariance: made once, used often."""

    mean: np.ndarray
    cov: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, moments: Moments) -> "Reference":
        mean, cov = moments
        values, vectors = np.linalg.eigh(cov)
        return cls(mean, cov, (vectors * np.sqrt(values.clip(min=0))) @ vectors.T)

    def distance(self, moments: Moments) -> float:
        """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

        The trace of the root is that of the symmetric root of B C_a B with B = C_b^(1/2): two symmetric eigenproblems,
        never complex, fine with singular covariances.
        """
        mean, cov = moments
        cross = np.sqrt(np.linalg.eigvalsh(self.root @ cov @ self.root).clip(min=0)).sum()
        return float(((mean - self.mean) ** 2).sum() + np.trace(cov) + np.trace(self.cov) - 2 * cross)

    def slope(self, moments: Moments) -> Moments:
        """The derivative of the distance by the mean [d] and the covariance [d, d]: 2 (m_a - m_b) and
        1 - B (B C_a B)^(-1/2) B, the matrix that is 1 less the optimal transport map (Givens & Shortt 1984)."""
        mean, cov = moments
        values, vectors = np.linalg.eigh(self.root @ cov @ self.root)
        kept = values > values.max() * 1e-12
        inverse = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
        return 2 * (mean - self.mean), np.eye(len(mean)) - self.root @ inverse @ self.root


def frechet(a: Moments, b: Moments) -> float:
    """The distance of Reference.distance, which is symmetric."""
    return Reference.of(b).distance(a)


def frechet_with_error(sums: FeatureSums, reference: FeatureSums) -> tuple[float, float | None]:
    """The distance, and its delete-a-group jackknife standard error over the first argument's groups.

    The error is None if there are fewer than two images a group. Beyond 512 features the distance without a group is
    taken from the slope at the whole, which costs one eigenproblem instead of ten; it needs twice as many images as
    features, and the error is None with fewer.
    """
    against, whole = Reference.of(reference.moments()), sums.moments()
    groups, d = len(sums.count), len(whole[0])
    value = against.distance(whole)
    if sums.n < 2 * groups or (d > MANY_FEATURES and sums.n < 2 * d):
        return value, None
    parts = [sums.moments(without=group) for group in range(groups)]
    if d > MANY_FEATURES:
        by_mean, by_cov = against.slope(whole)
        left_out = [float(by_mean @ (m - whole[0]) + (by_cov * (c - whole[1])).sum()) for m, c in parts]
    else:
        left_out = [against.distance(part) for part in parts]
    return value, jackknife(left_out)
