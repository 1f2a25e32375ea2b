"""Frechet distance between two sets of images, from mergeable sums of their features."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from undiffuse.errors import UndiffuseError
from undiffuse.rng import permutation
from undiffuse.shapes import Images, Tensor

Features = Callable[[Tensor], np.ndarray]  # images in [-1, 1] -> float64 [n, d]
GROUPS = 10


def pixels(images: Images) -> np.ndarray:
    """The simplest features: every pixel, in [-1, 1]."""
    return images.flatten(1).double().numpy()


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
        """Sums over float64 [n, d], dealt into groups at random: in order, a group can be a whole class."""
        if not np.isfinite(features).all():
            raise UndiffuseError("some features are not finite: the images hold NaN or infinity")
        features = features[permutation(len(features), 0, "groups")]
        parts = [features[start::groups] for start in range(groups)]
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


def frechet(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

    The trace of the root is that of the symmetric root of A C_b A with A = C_a^(1/2): two symmetric eigenproblems,
    never complex, fine with singular covariances.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def frechet_with_error(sums: FeatureSums, reference: FeatureSums) -> tuple[float, float | None]:
    """The distance, and its delete-a-group jackknife standard error over the first argument's groups.

    The error is None if there are fewer than two images a group.
    """
    against = reference.moments()
    groups = len(sums.count)
    value = frechet(sums.moments(), against)
    if sums.n < 2 * groups:
        return value, None
    left_out = np.array([frechet(sums.moments(without=group), against) for group in range(groups)])
    return value, float(np.sqrt((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum()))
