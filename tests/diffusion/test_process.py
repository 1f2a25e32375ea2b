"""The process forwards and backwards: a jump is many steps, the posterior is Bayes, a variance is what it is called."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import NAMES, alpha_bar_at, near, refused, schedule
from scipy.stats import ks_2samp

from undiffuse.diffusion.noise import NOISES, Gaussian
from undiffuse.diffusion.process import Process, as_times
from undiffuse.diffusion.schedule import NoiseSchedule
from undiffuse.diffusion.split import Split
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.rng import fold

MANY = 20_000
any_time = st.just(0.0) | st.floats(1e-6, 1000)


@cache
def process(name: str = "linear", T: int = 1000, **kind) -> Process:
    return Process(schedule(name, T), **kind)


def split_at(process: Process, t, x_t: float = 0.7, x0: float = -0.4) -> Split:
    """One float64 datum whose x_t and x0 are known."""
    x_t, x0 = (torch.full((np.size(t), 1), value, dtype=torch.float64) for value in (x_t, x0))
    return Split.from_x0(x_t, x0, *process.scales(t))


def coins(n: int = MANY) -> torch.Tensor:
    """Data of zero mean and unit variance that is not Gaussian: kurtosis -2."""
    return 2.0 * fold(7, "coins").integers(0, 1, (n, 1)).float() - 1


# -- forwards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", sorted(NOISES))
@pytest.mark.parametrize("name", NAMES)
def test_unit_variance_data_keeps_unit_variance_at_every_t(name, noise):
    """Every t at once, 2000 draws each; then all 2 million together, which sees 0.5 %."""
    x_t = process(name).corrupt(coins(2_000_000).reshape(1000, 2000), np.arange(1, 1001), fold(1)).x_t.double()
    z = (x_t.var(1) - 1) * (2000 / 2) ** 0.5
    assert z.abs().max() < 5
    assert abs(float(x_t.var()) - 1) < 0.005
    assert float((x_t.mean(1) * 2000**0.5).abs().max()) < 5


@given(name=st.sampled_from(NAMES), t=any_time)
def test_the_jump_is_signal_x0_plus_sigma_eps(name, t):
    ab = alpha_bar_at(schedule(name), t)
    x0, eps = coins(4).double(), fold(3).normal((4, 1)).double()
    split = process(name).corrupt(x0, t, fold(3))
    torch.testing.assert_close(split.x_t, ab**0.5 * x0 + (1 - ab) ** 0.5 * eps, rtol=1e-9, atol=1e-9)
    assert torch.equal(split.eps, eps)
    assert split.x0 is x0


@pytest.mark.parametrize(
    "times", [np.array([1, 500, 1000]), torch.tensor([1, 500, 1000]), torch.tensor([1.0, 500, 1000])]
)
def test_each_datum_may_have_its_own_time(times):
    made, x0 = process(), coins(3)
    split = made.corrupt(x0, times, fold(3))
    alone = [made.corrupt(x0, t, fold(3)).x_t[i] for i, t in enumerate((1, 500, 1000))]
    torch.testing.assert_close(split.x_t, torch.stack(alone))


def test_one_step_is_equation_two():
    made, x, eta = process(), coins(4).double(), fold(5).normal((4, 1)).double()
    for t in (1, 2, 500, 1000):
        beta = made.schedule.beta[t]
        expected = (1 - beta) ** 0.5 * x + beta**0.5 * eta
        torch.testing.assert_close(made.step(x, t, fold(5)), expected, rtol=1e-11, atol=1e-11)


@given(ends=st.tuples(any_time, any_time))
def test_renoising_goes_from_s_to_t(ends):
    s, t = sorted(ends)
    made, x, eta = process("cosine"), coins(4).double(), fold(5).normal((4, 1)).double()
    ratio = alpha_bar_at(made.schedule, t) / alpha_bar_at(made.schedule, s)
    expected = ratio**0.5 * x + (1 - ratio) ** 0.5 * eta
    torch.testing.assert_close(made.renoise(x, s, t, fold(5)), expected, rtol=1e-7, atol=1e-7)


def assert_same_law(one: torch.Tensor, other: torch.Tensor) -> None:
    """Mean, variance and kurtosis within 4.5 standard errors, and the two-sample Kolmogorov-Smirnov test."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (one, other))
    for power in (1, 2, 4):  # mean, variance, kurtosis, each by the standard errors of its own draws
        one, two = a**power, b**power
        assert abs(one.mean() - two.mean()) < 4.5 * np.hypot(one.std(), two.std()) / len(a) ** 0.5
    assert ks_2samp(a, b).pvalue > 1e-3


