"""Guidance and clipping change the guess and keep it a split of the same x_t."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import refused, schedule

from undiffuse.diffusion.denoiser import Denoiser, bind
from undiffuse.diffusion.guidance import clipped, guided, known, mixed, steered, thresholded
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.split import Split
from undiffuse.errors import UsageError
from undiffuse.rng import fold

NULL = 10
X = fold(0).normal((4, 2, 3)).double()
Y = torch.tensor([3, 0, NULL, 7])
T = 300.5


def backbone(x, t, y=None):
    """Every label answers differently, every time too."""
    label = (y + 1.0).reshape(-1, *[1] * (x.ndim - 1)).double()
    output = torch.sin(x * label) + t.reshape(label.shape).double() / 1000
    return torch.cat([output, output * 0.1], 1) if x.shape[-1] == 5 else output


def denoiser(prediction="eps", variance="small") -> Denoiser:
    return Denoiser(backbone, Process(schedule("cosine"), variance=variance), prediction)


def both(w, prediction="eps", t=T) -> tuple[Split, Split, Split]:
    """(guided, conditional, unconditional), the last two from separate calls."""
    made = denoiser(prediction)
    null = torch.full_like(Y, NULL)
    return guided(bind(made, Y), w, NULL)(X, t), bind(made, Y)(X, t), bind(made, null)(X, t)


def test_a_weight_of_one_is_no_guidance_at_all():
    bound = bind(denoiser(), Y)
    assert guided(bound, 1.0, NULL) is bound
    unconditional = bind(denoiser())
    assert guided(unconditional, 1.0, NULL) is unconditional


def test_a_weight_of_zero_is_unconditional():
    guess, _, null = both(0.0)
    torch.testing.assert_close(guess.x0, null.x0)
    torch.testing.assert_close(guess.eps, null.eps)


@given(w=st.floats(-2, 8), prediction=st.sampled_from(["eps", "x0", "v"]))
def test_guidance_is_affine_in_the_split(w, prediction):
    guess, cond, null = both(w, prediction)
    for field in ("eps", "x0", "v", "score"):
        expected = getattr(null, field) + w * (getattr(cond, field) - getattr(null, field))
        torch.testing.assert_close(getattr(guess, field), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(guess.x_t, X, rtol=1e-9, atol=1e-9)
    assert (guess.signal, guess.sigma) == (cond.signal, cond.sigma)


def test_guidance_leaves_a_datum_without_label_alone():
    guess, cond, _ = both(5.0)
    torch.testing.assert_close(guess.x0[2], cond.x0[2])
    assert not torch.allclose(guess.x0[0], cond.x0[0])


@pytest.mark.parametrize(
    "t",
    [
        torch.tensor([1.0, 20.0, 300.0, 999.0]),
        np.array([1.0, 20.0, 300.0, 999.0]),
    ],
)
def test_guidance_takes_a_time_per_datum(t):
    guess, cond, null = both(3.0, t=t)
    torch.testing.assert_close(guess.eps, 3 * cond.eps - 2 * null.eps)
    torch.testing.assert_close(guess.x_t, X)


def test_the_variance_is_the_conditional_branch_s():
    made, x = denoiser(variance="learned"), fold(2).normal((4, 2, 5)).double()
    guess, cond = guided(bind(made, Y), 3.0, NULL)(x, T), bind(made, Y)(x, T)
    torch.testing.assert_close(guess.var_fraction, cond.var_fraction)


def test_guiding_an_unconditional_model_is_refused():
    with refused(UsageError, "guidance needs labels"):
        guided(bind(denoiser()), 2.0, NULL)


# -- clipping -------------------------------------------------------------------------------------------------------


@given(t=st.floats(1, 1000), low=st.floats(-2, -0.1), high=st.floats(0.1, 2))
def test_clipping_bounds_x0_and_keeps_x_t(t, low, high):
    free, guess = (wrap(bind(denoiser("x0"), Y))(3 * X, t) for wrap in (lambda d: d, lambda d: clipped(d, low, high)))
    torch.testing.assert_close(guess.x0, free.x0.clamp(low, high), rtol=0, atol=0)
    torch.testing.assert_close(guess.x_t, 3 * X, rtol=1e-9, atol=1e-9)
    assert (guess.signal, guess.sigma) == (free.signal, free.sigma)


def test_clipping_is_to_the_range_of_images_unless_told():
    wild = clipped(bind(denoiser("eps"), Y))(9 * X, 900.0)
    assert (wild.x0.min(), wild.x0.max()) == (-1, 1)


def test_clipping_leaves_what_is_inside_alone():
    bound = bind(denoiser("x0"), Y)
    free, guess = bound(X, T), clipped(bound, -9.0, 9.0)(X, T)
    torch.testing.assert_close(guess.x0, free.x0)
    torch.testing.assert_close(guess.eps, free.eps)


def test_clipping_keeps_the_variance():
    made, x = denoiser("x0", "learned"), fold(2).normal((4, 2, 5)).double()
    bound = bind(made, Y)
    torch.testing.assert_close(clipped(bound)(x, T).var_fraction, bound(x, T).var_fraction)


# -- intervals, rescaling, thresholds, classifiers ------------------------------------------------------------------


@pytest.mark.parametrize(("t", "acts"), [(200.0, True), (300.0, True), (199.0, False), (301.0, False)])
def test_guidance_acts_in_its_interval_only_and_costs_nothing_outside(t, acts):
    asked = []

    def counting(x, times, y=None):
        asked.append(len(x))
        return backbone(x, times, y)

    made = Denoiser(counting, Process(schedule("cosine")), "eps")
    guess = guided(bind(made, Y), 3.0, NULL, (0.2, 0.3))(X, t)
    full, conditional, _ = both(3.0, t=t)
    torch.testing.assert_close(guess.x0, full.x0 if acts else conditional.x0)
    assert asked == [8 if acts else 4]


def test_each_datum_has_its_own_side_of_the_interval():
    t = np.array([100.0, 250.0, 250.0, 900.0])
    guess = guided(bind(denoiser(), Y), 3.0, NULL, (0.2, 0.3))(X, t)
    full, conditional, _ = both(3.0, t=t)
    torch.testing.assert_close(guess.x0[1], full.x0[1])
    torch.testing.assert_close(guess.x0[[0, 3]], conditional.x0[[0, 3]])


@pytest.mark.parametrize("between", [(0.5, 0.4), (-0.1, 1.0), (0.0, 1.1)])
def test_an_interval_that_is_none_is_refused(between):
    with refused(UsageError, "guidance acts between two numbers"):
        guided(bind(denoiser(), Y), 3.0, NULL, between)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_brings_the_spread_back(rescale):
    """Lin et al. 2024, eq. 15 and 16: x = rescale * x std_pos / std_cfg + (1 - rescale) * x."""
    full, conditional, _ = both(4.0)
    guess = guided(bind(denoiser(), Y), 4.0, NULL, rescale=rescale)(X, T)
    std, wanted = full.x0.std(dim=(1, 2)), conditional.x0.std(dim=(1, 2))
    torch.testing.assert_close(guess.x0.std(dim=(1, 2)), rescale * wanted + (1 - rescale) * std)
    torch.testing.assert_close(guess.x_t, X)


def test_dynamic_thresholding():
    """Saharia et al. 2022: a quantile of |x0| of each image, at least 1; x0 clamped to it and divided by it."""
    raw = bind(denoiser(), Y)(X * 3, T)
    guess = thresholded(bind(denoiser(), Y), 0.9)(X * 3, T)
    a = np.maximum(np.quantile(np.abs(raw.x0.numpy().reshape(4, -1)), 0.9, axis=1), 1)[:, None, None]
    np.testing.assert_allclose(guess.x0.numpy(), np.clip(raw.x0.numpy(), -a, a) / a, rtol=1e-6)
    assert (a > 1).any()
    torch.testing.assert_close(guess.x_t, X * 3)
    small = thresholded(lambda x, t: Split.from_x0(x, x / 10, np.float64(0.6), np.float64(0.8)))(X, T)
    torch.testing.assert_close(small.x0, X / 10)  # a quantile below 1 stretches nothing
    with refused(UsageError, "share of dynamic thresholding"):
        thresholded(bind(denoiser(), Y), 0.5)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_classifier_guidance_is_bayes_rule(scale):
    """N(0, 1) data has eps = sigma x_t; seen scale times through log N(z; x_t, 1) it is the posterior's."""
    made, z = Process(schedule("cosine")), 0.7
    signal, sigma = (float(scale) for scale in made.scales(T))

    def prior(x_t, t):
        return Split.from_eps(x_t, sigma * x_t, np.float64(signal), np.float64(sigma))

    with torch.no_grad():
        guess = steered(prior, lambda x, t: -((z - x) ** 2).flatten(1).sum(1) / 2, scale)(X, T)
    torch.testing.assert_close(guess.eps, sigma * X - scale * sigma * (z - X))
    torch.testing.assert_close(guess.x_t, X)
    assert not guess.x0.requires_grad


