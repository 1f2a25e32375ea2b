"""Memorisation: exact neighbours, ties, and a floor that fresh data reach."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from undiffuse.metrics.memorisation import Nearest, share_nearer, split_error


def levels(n, d=20, seed=0, most=255) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most + 1, (n, d)).astype(np.uint8)


@pytest.mark.parametrize("blocks", [1, 4, 30])
def test_scikit_learn_finds_the_same_neighbours(blocks):
    x, y = levels(50), levels(300, seed=1)
    found = Nearest.of(x, np.array_split(y, blocks))
    far, row = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(y.astype(float)).kneighbors(x.astype(float))
    np.testing.assert_array_equal(found.row, row[:, 0])
    np.testing.assert_allclose(np.sqrt(found.squared), far[:, 0], rtol=1e-12)


def test_copies_are_at_no_distance_and_share_all():
    train = levels(100, 3072, 1)
    copied = Nearest.of(train[[7, 7, 93]], np.array_split(train, 3))
    assert copied.squared.tolist() == [0, 0, 0] and copied.row.tolist() == [7, 7, 93]
    assert share_nearer(copied, Nearest.of(train[[7, 7, 93]], [levels(80, 3072, 2)])) == 1.0


def test_fresh_data_are_as_near_to_any_image():
    def share(seed):
        x, train, held_out = (levels(n, 30, 3 * seed + i) for i, n in enumerate((40, 30, 10)))
        return share_nearer(Nearest.of(x, [train]), Nearest.of(x, [held_out]))

    values = np.array([share(seed) for seed in range(300)])
    assert abs(values.mean() - 30 / 40) < 4 * values.std() / np.sqrt(300)


def test_a_tie_is_half():
    near = Nearest(np.array([1.0, 2.0, 3.0, 3.0]), np.zeros(4, int))
    assert share_nearer(near, Nearest(np.array([2.0, 2.0, 1.0, 4.0]), np.zeros(4, int))) == 2.5 / 4


def test_the_error_is_the_spread_over_every_split():
    """Ten real images, of which four are held out in all 210 ways; samples crowd around some of them."""
    real, rng = levels(10, 6, 1).astype(float), np.random.default_rng(2)
    x = np.concatenate([real[[0, 0, 0, 3, 7]] + rng.normal(size=(5, 6)), levels(7, 6, 3)])
    shares, said = [], set()
    for chosen in combinations(range(10), 6):
        train, held_out = real[list(chosen)], real[[i for i in range(10) if i not in chosen]]
        near, far = Nearest.of(x, [train]), Nearest.of(x, [held_out])
        shares.append(share_nearer(near, far))
        said.add(round(split_error(near, far, 6, 4), 12))
    assert len(said) == 1  # it looks at nothing that depends on the split
    assert said.pop() == pytest.approx(np.std(shares), rel=1e-10)
    assert np.mean(shares) == pytest.approx(6 / 10)


def test_several_sets_are_one():
    x, y = levels(12), levels(30, seed=1)
    together = Nearest.together([Nearest.of(x[:5], [y]), Nearest.of(x[5:], [y])])
    np.testing.assert_array_equal(together.row, Nearest.of(x, [y]).row)
    np.testing.assert_array_equal(together.squared, Nearest.of(x, [y]).squared)
