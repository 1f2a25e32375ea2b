"""Every solver: its printed formulas step by step, its order, its bias, few steps, hard ends."""

from functools import cache
from itertools import pairwise

import numpy as np
import printed
import pytest
import torch
from laws import Data, Mixture, alpha_bar_at, assert_law, run, schedule
from scipy.integrate import quad
from scipy.stats import kstest

import undiffuse as ud
from undiffuse.diffusion.samplers import DDIM, DEIS, EDM, PNDM, SAMPLERS, Ancestral, DPMpp, DPMppSDE, Euler, Heun, UniPC
from undiffuse.diffusion.samplers.spacing import OF_THE_SCHEDULE, SPACINGS

SOLVERS = {  # name -> (sampler, its printed form, its order)
    "ddim": (DDIM(), printed.dpmpp(1), 1),
    "euler": (Euler(), printed.karras(0, correct=False), 1),
    "heun": (Heun(), printed.karras(0), 2),
    "dpmpp_1m": (DPMpp(1), printed.dpmpp(1), 1),
    "dpmpp_2m": (DPMpp(2), printed.dpmpp(2), 2),
    "dpmpp_3m": (DPMpp(3), printed.dpmpp(3), 3),
    "unipc_1": (UniPC(1), printed.unipc(1), 2),
    "unipc_2": (UniPC(2), printed.unipc(2), 3),
    "unipc_3": (UniPC(3), printed.unipc(3), 4),
    "deis_0": (DEIS(0), printed.deis(0), 1),
    "deis_1": (DEIS(1), printed.deis(1), 2),
    "deis_2": (DEIS(2), printed.deis(2), 3),
    "deis_3": (DEIS(3), printed.deis(3), 4),
    "pndm": (PNDM(), printed.pndm, 2),
    "edm_0": (EDM(0.0), printed.karras(0), 2),
}
STOCHASTIC = {"dpmpp_2m_sde": (DPMppSDE(), printed.dpmpp_sde), "edm": (EDM(), printed.karras(1.0))}
STEPPED = {name: row[:2] for name, row in SOLVERS.items()} | STOCHASTIC
DATA = Data(0.4, 0.3)
SPACED = [*SPACINGS, *OF_THE_SCHEDULE]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class AlphaBar:
    def __init__(self, made: ud.NoiseSchedule) -> None:
        self.schedule = made

    def __call__(self, t: float) -> float:
        return float(alpha_bar_at(self.schedule, t))


@pytest.mark.parametrize("spacing", SPACED)
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("kind", STEPPED)
def test_each_step_is_as_printed(kind, name, spacing):
    made = ud.Process(schedule(name))
    times = ud.spacing(made.schedule, 12, spacing)
    sampler, reference = STEPPED[kind]
    x_T, rng = ud.rng.fold(1).normal((8, 1)).double(), ud.rng.fold(5, "steps")
    ab = AlphaBar(made.schedule)

    def exact(x, t):
        gain, shift = DATA.guess(ab(t))
        return gain * x + shift

    expected = reference(x_T.numpy(), times, ab, exact, lambda: rng.normal((8, 1)).double().numpy())
    frames = run(made, DATA.denoiser(made), sampler, x_T, times, seed=5)
    for frame, x in zip(frames, expected, strict=True):
        scale = max(1.0, np.abs(x).max())
        np.testing.assert_allclose(frame.x.numpy() / scale, x / scale, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("kind", STEPPED)
def test_samples_have_the_law_of_the_printed_recursion(kind, name):
    """On Gaussian data a run is affine in x_T and in every draw, so the printed form gives its mean and variance."""
    made, n = ud.Process(schedule(name)), 20_000
    times = ud.spacing(made.schedule, 20, "trailing")
    sampler, reference = STEPPED[kind]
    units = np.eye(len(times) + 1)[:, :, None]  # x_T, then each step's draw; the last row is nothing at all
    draws = iter(units[1:])
    ab = AlphaBar(made.schedule)

    def exact(x, t):
        gain, shift = DATA.guess(ab(t))
        return gain * x + shift

    last = reference(units[0], times, ab, exact, lambda: next(draws))[-1].ravel()
    mean, var = last[-1], ((last[:-1] - last[-1]) ** 2).sum()
    x_T = made.prior((n, 1), ud.rng.fold(1))
    assert_law(run(made, DATA.denoiser(made), sampler, x_T, times, seed=6)[-1].x, mean, var)


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("kind", SOLVERS)
def test_order(kind, name):
    """The largest error on the way, from lambda = -5 to 3: at the end alone, errors of either sign can cancel."""
    sampler, _, order = SOLVERS[kind]
    slope, errors = order_of(sampler, name, -5.0)
    assert order - 0.25 <= slope <= order + 0.5, (slope, errors)


@pytest.mark.bare
@pytest.mark.parametrize("start", [-1.0, 0.0])
@pytest.mark.parametrize("kind", [kind for kind, (_, _, order) in SOLVERS.items() if order > 1])
def test_order_of_a_run_that_starts_amid_the_data(kind, start):
    """The first steps of a multistep solver are DDIM's or of two guesses, and here they weigh as much as others."""
    slope, errors = order_of(SOLVERS[kind][0], "cosine", start)
    assert 1.9 <= slope <= 2.15, (slope, errors)


def order_of(sampler, name: str, start: float) -> tuple[float, list[float]]:
    """The slope of the largest error on the way from lambda = `start` to 3 against the number of equal steps."""
    made, x_T, counts = (
        ud.Process(schedule(name)),
        torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None],
        [64, 128, 256, 512],
    )
    errors = []
    for n in counts:
        times = made.schedule.time_of(np.linspace(start, 3, n + 1)).tolist()
        ab = alpha_bar_at(made.schedule, np.array(times))
        frames = run(made, DATA.denoiser(made), sampler, x_T, times)
        errors.append(
            max(float((f.x - DATA.flow(x_T, ab[0], b)).abs().max()) for f, b in zip(frames, ab[1:], strict=True))
        )
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0], errors


