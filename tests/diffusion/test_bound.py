"""The estimate of the bound: which draw stands where, what is refused, the sums; and the ends of its formulas."""

import math

import numpy as np
import pytest
import torch
from laws import NAMES, near, refused, schedule

import undiffuse as ud
from undiffuse.diffusion import bound
from undiffuse.diffusion.bound import Bits, estimate_bound, mean_and_error
from undiffuse.diffusion.likelihood import (
    bound_term,
    check_gaussian,
    decoder_term,
    discretised,
    log_interval,
    normal_kl,
    prior_term,
    step_term,
)
from undiffuse.diffusion.losses import VLB
from undiffuse.diffusion.noise import Gaussian
from undiffuse.diffusion.process import Normal, Process
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.rng import Generator, fold

T = 20
PROCESS = Process(schedule("cosine", T))
GRID = fold(0).integers(0, 16, (7, 2, 3)).double() / 8 - 1


def says(shift: float, process: Process = PROCESS):
    """A network wrong by a shift that grows with t."""
    return lambda x_t, t: ud.Split.from_v(x_t, shift * x_t + torch.from_numpy(t)[:, None, None] / T, *process.scales(t))


def one_network(rows):
    return says(0.5)


# -- the estimate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 6, T])
def test_the_size_of_a_block_changes_nothing(count, monkeypatch):
    whole = estimate_bound(PROCESS, one_network, GRID, 17, count, seed=3)
    asked = []
    monkeypatch.setattr(bound, "BOUND_BLOCK", 3)
    parts = estimate_bound(PROCESS, lambda rows: asked.append(rows) or says(0.5), GRID, 17, count, seed=3)
    assert asked == [slice(0, 3), slice(3, 6), slice(6, 7)]
    for name in ("prior", "t", "terms", "mse_x0", "mse_eps"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=0)
    alone = estimate_bound(PROCESS, one_network, GRID[:1], 17, count, seed=3)
    torch.testing.assert_close(alone.total[0], whole.total[0], rtol=1e-12, atol=0)


def test_every_datum_has_draws_of_its_own_and_every_seed_and_time_others():
    same = GRID[:1].expand(7, 2, 3)
    seeds = [estimate_bound(PROCESS, one_network, same, 17, T, seed=seed).mse_x0 for seed in (0, 1)]
    assert torch.cat([seed.flatten() for seed in seeds]).unique().numel() == 2 * 7 * T
    truth = PROCESS.corrupt(GRID, 1, fold(0))
    eps = []

    def watch(pieces, total, what):
        assert total == T
        for piece in pieces:
            eps.append(piece.mse_eps)
            yield piece

    zero = lambda rows: lambda x_t, t: ud.Split(0 * x_t, 0 * x_t, truth.signal, truth.sigma)  # noqa: E731
    found = estimate_bound(PROCESS, zero, same, None, T, watch=watch)
    assert torch.stack(eps, 1).equal(found.mse_eps)
    assert found.mse_eps.unique().numel() == 7 * T  # noise is drawn anew at every t


def test_all_times_stand_in_order_with_their_terms_and_errors():
    found = estimate_bound(PROCESS, one_network, GRID, 17, T)
    assert found.t.tolist() == [list(range(1, T + 1))] * 7
    rows = [ud.rng.per_row(0, "bound", rows=range(7))]
    for t in range(1, T + 1):
        truth = PROCESS.corrupt(GRID, np.full(7, float(t)), rows[0])
        guess = says(0.5)(truth.x_t, np.full(7, float(t)))
        wanted = bound_term(PROCESS, truth, guess, t, 17)
        torch.testing.assert_close(found.terms[:, t - 1], wanted)
        for field in ("x0", "eps"):
            mse = ((getattr(guess, field) - getattr(truth, field)) ** 2).mean((1, 2))
            torch.testing.assert_close(getattr(found, f"mse_{field}")[:, t - 1], mse)
    torch.testing.assert_close(found.prior, prior_term(PROCESS, GRID))
    torch.testing.assert_close(found.total, found.prior + found.terms.sum(1))


