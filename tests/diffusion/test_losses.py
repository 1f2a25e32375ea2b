"""A loss is a distance between two splits; the choice of field is a choice of weight."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import NAMES, near, refused, schedule

from undiffuse.diffusion.losses import DISTANCES, LOSSES, SCALES, VLB, WEIGHTINGS, Choice, Hybrid, ScoreMatching, Simple
from undiffuse.diffusion.noise import Gaussian
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.schedule import NoiseSchedule
from undiffuse.diffusion.split import Split
from undiffuse.errors import UsageError
from undiffuse.rng import fold

PROCESS = Process(schedule("cosine"))


def pair(process: Process, t) -> tuple[Split, Split]:
    """A true and a guessed split of the same x_t, float64."""
    x0, wrong = (fold(0, name).normal((5, 2, 3)).double() for name in ("x0", "wrong"))
    truth = process.corrupt(x0, t, fold(1))
    return truth, Split.from_x0(truth.x_t, wrong, truth.signal, truth.sigma)


@given(name=st.sampled_from(NAMES), t=st.lists(st.floats(1, 1000), min_size=5, max_size=5))
def test_the_field_is_a_weight_by_snr(name, t):
    process, t = Process(schedule(name)), np.array(t)
    truth, guess = pair(process, t)
    eps, x0, v = (Simple(field)(process, truth, guess, t) for field in ("eps", "x0", "v"))
    ab = truth.signal**2
    snr = torch.from_numpy(ab / (1 - ab))
    torch.testing.assert_close(eps, snr * x0, rtol=1e-8, atol=1e-8 * float(snr.max()))
    torch.testing.assert_close(v, (snr + 1) * x0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("field", ["eps", "x0", "v"])
@pytest.mark.parametrize("distance", sorted(DISTANCES))
def test_the_truth_costs_nothing_and_every_error_costs(field, distance):
    truth, guess = pair(PROCESS, 300)
    assert Simple(field, distance)(PROCESS, truth, truth, 300).eq(0).all()
    assert Simple(field, distance)(PROCESS, truth, guess, 300).gt(0).all()


@pytest.mark.parametrize(
    ("distance", "by_hand"),
    [
        ("l2", lambda d: d * d),
        ("l1", lambda d: abs(d)),
        ("huber", lambda d: d * d / 2 if abs(d) <= 1 else abs(d) - 0.5),
    ],
)
@pytest.mark.parametrize("field", ["eps", "x0", "v"])
def test_a_loss_is_the_mean_over_each_datum(distance, by_hand, field):
    truth, guess = pair(PROCESS, 300)
    difference = (getattr(guess, field) - getattr(truth, field)).reshape(5, -1).tolist()
    assert max(abs(d) for row in difference for d in row) > 1 > min(abs(d) for row in difference for d in row)
    expected = [sum(by_hand(d) for d in row) / len(row) for row in difference]
    assert LOSSES[distance](Choice(field))(PROCESS, truth, guess, 300).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("distance", "theirs"), [("l2", "mse_loss"), ("l1", "l1_loss"), ("huber", "huber_loss")])
def test_the_batch_mean_equals_torch(distance, theirs):
    truth, guess = pair(PROCESS, 300)
    expected = getattr(torch.nn.functional, theirs)(guess.eps, truth.eps)
    torch.testing.assert_close(Simple("eps", distance)(PROCESS, truth, guess, 300).mean(), expected)


def test_the_gradient_pulls_the_prediction_to_the_truth():
    """d loss / d eps_theta = 2 (eps_theta - eps) / d: nothing else is differentiated on the way."""
    truth, guess = pair(PROCESS, 300)
    eps = guess.eps.clone().requires_grad_()
    Simple("eps")(PROCESS, truth, Split.from_eps(truth.x_t, eps, truth.signal, truth.sigma), 300).sum().backward()
    torch.testing.assert_close(eps.grad, 2 * (guess.eps - truth.eps) / 6)


def test_an_unknown_distance_is_refused():
    with refused(UsageError, "unknown loss 'l3'; known: l2, l1, huber"):
        Simple("eps", "l3")


# -- weights: one weight of x0, whatever the field -------------------------------------------------------------------

ENDS = np.array([1.0, 2, 500, 999, 1000])
EMPTY = Process(NoiseSchedule.from_betas(np.append(np.linspace(1e-4, 0.02, 999), 1.0)))  # nothing of x0 is left at T
PUBLISHED = {  # of the squared error of x0, from alpha_bar
    "snr": lambda ab: ab / (1 - ab),
    "min_snr": lambda ab: np.minimum(ab / (1 - ab), 5),  # Hang et al. 2023
    "truncated_snr": lambda ab: np.maximum(ab / (1 - ab), 1),  # Salimans & Ho 2022
    "p2": lambda ab: ab / (1 - ab) / (1 + ab / (1 - ab)),  # Choi et al. 2022
    "edm": lambda ab: ((1 - ab) / ab + 0.5**2) / ((1 - ab) / ab * 0.5**2),  # Karras et al. 2022: sigma^2 = 1 / SNR
}


class Foreign(Gaussian):
    """A family of which nothing is known to be exact."""

    name = "uniform"
    exact = frozenset()


def snr_of(process: Process, t) -> np.ndarray:
    ab = process.schedule.alpha_bar[np.asarray(t).astype(int)]
    return ab / (1 - ab)


def test_every_weighting_and_every_field_is_a_row_of_these_tests():
    assert set(WEIGHTINGS) == {"none", *PUBLISHED}
    assert set(SCALES) == {"eps", "x0", "v", "score"}


@pytest.mark.parametrize("field", ["eps", "x0", "v", "score"])
@pytest.mark.parametrize("weight", PUBLISHED)
@pytest.mark.parametrize("name", NAMES)
def test_a_weighting_is_one_number_whatever_the_field(name, weight, field):
    process = Process(schedule(name))
    truth, guess = pair(process, ENDS)
    x0_mse = ((guess.x0 - truth.x0) ** 2).flatten(1).mean(1)
    expected = torch.from_numpy(PUBLISHED[weight](process.schedule.alpha_bar[ENDS.astype(int)])) * x0_mse
    torch.testing.assert_close(Simple(field, "l2", weight)(process, truth, guess, ENDS), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("weight", "field", "formula"),
    [
        ("snr", "eps", lambda snr: 1 + 0 * snr),  # Ho et al. 2020, eq. 14
        ("min_snr", "x0", lambda snr: np.minimum(snr, 5)),  # Hang et al. 2023
        ("min_snr", "eps", lambda snr: np.minimum(5 / snr, 1)),
        ("min_snr", "v", lambda snr: np.minimum(snr, 5) / (snr + 1)),
        ("truncated_snr", "eps", lambda snr: np.maximum(1, 1 / snr)),  # max(x0-MSE, eps-MSE)
        ("p2", "eps", lambda snr: 1 / (1 + snr)),
        ("edm", "x0", lambda snr: (1 / snr + 0.25) / (0.5 * snr**-0.5) ** 2),
        ("none", "score", lambda snr: 1 + 0 * snr),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_the_published_forms_of_the_weights(name, weight, field, formula):
    t = np.arange(1.0, 1001)
    process = Process(schedule(name))
    assert Simple(field, "l2", weight).factor(process, t) == near(formula(snr_of(process, t)), 1e-9)
    assert float(Simple(field, "l2", weight).factor(process, 300)) == near(formula(snr_of(process, 300)), 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_truncated_snr_is_the_larger_of_the_errors_of_x0_and_eps(name):
    process = Process(schedule(name))
    truth, guess = pair(process, ENDS)
    x0, eps = (((getattr(guess, f) - getattr(truth, f)) ** 2).flatten(1).mean(1) for f in ("x0", "eps"))
    torch.testing.assert_close(Simple("v", "l2", "truncated_snr")(process, truth, guess, ENDS), torch.maximum(x0, eps))


@pytest.mark.parametrize(
    ("name", "T"), [*((n, T) for n in NAMES for T in (50, 1000, 4000)), ("cosine", 1), ("cosine", 4)]
)
def test_weights_are_finite_and_positive_at_every_integer_t(name, T):
    process, t = Process(schedule(name, T)), np.arange(1.0, T + 1)
    for weight in WEIGHTINGS:
        for field in SCALES:
            factor = Simple(field, "l2", weight).factor(process, t).astype(np.float32)  # as a batch takes it
            assert np.isfinite(factor).all()
            assert (factor > 0).all()


@pytest.mark.parametrize("weight", WEIGHTINGS)
@pytest.mark.parametrize("field", ["x0", "v"])
def test_zero_terminal_snr_has_a_finite_loss_at_T(field, weight):
    t = np.array([1.0, 2, 500, 999, 1000])
    truth, guess = pair(EMPTY, t)
    loss = Simple(field, "l2", weight)(EMPTY, truth, guess, t)
    assert loss.isfinite().all()
    if weight != "none":
        at_T = {"snr": 0, "min_snr": 0, "truncated_snr": 1, "p2": 0, "edm": 4}[weight]
        assert float(loss[-1]) == near(at_T * float(((guess.x0 - truth.x0) ** 2)[-1].mean()), 1e-12)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_zero_terminal_snr_has_a_finite_bound(variance):
    process, levels = Process(EMPTY.schedule, variance=variance), 17
    x0 = fold(0).integers(0, 16, (5, 2, 3)).double() / 8 - 1
    truth = process.corrupt(x0, ENDS, fold(1))
    guess = Split.from_v(truth.x_t, truth.v + 0.1, truth.signal, truth.sigma)
    assert VLB(levels)(process, truth, guess, ENDS).isfinite().all()
    assert ScoreMatching()(process, truth, guess, ENDS).isfinite().all()
    assert Simple("mean")(process, truth, guess, ENDS).isfinite().all()


@pytest.mark.parametrize(
    ("distance", "field", "weight"),
    [("l1", "eps", "snr"), ("huber", "x0", "min_snr"), ("l2", "mean", "p2"), ("l1", "mean", "edm")],
)
def test_a_weighting_of_anything_but_a_squared_error_is_refused(distance, field, weight):
    with refused(UsageError, f"weighting '{weight}' is defined for the l2 loss of x0, eps, v, score"):
        Simple(field, distance, weight)


def test_unknown_weightings_and_fields_are_refused():
    with refused(UsageError, "unknown weighting 'min_snrr'; did you mean 'min_snr'"):
        Simple("eps", "l2", "min_snrr")
    with refused(UsageError, "a loss cannot compare 'epss'; did you mean 'eps'"):
        Simple("epss")


# -- score matching, the posterior's mean, the bound -----------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_score_matching_is_the_error_of_eps(name):
    process = Process(schedule(name))
    truth, guess = pair(process, ENDS)
    eps_mse = ((guess.eps - truth.eps) ** 2).flatten(1).mean(1)
    assert not torch.allclose(Simple("score")(process, truth, guess, ENDS), eps_mse)
    torch.testing.assert_close(ScoreMatching()(process, truth, guess, ENDS), eps_mse, rtol=1e-10, atol=0)
    torch.testing.assert_close(Simple("score", "l2", "snr")(process, truth, guess, ENDS), eps_mse, rtol=1e-8, atol=0)


def test_score_matching_is_refused_for_other_noise():
    truth, guess = pair(PROCESS, 300)
    with refused(
        UsageError, "score matching needs Gaussian noise: score = -eps / sigma holds for no other, not 'uniform'"
    ):
        ScoreMatching()(Process(schedule("cosine"), Foreign()), truth, guess, 300)


def on_x0(process: Process, t) -> np.ndarray:
    """The coefficient of x0 in the posterior's mean (Ho et al. 2020, eq. 7)."""
    ab, t = process.schedule.alpha_bar, np.asarray(t).astype(int)
    return ab[t - 1] ** 0.5 * process.schedule.beta[t] / (1 - ab[t])


