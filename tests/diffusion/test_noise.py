"""Every family: its law, its chain, its reverse step; and what needs the Gaussian is refused by name."""

import math

import numpy as np
import pytest
import torch
from laws import refused, schedule
from scipy import stats

import undiffuse as ud
from undiffuse import config
from undiffuse.diffusion.denoiser import Denoiser
from undiffuse.diffusion.finite import Finite
from undiffuse.diffusion.likelihood import check_gaussian
from undiffuse.diffusion.losses import ScoreMatching
from undiffuse.diffusion.noise import NOISES, Gamma, Gaussian, Laplace, Mixture, Noise, Uniform
from undiffuse.diffusion.process import Process
from undiffuse.errors import UsageError
from undiffuse.pipeline import build
from undiffuse.rng import fold, per_row

MANY = 200_000
FAMILIES: dict[str, Noise] = {name: kind() for name, kind in NOISES.items()} | {"gamma 0.3": Gamma(0.3)}
CHAINS = [name for name, family in FAMILIES.items() if "chain" in family.exact]
SNRS = (1e9, 1e4, 1.0, 1e-4, 1e-9, 0.0)


def law(name: str, snr: float):
    """The distribution of eps by scipy, from the family's definition."""
    if name == "laplace":
        return stats.laplace(scale=0.5**0.5)
    if name == "uniform":
        return stats.uniform(-(3**0.5), 2 * 3**0.5)
    if name.startswith("gamma"):
        k = np.inf if snr == 0 else 1 / (FAMILIES[name].theta ** 2 * snr)
        return stats.norm() if k > 1e9 else stats.gamma(k, loc=-(k**0.5), scale=k**-0.5)
    return stats.norm()


def survival(name: str, snr: float, x: float) -> float:
    if name != "mixture":
        return float(law(name, snr).sf(x))
    return sum(float(stats.norm(m, 0.6).sf(x)) for m in (-0.8, 0.8)) / 2


