"""The schedules against their formulas, written anew with 50 digits, and what must be refused."""

import re
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import NAMES, alpha_bar_at, near, refused, schedule

from undiffuse.diffusion.schedule import SCHEDULES, NoiseSchedule, ScheduleWarning
from undiffuse.errors import UndiffuseError, UsageError

getcontext().prec = 50
FIRST, LAST = Decimal("1e-4"), Decimal("0.02")
PI = Decimal("3.14159265358979323846264338327950288419716939937510")
ZERO_TERMINAL = np.append(np.linspace(1e-4, 0.02, 999), 1.0)


def _cosine_squared(x: Decimal) -> Decimal:
    term, total = Decimal(1), Decimal(1)
    for k in range(1, 30):
        term *= -x * x / ((2 * k - 1) * 2 * k)
        total += term
    return total * total


def _cosine(T: int) -> list[Decimal]:
    s = Decimal("0.008")
    f = [_cosine_squared((Decimal(t) / T + s) / (1 + s) * PI / 2) for t in range(T + 1)]
    return [min(1 - f[t] / f[t - 1], Decimal("0.999")) for t in range(1, T + 1)]


def _beta(name: str, T: int) -> list[Decimal]:
    if name == "cosine":
        return _cosine(T)
    at = [Decimal(i) / (T - 1) for i in range(T)]
    root = FIRST.sqrt(), LAST.sqrt()
    formula = {
        "linear": lambda u: FIRST + (LAST - FIRST) * u,
        "quadratic": lambda u: (root[0] + (root[1] - root[0]) * u) ** 2,
        "sigmoid": lambda u: FIRST + (LAST - FIRST) / (1 + (6 - 12 * u).exp()),
    }[name]
    return [formula(u) * 1000 / T for u in at]


