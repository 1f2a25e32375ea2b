"""Precision, recall, density, coverage: by hand, by other people's code, and what they are for equal laws."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from independent import fidelity
from undiffuse.errors import UndiffuseError
from undiffuse.metrics import manifold
from undiffuse.metrics.manifold import membership, radii


def normal(n, d, seed=0, scale=1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) * scale


@pytest.fixture(params=[9, 1000])
def block(request, monkeypatch):
    monkeypatch.setattr(manifold, "MANIFOLD_BLOCK", request.param)


def by_scikit_learn(samples, real):
    """The four from the papers' definitions, with scikit-learn's neighbours and plain distances."""

    def radius(x, k):
        return NearestNeighbors(n_neighbors=k).fit(x).kneighbors()[0][:, -1]

    far = np.linalg.norm(samples[:, None] - real[None], axis=2)
    return (
        (far <= radius(real, 3)).any(1).mean(),
        (far <= radius(samples, 3)[:, None]).any(0).mean(),
        (far <= radius(real, 5)).sum(1).mean() / 5,
        (far <= radius(real, 5)).any(0).mean(),
    )


def four(m):
    return m.precision, m.recall, m.density, m.coverage


@pytest.mark.parametrize(("n", "m", "scale"), [(60, 60, 1.0), (100, 40, 0.6), (40, 100, 1.6)])
def test_scikit_learns_neighbours_give_the_same(block, n, m, scale):
    samples, real = normal(n, 5, 1, scale) + 0.3, normal(m, 5, 2)
    np.testing.assert_allclose(four(membership(samples, real)), by_scikit_learn(samples, real), rtol=1e-12)


def test_torch_fidelity_gives_the_same_precision_and_recall(block):
    samples, real = normal(300, 6, 1, 0.8) + 0.3, normal(200, 6, 2)
    metric = fidelity("metric_prc").prc_features_to_metric
    theirs = metric(torch.from_numpy(samples), torch.from_numpy(real), verbose=False)
    found = membership(samples, real)
    assert 0.1 < found.recall < found.precision < 1
    assert (found.precision, found.recall) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-6)


def test_by_hand_on_a_line():
    """Real 0..9 have balls of k = 3 as wide as 2 inside, 3 at the ends, and of k = 5 as wide as 3, 4, 5."""
    real = np.arange(10.0)[:, None]
    np.testing.assert_array_equal(np.sqrt(radii(real, 3)[:, 2]), [3, 2, 2, 2, 2, 2, 2, 2, 2, 3])
    np.testing.assert_array_equal(np.sqrt(radii(real)[:, 4]), [5, 4, 3, 3, 3, 3, 3, 3, 4, 5])
    samples = np.array([-4, -3, 12, 12.5, 14.5, 30])[:, None]
    found = membership(samples, real)
    assert found.precise.tolist() == [False, True, True, False, False, False]
    assert found.inside.tolist() == [2 - 1, 2, 2, 1, 0, 0]
    assert found.covered.tolist() == [True, True, *[False] * 6, True, True]
    assert found.recalled.all()  # the sample at 30 reaches back to 12


def test_equal_is_equal_wherever_the_origin_is():
    """A copy of the neighbour that sets a radius lies on the ball, and counts."""
    for shift in (0.0, 1e3, 1e6):
        real = normal(400, 20, 3) + shift
        found = membership(real[::-1].copy(), real)
        assert four(found) == pytest.approx((1, 1, 6 / 5, 1), abs=1e-12)  # its own ball, and five others in the mean


def test_density_and_coverage_of_equal_laws_are_as_naeem_et_al_say():
    """E density = 1; E coverage = 1 - prod_i (n - i) / (2 n - i), i = 1..5, with as many samples as real images."""
    n, k = 200, 5
    found = [membership(normal(n, 3, seed), normal(n, 3, 10**6 + seed)) for seed in range(100)]
    density, coverage = (np.array([getattr(one, name) for one in found]) for name in ("density", "coverage"))
    i = np.arange(1, k + 1)
    assert abs(density.mean() - 1) < 4 * density.std() / 10
    assert abs(coverage.mean() - (1 - np.prod((n - i) / (2 * n - i)))) < 4 * coverage.std() / 10


def test_far_samples_are_in_nothing():
    assert four(membership(normal(50, 3) + 100, normal(50, 3, 1))) == (0, 0, 0, 0)


def test_the_binomial_error_of_shares_is_about_their_spread():
    """Of all four over samples, with the real images as they are."""
    real = normal(300, 8, 999)
    found = [membership(normal(300, 8, seed, 0.9), real) for seed in range(100)]
    for name, low, high in (("precision", 0.8, 1.4), ("recall", 0.75, 1.4), ("coverage", 0.8, 1.5)):
        values = np.array([getattr(one, name) for one in found])
        p = values.mean()
        assert low < np.sqrt(p * (1 - p) / 300) / values.std(ddof=1) < high
    density, errors = (np.array([getattr(one, name) for one in found]) for name in ("density", "density_error"))
    assert 0.8 < errors.mean() / density.std(ddof=1) < 1.25


@pytest.mark.parametrize(("n", "m"), [(5, 50), (50, 5)])
def test_too_few_have_no_neighbours(n, m):
    with pytest.raises(UndiffuseError, match=f"more than 5 images on each side, here are {n} and {m}"):
        membership(normal(n, 2), normal(m, 2))