def assert_same_law(a, b, p=1e-4):
    """Two samples, by Kolmogorov and Smirnov, and their covariance-like moments by their own standard errors."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    assert stats.ks_2samp(a, b).pvalue > p
    for power in (1, 2):
        one, two = a**power, b**power
        error = math.hypot(one.std() / len(one) ** 0.5, two.std() / len(two) ** 0.5)
        assert abs(one.mean() - two.mean()) < 4.5 * error


# -- the jump ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr", SNRS)
@pytest.mark.parametrize("name", FAMILIES)
def test_eps_has_its_law(name, snr):
    eps = FAMILIES[name].draw((MANY,), np.float64(snr), fold(1)).double().numpy()
    for x in (-2.0, -0.9, -0.3, 0.01, 0.5, 1.0, 2.0, 5.0, 30.0):
        wanted = survival(name, snr, x)
        error = max((wanted * (1 - wanted) / MANY) ** 0.5, 1 / MANY)
        assert abs((eps > x).mean() - wanted) < 5 * error, x


@pytest.mark.parametrize("name", [*FAMILIES, "tail"])
def test_eps_has_zero_mean_and_unit_variance_by_its_definition(name):
    """By quadrature of the density, which the draws above are held to."""
    family, snr = (Gamma(0.3), 2.0) if name == "tail" else (FAMILIES[name], 0.5)
    x = np.linspace(-12, 60, 2_000_001)
    density = family.density(x, snr)
    for power, wanted in ((0, 1), (1, 0), (2, 1)):
        assert np.trapezoid(density * x**power, x) == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_extreme_times_are_finite(name):
    process = Process(schedule("linear").zero_terminal_snr(), FAMILIES[name])
    x0 = torch.full((64, 3), 0.5)
    assert torch.equal(process.corrupt(x0, 0, fold(0)).x_t, x0)
    for t in (1e-6, 1, 500, 999, 1000):
        assert process.corrupt(x0, t, fold(0)).x_t.isfinite().all()
    assert process.prior((64, 3), fold(0)).isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_datum_has_the_noise_of_its_own_stream_and_time(name):
    family, snr, kept = FAMILIES[name], np.array([30.0, 1.0, 1e-3]), np.array([0.1, 0.7, 0.99])
    draws = lambda some: per_row(7, "noise", rows=some)  # noqa: E731
    eps = fold(0).normal((3, 2, 2))
    for draw in (
        lambda rows, rng: family.draw((len(rows), 2, 2), snr[rows], rng),
        lambda rows, rng: family.renewal((len(rows), 2, 2), kept[rows], snr[rows], rng),
        lambda rows, rng: family.bridge(eps[rows], kept[rows], snr[rows], rng),
    ):
        whole = draw([0, 1, 2], draws(range(3)))
        assert whole.dtype == torch.float32
        for row in range(3):
            assert torch.equal(draw([row], draws([row])), whole[row : row + 1])
        one = draw([1], draws([1]))
        assert not torch.equal(one, draw([1], draws([2])))


# -- the chain --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("snr_s", "snr_t"), [(np.inf, 9.0), (1e4, 3.0), (2.0, 1.9), (0.5, 1e-4), (1.0, 0.0), (1e9, 1e6)]
)
@pytest.mark.parametrize("name", CHAINS)
def test_a_jump_and_a_step_have_the_law_of_the_longer_jump(name, snr_s, snr_t):
    family, kept = FAMILIES[name], np.float64((snr_t / snr_s) ** 0.5)
    eps_s = family.draw((MANY,), np.float64(snr_s), fold(1))
    xi = family.increment((MANY,), kept, np.float64(snr_t), fold(2))
    eps_t = float(kept) * eps_s + (1 - float(kept) ** 2) ** 0.5 * xi
    if name == "gamma 0.3" and snr_s == 1e9:  # rare large spikes: only their number can be compared
        direct = family.draw((MANY,), np.float64(snr_t), fold(3))
        counts = [int((x > 1).sum()) for x in (eps_t, direct)]
        assert abs(counts[0] - counts[1]) < 5 * (sum(counts) + 1) ** 0.5
        return
    assert_same_law(eps_t, family.draw((MANY,), np.float64(snr_t), fold(3)))


def test_laplace_keeps_what_it_had_with_probability_kept_squared():
    xi = Laplace().increment((MANY,), np.float64(0.8), np.float64(1.0), fold(0))
    assert float((xi == 0).float().mean()) == pytest.approx(0.64, abs=0.005)
    assert_same_law(xi[xi != 0] * 0.6, Laplace().draw((MANY // 3,), np.float64(1.0), fold(1)))


@pytest.mark.parametrize("name", ["mixture", "uniform"])
def test_families_without_a_chain_refuse_single_steps(name):
    process = Process(schedule("cosine"), FAMILIES[name])
    with refused(UsageError, f"the noise '{name}' has no chain of single steps"):
        process.step(torch.zeros(2, 3), 5, fold(0))


# -- the reverse step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("snr_s", "snr_t"), [(50.0, 3.0), (1.2, 1.1), (0.5, 1e-4), (1e-6, 1e-9), (4.0, 0.0)])
@pytest.mark.parametrize("name", ["gaussian", "gamma", "gamma 0.3"])
def test_the_bridge_is_the_chain_backwards(name, snr_s, snr_t):
    """The joint law of (eps_s, eps_t), by the laws of eps_s and of combinations of both."""
    family, kept = FAMILIES[name], np.float64((snr_t / snr_s) ** 0.5)
    before = family.draw((MANY,), np.float64(snr_s), fold(1))
    xi = family.increment((MANY,), kept, np.float64(snr_t), fold(2))
    after = float(kept) * before + (1 - float(kept) ** 2) ** 0.5 * xi
    late = family.draw((MANY,), np.float64(snr_t), fold(3))
    early = family.bridge(late, kept, np.float64(snr_s), fold(4))
    for of in (lambda s, t: s, lambda s, t: s * t, lambda s, t: s - t, lambda s, t: (s > 0.5) * t):
        assert_same_law(of(before, after) + 1e-9 * before, of(early, late) + 1e-9 * early)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_bridge_has_the_right_moments(name):
    """Mean kept eps (for what is linear), and unit variance over the law of eps."""
    family, kept, snr = FAMILIES[name], np.float64(0.6), np.float64(5.0)
    late = family.draw((MANY,), snr * kept**2, fold(3))
    early = family.bridge(late, kept, snr, fold(4)).double()
    for found, wanted in (((early * late).double(), 0.6), (early, 0.0), (early**2, 1.0)):
        assert abs(float(found.mean()) - wanted) < 4.5 * float(found.std()) / MANY**0.5


def test_a_guess_below_the_support_counts_as_its_edge():
    family = Gamma(0.3)
    k = 1 / (0.09 * 5.0)
    eps = family.bridge(torch.tensor([-100.0, -5.0]), np.float64(0.5), np.float64(5.0), fold(0))
    torch.testing.assert_close(eps, torch.full((2,), -(k**0.5)))


ATOMS, WEIGHTS = torch.tensor([-0.8, -0.3, 0.0, 0.5, 0.9]).double(), np.array([0.1, 0.3, 0.2, 0.15, 0.25])


def exact(process):
    """E[x0 | x_t] of five atoms under the family's own law."""

    def denoise(x_t, t):
        signal, sigma = (float(scale) for scale in process.scales(t))
        eps = (x_t.double() - signal * ATOMS) / sigma
        density = process.noise.density(eps.numpy(), float(process.schedule.snr(t))) * WEIGHTS
        near = (eps.abs() == eps.abs().min(1, keepdim=True).values).double().numpy()  # where no atom can be
        density = np.where(density.sum(1, keepdims=True) > 0, density, near)
        weights = torch.from_numpy(density / density.sum(1, keepdims=True))
        return ud.Split.from_x0(x_t, (weights @ ATOMS)[:, None].to(x_t), np.float64(signal), np.float64(sigma))

    return denoise


