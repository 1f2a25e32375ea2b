"""Precision and recall, density and coverage: which images of one set lie among those of another.

The manifold of a set is the union of balls around its images, each as wide as the distance to the image's k-th nearest
neighbour in the set; balls are closed. The numbers depend on how many images there are, so sets are compared in like
sizes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from undiffuse.errors import UndiffuseError
from undiffuse.metrics.base import Rows

MANIFOLD_BLOCK = 1000
K_PRECISION, K_DENSITY = 3, 5  # the papers' own
SLACK = 1e-12  # of the sum of squared norms: what float64 leaves open in a squared distance, so that equal is equal


@dataclass(frozen=True)
class Membership:
    """Membership of two sets in each other's balls. precise [n]: a sample in some real ball of k = 3. recalled [m]: a
    real image in some sample's ball of k = 3. inside [n]: in how many real balls of k = 5 a sample is. covered [m]: a
    real image in whose ball of k = 5 some sample is."""

    precise: np.ndarray
    recalled: np.ndarray
    inside: np.ndarray
    covered: np.ndarray

    @property
    def precision(self) -> float:
        """The share of samples among real images (Kynkaanniemi et al. 2019, eq. 1-2)."""
        return float(self.precise.mean())

    @property
    def recall(self) -> float:
        """The share of real images among samples (the same)."""
        return float(self.recalled.mean())

    @property
    def density(self) -> float:
        """Real balls a sample is in, over k (Naeem et al. 2020, section 3): 1 in the mean for equal laws."""
        return float(self.inside.mean() / K_DENSITY)

    @property
    def density_error(self) -> float:
        """Standard error over samples, with the real images as they are."""
        return float(self.inside.std(ddof=1) / np.sqrt(len(self.inside)) / K_DENSITY)

    @property
    def coverage(self) -> float:
        """The share of real balls with a sample in them (Naeem et al. 2020, section 3)."""
        return float(self.covered.mean())


def membership(samples: Rows, real: Rows) -> Membership:
    """The membership of features [n, d] and [m, d], exact, in blocks of float64. Raises UndiffuseError for 5 images or
    fewer."""
    n, m = len(samples), len(real)
    if min(n, m) <= K_DENSITY:
        raise UndiffuseError(
            f"precision, recall, density and coverage need more than {K_DENSITY} images on each side, "
            f"here are {n} and {m}"
        )
    wide = radii(real)
    real3, real5, sample3 = wide[:, K_PRECISION - 1], wide[:, K_DENSITY - 1], radii(samples)[:, K_PRECISION - 1]
    precise, recalled, covered = np.zeros(n, bool), np.zeros(m, bool), np.zeros(m, bool)
    inside = np.zeros(n, np.int64)
    for rows, columns, near, slack in _blocks(samples, real):
        near -= slack
        within = near <= real5[columns]
        precise[rows] |= (near <= real3[columns]).any(1)
        recalled[columns] |= (near <= sample3[rows, None]).any(0)
        inside[rows] += within.sum(1)
        covered[columns] |= within.any(0)
    return Membership(precise, recalled, inside, covered)


def radii(x: Rows, k: int = K_DENSITY) -> np.ndarray:
    """Squared distances from each row to its 1st ... k-th nearest other one: float64 [n, k], ascending."""
    nearest = np.full((len(x), k), np.inf)
    for rows, columns, near, _ in _blocks(x, x):
        if rows == columns:
            np.fill_diagonal(near, np.inf)
        least = near if near.shape[1] <= k else np.partition(near, k - 1, axis=1)[:, :k]
        nearest[rows] = np.partition(np.concatenate([nearest[rows], least], 1), k - 1, axis=1)[:, :k]
    return np.sort(nearest, axis=1)


def _blocks(a: Rows, b: Rows) -> Iterator[tuple[slice, slice, np.ndarray, np.ndarray]]:
    """Rows of a, rows of b, their squared distances, and how far rounding may have moved those."""
    centre = b.mean(0, dtype=np.float64)  # |a|^2 + |b|^2 - 2 a.b keeps more digits close to the origin
    for i in range(0, len(a), MANIFOLD_BLOCK):
        x = a[i : i + MANIFOLD_BLOCK] - centre
        x2 = (x * x).sum(1)[:, None]
        for j in range(0, len(b), MANIFOLD_BLOCK):
            y = b[j : j + MANIFOLD_BLOCK] - centre
            sizes = x2 + (y * y).sum(1)
            yield slice(i, i + len(x)), slice(j, j + len(y)), (sizes - 2 * (x @ y.T)).clip(min=0), SLACK * sizes