class Even(Generator):
    """Uniforms that are even: u = 0, 1/n, ..., (n - 1) / n."""

    def uniform(self, shape):
        return torch.arange(shape[0], dtype=torch.float64) / shape[0]


@pytest.mark.parametrize(("T", "count"), [(20, 7), (20, 19), (20, 1), (1000, 300), (3, 2)])
def test_times_are_stratified_and_every_t_of_a_part_is_drawn_alike_often(T, count):
    n = 6 * T
    ends = bound.parts(T, count)
    for k in range(count):
        t = bound._times(T, k, count, Even((np.random.default_rng(0),) * n))
        seen = np.bincount(t.astype(int), minlength=T + 1) / n
        inside = np.arange(ends[k] + 1, ends[k + 1] + 1)
        assert seen[inside] == pytest.approx(1 / len(inside), abs=2 / n)
        assert seen.sum() == pytest.approx(seen[inside].sum(), abs=1e-12)


@pytest.mark.parametrize("T", [1, 2, 10, 49, 1000])
def test_parts_cover_all_times_and_grow(T):
    for count in range(1, T + 1):
        ends = bound.parts(T, count)
        assert (ends[0], ends[-1], len(ends)) == (0, T, count + 1)
        assert (np.diff(ends) >= 1).all()
    assert bound.parts(1000, 20).tolist()[:10] == [0, 1, 2, 3, 4, 6, 8, 11, 16, 22]


def test_a_time_never_passes_T():
    class Last(Generator):
        def uniform(self, shape):
            return torch.full(shape, np.nextafter(1.0, 0.0), dtype=torch.float64)

    for T in (10, 49, 1000, 4000):
        for count in range(1, min(T, 100)):
            assert bound._times(T, count - 1, count, Last((np.random.default_rng(0),))) == T


def test_the_total_weighs_each_term_by_the_times_it_stands_for():
    terms, more = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.zeros(2, 2)
    found = Bits(10, torch.tensor([0.25, 0.5]), more, terms, more, more)
    assert bound.parts(10, 2).tolist() == [0, 3, 10]
    assert found.total.tolist() == [0.25 + 3 * 1 + 7 * 2, 0.5 + 3 * 3 + 7 * 5]
    mean, error = found.mean()
    assert mean == (17.25 + 44.5) / 2
    assert error == near((44.5 - 17.25) / 2, 1e-12)  # std = |a - b| / sqrt(2), over sqrt(2)


def test_the_standard_error_is_that_of_the_sample():
    mean, error = mean_and_error(torch.tensor([1.0, 2.0, 4.0, 9.0]))
    assert (mean, error) == (4.0, near(math.sqrt((9 + 4 + 0 + 25) / 3 / 4), 1e-12))
    mean, error = mean_and_error(torch.tensor([2.0]))
    assert mean == 2
    assert math.isnan(error)
    big = mean_and_error(2.0**26 + torch.arange(0, 64, 8.0))  # float32 would lose the mean's last digits
    assert big[0] == 2.0**26 + 28


class Foreign(Gaussian):
    name = "uniform"


@pytest.mark.parametrize("exact", [set(), {"posterior", "chain"}, {"score", "chain"}])
def test_every_term_is_refused_for_noise_without_a_gaussian_posterior_and_score(exact):
    noise = type("Some", (Foreign,), {"exact": frozenset(exact)})()
    process = Process(schedule("cosine", T), noise)
    truth = process.corrupt(GRID, 1, fold(0))
    calls = (
        lambda: check_gaussian(process),
        lambda: prior_term(process, GRID),
        lambda: step_term(process, truth, truth, 2),
        lambda: decoder_term(process, truth, truth, 17),
        lambda: estimate_bound(process, one_network, GRID, 17, T),
    )
    for call in calls:
        with refused(
            UsageError,
            "the variational bound needs Gaussian noise: its terms are Gaussian KLs; this is 'uniform' noise",
        ):
            call()