@pytest.mark.bare
@pytest.mark.parametrize(
    ("name", "sampler", "steps", "most"),
    [
        ("gaussian", ud.samplers.DDIM(), 200, 0.006),
        ("laplace", ud.samplers.DDIM(), 200, 0.006),
        ("mixture", ud.samplers.DDIM(), 200, 0.01),
        ("uniform", ud.samplers.DDIM(), 200, 0.01),
        ("laplace", ud.samplers.DDIM(1.0), 500, 0.006),
        ("laplace", ud.samplers.Ancestral(), 500, 0.006),
        ("gamma 0.01", ud.samplers.Ancestral(), 500, 0.008),
    ],
)
def test_with_the_exact_denoiser_the_data_come_back(name, sampler, steps, most):
    """Wasserstein distance of 20,000 samples to five atoms; about 0.004 is chance."""
    process = Process(schedule("cosine"), Gamma(0.01) if name == "gamma 0.01" else FAMILIES[name])
    x_T = process.prior((20_000, 1), fold(5))
    *_, last = ud.trajectory(process, exact(process), sampler, x_T, ud.spacing(1000, steps), fold(6))
    found = np.sort(last.x.double().numpy().ravel())
    counts = np.diff(np.round(np.append(0, WEIGHTS.cumsum()) * len(found)).astype(int))
    assert np.abs(found - np.repeat(ATOMS.numpy(), counts)).mean() < most


@pytest.mark.parametrize("name", ["laplace", "mixture", "uniform"])
def test_ddim_of_eta_one_is_ancestral(name):
    process, times = Process(schedule("cosine"), FAMILIES[name]), ud.spacing(1000, 7)
    x_T = process.prior((40, 1), fold(5))
    ends = [
        list(ud.trajectory(process, exact(process), sampler, x_T, times, fold(6)))[-2].x
        for sampler in (ud.samplers.DDIM(1.0), ud.samplers.Ancestral())
    ]
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_every_family_samples_finitely(name, variance, steps):
    process = Process(schedule("linear"), FAMILIES[name], variance=variance)
    for sampler in (ud.samplers.Ancestral(), ud.samplers.DDIM(0.5)):
        x_T = process.prior((16, 1), fold(5))
        *_, last = ud.trajectory(process, exact(process), sampler, x_T, ud.spacing(1000, steps), fold(6))
        assert last.x.isfinite().all() and last.x.abs().max() < 10


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gaussian"])
def test_what_needs_the_gaussian_names_the_family_and_the_reason(name):
    process, said = Process(schedule("cosine"), FAMILIES[name]), f"'{FAMILIES[name].name}'"
    x = torch.zeros(2, 3)
    split = ud.Split.from_x0(x, x, *process.scales(5))
    for ask in (
        lambda: Process(schedule("cosine"), FAMILIES[name], variance="learned"),
        lambda: Denoiser(lambda x, t, y=None: x, process, "score"),
        lambda: ScoreMatching()(process, split, split, 5),
        lambda: check_gaussian(process),
        lambda: Finite(process, x),
    ):
        with refused(UsageError, said):
            ask()


@pytest.mark.parametrize("make", [lambda: Gamma(0.0), lambda: Gamma(1.5), lambda: Mixture(0.0), lambda: Mixture(1.0)])
def test_parameters_out_of_range_are_refused(make):
    with refused(UsageError, "must lie in (0, 1"):
        make()


@pytest.mark.parametrize("t", [20, 300, 700, 1000])
def test_the_process_asks_for_noise_at_its_own_time(t):
    """Gamma's law tells times apart: corrupt at t, the prior at T."""
    process, theta = Process(schedule("cosine"), Gamma(0.3)), 0.3
    drawn = process.prior((MANY,), fold(1)) if t == 1000 else process.corrupt(torch.zeros(MANY), t, fold(1)).eps
    k = 1 / (theta**2 * float(process.schedule.snr(t)))
    eps = drawn.double().numpy()
    expected = stats.gamma(k, loc=-(k**0.5), scale=k**-0.5) if k < 1e9 else stats.norm()
    assert stats.ks_1samp(eps[eps > -(k**0.5) + 1e-3], _above(expected, -(k**0.5) + 1e-3)).pvalue > 1e-4


def _above(expected, edge):
    """The distribution function, given that the number lies above the edge (float32 cannot tell those nearer)."""
    return lambda x: (expected.cdf(x) - expected.cdf(edge)) / expected.sf(edge)


