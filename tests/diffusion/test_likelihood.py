"""The bound's terms against closed forms, integrals, and an independent implementation of Improved DDPM's formulas."""

import math
from itertools import product

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import NAMES, Data, refused, schedule
from scipy.stats import norm

import undiffuse as ud
from undiffuse.diffusion import bound
from undiffuse.diffusion.bound import estimate_bound
from undiffuse.diffusion.likelihood import bound_term, discretised, log_interval, prior_term
from undiffuse.diffusion.losses import VLB, Hybrid, Simple
from undiffuse.diffusion.noise import Gaussian
from undiffuse.diffusion.process import Normal, Process
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.rng import fold

DATA = Data(0.4, 0.3)
NODES, WEIGHTS = (np.array([-(3**0.5), 0.0, 3**0.5]), np.array([1, 4, 1]) / 6)  # Gauss-Hermite: exact to degree 5
KINDS = {"small": "small", "large": "large", "exact": "learned"}


def bits(nats):
    return nats / math.log(2)


def first_var(ab) -> float:
    """The posterior's variance at (t, s) = (2, 1)."""
    return (1 - ab[2] / ab[1]) * (1 - ab[1]) / (1 - ab[2])


def reverse_var(kind: str, ab, t: int) -> float:
    """Of p(x_{t-1} | x_t), for Gaussian data."""
    beta = 1 - ab[t] / ab[t - 1]
    if t == 1:
        return DATA.left(ab[1]) if kind == "exact" else first_var(ab)
    return DATA.line(kind, ab[t], ab[t - 1]).noise ** 2 if kind != "large" else beta


def closed_form(kind: str, ab, t: int) -> float:
    """E L_{t-1} (t = 1: L_0 for continuous data) in bits, from the table alone."""
    v2, left = reverse_var(kind, ab, t), DATA.left(ab[t])
    if t == 1:
        return bits(0.5 * (math.log(2 * math.pi * v2) + left / v2))
    v1 = reverse_var("small", ab, t)
    on_x0 = ab[t - 1] ** 0.5 * (1 - ab[t] / ab[t - 1]) / (1 - ab[t])
    return bits(0.5 * (math.log(v2 / v1) + v1 / v2 - 1 + on_x0**2 * left / v2))


def at_nodes(process: Process, t: int, var: float | None) -> tuple[ud.Split, ud.Split, torch.Tensor]:
    """The true and the exact denoiser's split at the 3 x 3 nodes of (x0, eps), and their weights."""
    pairs = np.array(list(product(DATA.mu + DATA.std * NODES, NODES)))
    weights = torch.tensor([a * b for a, b in product(WEIGHTS, WEIGHTS)])
    x0, eps = (torch.from_numpy(column.copy())[:, None] for column in pairs.T)
    truth = ud.Split(x0, eps, *process.scales(t))
    gain, shift = DATA.guess(float(process.schedule.alpha_bar[t]))
    guess = ud.Split.from_x0(truth.x_t, gain * truth.x_t + shift, truth.signal, truth.sigma)
    if var is not None:
        ab = process.schedule.alpha_bar
        low = first_var(ab) if t == 1 else reverse_var("small", ab, t)
        fraction = math.log(var / low) / math.log((1 - ab[t] / ab[t - 1]) / low)
        guess = ud.Split(guess.x0, guess.eps, guess.signal, guess.sigma, torch.full_like(x0, fraction))
    return truth, guess, weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "T"), [*product(NAMES, (100, 1000)), ("cosine", 10)])