def test_a_classifier_steers_nothing_where_the_signal_is_0():
    """x_T of zero terminal SNR says nothing of y; x0 = (x_T - eps) / 0 would lose the run."""

    def prior(x_t, t):
        return Split(torch.zeros_like(x_t), x_t, np.float64(0.0), np.float64(1.0))

    guess = steered(prior, lambda x, t: -(x**2).flatten(1).sum(1))(X, T)
    assert torch.equal(guess.x0, torch.zeros_like(X)) and torch.equal(guess.eps, X)


def test_images_of_a_batch_are_steered_each_by_its_own_signal():
    """A batch of two times, of which the first has zero terminal SNR."""

    def prior(x_t, t):
        signal, sigma = np.array([0.0, 0.6, 0.6, 0.6]), np.array([1.0, 0.8, 0.8, 0.8])
        return Split(torch.zeros_like(x_t), x_t, signal, sigma)

    guess = steered(prior, lambda x, t: -(x**2).flatten(1).sum(1) / 2)(X, T)
    assert torch.equal(guess.x0[0], torch.zeros_like(X[0])) and torch.equal(guess.eps[0], X[0])
    torch.testing.assert_close(guess.eps[1:], X[1:] + 0.8 * X[1:])
    torch.testing.assert_close(guess.x0[1:], (X[1:] - 0.8 * guess.eps[1:]) / 0.6)


