"""Every solver: its printed formulas step by step, its order, its bias, few steps, hard ends."""

from functools import cache

import numpy as np
import printed
import pytest
import torch
from laws import Data, alpha_bar_at, run, schedule
from scipy.special import ndtr
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


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("kind", SOLVERS)
def test_order(kind, name):
    """The largest error on the way, from lambda = -5 to 3: at the end alone, errors of either sign can cancel."""
    sampler, _, order = SOLVERS[kind]
    made, x_T, counts = (
        ud.Process(schedule(name)),
        torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None],
        [64, 128, 256, 512],
    )
    errors = []
    for n in counts:
        times = made.schedule.time_of(np.linspace(-5, 3, n + 1)).tolist()
        ab = alpha_bar_at(made.schedule, np.array(times))
        frames = run(made, DATA.denoiser(made), sampler, x_T, times)
        errors.append(
            max(float((f.x - DATA.flow(x_T, ab[0], b)).abs().max()) for f, b in zip(frames, ab[1:], strict=True))
        )
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order - 0.25 <= slope <= order + 0.5, (slope, errors)


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

WEIGHT, MEANS, STDS = np.array([0.4, 0.6]), np.array([-0.6, 0.5]), np.array([0.1, 0.25])
MANY = 40_000


class Mixture:
    """Scalars of two Gaussians: everything about them at every t is known."""

    def __init__(self, made: ud.Process) -> None:
        self.process = made

    def at(self, t: float):
        ab = float(alpha_bar_at(self.process.schedule, t))
        return ab, ab**0.5 * MEANS, (ab * STDS**2 + 1 - ab) ** 0.5

    def draw(self, t: float, seed: int) -> np.ndarray:
        _, means, stds = self.at(t)
        rng = np.random.default_rng(seed)
        which = (rng.random((MANY, 1)) > WEIGHT[0]).astype(int)
        return means[which] + stds[which] * rng.standard_normal((MANY, 1))

    def cdf(self, x: np.ndarray, t: float) -> np.ndarray:
        _, means, stds = self.at(t)
        return sum(w * ndtr((x - m) / s) for w, m, s in zip(WEIGHT, means, stds, strict=True))

    def denoise(self, x_t: torch.Tensor, t: float) -> ud.Split:
        ab, means, stds = self.at(t)
        x = x_t.numpy()
        log = np.log(WEIGHT) - np.log(stds) - (x - means) ** 2 / (2 * stds**2)
        share = np.exp(log - log.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        x0 = (share * (MEANS + ab**0.5 * STDS**2 / stds**2 * (x - means))).sum(-1, keepdims=True)
        return ud.Split.from_x0(x_t, torch.from_numpy(x0), np.float64(ab**0.5), np.float64((1 - ab) ** 0.5))


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
    data, times = Mixture(made), made.schedule.time_of(np.linspace(-5, 3, steps + 1)).tolist()
    x_T = torch.from_numpy(data.draw(times[0], 1))
    x = run(made, data.denoise, DRAWN[kind][1], x_T, times, seed=steps)[-1].x.numpy().ravel()
    return float(kstest(x, lambda v: data.cdf(v, times[-1])).statistic)


@pytest.mark.parametrize("kind", DRAWN)
def test_bias_falls_as_one_over_steps(kind):
    noise = 1.95 / MANY**0.5  # a thousandth of true laws lie further off
    first = bias(kind, 8)
    assert first > 2 * noise
    for steps in (16, 32, 64):
        assert bias(kind, steps) <= 1.25 * first * 8 / steps + noise, (first, steps)


@pytest.mark.parametrize("kind", DRAWN)
def test_a_thousand_steps_have_the_law(kind):
    assert bias(kind, 1000) <= 1.95 / MANY**0.5 + bias(kind, 8) * 8 / 1000
