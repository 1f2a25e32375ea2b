"""A split is one thing seen from many sides: x0, eps, v, score and x_t determine each other."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undiffuse.diffusion.split import PREDICTIONS, Split, expand
from undiffuse.rng import fold

half_log_snrs = st.floats(-5, 5)


def make(half_log_snr, dtype=torch.float64, shape=(3, 2, 4)) -> Split:
    """A random split whose scales share the unit circle at this SNR (scalar, or one per datum)."""
    alpha_bar = 1 / (1 + np.exp(-2 * np.asarray(half_log_snr, np.float64)))
    x0, eps = (fold(0, name).normal(shape).to(dtype) for name in ("x0", "eps"))
    return Split(x0, eps, np.sqrt(alpha_bar), np.sqrt(1 / (1 + np.exp(2 * np.asarray(half_log_snr, np.float64)))))


def _around(split: Split) -> Split:
    """x0 -> eps -> v -> score -> x0, each reader fed with the view before it and the first x_t."""
    x_t, scales = split.x_t, (split.signal, split.sigma)
    a = Split.from_x0(x_t, split.x0, *scales)
    b = Split.from_eps(x_t, a.eps, *scales)
    c = Split.from_v(x_t, b.v, *scales)
    d = Split.from_score(x_t, c.score, *scales)
    return Split.from_x0(x_t, d.x0, *scales)


def _assert_same(one: Split, other: Split, tolerance: float) -> None:
    for field in ("x0", "eps", "v", "x_t"):
        torch.testing.assert_close(getattr(one, field), getattr(other, field), rtol=tolerance, atol=tolerance)


@given(half_log_snr=half_log_snrs)
def test_the_views_go_around(half_log_snr):
    split = make(half_log_snr)
    _assert_same(_around(split), split, 1e-10)


@given(half_log_snrs=st.tuples(half_log_snrs, half_log_snrs, half_log_snrs))
def test_the_views_go_around_with_a_time_per_datum(half_log_snrs):
    split = make(half_log_snrs)
    _assert_same(_around(split), split, 1e-10)


@given(half_log_snr=st.floats(-3, 3))
def test_the_views_go_around_in_float32(half_log_snr):
    split = make(half_log_snr, torch.float32)
    around = _around(split)
    _assert_same(around, split, 1e-3)
    assert around.x0.dtype == around.eps.dtype == around.v.dtype == around.score.dtype == torch.float32


@given(half_log_snr=half_log_snrs)
def test_each_view_is_its_definition(half_log_snr):
    split = make(half_log_snr)
    x0, eps, a, b = split.x0.numpy(), split.eps.numpy(), float(split.signal), float(split.sigma)
    np.testing.assert_allclose(split.x_t.numpy(), a * x0 + b * eps, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(split.v.numpy(), a * eps - b * x0, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(split.score.numpy(), -eps / b, rtol=1e-13)


def test_v_turns_with_x_t():
    """With angle phi, x_t = cos x0 + sin eps and v = d x_t / d phi (Salimans & Ho 2022, appendix D)."""
    x0, eps = (fold(0, name).normal((5,)).double() for name in ("x0", "eps"))
    phi = torch.tensor(0.7, dtype=torch.float64)

    def x_t(angle):
        return Split(x0, eps, np.float64(angle.cos()), np.float64(angle.sin())).x_t

    slope = (x_t(phi + 1e-6) - x_t(phi - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, Split(x0, eps, np.float64(phi.cos()), np.float64(phi.sin())).v, rtol=0, atol=1e-9)


def test_the_score_is_the_gradient_of_the_log_density():
    split = make(0.3)
    x_t = split.x_t.clone().requires_grad_()
    log_q = torch.distributions.Normal(split.signal * split.x0, torch.tensor(split.sigma)).log_prob(x_t).sum()
    torch.testing.assert_close(torch.autograd.grad(log_q, x_t)[0], split.score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("field", ["eps", "x0"])
def test_the_predicted_field_is_kept_as_predicted(field):
    split = make(-2.0, torch.float32)
    predicted = getattr(split, field)
    assert torch.equal(getattr(PREDICTIONS[field](split.x_t, predicted, split.signal, split.sigma), field), predicted)


def test_v_reads_a_split_where_no_signal_is_left():
    x_t, v = fold(0).normal((4, 2)).double(), fold(1).normal((4, 2)).double()
    split = Split.from_v(x_t, v, np.float64(0), np.float64(1))
    torch.testing.assert_close(split.x0, -v)
    torch.testing.assert_close(split.eps, x_t)


def test_every_prediction_is_a_reader_of_its_own_field():
    split = make(0.5)
    for field, read in PREDICTIONS.items():
        _assert_same(read(split.x_t, getattr(split, field), split.signal, split.sigma), split, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_coefficient_meets_its_datum_and_keeps_the_dtype(dtype):
    data = torch.ones(3, 2, 4, dtype=dtype)
    product = expand(np.array([1.0, 2.0, 3.0]), data) * data
    assert product.dtype == (expand(np.float64(2), data) * data).dtype == dtype
    assert product[:, 1, 2].tolist() == [1, 2, 3]