def test_every_term_is_its_closed_form_and_they_sum_to_the_entropy(name, T, kind):
    process = Process(schedule(name, T), variance=KINDS[kind])
    ab = process.schedule.alpha_bar
    total = 0.0
    for t in range(1, T + 1):
        var = reverse_var("exact", ab, t) if kind == "exact" else None
        truth, guess, weights = at_nodes(process, t, var)
        found = float((weights * bound_term(process, truth, guess, t, None)).sum())
        assert found == pytest.approx(closed_form(kind, ab, t), rel=1e-9, abs=1e-9)
        total += found
    square = ab[T] * (DATA.mu**2 + DATA.std**2)
    prior = float((weights * prior_term(process, truth.x0)).sum())
    assert prior == pytest.approx(bits(0.5 * (1 - ab[T] + square - 1 - math.log(1 - ab[T]))), rel=1e-9, abs=1e-12)
    if kind == "exact":  # then p(x_0..x_{T-1} | x_T) is q's, and only the prior is wrong
        mean, var = DATA.marginal(ab[T])
        wrong = bits(0.5 * (var + mean**2 - 1 - math.log(var)))
        entropy = bits(0.5 * math.log(2 * math.pi * math.e * DATA.std**2))
        assert total + prior == pytest.approx(entropy + wrong, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_fixed_variances_miss_the_entropy_by_what_the_theory_says(name):
    """Over t = 2..T: large misses less and less, small tends to gamma / 2 nats = 0.416 bit from above; at t = 1 small
    is half as wide as it should be, which costs (1 - ln 2) / 2 nats = 0.221 bit."""
    gaps, first = {}, []
    for T in (100, 1000, 4000):
        ab = schedule(name, T).alpha_bar
        for kind in KINDS:
            gaps[kind, T] = sum(closed_form(kind, ab, t) for t in range(2, T + 1))
        first.append(closed_form("small", ab, 1) - closed_form("exact", ab, 1))
    small, large = ([gaps[kind, T] - gaps["exact", T] for T in (100, 1000, 4000)] for kind in ("small", "large"))
    limit = bits(np.euler_gamma / 2)
    assert large[0] > 5 * large[1] > 15 * large[2] > 0
    assert small[0] - limit > 2.5 * (small[1] - limit) > 5 * (small[2] - limit) > 0
    assert first[0] < first[1] < first[2] < bits((1 - math.log(2)) / 2)
    if name == "sigmoid":  # whose first steps are the smallest
        assert small[2] == pytest.approx(limit, abs=1e-3)
        assert first[2] == pytest.approx(bits((1 - math.log(2)) / 2), abs=1e-3)


# -- Improved DDPM, written from the paper in float64 -----------------------------------------------------------------


class Paper:
    """Nichol & Dhariwal 2021, sections 2 and 3.1, with their indices shifted so that t = 1 is the first step."""

    def __init__(self, beta):
        self.beta = np.asarray(beta)
        self.alpha_bar = np.cumprod(1 - self.beta)
        before = np.append(1.0, self.alpha_bar[:-1])
        self.tilde = (1 - before) / (1 - self.alpha_bar) * self.beta
        self.log_tilde = np.log(np.append(self.tilde[1], self.tilde[1:]))  # the first is the second's
        self.on_x0 = self.beta * before**0.5 / (1 - self.alpha_bar)  # eq. 10
        self.on_x_t = (1 - before) * (1 - self.beta) ** 0.5 / (1 - self.alpha_bar)

    def terms(self, x0, noise, t, eps, v, levels):
        """L_vlb's term, bits per dimension, for the network's eps and v in [-1, 1]."""
        ab = self.alpha_bar[t - 1]
        x_t = ab**0.5 * x0 + (1 - ab) ** 0.5 * noise
        guess = (x_t - (1 - ab) ** 0.5 * eps) / ab**0.5
        mean = self.on_x0[t - 1] * guess + self.on_x_t[t - 1] * x_t
        f = (v + 1) / 2
        log_var = f * np.log(self.beta[t - 1]) + (1 - f) * self.log_tilde[t - 1]  # eq. 15
        if t == 1:
            half, std = 1 / (levels - 1), np.exp(log_var / 2)
            upper = np.where(x0 > 1 - half, 1.0, norm.cdf((x0 + half - mean) / std))
            lower = np.where(x0 < -1 + half, 0.0, norm.cdf((x0 - half - mean) / std))
            return bits(-np.log(upper - lower)).mean()
        true_mean = self.on_x0[t - 1] * x0 + self.on_x_t[t - 1] * x_t
        gap = self.log_tilde[t - 1] - log_var
        return bits(0.5 * (-1 - gap + np.exp(gap) + (true_mean - mean) ** 2 * np.exp(-log_var))).mean()


@pytest.mark.parametrize("name", NAMES)
def test_the_formulas_of_improved_ddpm(name):
    process, levels = Process(schedule(name, 100), variance="learned"), 17
    paper = Paper(process.schedule.beta[1:])
    t = np.array([1, 2, 3, 17, 50, 99, 100])
    shape = (len(t), 1, 4, 4)
    x0 = fold(0).integers(0, levels - 1, shape).double() / (levels - 1) * 2 - 1
    x0[0, 0, 0] = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    noise, eps, v = (fold(0, at).normal(shape).double() for at in ("noise", "eps", "v"))
    eps = (noise + 0.1 * eps).requires_grad_()
    v = v.tanh().requires_grad_()
    truth = ud.Split(x0, noise, *process.scales(t))
    read = ud.Split.from_eps(truth.x_t, eps, truth.signal, truth.sigma)
    guess = ud.Split(read.x0, read.eps, read.signal, read.sigma, (v + 1) / 2)
    rows = [z.detach().numpy() for z in (x0, noise, eps, v)]
    wanted = [paper.terms(*(z[i] for z in rows[:2]), t[i], *(z[i] for z in rows[2:]), levels) for i in range(len(t))]
    found = VLB(levels)(process, truth, guess, t)
    np.testing.assert_allclose(found.detach().numpy() / 100, wanted, rtol=1e-10)
    simple = Simple("eps")(process, truth, guess, t)
    hybrid = Hybrid(Simple("eps"), levels)(process, truth, guess, t)
    torch.testing.assert_close(hybrid, simple + 0.001 * found)
    of_hybrid, of_v = torch.autograd.grad(hybrid.sum(), [eps, v], retain_graph=True)
    (of_simple,) = torch.autograd.grad(simple.sum(), [eps], retain_graph=True)
    (v_alone,) = torch.autograd.grad(0.001 * found.sum(), [v])
    assert torch.equal(of_hybrid, of_simple)  # the mean is detached in the second term
    torch.testing.assert_close(of_v, v_alone)
    assert of_v.abs().max() > 0


# -- the decoder's bins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-0.1, 0.1),
        (-3.0, -2.9),
        (5.0, 5.001),
        (30.0, 30.5),
        (-40.0, -39.0),
        (0.0, 1e-8),
        (12.0, 12.0 + 1e-6),
        (-2.0, 7.0),
        (100.0, 100.02),
        (-1e4, -1e4 + 1),
        (-math.inf, -9.0),
        (9.0, math.inf),
        (-1.0, math.inf),
        (0.3, 1.2),
        (-0.8, 0.9),
        (0.0, 0.71),
    ],
)
def test_the_mass_of_an_interval_is_the_integral_of_the_density(low, high):
    mpmath.mp.dps = 60
    a, b = (-high, -low) if low + high > 0 else (low, high)  # the lower tail is the one without cancellation
    wide = mpmath.ncdf(b) - mpmath.ncdf(a)
    wanted = float(mpmath.log(wide))
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 3e-5)):
        ends = torch.tensor([low, high], dtype=dtype)
        if dtype == torch.float32 and ends[1] - ends[0] != pytest.approx(high - low, rel=1e-6):
            continue  # float32 cannot name this interval
        assert float(log_interval(ends[0], ends[1])) == pytest.approx(wanted, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("std", [1e-3, 0.05, 3.0, 1e6])
def test_the_bins_share_one_unit_of_mass(levels, std):
    values = torch.linspace(-1, 1, levels, dtype=torch.float64)
    decoder = Normal(torch.full_like(values, 0.37), torch.full_like(values, std**2))
    assert float(discretised(values, decoder, levels).logsumexp(0)) == pytest.approx(0, abs=1e-9)


@settings(max_examples=150)
@given(
    mean=st.floats(-1e6, 1e6),
    fraction=st.floats(-1e6, 1e6),
    t=st.sampled_from([1, 2, 500, 999, 1000]),
    name=st.sampled_from(NAMES),
    edge=st.sampled_from([-1.0, 0.0, 1.0]),
)
def test_nothing_is_infinite_whatever_the_network_says(mean, fraction, t, name, edge):
    process = Process(schedule(name), variance="learned")
    x0 = torch.full((2, 3), edge)
    truth = process.corrupt(x0, t, fold(0))
    says, f = (
        torch.full((2, 3), float(mean), requires_grad=True),
        torch.full((2, 3), float(fraction), requires_grad=True),
    )
    read = ud.Split.from_x0(truth.x_t, says, truth.signal, truth.sigma)
    guess = ud.Split(read.x0, read.eps, read.signal, read.sigma, f)
    out = bound_term(process, truth, guess, t, 257)
    gradients = torch.autograd.grad(out.sum(), [says, f])
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)


