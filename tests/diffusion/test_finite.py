"""The exact score of a finite set, from the density itself; and the comparison of a model's score with it."""

import math

import numpy as np
import pytest
import torch
from laws import refused, schedule

import undiffuse as ud
from undiffuse.diffusion.finite import Finite, score_errors
from undiffuse.diffusion.process import Process
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.rng import fold

PROCESS = Process(schedule("cosine"))
POINTS = fold(0).uniform((11, 2, 3)) * 2 - 1
CLASSES = torch.arange(11) % 3


def log_density(x_t, t, points):
    """log of the mean over the points of N(x_t; signal point, sigma^2), from the definition."""
    signal, sigma = (float(scale) for scale in PROCESS.scales(t))
    parts = torch.distributions.Normal(signal * points, sigma).log_prob(x_t[:, None]).flatten(2).sum(2)
    return parts.logsumexp(1) - math.log(len(points))


@pytest.mark.parametrize("t", [1, 40, 300.5, 990])
def test_its_score_is_the_gradient_of_the_log_density(t):
    truth = PROCESS.corrupt(POINTS[:5], t, fold(1))
    x_t = truth.x_t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(x_t, t, POINTS).sum(), x_t)
    guess = Finite(PROCESS, POINTS).of()(truth.x_t, t)
    torch.testing.assert_close(guess.score, gradient, rtol=1e-7, atol=1e-7 * float(gradient.abs().max()))
    torch.testing.assert_close(guess.x_t, truth.x_t)


def test_classes_restrict_the_points():
    t, y = np.array([700.0, 500, 900]), torch.tensor([2, 0, 1])
    x_t = PROCESS.corrupt(POINTS[:3], t, fold(1)).x_t
    found = Finite(PROCESS, POINTS, CLASSES).of(y)(x_t, t)
    for row in range(3):
        alone = Finite(PROCESS, POINTS[y[row] == CLASSES]).of()(x_t[row : row + 1], float(t[row]))
        torch.testing.assert_close(found.x0[row], alone.x0[0])
    everyone = Finite(PROCESS, POINTS, CLASSES).of()(x_t, t)
    torch.testing.assert_close(everyone.x0, Finite(PROCESS, POINTS).of()(x_t, t).x0)


def test_near_the_data_it_gives_the_points_back():
    guess = Finite(PROCESS, POINTS.float()).of()(PROCESS.corrupt(POINTS.float(), 1, fold(1)).x_t, 1)
    assert guess.x0.dtype == torch.float32
    torch.testing.assert_close(guess.x0, POINTS.float())


def test_sampling_with_it_draws_the_points_and_nothing_else():
    x_T = fold(3).normal((40, 2, 3))
    times = ud.spacing(1000, 100)
    *_, last = ud.trajectory(PROCESS, Finite(PROCESS, POINTS).of(), ud.samplers.Ancestral(), x_T, times, fold(4))
    nearest = torch.cdist(last.x.double().flatten(1), POINTS.flatten(1)).min(1)
    assert nearest.values.max() < 1e-4 and len(nearest.indices.unique()) > 5


def test_a_comparison_says_how_far_a_score_is_off():
    exact = Finite(PROCESS, POINTS).of()

    def off(x_t, t):
        best = exact(x_t, t)
        return ud.Split.from_x0(x_t, best.x0 + 0.1, best.signal, best.sigma)

    times = np.array([5.0, 400.0])
    same, other = (score_errors(PROCESS, model, exact, POINTS, times, seed=2) for model in (exact, off))
    assert (same.distance == 0).all() and (same.mse == same.mse_exact).all()
    np.testing.assert_array_equal(other.t, times)
    np.testing.assert_array_equal(other.mse_exact, same.mse)
    from undiffuse.rng import per_row

    draws = per_row(2, "score", rows=range(11))
    for k, t in enumerate(times):
        truth = PROCESS.corrupt(POINTS, float(t), draws)
        one, best = off(truth.x_t, float(t)), exact(truth.x_t, float(t))
        wanted = ((one.score - best.score) ** 2).mean().sqrt() / (best.score**2).mean().sqrt()
        assert other.distance[k] == pytest.approx(float(wanted), rel=1e-9)
        assert other.mse[k] == pytest.approx(float(((one.x0 - POINTS) ** 2).mean()), rel=1e-9)


def test_it_is_gaussian_only():
    class Odd(ud.Gaussian):
        name, exact = "odd", frozenset()

    with refused(UsageError, "'odd'"):
        Finite(Process(schedule("cosine"), Odd()), POINTS)


def test_what_has_no_exact_score_is_refused():
    with refused(UndiffuseError, "at least one point"):
        Finite(PROCESS, POINTS[:0])
    with refused(UndiffuseError, "NaN"):
        Finite(PROCESS, POINTS * math.nan)
    with refused(UndiffuseError, "no point is of class 7"):
        Finite(PROCESS, POINTS, CLASSES).of(torch.tensor([0, 7]))
    with refused(UndiffuseError, "no point is of class 0"):
        Finite(PROCESS, POINTS).of(torch.tensor([0, 7]))
    with refused(UndiffuseError, "no value at t = 0"):
        Finite(PROCESS, POINTS).of()(POINTS, 0)