@pytest.mark.parametrize("name", NAMES)
def test_the_error_of_the_mean_is_that_of_x0_times_the_square_of_its_coefficient(name):
    process = Process(schedule(name))
    truth, guess = pair(process, ENDS)
    x0_mse = ((guess.x0 - truth.x0) ** 2).flatten(1).mean(1)
    expected = torch.from_numpy(on_x0(process, ENDS) ** 2) * x0_mse
    torch.testing.assert_close(Simple("mean")(process, truth, guess, ENDS), expected, rtol=1e-7, atol=0)
    l1 = torch.from_numpy(on_x0(process, ENDS)) * (guess.x0 - truth.x0).abs().flatten(1).mean(1)
    torch.testing.assert_close(Simple("mean", "l1")(process, truth, guess, ENDS), l1, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("name", "T"), [*((n, T) for n in NAMES for T in (50, 1000)), ("cosine", 4), ("empty", 1000)])
def test_a_split_is_found_again_from_the_mean_of_its_posterior(name, T):
    process = EMPTY if name == "empty" else Process(schedule(name, T))
    t = np.arange(1.0, T + 1)
    x0 = fold(0).normal((T, 3)).double()
    truth = process.corrupt(x0, t, fold(1))
    on_x_t = np.sqrt(process.schedule.alpha[1:]) * (1 - process.schedule.alpha_bar[:-1])
    on_x_t = on_x_t / (1 - process.schedule.alpha_bar[1:])  # Ho et al. 2020, eq. 7
    mean = torch.from_numpy(on_x0(process, t))[:, None] * x0 + torch.from_numpy(on_x_t)[:, None] * truth.x_t
    torch.testing.assert_close(process.posterior(truth, t, t - 1).mean, mean, rtol=1e-10, atol=1e-10)
    found = process.from_mean(truth.x_t, mean, t, t - 1)
    torch.testing.assert_close(found.x0, truth.x0, rtol=0, atol=1e-8)  # mean is rounded before it is divided
    again = process.from_mean(truth.x_t, process.posterior(truth, t, t - 1).mean, t, t - 1)
    for field in ("x0", "eps", "x_t"):
        torch.testing.assert_close(getattr(again, field), getattr(truth, field), rtol=1e-10, atol=1e-10)
    at_one = process.from_mean(truth.x_t, x0, 1, 0)
    torch.testing.assert_close(at_one.x0, x0, rtol=1e-14, atol=0)  # the mean of q(x_0 | x_1, x_0) is x_0


