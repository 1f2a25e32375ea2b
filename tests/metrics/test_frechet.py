"""The Frechet distance against its closed form; sums that merge; an error bar that means something."""

import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from independent import torchmetrics
from undiffuse.errors import UndiffuseError
from undiffuse.metrics.features import pixels
from undiffuse.metrics.frechet import GROUPS, FeatureSums, Reference, frechet, frechet_with_error


def generator(seed=0) -> np.random.Generator:
    return np.random.default_rng(seed)


def covariance(d: int, seed: int, rank: int | None = None) -> np.ndarray:
    root = generator(seed).standard_normal((d, rank or d))
    return root @ root.T


def closed_form(a, b) -> float:
    """Dowson & Landau 1982, with scipy's matrix root in place of ours."""
    (m_a, c_a), (m_b, c_b) = a, b
    return float(((m_a - m_b) ** 2).sum() + np.trace(c_a + c_b - 2 * sqrtm(c_a @ c_b).real))


def known(mean: np.ndarray, cov: np.ndarray, n: int = 1000) -> FeatureSums:
    """Sums whose mean and covariance are exactly these."""
    count = np.full(GROUPS, n / GROUPS)
    outer = ((n - 1) * cov + n * np.outer(mean, mean)) / GROUPS
    return FeatureSums(count, np.tile(mean * n / GROUPS, (GROUPS, 1)), np.tile(outer, (GROUPS, 1, 1)))


def of(features: np.ndarray) -> FeatureSums:
    return FeatureSums.of(features)


def distance(a: FeatureSums, b: FeatureSums) -> float:
    return frechet(a.moments(), b.moments())


@pytest.mark.parametrize("d", [1, 2, 5, 64])
def test_gaussians_whose_covariances_do_not_commute(d):
    a = (generator(1).standard_normal(d), covariance(d, 2))
    b = (generator(3).standard_normal(d), covariance(d, 4))
    if d > 1:
        assert np.abs(a[1] @ b[1] - b[1] @ a[1]).max() > 0.1
    wanted = closed_form(a, b)
    np.testing.assert_allclose(frechet(a, b), wanted, rtol=1e-6)
    np.testing.assert_allclose(frechet(b, a), wanted, rtol=1e-6)
    np.testing.assert_allclose(distance(known(*a), known(*b)), wanted, rtol=1e-6)


def test_commuting_gaussians_by_hand():
    """Diagonal covariances: the sum of squared differences of means and of standard deviations."""
    a = (np.array([0.0, 1.0]), np.diag([4.0, 9.0]))
    b = (np.array([3.0, 1.0]), np.diag([1.0, 25.0]))
    assert distance(known(*a), known(*b)) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 5) ** 2, rel=1e-9)


def test_a_law_is_at_no_distance_from_itself():
    a = (generator(1).standard_normal(6), covariance(6, 2))
    assert abs(distance(known(*a), known(*a))) < 1e-9


@pytest.mark.parametrize(("rank_a", "rank_b"), [(2, 5), (5, 2), (2, 2), (1, 1)])
def test_singular_covariances(rank_a, rank_b):
    """By the identity tr sqrt(C_a C_b) = nuclear norm of R_a^T R_b with C = R R^T, which needs no matrix root."""
    roots = [generator(seed).standard_normal((5, rank)) for seed, rank in ((7, rank_a), (8, rank_b))]
    covs = [root @ root.T for root in roots]
    cross = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    wanted = np.trace(covs[0]) + np.trace(covs[1]) - 2 * cross
    np.testing.assert_allclose(frechet((np.zeros(5), covs[0]), (np.zeros(5), covs[1])), wanted, rtol=1e-6)


def test_constant_features_are_a_point():
    a, b = of(np.full((30, 3), 2.0)), of(np.full((40, 3), -1.0))
    assert distance(a, b) == pytest.approx(27)