def test_a_batch_of_mixed_times_is_its_rows_one_by_one():
    process = Process(schedule("linear"), variance="learned")
    x0 = fold(0).integers(0, 16, (6, 1, 3, 3)).float() / 8 - 1
    t = np.array([5.0, 1, 900, 1, 2, 1000])
    truth = process.corrupt(x0, t, fold(1))
    read = ud.Split.from_eps(truth.x_t, truth.eps + 0.1, truth.signal, truth.sigma)
    guess = ud.Split(read.x0, read.eps, read.signal, read.sigma, torch.full_like(x0, 0.3))
    whole = bound_term(process, truth, guess, t, 17)
    for i in range(6):
        row = np.arange(6) == i
        torch.testing.assert_close(bound_term(process, truth.rows(row), guess.rows(row), t[row], 17)[0], whole[i])


# -- estimates --------------------------------------------------------------------------------------------------------

ATOMS = torch.linspace(-1, 1, 17, dtype=torch.float64)


class Mixture:
    """Scalars of weights[k] N(centres[k], std^2), or the centres themselves for std 0; everything by integration."""

    def __init__(self, centres, weights, std):
        self.centres, self.std = np.asarray(centres, np.float64), std
        self.weights = np.asarray(weights, np.float64) / np.sum(weights)

    def draw(self, n):
        rng = np.random.default_rng(0)
        return rng.choice(self.centres, n, p=self.weights) + self.std * rng.standard_normal(n)

    def parts(self, x, ab):
        """Each component's log density of x_t, posterior mean and variance of x0, [k, n]."""
        var = ab * self.std**2 + 1 - ab
        density = np.log(self.weights[:, None]) + norm.logpdf(x, ab**0.5 * self.centres[:, None], var**0.5)
        gain = ab**0.5 * self.std**2 / var
        means = self.centres[:, None] + gain * (x - ab**0.5 * self.centres[:, None])
        return density, means, self.std**2 * (1 - ab) / var

    def guess(self, x, ab):
        """E and Var of x0 given x_t = x."""
        density, means, var = self.parts(x, ab)
        p = np.exp(density - density.max(0))
        p = p / p.sum(0)
        mean = (p * means).sum(0)
        return mean, (p * (means - mean) ** 2).sum(0) + var

    def denoiser(self, process):
        def denoise(x_t, t):
            ab = process.schedule.alpha_bar[np.asarray(t).astype(int)]
            mean, _ = self.guess(x_t[:, 0].numpy(), ab)
            return ud.Split.from_x0(x_t, torch.from_numpy(mean)[:, None], *process.scales(t))

        return denoise

    def expected_bound(self, ab, variances):
        """Sum of E L_{t-1}, t = 2..T, in bits, by integration over x_t."""
        total, x = 0.0, np.linspace(-7, 7, 20001)
        for t in range(2, len(ab)):
            density = np.exp(self.parts(x, ab[t])[0]).sum(0)
            left = float((density * self.guess(x, ab[t])[1]).sum() * (x[1] - x[0]))
            beta = 1 - ab[t] / ab[t - 1]
            v1, v2 = beta * (1 - ab[t - 1]) / (1 - ab[t]), variances(ab, t)
            on_x0 = ab[t - 1] ** 0.5 * beta / (1 - ab[t])
            total += bits(0.5 * (math.log(v2 / v1) + v1 / v2 - 1 + on_x0**2 * left / v2))
        return total