def test_the_noise_of_a_reverse_step_is_that_of_its_end():
    """With the true split, DDIM's x_s has the law of the jump to s: Gamma tells whether s or t was asked for."""
    process, t, s = Process(schedule("cosine"), Gamma(0.3)), 900.0, 700.0
    kept = float(process._kept(np.float64(t), np.float64(s)))
    x0, late = torch.zeros(MANY), Gamma(0.3).draw((MANY,), process.schedule.snr(t), fold(2))
    signal, sigma = process.scales(t)
    truth = ud.Split.from_eps(float(sigma) * late, late, np.float64(signal), np.float64(sigma))
    x_s, _ = ud.samplers.DDIM(1.0).step(process, lambda x_t, t: truth, truth.x_t, t, s, fold(3))
    xi = Gamma(0.3).increment((MANY,), np.float64(kept), process.schedule.snr(s), fold(4))
    expected = float(process.scales(s)[1]) * (kept * late + (1 - kept**2) ** 0.5 * xi)
    assert_same_law(x_s - x0, expected)
    skew = [float(stats.skew(x.numpy())) for x in (x_s, expected)]
    assert skew[0] == pytest.approx(skew[1], abs=0.03)


def test_large_variance_draws_the_familys_own_noise():
    """Laplace: with probability kept^2 nothing, else a Laplace number; the variance is var_ts in all."""
    process, t, s = Process(schedule("cosine"), Laplace(), variance="large"), 600, 500
    guess = ud.Split.from_x0(torch.zeros(MANY), torch.zeros(MANY), *process.scales(t))
    x_s = process.drawn(guess, t, s, fold(1)).double()
    kept = float(process._kept(np.float64(t), np.float64(s)))
    assert float((x_s == 0).double().mean()) == pytest.approx(kept**2, abs=0.005)
    var = float(process.reverse(guess, t, s).var.flatten()[0])
    assert float(x_s.var()) == pytest.approx(var, rel=0.05)


def test_gamma_is_taken_for_gaussian_where_its_skew_is_below_drawing():
    for snr, normal in ((1e-3, False), (1e-6, True)):  # k = 1e9 and 1e12 at theta = 0.001
        eps = Gamma().draw((50,), np.float64(snr), fold(5))
        k = 1 / (1e-6 * snr)
        as_gamma = (fold(5).gamma(np.full(50, k)).numpy() - k) / k**0.5
        assert np.allclose(eps.numpy(), as_gamma, atol=1e-4) is not normal


def test_no_noise_of_zero_terminal_snr_warns():
    process = Process(schedule("linear").zero_terminal_snr(), Gamma(0.3))
    guess = ud.Split.from_x0(torch.ones(9, 2), torch.zeros(9, 2), *process.scales(1000))
    assert process.drawn(guess, 1000, 999, fold(0)).isfinite().all()
    assert process.renoise(torch.ones(9, 2), 1000, 1000, fold(0)).isfinite().all()
    with refused(UsageError, "has no density"):
        Gamma().density(np.zeros(3), np.inf)


def test_gamma_beyond_what_samplers_can_do_is_warned_of():
    sharp = config.Config().replaced({"diffusion.noise": "gamma", "diffusion.theta": 0.1})
    with pytest.warns(build.NoiseWarning, match=r"theta = 0.1: samplers are wrong above 0.005"):
        build.process(sharp)
    build.process(config.Config().replaced({"diffusion.noise": "gamma", "diffusion.theta": 0.005}))


@pytest.mark.bare
@pytest.mark.parametrize(
    ("theta", "sampler", "least"), [(0.1, ud.samplers.Ancestral(), 0.3), (0.01, ud.samplers.DDIM(), 0.03)]
)
def test_what_the_docs_call_wrong_for_gamma_is_wrong(theta, sampler, least):
    process = Process(schedule("cosine"), Gamma(theta))
    x_T = process.prior((4000, 1), fold(5))
    *_, last = ud.trajectory(process, exact(process), sampler, x_T, ud.spacing(1000, 100), fold(6))
    found = np.sort(last.x.double().numpy().ravel())
    counts = np.diff(np.round(np.append(0, WEIGHTS.cumsum()) * len(found)).astype(int))
    assert np.abs(found - np.repeat(ATOMS.numpy(), counts)).mean() > least


def test_families_say_what_is_exact():
    assert {name: set(family.exact) for name, family in FAMILIES.items()} == {
        "gaussian": {"chain", "flow", "posterior", "score"},
        "laplace": {"chain", "flow"},
        "gamma": {"chain"},
        "gamma 0.3": {"chain"},
        "mixture": {"flow"},
        "uniform": {"flow"},
    }
    assert isinstance(FAMILIES["uniform"], Uniform) and isinstance(FAMILIES["gaussian"], Gaussian)