def test_moments_are_numpys():
    x = generator().standard_normal((103, 4)) @ covariance(4, 1) + 5
    mean, cov = of(x).moments()
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(x.T), rtol=1e-9)
    x = np.arange(100.0)[:, None] ** 2  # sums of a group tell which images are in it
    rest = of(x).moments(without=3)[0] * 90
    assert rest == pytest.approx(x.sum() - of(x).total[3])


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_merge_in_any_order(parts):
    x = generator().standard_normal((70, 3))
    whole = of(x).moments()
    pieces = [of(piece) for piece in np.array_split(x, parts)]
    for order in itertools.islice(itertools.permutations(pieces), 0, None, 97):
        merged = order[0]
        for piece in order[1:]:
            merged = merged.merge(piece)
        assert merged.n == 70
        for found, wanted in zip(merged.moments(), whole, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    x = np.zeros((20, 3))
    x[7, 1] = bad
    with pytest.raises(UndiffuseError, match="not finite"):
        of(x)


@pytest.mark.parametrize("n", [0, 1])
def test_one_image_has_no_covariance(n):
    with pytest.raises(UndiffuseError, match="at least 2 images"):
        of(np.zeros((n, 3))).moments()


def test_the_error_bar_is_the_spread_of_independent_repetitions():
    reference = known(np.zeros(4), np.eye(4))
    runs = [frechet_with_error(of(generator(seed).standard_normal((300, 4)) + 0.3), reference) for seed in range(60)]
    values, errors = (np.array(column) for column in zip(*runs, strict=True))
    assert 0.7 < errors.mean() / values.std(ddof=1) < 1.4


def test_the_error_bar_holds_for_classes_that_come_in_turn():
    """Labels i mod K: in order, each group left out would be one class and the error bar ten times too large."""
    centres = 3 * generator(99).standard_normal((GROUPS, 4))
    reference = of(np.concatenate([generator(100 + i).standard_normal((500, 4)) + c for i, c in enumerate(centres)]))
    runs = []
    for seed in range(40):
        drawn = generator(seed).standard_normal((300, 4)) + centres[np.arange(300) % GROUPS]
        runs.append(frechet_with_error(of(drawn), reference))
    values, errors = (np.array(column) for column in zip(*runs, strict=True))
    unstratified = np.std(
        [
            frechet(
                of(
                    generator(seed).standard_normal((300, 4)) + centres[generator(seed).integers(0, GROUPS, 300)]
                ).moments(),
                reference.moments(),
            )
            for seed in range(40)
        ],
        ddof=1,
    )
    assert values.std(ddof=1) < errors.mean() < 2 * unstratified


def test_too_few_images_for_an_error_bar_give_none():
    reference = known(np.zeros(2), np.eye(2))
    value, error = frechet_with_error(of(generator().standard_normal((2 * GROUPS - 1, 2))), reference)
    assert (np.isfinite(value), error) == (True, None)
    assert frechet_with_error(of(generator().standard_normal((2 * GROUPS, 2))), reference)[1] is not None


def test_the_distance_falls_to_the_truth_with_more_images():
    reference = known(np.zeros(6), np.eye(6))
    found = [distance(of(generator(1).standard_normal((n, 6))), reference) for n in (20, 200, 2000, 20000)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.01


def test_pixels_are_the_images_flat_in_float64():
    x = torch.arange(12.0).reshape(2, 1, 2, 3)
    assert pixels(x).dtype == np.float64
    np.testing.assert_array_equal(pixels(x), np.arange(12.0).reshape(2, 6))


# -- many features ----------------------------------------------------------------------------------------------------


class Seen(torch.nn.Module):
    """Pictures that are their own features, for torchmetrics."""

    num_features = 12

    def forward(self, x):
        return x.double().flatten(1)


def test_torchmetrics_says_the_same_of_the_same_features():
    fid = torchmetrics("image.fid")
    a, b = (torch.from_numpy(generator(seed).integers(0, 256, (500, 12, 1, 1))).to(torch.uint8) for seed in (1, 2))
    b[:, :6] //= 2
    metric = fid.FrechetInceptionDistance(feature=Seen(), normalize=False, input_img_size=(12, 1, 1)).set_dtype(
        torch.float64
    )
    metric.update(a, real=True)
    metric.update(b, real=False)
    ours = distance(*(of(x.double().flatten(1).numpy()) for x in (a, b)))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


def test_the_error_from_the_slope_is_the_jackknifes():
    """Over 30 features both ways can be afforded."""
    features = generator(5).standard_normal((3000, 30)) @ np.diag(np.linspace(0.2, 2, 30))
    sums, reference = of(features), of(generator(6).standard_normal((3000, 30)))
    value, exact = frechet_with_error(sums, reference)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("undiffuse.metrics.frechet.MANY_FEATURES", 10)
        again, linear = frechet_with_error(sums, reference)
        assert frechet_with_error(of(features[:50]), reference)[1] is None
    assert again == value and linear == pytest.approx(exact, rel=0.05)


def test_the_slope_is_the_derivative():
    reference = Reference.of((generator(1).standard_normal(6), covariance(6, 2)))
    mean, cov = generator(3).standard_normal(6), covariance(6, 4)
    by_mean, by_cov = reference.slope((mean, cov))
    for seed in range(5):
        dm, dc = generator(seed).standard_normal(6) * 1e-5, covariance(6, seed + 10) * 1e-5
        change = (reference.distance((mean + dm, cov + dc)) - reference.distance((mean - dm, cov - dc))) / 2
        assert change == pytest.approx(by_mean @ dm + (by_cov * dc).sum(), rel=1e-4)


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_merging_parts_in_any_order_gives_the_same_value(parts):
    features, reference = generator(1).standard_normal((700, 9)), of(generator(2).standard_normal((700, 9)))
    pieces = [of(piece) for piece in np.array_split(features, parts)]
    values = []
    for order in ([*range(parts)], [*reversed(range(parts))], list(generator(3).permutation(parts))):
        merged = pieces[order[0]]
        for place in order[1:]:
            merged = merged.merge(pieces[place])
        values.append(distance(merged, reference))
    np.testing.assert_allclose(values, distance(of(features), reference), rtol=1e-12)