@pytest.mark.parametrize("count", [1, T])
def test_data_off_the_grid_are_refused_before_the_network_is_asked(count):
    def never(rows):
        raise AssertionError("the network was asked")

    for wrong in (0.02, 0.0012, 2.0, -2.0, math.nan):
        x = GRID.clone()
        x[6, 1, 2] += wrong * 4
        with refused(UndiffuseError, "likelihoods need images on the data's own grid of 17 levels in [-1, 1]"):
            estimate_bound(PROCESS, never, x, 17, count)
    free = estimate_bound(PROCESS, one_network, GRID + 0.02, None, count)
    assert free.total.isfinite().all()


# -- the terms --------------------------------------------------------------------------------------------------------


def test_the_kl_of_two_gaussians_in_both_directions():
    """ln(s2 / s1) + (s1^2 + (m1 - m2)^2) / (2 s2^2) - 1 / 2."""
    m1, v1, m2, v2 = (torch.tensor([[a]], dtype=torch.float64) for a in (0.3, 0.04, -0.1, 0.25))
    forth, back = normal_kl(Normal(m1, v1), Normal(m2, v2)), normal_kl(Normal(m2, v2), Normal(m1, v1))
    assert forth.item() == near(math.log(0.5 / 0.2) + (0.04 + 0.16) / 0.5 - 0.5, 1e-12)
    assert back.item() == near(math.log(0.2 / 0.5) + (0.25 + 0.16) / 0.08 - 0.5, 1e-12)
    assert normal_kl(Normal(m1, v1), Normal(m1, v1)).item() == 0