@pytest.mark.parametrize("spacing", SPACED)
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("kind", SOLVERS)
def test_errors_to_the_data_fall_with_steps(kind, name, spacing):
    sampler, made = SOLVERS[kind][0], ud.Process(schedule(name))
    x_T = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    errors = []
    for n in (10, 40, 160, 640):
        times = ud.spacing(made.schedule, n, spacing)
        ab = alpha_bar_at(made.schedule, np.array(times))
        x = run(made, DATA.denoiser(made), sampler, x_T, times)[-1].x
        errors.append(float((x - DATA.flow(x_T, ab[0], 1.0)).abs().max()))
    floor = 3e-3  # the one guess at t = 1 costs up to this, and whole numbers are not equal steps
    assert errors[-1] < max(errors[0] / 4, floor)
    assert np.maximum(errors, floor).tolist() == sorted(np.maximum(errors, floor), reverse=True), errors


POLYNOMIAL = {  # name -> (sampler, degree that it integrates exactly, steps until then)
    "dpmpp_1m": (DPMpp(1), 0, 1),
    "dpmpp_3m": (DPMpp(3), 2, 3),
    "unipc_2": (UniPC(2), 2, 2),
    "unipc_3": (UniPC(3), 3, 3),
    "deis_1": (DEIS(1), 1, 2),
    "deis_2": (DEIS(2), 2, 3),
    "deis_3": (DEIS(3), 3, 4),
}


