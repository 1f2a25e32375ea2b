"""Which times are visited: whole, falling, from T to 0; published examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import refused, schedule

from undiffuse.diffusion.samplers.spacing import SPACINGS, times
from undiffuse.errors import UsageError


@given(spacing=st.sampled_from(sorted(SPACINGS)), T=st.integers(2, 4000), share=st.floats(0, 1))
def test_times_are_whole_and_fall_from_T_to_0(spacing, T, share):
    steps = 2 + int(share * (T - 2))
    visited = np.array(times(T, steps, spacing))
    assert (visited[0], visited[-1]) == (T, 0)
    assert (np.diff(visited) < 0).all()
    assert (visited == visited.round()).all()
    assert 2 <= len(visited) <= steps + 1


@given(spacing=st.sampled_from(["uniform", "trailing"]), T=st.integers(2, 2000), share=st.floats(0, 1))
def test_even_spacings_take_as_many_steps_as_asked(spacing, T, share):
    steps = 2 + int(share * (T - 2))
    assert len(times(T, steps, spacing)) == steps + 1


@pytest.mark.parametrize("spacing", ["uniform", "trailing"])
def test_all_steps_are_all_times(spacing):
    assert times(1000, 1000, spacing) == list(range(1000, -1, -1))


def test_the_published_times_of_ten_steps():
    """Lin et al. 2024, table 2, T = 1000: "linspace" and "trailing"."""
    assert times(1000, 10, "uniform") == [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1, 0]
    assert times(1000, 10, "trailing") == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0]


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_quadratic_times_are_even_in_their_root(steps):
    visited = np.array(times(1000, steps, "quadratic")[:-1])
    expected = [(1 + i / (steps - 1) * (1000**0.5 - 1)) ** 2 for i in range(steps)]
    assert len(visited) <= steps
    assert all(np.abs(visited - t).min() <= 0.5 for t in expected)
    assert np.diff(visited)[0] < 10 * np.diff(visited)[-1] < 0


EVEN = {  # what is even in the spacing, of sigma / signal
    "log-snr": (np.log, np.exp),
    "karras": (lambda rho: rho ** (1 / 7), lambda root: root**7),
}


@pytest.mark.parametrize("steps", [5, 12, 40])
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("spacing", EVEN)
def test_times_of_the_schedule_are_even_in_their_own_way(spacing, name, steps):
    """Lu et al. 2022; Karras et al. 2022, eq. 5: from T, or from lambda = -5.1 after it, to t = 1."""
    made, (there, back) = schedule(name), EVEN[spacing]
    first = min(float(np.exp(-made.half_log_snr(1000))), np.exp(5.1))
    last = float(np.exp(-made.half_log_snr(1)))
    rho = back(np.linspace(there(first), there(last), steps))
    visited = np.array(times(made, steps, spacing))
    assert (visited[0], visited[-2], visited[-1]) == (1000, 1, 0)
    at = made.half_log_snr(np.arange(1, 1001))
    for r in rho[1:]:  # the whole time nearest to the one whose sigma / signal is r is visited
        t = float(np.interp(np.log(r), -at, np.arange(1, 1001)))
        assert np.abs(visited - t).min() <= 0.6
    assert len(visited) <= steps + 1


@pytest.mark.parametrize("spacing", ["quadratic", "trailing", "uniform"])
def test_one_step_goes_all_the_way(spacing):
    visited = times(1000, 1, spacing)
    assert visited == [1000, 0]
    assert [type(t) for t in visited] == [float, float]


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range_are_refused(steps):
    with refused(UsageError, f"steps must lie in 1..T = 1000, got {steps}"):
        times(1000, steps)


def test_an_unknown_spacing_is_refused_with_the_nearest_name():
    with refused(UsageError, "unknown spacing 'trialing'; did you mean 'trailing'"):
        times(1000, 10, "trialing")