@pytest.mark.parametrize("noise", [n for n in sorted(NOISES) if "chain" in NOISES[n].exact])
@pytest.mark.parametrize("name", NAMES)
def test_t_single_steps_have_the_law_of_the_jump(name, noise):
    made, x0 = Process(schedule(name, 50), noise=NOISES[noise]()), coins(5 * MANY)
    walked = list(made.trajectory(x0, fold(11)))
    assert len(walked) == 50
    for t in (1, 5, 15, 30, 50):
        jumped = made.corrupt(x0, t, fold(12)).x_t
        assert_same_law(walked[t - 1], jumped)
        assert_same_law(x0 * walked[t - 1], x0 * jumped)  # given x0: sees the signal, which the variance hides


@pytest.mark.parametrize(("s", "t"), [(0, 10), (3, 17), (2.5, 7.25), (20, 50)])
def test_a_jump_and_a_renoise_have_the_law_of_the_longer_jump(s, t):
    made, x0 = process("linear", 50), coins(5 * MANY)
    twice, once = made.renoise(made.corrupt(x0, s, fold(13)).x_t, s, t, fold(14)), made.corrupt(x0, t, fold(15)).x_t
    assert_same_law(twice, once)
    assert_same_law(x0 * twice, x0 * once)


def test_renoising_to_the_same_time_changes_nothing():
    x = coins(4)
    assert torch.equal(process().renoise(x, 3.5, 3.5, fold(0)), x)


def test_the_prior_is_the_noise():
    x = process().prior((MANY, 1), fold(0))
    assert x.dtype == torch.float32
    assert torch.equal(x, fold(0).normal((MANY, 1)))


def test_the_gaussian_declares_everything_exact():
    assert Gaussian.exact == {"chain", "flow", "posterior", "score"}
    assert float(Gaussian().draw((MANY,), np.float64(1), fold(0)).var()) == pytest.approx(1, abs=0.04)
    increment = Gaussian().increment((MANY,), np.float64(0.5), np.float64(1), fold(0))
    assert float(increment.var()) == pytest.approx(1, abs=0.04)


# -- the posterior --------------------------------------------------------------------------------------------------


def bayes(made: Process, t: float, s: float, x_t: float, x0: float) -> tuple[float, float]:
    """Mean and variance of q(x_s | x_t, x0), proportional to q(x_s | x0) q(x_t | x_s), by sums over a grid."""
    ab_t, ab_s = alpha_bar_at(made.schedule, t), alpha_bar_at(made.schedule, s)
    narrow = min(1 - ab_s, (ab_s - ab_t) / ab_t) ** 0.5
    centre = ab_s**0.5 * x0 if narrow == (1 - ab_s) ** 0.5 else x_t * (ab_s / ab_t) ** 0.5
    x = centre + narrow * np.linspace(-40, 40, 40_001)
    log_q = -((x - ab_s**0.5 * x0) ** 2) / (2 * (1 - ab_s))
    log_q -= (x_t - (ab_t / ab_s) ** 0.5 * x) ** 2 / (2 * (1 - ab_t / ab_s))
    weight = np.exp(log_q - log_q.max())
    weight /= weight.sum()
    mean = (weight * x).sum()
    return mean, (weight * (x - mean) ** 2).sum()


@given(name=st.sampled_from(NAMES), t=st.floats(0.1, 1000), share=st.floats(0.01, 0.99))
def test_the_posterior_is_bayes(name, t, share):
    made, s = process(name), t * share
    x_t = alpha_bar_at(made.schedule, t) ** 0.5 * -0.4 + 0.9 * (1 - alpha_bar_at(made.schedule, t)) ** 0.5
    mean, var = bayes(made, t, s, x_t, -0.4)
    normal = made.posterior(split_at(made, t, x_t), t, s)
    assert normal.mean.item() == pytest.approx(mean, rel=1e-6, abs=1e-6 * var**0.5)
    assert float(normal.var) == near(var, rel=1e-6)


def ho_et_al(beta: np.ndarray, x_t: float, x0: float) -> tuple[np.ndarray, np.ndarray]:
    """Equations 6 and 7 for t = 1..T from betas alone; 1 - alpha_bar_t = beta_t + alpha_t (1 - alpha_bar_{t-1})."""
    alpha_bar, rest = np.cumprod(1 - beta), np.zeros(len(beta))
    for t in range(1, len(beta)):
        rest[t] = beta[t] + (1 - beta[t]) * rest[t - 1]
    mean = alpha_bar[:-1] ** 0.5 * beta[1:] / rest[1:] * x0 + (1 - beta[1:]) ** 0.5 * rest[:-1] / rest[1:] * x_t
    return mean, rest[:-1] / rest[1:] * beta[1:]