@pytest.mark.parametrize(("t", "s"), [(1000, 980.0), (500.5, 20.25), (40, 0), (2, 1)])
def test_the_mean_of_a_longer_step_finds_its_split_too(t, s):
    truth, _ = pair(PROCESS, t)
    found = PROCESS.from_mean(truth.x_t, PROCESS.posterior(truth, t, s).mean, t, s)
    torch.testing.assert_close(found.x0, truth.x0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.eps, truth.eps, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("name", NAMES)
def test_the_bound_with_fixed_variance_is_a_weighted_error_of_x0(name, variance):
    """T L_{t-1} = T / 2 (SNR(t-1) - SNR(t)) x0-MSE for small (Kingma et al. 2021)."""
    process = Process(schedule(name), variance=variance)
    t = np.array([2.0, 3, 500, 999, 1000])
    truth, guess = pair(process, t)
    x0_mse = ((guess.x0 - truth.x0) ** 2).flatten(1).mean(1).numpy()
    ratio = np.ones(5)  # of the posterior's variance to the step's
    if variance == "large":
        ab = process.schedule.alpha_bar
        ratio = (1 - ab[t.astype(int) - 1]) / (1 - ab[t.astype(int)])
    nats = ratio * (snr_of(process, t - 1) - snr_of(process, t)) * x0_mse / 2 + (ratio - 1 - np.log(ratio)) / 2
    found = VLB(17)(process, truth, guess, t)  # 17 levels: of L_0 alone, the data here are off their grid
    assert found.numpy() == near(1000 * nats / np.log(2), 1e-6)


def test_the_bound_with_small_variance_gives_nothing_for_the_truth():
    truth, _ = pair(PROCESS, 300)
    assert VLB(17)(PROCESS, truth, truth, 300).eq(0).all()


# -- what a configuration says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said", "loss"),
    [
        ("l2", Choice("v", "min_snr", 17), Simple("v", "l2", "min_snr")),
        ("l1", Choice("x0", "none", 17), Simple("x0", "l1")),
        ("huber", Choice("mean", "none", 17), Simple("mean", "huber")),
        ("vlb", Choice("v", "none", 17), VLB(17)),
        ("hybrid", Choice("v", "p2", 17), Hybrid(Simple("v", "l2", "p2"), 17)),
        ("score_matching", Choice("score", "none", 17), ScoreMatching()),
    ],
)
def test_a_name_and_a_choice_make_a_loss(name, said, loss):
    assert LOSSES[name](said) == loss


def test_every_loss_is_a_row_of_these_tests():
    assert set(LOSSES) == {"l2", "l1", "huber", "vlb", "hybrid", "score_matching"}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_one_datum_does_not_depend_on_the_others(name):
    process = Process(schedule("cosine"), variance="learned")
    x0 = fold(0).integers(0, 16, (5, 2, 3)).double() / 8 - 1
    truth = process.corrupt(x0, ENDS, fold(1))
    fraction = fold(3).uniform((5, 2, 3))
    guess = Split(*(z + 0.1 * fold(2).normal(z.shape) for z in (x0, truth.eps)), truth.signal, truth.sigma, fraction)
    loss = LOSSES[name](Choice("eps", levels=17))
    whole = loss(process, truth, guess, ENDS)
    for i in range(5):
        row = np.arange(5) == i
        alone = loss(process, truth.rows(row), guess.rows(row), ENDS[row])
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-10, atol=0)