LAWS = {
    "a mixture of Gaussians": (Mixture([-0.5, 0.1, 0.6], [1, 2, 1], 0.08), None),
    "quantised data": (Mixture(ATOMS.numpy(), np.arange(1, 18) ** 0.5, 0.0), 17),
}


@pytest.mark.bare
@pytest.mark.parametrize("kind", ["small", "large"])
@pytest.mark.parametrize("law", LAWS)
def test_the_estimate_is_the_integral_within_its_standard_error(law, kind):
    mixture, levels = LAWS[law]
    process = Process(schedule("cosine", 100), variance=kind)
    ab = process.schedule.alpha_bar
    x0 = torch.from_numpy(mixture.draw(3000))[:, None]
    x0 = x0 if levels is None else x0.round(decimals=12)
    found = estimate_bound(process, lambda rows: mixture.denoiser(process), x0, levels, 100)
    inner = found.terms[:, 1:].sum(1)
    variances = {"small": lambda ab, t: (1 - ab[t] / ab[t - 1]) * (1 - ab[t - 1]) / (1 - ab[t])}.get(
        kind, lambda ab, t: 1 - ab[t] / ab[t - 1]
    )
    error = float(inner.std() / len(inner) ** 0.5)
    assert float(inner.mean()) == pytest.approx(mixture.expected_bound(ab, variances), abs=4 * error)
    truth = -np.log2(mixture.weights[((x0[:, 0] + 1) * 8).round().long().numpy()]) if levels else None
    if levels is None:
        density = (mixture.weights[:, None] * norm.pdf(x0[:, 0].numpy(), mixture.centres[:, None], mixture.std)).sum(0)
        truth = -np.log2(density)
    gap = found.total.numpy() - truth
    assert gap.mean() > -4 * gap.std() / len(gap) ** 0.5  # a bound
    assert gap.mean() < 1.5


