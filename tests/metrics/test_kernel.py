"""The kernel distance: other people's numbers, a closed form, no bias, and an error that is the spread."""

import numpy as np
import pytest
import torch

from independent import fidelity, torchmetrics
from undiffuse.errors import UndiffuseError
from undiffuse.metrics import kernel
from undiffuse.metrics.kernel import kernel_distance, row_sums


def normal(n, d, seed=0, scale=1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) * scale


def gaussians(s: float, d: int) -> float:
    """MMD^2 of N(0, s^2) and N(0, 1): E (1 + a.b / d)^3 = 1 + 3 E (a.b)^2 / d^2 and E (a.b)^2 = d s_a^2 s_b^2."""
    return 3 * (s**2 - 1) ** 2 / d


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_torchmetrics_and_torch_fidelity_say_the_same_of_one_subset_of_all(block, monkeypatch):
    monkeypatch.setattr(kernel, "KERNEL_BLOCK", block)
    x, y = normal(300, 12, 1, 1.5) + 1, normal(300, 12, 2)
    found, _ = kernel_distance(x, y)
    poly_mmd = torchmetrics("image.kid").poly_mmd
    assert found == pytest.approx(float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))), rel=1e-9)
    theirs = fidelity("metric_kid").kernel_mmd(x, y, kid_kernel_poly_gamma=None)
    assert found == pytest.approx(theirs, rel=1e-9)


def test_sets_of_unlike_size_by_the_definition():
    x, y = normal(5, 3, 1), normal(8, 3, 2) + 0.5

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    own, others = ([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j] for z in (x, y))
    wanted = np.mean(own) + np.mean(others) - 2 * np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y)[0] == pytest.approx(wanted, rel=1e-12)
    assert kernel_distance(x, y, (row_sums(x), row_sums(y))) == kernel_distance(x, y)


@pytest.mark.parametrize("n", [10, 100])
def test_it_is_unbiased_at_any_number_of_images(n):
    values = np.array([kernel_distance(normal(n, 4, s, 1.5), normal(2 * n, 4, 10**6 + s))[0] for s in range(400)])
    assert abs(values.mean() - gaussians(1.5, 4)) < 4 * values.std() / 20
    nothing = np.array([kernel_distance(normal(n, 4, s), normal(2 * n, 4, 10**6 + s))[0] for s in range(400)])
    assert abs(nothing.mean()) < 4 * nothing.std() / 20
    assert nothing.min() < 0


def test_classes_in_fixed_shares_give_less_than_nothing():
    """Classes at +1 and -1, half each: k is 8 within and 0 between them, so the value is -4 / (n - 1) - 4 / (m - 1)."""
    x, y = (np.repeat([[1.0], [-1.0]], half, axis=0) for half in (10, 25))
    assert kernel_distance(x, y)[0] == pytest.approx(-4 / 19 - 4 / 49, rel=1e-12)


@pytest.mark.parametrize(("shift", "m"), [(0.5, 800), (0.0, 100), (0.0, 800), (0.0, 3200)])
def test_the_error_is_the_spread_over_samples(shift, m):
    """Given the reference. At no distance the jackknife is too large by what the docstring says."""
    n, y = 400, normal(m, 6, 999)
    sums = row_sums(y)
    x = [normal(n, 6, seed) + shift for seed in range(200)]
    runs = [kernel_distance(one, y, (row_sums(one), sums)) for one in x]
    values, errors = (np.array(column) for column in zip(*runs, strict=True))
    factor = 1 if shift else np.sqrt((1 + n / m) / (0.5 + n / m))
    ratio = np.sqrt((errors**2).mean()) / values.std(ddof=1) / factor
    assert ratio == pytest.approx(1, abs=4 / np.sqrt(2 * 199))


def test_the_error_is_the_jackknife_by_hand():
    x, y = normal(9, 2, 1), normal(7, 2, 2)
    left_out = np.array([kernel_distance(np.delete(x, i, 0), y)[0] for i in range(9)])
    assert kernel_distance(x, y)[1] == pytest.approx(np.sqrt(8 / 9 * ((left_out - left_out.mean()) ** 2).sum()))


def test_float32_features_are_summed_in_float64():
    x, y = (normal(1200, 8, seed).astype(np.float32) for seed in (1, 2))
    assert kernel_distance(x, y)[0] == pytest.approx(
        kernel_distance(x.astype(np.float64), y.astype(np.float64))[0], rel=1e-12
    )


@pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 1), (0, 5)])
def test_one_image_is_too_few(n, m):
    with pytest.raises(UndiffuseError, match="at least 2 images"):
        kernel_distance(np.zeros((n, 2)), np.zeros((m, 2)))
    assert kernel_distance(normal(2, 2), normal(5, 2))[1] is None