@pytest.mark.parametrize("kind", POLYNOMIAL)
def test_polynomials_of_lambda_are_integrated_exactly(kind):
    """x0 (for DEIS eps) = lambda^degree whatever x_t: x_s follows from one integral, on steps of any length."""
    sampler, degree, first = POLYNOMIAL[kind]
    made = ud.Process(schedule("linear"))
    lambdas = np.cumsum([-4.0, 0.5, 0.7, 0.4, 0.6, 1.1, 0.9, 0.3])
    times = made.schedule.time_of(lambdas).tolist()
    of_eps = isinstance(sampler, DEIS)
    read = ud.Split.from_eps if of_eps else ud.Split.from_x0
    x_T = torch.ones(1, 1, dtype=torch.float64)

    def denoise(x_t, t):
        return read(x_t, torch.full_like(x_t, float(made.schedule.half_log_snr(t)) ** degree), *made.scales(t))

    def exact(x, t, s):
        a, b = float(made.schedule.half_log_snr(t)), float(made.schedule.half_log_snr(s))
        (signal_t, sigma_t), (signal_s, sigma_s) = made.scales(t), made.scales(s)
        area = quad(lambda u: np.exp(-u if of_eps else u) * u**degree, a, b, epsabs=1e-13)[0]
        return signal_s * (x / signal_t - area) if of_eps else sigma_s * (x / sigma_t + area)

    states = [frame.x.item() for frame in run(made, denoise, sampler, x_T, times)]
    if not isinstance(sampler, UniPC):
        for i in range(first, len(states)):
            assert states[i] == pytest.approx(exact(states[i - 1], times[i], times[i + 1]), rel=1e-9, abs=1e-9)
        return
    x, memory, corrected = x_T, None, []
    for t, s in pairwise(times):
        x, memory = sampler.step(made, denoise, x, t, s, ud.rng.fold(0), memory)
        corrected.append(memory[0].x_t.item())  # where the step began, after its correction
    for i in range(first, len(corrected)):
        assert corrected[i] == pytest.approx(exact(corrected[i - 1], times[i - 1], times[i]), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("steps", [6, 10, 20, 50])
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("sampler", [DPMpp(2), DPMpp(3), UniPC(2), UniPC(3), DEIS(2), DEIS(3)], ids=repr)
def test_a_long_step_does_not_undo_a_higher_order(sampler, name, steps):
    """Uniform times end in a step of lambda several times as long as the one before: an extrapolation that far is off
    by more than all other steps together, so nobody may be worse than DDIM."""
    made = ud.Process(schedule(name))
    data, x_T = Mixture(made.schedule), torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None]
    times = ud.spacing(made.schedule, steps, "uniform")
    exact = data.flow(x_T.numpy(), 1000.0, 0.0)
    error, limit = (
        np.sqrt(np.mean((run(made, data.denoise, solver, x_T, times)[-1].x.numpy() - exact) ** 2))
        for solver in (sampler, DDIM())
    )
    assert error < limit


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("spacing", SPACED)
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_few_steps_are_finite(kind, name, spacing, steps):
    made = ud.Process(schedule(name))
    times = ud.spacing(made.schedule, steps, spacing)
    assert len(times) <= steps + 1 and times[0] == 1000
    x = run(made, DATA.denoiser(made), SAMPLERS[kind](0.0), made.prior((64, 1), ud.rng.fold(1)), times)[-1].x
    assert x.isfinite().all()
    if kind not in ("heun", "edm", "pndm"):  # whose eps of the far end, wrong by 0.1, is worth 20 at the data
        assert x.abs().max() < 10


# -- stochastic ones ------------------------------------------------------------------------------------------------

MANY = 40_000

DRAWN = {
    "small": ("small", Ancestral()),
    "large": ("large", Ancestral()),
    "ddim 0.5": ("small", DDIM(0.5)),
    "ddim 1": ("small", DDIM(1.0)),
    "dpmpp_2m_sde": ("small", DPMppSDE()),
    "edm": ("small", EDM()),
    "edm 3": ("small", EDM(3.0)),
}


@cache
def bias(kind: str, steps: int) -> float:
    """Kolmogorov's distance from the exact law, after `steps` of lambda from -5 to 3."""
    made = ud.Process(schedule("linear"), variance=DRAWN[kind][0])
    data, times = Mixture(made.schedule), made.schedule.time_of(np.linspace(-5, 3, steps + 1)).tolist()
    x_T = torch.from_numpy(data.draw(times[0], MANY, 1))
    x = run(made, data.denoise, DRAWN[kind][1], x_T, times, seed=steps)[-1].x.numpy().ravel()
    return float(kstest(x, lambda v: data.cdf(v, times[-1])).statistic)


@pytest.mark.bare
@pytest.mark.parametrize("kind", DRAWN)
def test_bias_falls_as_one_over_steps(kind):
    noise = 1.95 / MANY**0.5  # a thousandth of true laws lie further off
    first = bias(kind, 8)
    assert first > 2 * noise
    for steps in (16, 32, 64):
        assert bias(kind, steps) <= 1.25 * first * 8 / steps + noise, (first, steps)


@pytest.mark.bare
@pytest.mark.parametrize("kind", DRAWN)
def test_many_steps_have_the_law(kind):
    assert bias(kind, 250) <= 1.95 / MANY**0.5 + bias(kind, 8) * 8 / 250