@pytest.mark.bare
def test_a_part_of_the_times_estimates_the_same_sum():
    mixture, _ = LAWS["a mixture of Gaussians"]
    process = Process(schedule("cosine", 100), variance="large")
    x0 = torch.from_numpy(mixture.draw(4000))[:, None]
    whole, part = (estimate_bound(process, lambda rows: mixture.denoiser(process), x0, None, k) for k in (100, 7))
    (a, error_a), (b, error_b) = whole.mean(), part.mean()
    assert part.t.shape == (4000, 7)
    assert part.t.unique().numel() > 90
    assert a == pytest.approx(b, abs=4 * math.hypot(error_a, error_b))
    assert error_b > error_a


def test_parts_that_grow_err_less_than_equal_ones(monkeypatch):
    """The error of one draw of seven times, over data alike, on the terms of a mixture's exact denoiser."""
    mixture, _ = LAWS["a mixture of Gaussians"]
    process = Process(schedule("cosine", 100), variance="large")
    x0 = torch.from_numpy(mixture.draw(1))[:, None].expand(2000, 1).contiguous()

    def spread():
        return float(estimate_bound(process, lambda rows: mixture.denoiser(process), x0, None, 7).total.std())

    growing = spread()
    monkeypatch.setattr(bound, "parts", lambda T, count: np.arange(count + 1) * T // count)
    assert growing < 0.7 * spread()


def test_what_cannot_be_scored_is_refused():
    class Uniform(Gaussian):
        name = "uniform"
        exact = frozenset()

    x = torch.zeros(1, 1)
    with refused(UsageError, "the variational bound needs Gaussian noise"):
        estimate_bound(Process(schedule("cosine"), Uniform()), lambda rows: None, x, 17, 1)
    with refused(UndiffuseError, "grid of 17 levels"):
        estimate_bound(Process(schedule("cosine")), lambda rows: None, x + 0.03, 17, 1)
    with refused(UndiffuseError, "grid of 17 levels"):
        estimate_bound(Process(schedule("cosine")), lambda rows: None, x + 1.125, 17, 1)
    for count in (0, -1, 1001):
        with refused(UsageError, "between 1 and T = 1000"):
            estimate_bound(Process(schedule("cosine")), lambda rows: None, x, 17, count)
