"""A loss is a distance between two splits; the choice of field is a choice of weight."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import NAMES, refused, schedule

from undiffuse.diffusion.losses import DISTANCES, LOSSES, Choice, Simple
from undiffuse.diffusion.process import Process
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
