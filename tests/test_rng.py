"""A draw depends on its position alone; positions neither collide nor correlate."""

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, kurtosis

from undiffuse import rng
from undiffuse.native import library

parts = st.integers(-(2**70), 2**70) | st.text(max_size=5)


def test_a_position_gives_the_same_numbers_every_time():
    assert torch.equal(rng.fold(3, "noise", 7).normal((5, 2)), rng.fold(3, "noise", 7).normal((5, 2)))


def test_streams_go_on_where_they_stopped():
    one, other = rng.fold(0), rng.fold(0)
    first, second = one.normal((4,)), one.normal((4,))
    assert not torch.equal(first, second)
    assert torch.equal(first, other.normal((4,)))


@pytest.mark.parametrize("shape", [(128, 1, 28, 28), (6, 4097), (600, 32), (200, 81)])  # the last is few: one by one
@pytest.mark.parametrize("threads", [2, 3])
def test_normals_by_several_threads_are_numpys_one_by_one(shape, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    draws, streams = rng.per_row(5, rows=range(shape[0] // 2)), rng.per_row(5, rows=range(shape[0] // 2)).streams
    for _ in range(2):  # both begin where the last draw ended, the second in the middle of a block of Philox's
        wanted = [stream.standard_normal((2, *shape[1:]), np.float32) for stream in streams]
        assert np.array_equal(draws.normal(shape), np.concatenate(wanted))
        assert np.array_equal(draws.uniform((len(streams),)), [stream.random() for stream in streams])


@pytest.mark.parametrize("archive", ["none", "not one"])
def test_without_numpys_library_normals_are_drawn_one_by_one(archive, monkeypatch, tmp_path):
    if library.kernels() is None:
        pytest.skip("no C compiler")
    wanted = rng.per_row(5, rows=range(64)).normal((64, 500))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "other.a").write_text("not an archive")
    monkeypatch.setattr(library, "numpy_random", lambda: None if archive == "none" else tmp_path / "other.a")
    monkeypatch.setattr(library, "FLAGS", ("-O0", *library.FLAGS[1:]))  # sooner compiled
    without = library.declared(ctypes.CDLL(str(library.compile_library())))
    monkeypatch.setattr(rng, "kernels", lambda: without)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(rng.per_row(5, rows=range(64)).normal((64, 500)), wanted)


@given(a=st.lists(parts, max_size=4), b=st.lists(parts, max_size=4))
def test_different_positions_have_different_keys(a, b):
    assert (rng.key(0, *a) == rng.key(0, *b)) == (a == b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((0, "1"), (0, 1)),
        ((1, 2), (2, 1)),
        ((1, 23), (12, 3)),
        ((1,), (1, 0)),
        ((0, "a", "b"), (0, "ab")),
        ((-1,), (1,)),
    ],
)
def test_keys_tell_kind_order_and_length_apart(a, b):
    assert rng.key(*a) != rng.key(*b)


def test_numpy_and_torch_integers_are_integers():
    assert rng.key(3, 5) == rng.key(np.int64(3).item(), int(torch.tensor(5)))


def test_two_hundred_thousand_keys_do_not_collide():
    keys = {rng.key(seed, "sample", i) for seed in range(4) for i in range(50_000)}
    assert len(keys) == 200_000
    assert max(keys).bit_length() > 120


def test_a_row_s_numbers_do_not_depend_on_the_rows_beside_it():
    alone, together = rng.per_row(0, "sample", rows=[7]), rng.per_row(0, "sample", rows=range(5, 10))
    for _ in range(3):  # several draws, of several kinds
        assert torch.equal(together.normal((5, 3, 2))[2], alone.normal((1, 3, 2))[0])
        assert torch.equal(together.uniform((5, 3))[2], alone.uniform((1, 3))[0])
        assert torch.equal(together.integers(0, 9, (5, 4))[2], alone.integers(0, 9, (1, 4))[0])


def test_a_row_may_own_several_rows_of_a_draw():
    two = rng.per_row(0, rows=[3, 4]).normal((6, 2))
    assert torch.equal(two[3:], rng.per_row(0, rows=[4]).normal((3, 2)))


def test_rows_that_cannot_be_shared_are_refused():
    with pytest.raises(ValueError, match="5 rows cannot be shared by 2 streams"):
        rng.per_row(0, rows=[0, 1]).normal((5, 2))


def test_streams_at_different_positions_are_uncorrelated():
    """300 neighbouring streams of 2000 numbers: 44,850 correlations, none beyond 5.5 standard errors."""
    x = rng.per_row(0, "sample", rows=range(300)).normal((300, 2000)).double()
    z = torch.corrcoef(x).fill_diagonal_(0) * 2000**0.5
    assert z.abs().max() < 5.5
    assert float(z.square().sum() / (300 * 299)) == pytest.approx(1, abs=0.03)


def test_normals_are_normal_float32():
    x = rng.fold(1).normal((500_000,))
    assert x.dtype == torch.float32
    assert abs(x.double().mean()) < 4 / 500_000**0.5
    assert x.double().var().item() == pytest.approx(1, abs=4 * (2 / 500_000) ** 0.5)
    assert kurtosis(x.double().numpy()) == pytest.approx(0, abs=4 * (24 / 500_000) ** 0.5)
    assert kstest(x[:50_000].double().numpy(), "norm").pvalue > 1e-3


def test_the_first_numbers_of_many_streams_are_normal_too():
    x = rng.per_row(0, "sample", rows=range(20_000)).normal((20_000, 1)).double().numpy().ravel()
    assert kstest(x, "norm").pvalue > 1e-3


def test_uniforms_are_uniform_float64():
    x = rng.fold(1).uniform((100_000,))
    assert x.dtype == torch.float64
    assert x.min() >= 0
    assert x.max() < 1
    assert kstest(x.numpy(), "uniform").pvalue > 1e-3


def test_integers_include_both_ends_evenly():
    x = rng.fold(1).integers(1, 10, (100_000,))
    assert x.dtype == torch.int64
    counts = torch.bincount(x, minlength=11)
    assert counts[0] == 0
    assert len(counts) == 11
    assert float(((counts[1:] - 10_000) ** 2 / 10_000).sum()) < 30  # chi-square, 9 degrees: p = 4e-4


@given(n=st.integers(0, 200), epoch=st.integers(0, 5))
def test_a_permutation_is_one(n, epoch):
    order = rng.permutation(n, 0, "order", epoch)
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(order, rng.permutation(n, 0, "order", epoch))


def test_every_epoch_has_its_own_order():
    orders = {tuple(rng.permutation(20, 0, "order", epoch).tolist()) for epoch in range(50)}
    assert len(orders) == 50


def test_every_place_is_equally_likely_in_a_permutation():
    places = np.array([rng.permutation(5, 0, i) for i in range(4000)])
    counts = np.array([np.bincount(column, minlength=5) for column in places.T])
    assert np.abs(counts - 800).max() < 5 * (4000 * 0.2 * 0.8) ** 0.5


def test_torch_s_own_generator_is_set_by_position():
    state = torch.get_rng_state()
    try:
        draws = []
        for step in (1, 1, 2):
            rng.seed_torch(0, "dropout", step)
            draws.append(torch.rand(4))
    finally:
        torch.set_rng_state(state)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