@pytest.mark.parametrize("name", NAMES)
def test_single_steps_equal_equations_six_and_seven(name):
    made, t = process(name), np.arange(1, 1001)
    mean, var = ho_et_al(made.schedule.beta, 0.7, 0.4)  # one sign: no cancellation in the reference
    normal = made.posterior(split_at(made, t, 0.7, 0.4), t, t - 1)
    np.testing.assert_allclose(normal.mean.numpy().ravel(), mean, rtol=1e-12)
    np.testing.assert_allclose(normal.var.numpy().ravel(), var, rtol=1e-12)


@given(t=st.floats(1e-3, 1000), name=st.sampled_from(NAMES))
def test_at_the_data_the_posterior_is_x0(t, name):
    normal = process(name).posterior(split_at(process(name), t), t, 0)
    assert normal.mean.item() == near(-0.4, rel=1e-12)
    assert float(normal.var) == 0


@given(t=st.floats(1, 1000), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_two_posterior_steps_are_one(t, shares):
    """q(x_s | x_t, x0) = sum over x_u of q(x_s | x_u, x0) q(x_u | x_t, x0), s < u < t."""
    made, u = process("cosine"), t * (0.1 + 0.8 * shares[0])
    s = u * (0.1 + 0.8 * shares[1])
    first, direct = (made.posterior(split_at(made, t), t, at) for at in (u, s))
    second = made.posterior(Split.from_x0(first.mean, torch.full_like(first.mean, -0.4), *made.scales(u)), u, s)
    slope = _slope(made, u, s)
    assert second.mean.item() == pytest.approx(direct.mean.item(), rel=1e-9, abs=1e-9)
    assert float(second.var) + slope**2 * float(first.var) == near(float(direct.var), rel=1e-9)


def _slope(made: Process, t: float, s: float) -> float:
    """d mean / d x_t at a fixed x0."""
    high, low = (made.posterior(split_at(made, t, x_t), t, s).mean.item() for x_t in (1.0, 0.0))
    return high - low


def test_the_posterior_survives_zero_terminal_snr():
    made = Process(NoiseSchedule.from_betas(np.append(np.linspace(1e-4, 0.02, 999), 1.0)))
    normal = made.posterior(split_at(made, 1000), 1000, 900)
    signal, sigma = made.scales(900)
    assert normal.mean.item() == near(-0.4 * signal, rel=1e-12)  # x_T says nothing of x_s
    assert float(normal.var) == near(sigma**2, rel=1e-12)


@pytest.mark.parametrize("call", ["posterior", "reverse", "renoise"])
def test_time_may_not_run_the_wrong_way(call):
    made = process()
    with refused(UndiffuseError, "s must not exceed t" if call == "renoise" else "s must be below t"):
        if call == "renoise":
            made.renoise(coins(1), 5, 3, fold(0))
        else:
            getattr(made, call)(split_at(made, 3), 3, 5)


def test_many_times_that_run_the_wrong_way_are_refused_in_one_line():
    with refused(UndiffuseError, "s must not exceed t"):
        process().renoise(coins(60), np.full(60, 5.0), np.full(60, 3.0), fold(0))


def test_renoising_where_all_is_noise_changes_nothing():
    made = Process(NoiseSchedule.from_betas(np.append(np.linspace(1e-4, 0.02, 999), 1.0)))
    assert torch.equal(made.renoise(coins(4), 1000, 1000, fold(0)), coins(4))


def test_an_unknown_decoder_is_refused():
    made = replace(process())
    object.__setattr__(made, "decoder", "gamma")
    with refused(UsageError, "unknown decoder 'gamma'"):
        made.__post_init__()


# -- the reverse variance -------------------------------------------------------------------------------------------


def gap(made: Process, t: float, s: float) -> tuple[float, float]:
    """(small, large) from alpha_bar."""
    ab_t, ab_s = alpha_bar_at(made.schedule, t), alpha_bar_at(made.schedule, s)
    large = 1 - ab_t / ab_s
    return large * (1 - ab_s) / (1 - ab_t), large


@given(t=st.floats(1, 1000), share=st.floats(0.01, 0.99), fraction=st.floats(-0.5, 1.5))
def test_the_reverse_variance_is_small_large_or_between_in_log(t, share, fraction):
    s = t * share
    small, large = gap(process(), t, s)
    split = split_at(process(), t)
    learned = Split(split.x0, split.eps, split.signal, split.sigma, torch.full_like(split.x0, fraction))
    expected = {"small": small, "large": large, "learned": large**fraction * small ** (1 - fraction)}
    for variance, var in expected.items():
        normal = process(variance=variance).reverse(learned, t, s)
        assert float(normal.var) == near(var, rel=1e-8)
        torch.testing.assert_close(normal.mean, process().posterior(split, t, s).mean, rtol=0, atol=0)


def test_large_is_beta_and_small_is_beta_tilde_at_single_steps():
    made, t = process(), np.arange(2, 1001)
    large = process(variance="large").reverse(split_at(made, t), t, t - 1).var.ravel()
    small = made.reverse(split_at(made, t), t, t - 1).var.ravel()
    np.testing.assert_allclose(large, made.schedule.beta[2:], rtol=1e-11)
    np.testing.assert_allclose(small, ho_et_al(made.schedule.beta, 0, 0)[1][1:], rtol=1e-11)
    assert (small < large).all()


def test_the_decoder_variance_is_the_posterior_at_two_and_one():
    first, second = process().schedule.beta[1:3]
    assert process().decoder_var == near(second * first / (second + (1 - second) * first), rel=1e-12)
    assert process(decoder="beta").decoder_var == near(1e-4, rel=1e-12)


def test_with_one_step_the_decoder_variance_is_beta():
    made = Process(NoiseSchedule.from_betas([0.999]))
    assert made.decoder_var == 0.999


@pytest.mark.parametrize("decoder", ["posterior", "beta"])
def test_the_last_step_returns_x0_with_the_decoder_variance(decoder):
    made = process(decoder=decoder)
    normal = made.reverse(split_at(made, 1), 1, 0)
    assert normal.mean.item() == near(-0.4, rel=1e-12)
    assert float(normal.var) == near(made.decoder_var, rel=1e-15)


@pytest.mark.parametrize("decoder", ["posterior", "beta"])
def test_learned_variance_is_between_the_first_posterior_variance_and_beta_at_the_last_step(decoder):
    made, split = process(variance="learned", decoder=decoder), split_at(process(), 1)
    first = process().decoder_var
    fractions = {0.0: first, 1.0: 1e-4, 0.5: (first * 1e-4) ** 0.5}
    for fraction, var in fractions.items():
        guess = Split(split.x0, split.eps, split.signal, split.sigma, torch.full_like(split.x0, fraction))
        assert float(made.reverse(guess, 1, 0).var) == near(var, rel=1e-10)


def test_each_datum_may_be_at_its_own_step():
    made, t, s = process(), np.array([1.0, 2, 700.5]), np.array([0.0, 1, 20.25])
    together = made.reverse(split_at(made, t), t, s)
    for i in range(3):
        alone = made.reverse(split_at(made, t[i]), t[i], s[i])
        assert together.mean[i].item() == near(alone.mean.item(), rel=1e-14)
        assert together.var[i].item() == near(float(alone.var), rel=1e-14)


def test_learned_variance_needs_a_guess_of_it():
    with refused(UndiffuseError, "no var_fraction"):
        process(variance="learned").reverse(split_at(process(), 5), 5, 3)


def test_an_unknown_variance_is_refused():
    made = replace(process())
    object.__setattr__(made, "variance", "medium")  # past the type checks that pytest switches on
    with refused(UsageError, "unknown variance 'medium'; known: small, large, learned"):
        made.__post_init__()


@pytest.mark.parametrize("t", [3, 3.0, np.float32(3), np.array(3), torch.tensor(3), torch.tensor(3.0)])
def test_times_of_any_kind_become_float64(t):
    assert as_times(t).dtype == np.float64
    assert as_times(t) == 3


def test_rows_that_arrive_at_0_get_no_noise_beside_others_that_do_not():
    process, x_t = Process(schedule("cosine")), fold(1).normal((3, 4)).double()
    t, s = np.array([500.0, 500.0, 2.0]), np.array([0.0, 100.0, 0.0])
    split = Split.from_x0(x_t, torch.zeros_like(x_t), *process.scales(t))
    drawn, mean = process.drawn(split, t, s, fold(2)), process.reverse(split, t, s).mean
    assert torch.equal(drawn[[0, 2]], mean[[0, 2]])
    assert not torch.isclose(drawn[1], mean[1]).any()
