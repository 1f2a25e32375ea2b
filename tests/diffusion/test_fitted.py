"""Fitted times: the cheapest paths indeed, better than any fixed spacing on data whose flow is known."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from laws import Data, Mixture, alpha_bar_at, refused, run, schedule

import undiffuse as ud
from undiffuse.diffusion.samplers import DDIM, DPMpp, UniPC
from undiffuse.diffusion.samplers.fitted import Fitted, _paired_paths, _paths, fit_times
from undiffuse.errors import UndiffuseError, UsageError

DATA = Data(0.4, 0.3)
FIXED = ("uniform", "quadratic", "trailing", "log-snr", "karras")


@pytest.fixture(scope="module", params=["linear", "cosine"])
def fit(request) -> tuple[ud.Process, Fitted]:
    made = ud.Process(schedule(request.param))
    x_T = ud.rng.fold(3).normal((64, 1)).double()
    return made, fit_times(made, DATA.denoiser(made), x_T, ud.rng.fold(4))


def end_error(made: ud.Process, sampler, times) -> float:
    x_T = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    x = run(made, DATA.denoiser(made), sampler, x_T, times)[-1].x
    return float((x - DATA.flow(x_T, float(alpha_bar_at(made.schedule, times[0])), 1.0)).square().mean() ** 0.5)


@pytest.mark.parametrize("steps", [4, 6, 10])
@pytest.mark.parametrize(("sampler", "guesses"), [(DDIM(), 1), (DPMpp(2), 2), (UniPC(2), 2)])
def test_better_than_fixed_spacings(fit, sampler, guesses, steps):
    made, found = fit
    fixed = [end_error(made, sampler, ud.spacing(made.schedule, steps, name)) for name in FIXED]
    ours = end_error(made, sampler, found.times(steps, guesses))
    assert ours < np.median(fixed) / 1.5
    if guesses == 1 or steps > 4:  # in four steps of higher order, errors of either sign cancel for a lucky spacing
        assert ours < min(fixed) * (1.0 if guesses == 1 else 1.5)


@pytest.mark.bare
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_better_than_any_fixed_spacing_on_a_mixture(name):
    """Not Gaussian data, whose trajectories are all of one shape, so that one lucky spacing serves all."""
    made = ud.Process(schedule(name))
    data, x_T = Mixture(made.schedule), torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    found = fit_times(made, data.denoise, ud.rng.fold(3).normal((64, 1)).double(), ud.rng.fold(4))
    exact = data.flow(x_T.numpy(), 1000.0, 0.0)

    def error(sampler, times) -> float:
        return float(np.sqrt(np.mean((run(made, data.denoise, sampler, x_T, times)[-1].x.numpy() - exact) ** 2)))

    for sampler, guesses in ((DDIM(), 1), (DPMpp(2), 2), (UniPC(2), 2)):
        for steps in (4, 6, 10):
            fixed = [error(sampler, ud.spacing(made.schedule, steps, spacing)) for spacing in FIXED]
            assert error(sampler, found.times(steps, guesses)) < min(fixed)


def test_times_are_whole_and_fall_from_T_to_0(fit):
    _, found = fit
    for guesses in (1, 2):
        for steps in range(1, found.most + 1):
            times = found.times(steps, guesses)
            assert len(times) == steps + 1 and (times[0], times[-1]) == (1000, 0)
            assert all(t > s and t == round(t) for t, s in pairwise(times))
    for steps in (0, 51):
        with refused(UsageError, f"times were fitted for 1 to 50 steps, not {steps}"):
            found.times(steps, 1)


def test_paths_are_the_cheapest_of_all():
    rng = np.random.default_rng(0)
    n = 8
    alone = np.where(np.tri(n, dtype=bool), np.inf, rng.random((n, n)))
    k, i, j = np.indices((n, n, n))
    paired = np.where((k < i) & (i < j), rng.random((n, n, n)), np.inf)
    for steps, (one, two) in enumerate(zip(_paths(alone, 7), _paired_paths(alone, paired, 7), strict=True), 1):
        every = [(0, *inner, n - 1) for inner in combinations(range(1, n - 1), steps - 1)]

        def cost_one(path):
            return sum(alone[a, b] for a, b in pairwise(path))

        def cost_two(path):
            return alone[path[0], path[1]] + sum(paired[t] for t in zip(path, path[1:], path[2:], strict=False))

        assert len(one) == len(two) == steps + 1
        assert cost_one(one) == pytest.approx(min(map(cost_one, every)))
        assert cost_two(two) == pytest.approx(min(map(cost_two, every)))


def test_written_and_read(fit):
    _, found = fit
    assert Fitted.read(found.write(), 1000) == found


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"one guess": 3}', '{"one guess": [["a"]], "two guesses": []}'])
def test_junk_is_refused(text):
    with refused(UndiffuseError, "not fitted times"):
        Fitted.read(text, 1000)


@pytest.mark.parametrize("row", ["[1000]", "[1000, 1000]", "[999, 0]", "[1000, 1]", "[1000, 500, 0]"])
def test_times_that_do_not_fall_are_refused(row):
    with refused(UndiffuseError, "for 1 steps do not fall"):
        Fitted.read(f'{{"one guess": [{row}], "two guesses": []}}', 1000)
