"""Kernel distance between two sets of features (KID), unbiased at any number of images."""

from collections.abc import Sequence

import numpy as np

from undiffuse.errors import UndiffuseError
from undiffuse.metrics.base import Rows

KERNEL_BLOCK = 1000


def kernel_distance(x: Rows, y: Rows, within: Sequence[np.ndarray] = ()) -> tuple[float, float | None]:
    """MMD^2 with k(a, b) = (a.b / d + 1)^3 (Binkowski et al. 2018, section 4), and its standard error.

    The U-statistic of Gretton et al. 2012 (eq. 3) over all rows of x [n, d] and y [m, d], blockwise in float64:
    sum_{i != j} k(x_i, x_j) / (n (n - 1)) + sum_{i != j} k(y_i, y_j) / (m (m - 1)) - 2 mean k(x_i, y_j).
    Its mean over the choice of samples is the true MMD^2 and does not depend on n, and so it may fall below 0. Others
    (torch-fidelity, torchmetrics) average it over random subsets of 1,000, which has the same mean and more noise, and
    print the spread of the subsets' values, which is no error of their average.

    That holds for independent images. Where the classes of both sets have fixed shares p_c (equal numbers of each, a
    stratified split) a pair of one set is of unlike classes a little more often than a pair across, and equal laws give
    (1 / (n - 1) + 1 / (m - 1)) (1 - sum_c p_c^2) (mean k within classes - mean k between them) less than 0; so does the
    floor.

    The error is the delete-one jackknife over x; y stays as it is. Where x and y have one law it is too large, by
    sqrt((1 + n / m) / (1 / 2 + n / m)), at most 1.41 (the linear part of a U-statistic all but vanishes there, and a
    jackknife counts the quadratic part twice).
    within: `row_sums` of x and of y with themselves, if they are known. The error of 2 rows is None.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise UndiffuseError("a kernel distance needs at least 2 images on each side")
    own, others = within or (row_sums(x), row_sums(y))
    cross = row_sums(x, y) / m
    value = own.sum() / (n * (n - 1)) + others.sum() / (m * (m - 1)) - 2 * cross.mean()
    if n < 3:
        return float(value), None
    left_out = (own.sum() - 2 * own) / ((n - 1) * (n - 2)) - 2 * (cross.sum() - cross) / (n - 1)
    return float(value), float(np.sqrt((n - 1) * left_out.var()))


def row_sums(x: Rows, y: Rows | None = None) -> np.ndarray:
    """sum_j k(x_i, y_j), float64 [n]; without y sum_{j != i} k(x_i, x_j), each pair computed once."""
    starts = range(0, len(x), KERNEL_BLOCK)
    if y is not None:
        others = range(0, len(y), KERNEL_BLOCK)
        return np.concatenate([sum(_cubic(_part(x, i), _part(y, j)).sum(1) for j in others) for i in starts])
    sums = np.zeros(len(x))
    for i in starts:
        for j in range(i, len(x), KERNEL_BLOCK):
            k = _cubic(_part(x, i), _part(x, j))
            if i == j:
                np.fill_diagonal(k, 0)
            else:
                sums[j : j + KERNEL_BLOCK] += k.sum(0)
            sums[i : i + KERNEL_BLOCK] += k.sum(1)
    return sums


def _part(x: Rows, start: int) -> np.ndarray:
    return np.asarray(x[start : start + KERNEL_BLOCK], np.float64)


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T
    base /= x.shape[1]
    base += 1
    return base * base * base