def test_one_number_has_no_spread_to_bring_back():
    x = X[:, :1, 0]
    wanted = guided(bind(denoiser(), Y), 4.0, NULL)(x, T)
    assert torch.equal(guided(bind(denoiser(), Y), 4.0, NULL, rescale=0.7)(x, T).x0, wanted.x0)


def test_what_is_known_is_guessed_as_it_is_and_x_t_stays():
    x0 = fold(3).normal(X.shape).double()
    where = torch.tensor([True, False, True])
    guess, free = known(bind(denoiser(), Y), x0, where)(X, T), bind(denoiser(), Y)(X, T)
    assert torch.equal(guess.x0[..., where], x0[..., where])
    assert torch.equal(guess.x0[..., ~where], free.x0[..., ~where])
    torch.testing.assert_close(guess.x_t, X)


def test_mixing_is_affine_and_a_share_for_each_datum():
    one, other = bind(denoiser(), Y), bind(denoiser(), Y.flip(0))
    mix = mixed(one, other, np.array([0.0, 1.0, 0.25, 0.5]))(X, T)
    for field in ("x0", "eps"):
        a, b = getattr(one(X, T), field), getattr(other(X, T), field)
        expected = torch.stack([a[0], b[1], 0.75 * a[2] + 0.25 * b[2], (a[3] + b[3]) / 2])
        torch.testing.assert_close(getattr(mix, field), expected)
    torch.testing.assert_close(mix.x_t, X)