@pytest.mark.parametrize("T", [50, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_tables_equal_the_formulas(name, T):
    made, product = schedule(name, T), Decimal(1)
    assert made.beta.shape == made.alpha.shape == made.alpha_bar.shape == (T + 1,)
    assert (made.beta[0], made.alpha_bar[0], made.name, made.T) == (0, 1, name, T)
    for t, beta in enumerate(_beta(name, T), start=1):
        product *= 1 - beta
        assert made.beta[t] == near(float(beta), rel=2e-11)
        assert made.alpha_bar[t] == near(float(product), rel=2e-12)
    np.testing.assert_allclose(made.alpha, 1 - made.beta, rtol=0, atol=0)
    assert made.beta.dtype == made.alpha_bar.dtype == np.float64


def test_linear_ends_where_ho_et_al_do():
    linear = NoiseSchedule.linear(1000)
    assert linear.alpha_bar[-1] == near(4.0e-5, rel=0.02)
    assert (linear.beta[1], linear.beta[-1]) == near((1e-4, 0.02), rel=1e-14)


def test_a_short_linear_schedule_ends_where_the_anchors_say():
    assert NoiseSchedule.linear(200).alpha_bar[-1] == near(3.0e-5, rel=0.05)


@pytest.mark.parametrize("name", ["linear", "sigmoid", "quadratic"])
def test_betas_scale_by_1000_over_T(name):
    long, short = schedule(name, 1000).beta, schedule(name, 250).beta
    assert (short[1], short[-1]) == near((4 * long[1], 4 * long[-1]), rel=1e-12)


def test_every_named_schedule_is_in_the_table():
    assert set(SCHEDULES) == set(NAMES)
    for name, make in SCHEDULES.items():
        assert make(1000).name == name


def test_linear_destroys_information_fastest():
    middle = slice(100, 901)
    linear = schedule("linear").alpha_bar[middle]
    assert (linear < schedule("cosine").alpha_bar[middle]).all()
    assert (linear < schedule("sigmoid").alpha_bar[middle]).all()


@pytest.mark.parametrize("name", NAMES)
def test_signal_falls_and_the_squares_add_up_to_one(name):
    made = schedule(name)
    signal, sigma = made.scales(np.linspace(0, 1000, 4001))
    np.testing.assert_allclose(signal**2 + sigma**2, 1, rtol=1e-14)
    assert (np.diff(signal) < 0).all()
    assert (np.diff(sigma) >= 0).all()  # float64 runs out of digits near 1


@pytest.mark.parametrize("name", NAMES)
def test_scales_and_snr_at_integers_equal_the_tables(name):
    made, t = schedule(name), np.arange(1001)
    signal, sigma = made.scales(t)
    np.testing.assert_allclose(signal, np.sqrt(made.alpha_bar), rtol=1e-14)
    np.testing.assert_allclose(sigma[1:], np.sqrt(1 - made.alpha_bar[1:]), rtol=1e-11)
    np.testing.assert_allclose(made.snr(t[1:]), made.alpha_bar[1:] / (1 - made.alpha_bar[1:]), rtol=1e-11)
    np.testing.assert_allclose(made.half_log_snr(t[1:]), np.log(signal[1:] / sigma[1:]), atol=1e-12)


@given(name=st.sampled_from(NAMES), t=st.floats(0, 1000))
def test_log_alpha_bar_is_linear_between_integers(name, t):
    made = schedule(name)
    low = min(int(t), 999)
    left, right = np.log(made.alpha_bar[low]), np.log(made.alpha_bar[low + 1])
    assert made.log_alpha_bar_at(t) == pytest.approx(left + (t - low) * (right - left), rel=1e-11, abs=1e-15)
    assert made.scales(t)[0] == near(alpha_bar_at(made, t) ** 0.5, rel=1e-12)


def test_small_sigmas_keep_their_digits():
    """1 - alpha_bar formed by subtraction would be 0 here; it is beta_1 t to first order."""
    _, sigma = NoiseSchedule.linear(1000).scales(1e-14)
    assert sigma**2 == near(1e-18, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_half_log_snr_falls_from_infinity_at_the_data(name):
    made = schedule(name)
    assert made.half_log_snr(0) == np.inf
    assert made.snr(0) == np.inf
    assert (np.diff(made.half_log_snr(np.linspace(0.5, 1000, 2001))) < 0).all()


@given(name=st.sampled_from(NAMES), t=st.floats(1e-3, 1000))
def test_time_of_inverts_half_log_snr(name, t):
    made = schedule(name)
    assert made.time_of(made.half_log_snr(t)) == near(t, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_time_of_keeps_within_the_schedule(name):
    made = schedule(name)
    np.testing.assert_allclose(made.time_of(np.array([np.inf, 300.0, -300.0, -np.inf])), [0, 0, 1000, 1000], atol=1e-99)


@pytest.mark.parametrize("t", [-1e-9, 1000.001, float("nan")])
def test_times_outside_are_refused(t):
    with refused(UndiffuseError, "t must lie in"):
        NoiseSchedule.linear().scales(t)


# -- zero terminal SNR ----------------------------------------------------------------------------------------------


def test_beta_T_may_be_one():
    made = NoiseSchedule.from_betas(ZERO_TERMINAL)
    assert made.alpha_bar[-1] == 0
    assert made.scales(1000) == (0, 1)
    assert (made.snr(1000), made.half_log_snr(1000)) == (0, -np.inf)


def test_zero_terminal_tables_equal_the_scales():
    made = NoiseSchedule.from_betas(ZERO_TERMINAL)
    np.testing.assert_allclose(made.scales(np.arange(1001))[0] ** 2, made.alpha_bar, rtol=1e-13)


def test_zero_terminal_signal_is_linear_over_the_last_interval():
    made = NoiseSchedule.from_betas(ZERO_TERMINAL)
    t = np.linspace(999, 1000, 9)
    np.testing.assert_allclose(made.scales(t)[0], made.scales(999)[0] * (1000 - t), atol=1e-15)


@given(t=st.floats(1e-3, 1000) | st.floats(998, 1000))
def test_time_of_inverts_half_log_snr_with_zero_terminal_snr(t):
    made = NoiseSchedule.from_betas(ZERO_TERMINAL)
    assert made.time_of(made.half_log_snr(t)) == near(t, rel=1e-9)


def test_zero_terminal_schedules_start_at_the_data_too():
    made = NoiseSchedule.from_betas(ZERO_TERMINAL)
    assert made.snr(0) == np.inf


@pytest.mark.parametrize("T", [50, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_rescaling_to_zero_terminal_snr_is_lin_et_al_algorithm_1(name, T):
    """Shift sqrt(alpha_bar) so that the last is 0, scale so that the first is as before; with 50 digits."""
    signal, product = [], Decimal(1)
    for beta in _beta(name, T):
        product *= 1 - beta
        signal.append(product.sqrt())
    expected = [(a - signal[-1]) * signal[0] / (signal[0] - signal[-1]) for a in signal]
    made = schedule(name, T).zero_terminal_snr()
    np.testing.assert_allclose(np.sqrt(made.alpha_bar[1:-1]), [float(a) for a in expected[:-1]], rtol=1e-10)
    assert made.alpha_bar[-1] == 0 and made.beta[-1] == 1 and made.T == T
    assert made.beta[1] == pytest.approx(schedule(name, T).beta[1], rel=1e-10)
    assert made.name == f"{name}, zero terminal SNR"


def test_rescaling_twice_changes_nothing():
    once = schedule("linear").zero_terminal_snr()
    np.testing.assert_allclose(once.zero_terminal_snr().beta, once.beta, rtol=1e-9)


@pytest.mark.parametrize("betas", [[1e-17] + [0.5] * 20, [0.5] * 2000, [0.9] * 10 + [1e-17]])
def test_what_float64_cannot_rescale_is_refused(betas):
    with refused(UsageError, "cannot be rescaled to zero terminal SNR"):
        NoiseSchedule.from_betas(betas).zero_terminal_snr()


def test_one_step_cannot_be_rescaled():
    with refused(UsageError, "one step"):
        NoiseSchedule.cosine(1).zero_terminal_snr()


# -- your own -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_is_rebuilt_from_its_tables(name):
    made = schedule(name)
    np.testing.assert_array_equal(NoiseSchedule.from_betas(made.beta[1:]).beta, made.beta)
    for alpha_bar in (made.alpha_bar, made.alpha_bar[1:]):
        np.testing.assert_allclose(NoiseSchedule.from_alpha_bar(alpha_bar).alpha_bar, made.alpha_bar, rtol=1e-12)


def test_alpha_bar_may_end_at_zero():
    assert NoiseSchedule.from_alpha_bar([0.9, 0.5, 0.0]).beta.tolist() == pytest.approx([0, 0.1, 1 - 0.5 / 0.9, 1])


def test_the_table_of_betas_cannot_be_changed_afterwards():
    betas = np.full(100, 0.1)
    made = NoiseSchedule.from_betas(betas)
    betas[:] = 0.5
    assert made.beta[1] == 0.1
    with pytest.raises(ValueError, match="read-only"):
        made.beta[1] = 0.5


def _with(value, at=10):
    betas = np.full(100, 0.1)
    betas[at] = value
    return betas


@pytest.mark.parametrize(
    ("betas", "said"),
    [
        (_with(0.0), "beta_11 = 0"),
        (_with(-0.1), "beta_11 = -0.1"),
        (_with(1.0), "beta_11 = 1"),
        (_with(1.5), "beta_11 = 1.5"),
        (_with(np.nan), "beta_11 = nan"),
        (_with(np.inf), "beta_11 = inf"),
        (_with(1.5, -1), "beta_100 = 1.5"),
        (_with(0.0, 0), "beta_1 = 0"),
        ([], "betas must be a list"),
        (0.1, "betas must be a list"),
        (np.full((10, 10), 0.1), "betas must be a list"),
        (np.full(5, 0.1), "at most 0.3 is allowed"),
    ],
)
def test_bad_betas_are_refused_with_the_value(betas, said):
    with refused(UndiffuseError, said):
        NoiseSchedule.from_betas(betas)


@pytest.mark.parametrize(
    ("alpha_bar", "said"),
    [
        ([0.5, 0.6, 0.01], "fall strictly"),
        ([0.5, 0.5, 0.01], "fall strictly"),
        ([1.2, 0.5, 0.01], "fall strictly"),
        ([0.5, np.nan, 0.01], "fall strictly"),
        ([0.5, 0.1, -0.01], "fall strictly"),
        ([0.5, 0.4], "sqrt(alpha_bar_T) = 0.6325"),
        ([1.0], "list of numbers"),
        ([], "list of numbers"),
        (0.5, "list of numbers"),
    ],
)
def test_bad_alpha_bars_are_refused(alpha_bar, said):
    with refused(UndiffuseError, said):
        NoiseSchedule.from_alpha_bar(alpha_bar)


def test_a_table_that_does_not_start_at_the_data_is_refused():
    with refused(UndiffuseError, "beta[0] = 0"):
        NoiseSchedule(np.full(100, 0.1))


@pytest.mark.parametrize(("name", "T"), [("linear", 20), ("linear", 5), ("quadratic", 20), ("sigmoid", 19)])
def test_too_few_steps_are_refused_and_the_advice_is_right(name, T):
    with refused(UsageError, "take T of at least 21, or the cosine schedule"):
        schedule(name, T)
    assert schedule(name, 21).beta[-1] < 1


@pytest.mark.parametrize("name", NAMES)
def test_no_steps_at_all_are_refused(name):
    with refused(UsageError, "T must be at least 1, got 0"):
        schedule(name, 0)


@pytest.mark.parametrize(
    ("last", "verdict"), [(0.049, "fine"), (0.051, "warned"), (0.299, "warned"), (0.301, "refused")]
)
def test_the_signal_left_at_T_is_judged(last, verdict):
    alpha_bar = [0.5, last**2]
    if verdict == "fine":
        NoiseSchedule.from_alpha_bar(alpha_bar)
    elif verdict == "warned":
        with pytest.warns(ScheduleWarning, match=re.escape(f"sqrt(alpha_bar_T) = {last}")):
            NoiseSchedule.from_alpha_bar(alpha_bar)
    else:
        with refused(UndiffuseError, f"sqrt(alpha_bar_T) = {last}"):
            NoiseSchedule.from_alpha_bar(alpha_bar)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("T", [50, 100, 200, 1000, 4000])
def test_the_named_schedules_leave_no_trace_worth_a_warning(name, T):
    assert schedule(name, T).scales(T)[0] <= 0.05