@pytest.mark.parametrize("levels", [None, 17])
@pytest.mark.parametrize("decoder", ["posterior", "beta"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_first_term_is_the_decoder_at_the_guess(variance, decoder, levels):
    """-log p(x_0 | x_1), with the variance Ho et al. 2020's code takes: beta-tilde_2, or beta_1 on request."""
    process = Process(schedule("linear", 100), variance=variance, decoder=decoder)
    ab = process.schedule.alpha_bar
    var = 1 - ab[1] if decoder == "beta" else (1 - ab[2] / ab[1]) * (1 - ab[1]) / (1 - ab[2])
    truth = process.corrupt(GRID, 1, fold(1))
    guess = ud.Split.from_x0(truth.x_t, GRID + 0.03 * fold(2).normal(GRID.shape), truth.signal, truth.sigma)
    law = torch.distributions.Normal(guess.x0, math.sqrt(var))
    if levels is None:
        nats = -law.log_prob(GRID)
    else:
        upper = torch.where(GRID > 0.99, 1.0, law.cdf(GRID + 1 / 16))
        nats = -(upper - torch.where(GRID < -0.99, 0.0, law.cdf(GRID - 1 / 16))).log()
    wanted = nats.mean((1, 2)) / math.log(2)
    for t in (1, np.ones(7)):
        torch.testing.assert_close(bound_term(process, truth, guess, t, levels), wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_at_T_is_a_kl_too(name):
    process = Process(schedule(name))
    ab = process.schedule.alpha_bar[-1]
    wanted = (-ab - np.log1p(-ab) + ab * GRID**2).mean((1, 2)) / 2 / math.log(2)
    torch.testing.assert_close(prior_term(process, GRID), wanted, rtol=1e-5, atol=1e-15)


def test_the_first_term_is_for_t_one_alone():
    """At t = 2 the term is a KL, 0 for the true split."""
    truth = PROCESS.corrupt(GRID, np.arange(1.0, 8), fold(1))
    terms = bound_term(PROCESS, truth, truth, np.arange(1.0, 8), 17)
    assert terms[0] != 0
    assert terms[1:].eq(0).all()


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_the_outer_bins_are_open_and_the_inner_ones_are_not(levels):
    x0 = torch.linspace(-1, 1, levels, dtype=torch.float64)
    std, width = 1.5, 2 / (levels - 1)
    law = torch.distributions.Normal(torch.tensor(0.2, dtype=torch.float64), std)
    edges = law.cdf(torch.arange(levels + 1, dtype=torch.float64) * width - 1 - width / 2)
    edges[0], edges[-1] = 0, 1
    decoder = Normal(torch.full_like(x0, 0.2), torch.full_like(x0, std**2))
    torch.testing.assert_close(discretised(x0, decoder, levels), edges.diff().log(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mass_of_an_interval_falls_and_pulls_however_far(dtype):
    """Finite down to 1e15 standard deviations, monotone, and with a slope of -middle towards the mean."""
    far = torch.logspace(0, 14, 57, dtype=dtype).requires_grad_()
    mass = log_interval(far, far + 0.25)
    (slope,) = torch.autograd.grad(mass.sum(), far)
    assert mass.isfinite().all()
    assert (mass.diff() < 0).all()
    assert slope.isfinite().all()
    near_by = far.detach() < 1e4
    ratio = (slope / -far.detach())[near_by]
    assert ((ratio > 0.9) & (ratio < 1.3)).all()
    mirrored = log_interval(-far - 0.25, -far)
    torch.testing.assert_close(mirrored, mass, rtol=1e-6, atol=0)
    beyond = torch.tensor([1e16, 1e20, 1e30], dtype=dtype)
    for low, high in ((beyond, beyond * 2), (-beyond * 2, -beyond), (beyond, beyond + math.inf)):
        assert log_interval(low, high).isfinite().all()


@pytest.mark.parametrize("t", [1, np.arange(1.0, 8)])
def test_a_term_and_a_loss_refuse_data_off_the_grid_too(t):
    """Training on the bound never passes through the estimate."""
    truth = PROCESS.corrupt(GRID + 0.03, t, fold(1))
    for term in (
        lambda: bound_term(PROCESS, truth, truth, t, 17),
        lambda: VLB(17)(PROCESS, truth, truth, t),
        lambda: discretised(truth.x0, Normal(truth.x0, torch.ones_like(truth.x0)), 17),
    ):
        with refused(UndiffuseError, "likelihoods need images on the data's own grid of 17 levels in [-1, 1]"):
            term()


# -- learned variance -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 2, 10, T])
def test_a_learned_log_variance_is_free_within_forty_and_held_there(t):
    process = Process(PROCESS.schedule, variance="learned")
    ab = process.schedule.alpha_bar
    large = math.log(1 - ab[t] / ab[t - 1])
    first = (1 - ab[2] / ab[1]) * (1 - ab[1]) / (1 - ab[2])
    small = math.log(first if t == 1 else (1 - ab[t] / ab[t - 1]) * (1 - ab[t - 1]) / (1 - ab[t]))
    truth = process.corrupt(GRID, t, fold(1))
    for wanted in (39.9, 15.0, large, small, -15.0, -39.9, 41.0, -41.0, 1e6, -1e6):
        fraction = torch.full_like(GRID, (wanted - small) / (large - small), requires_grad=True)
        split = ud.Split(truth.x0, truth.eps, truth.signal, truth.sigma, fraction)
        step = process.reverse(split, t, t - 1)
        held = max(-40.0, min(40.0, wanted))
        assert step.log_var[0, 0, 0].item() == pytest.approx(held, rel=1e-9)
        assert step.var[0, 0, 0].item() == near(math.exp(held), 1e-6)


def test_learned_variance_ignores_the_decoder_asked_for():
    """Nichol & Dhariwal 2021's code: the clipped beta-tilde_2 and beta_1 are the ends, whatever the decoder."""
    truth = PROCESS.corrupt(GRID, 1, fold(1))
    found = [
        Process(PROCESS.schedule, variance="learned", decoder=decoder)
        .reverse(ud.Split(truth.x0, truth.eps, truth.signal, truth.sigma, torch.full_like(GRID, 0.25)), 1, 0)
        .var
        for decoder in ("posterior", "beta")
    ]
    assert found[0].equal(found[1])
