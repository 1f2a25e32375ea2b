"""With the exact denoiser of Gaussian data a sampler is an affine map, so its law is known in closed form.

`laws.Data.line` states each update from alpha_bar alone. Runs are checked twice: draw by draw in float64, which sees an
error in any coefficient, and as a law in float32, which is what a user gets.
"""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from laws import SAMPLED, Data, alpha_bar_at, assert_law, refused, run, schedule

import undiffuse as ud
from undiffuse.diffusion.noise import Laplace, Mixture, Uniform
from undiffuse.diffusion.samplers import SAMPLERS
from undiffuse.errors import UndiffuseError, UsageError

MANY = 20_000


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Scalars gain nothing from more, and lose much on a machine that is shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


DATA = Data(0.4, 0.3)


def process(kind: str = "small", name: str = "linear", T: int = 1000) -> ud.Process:
    return ud.Process(schedule(name, T), variance=SAMPLED[kind][0])


def alpha_bars(made: ud.Process, times) -> list[float]:
    return alpha_bar_at(made.schedule, np.array(times)).tolist()


@cache
def sampled(kind: str, name: str, steps: int, data: Data = DATA) -> list[ud.Frame]:
    """20,000 scalars from the prior, float32."""
    made, times = process(kind, name), ud.spacing(1000, steps)
    x_T = made.prior((MANY, 1), ud.rng.fold(1))
    return run(made, data.denoiser(made, times), SAMPLED[kind][1], x_T, times)


# -- every update ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "trailing"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("kind", SAMPLED)
def test_each_step_is_its_update_draw_by_draw(kind, name, spacing):
    made, times = process(kind, name), ud.spacing(1000, 20, spacing)
    x_T = ud.rng.fold(1).normal((16, 1)).double()
    frames = run(made, DATA.denoiser(made, times), SAMPLED[kind][1], x_T, times, seed=5)
    x, rng = x_T.numpy(), ud.rng.fold(5, "steps")
    for line, frame in zip(DATA.lines(kind, alpha_bars(made, times)), frames, strict=True):
        z = rng.normal((16, 1)).double().numpy() if line.noise else 0.0
        x = line.slope * x + line.shift + line.noise * z
        np.testing.assert_allclose(frame.x.numpy(), x, rtol=1e-9, atol=1e-9)


@pytest.mark.bare
@pytest.mark.parametrize("steps", [1000, 100, 20])
@pytest.mark.parametrize("kind", SAMPLED)
def test_samples_have_the_law_of_the_recursion(kind, steps):
    made, times = process(kind), ud.spacing(1000, steps)
    law = (0.0, 1.0)
    for line in DATA.lines(kind, alpha_bars(made, times)):
        law = line(*law)
    assert_law(sampled(kind, "linear", steps)[-1].x, *law)


@pytest.mark.parametrize("steps", [100, 20])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_exact_variance_keeps_the_law_at_every_visited_time(name, steps):
    """Started from q(x_T), every x_s has the law of q(x_s): 4.5 standard errors, for there are many."""
    made, times = process("exact", name), ud.spacing(1000, steps)
    mean, var = DATA.marginal(alpha_bars(made, [1000])[0])
    x_T = mean + var**0.5 * ud.rng.fold(2).normal((MANY, 1))
    for frame in run(made, DATA.denoiser(made, times), SAMPLED["exact"][1], x_T, times)[:-1]:
        assert_law(frame.x, *DATA.marginal(alpha_bars(made, [frame.t])[0]), sigmas=4.5)


@pytest.mark.bare
def test_the_exact_variance_gives_back_the_data():
    """The last step returns the mean, so at t = 1 alone a little spread is lost."""
    assert_law(sampled("exact", "linear", 1000)[-1].x, 0.4, 0.3**2, sigmas=4.5)


@pytest.mark.bare
def test_ancestral_with_all_steps_gives_back_the_data_for_either_variance():
    for kind in ("small", "large"):
        assert sampled(kind, "linear", 1000)[-1].x.std() == pytest.approx(0.3, rel=0.04)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_strided_small_is_too_narrow_and_large_is_right_for_unit_gaussian_data(name):
    unit = Data(0.0, 1.0)
    small, large = (sampled(kind, name, 20, unit)[-2].x.std().item() for kind in ("small", "large"))
    assert small < 0.96
    assert large == pytest.approx(1, abs=4 / (2 * MANY) ** 0.5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_strided_large_is_too_wide_and_small_is_right_for_data_that_is_one_point(name):
    """At the first visited time above the data, where q(x_s) has the standard deviation sigma_s."""
    point, made = Data(0.4, 0.0), process("small", name)
    small, large = (sampled(kind, name, 20, point)[-2] for kind in ("small", "large"))
    sigma = float(made.scales(small.t)[1])
    assert small.x.std().item() == pytest.approx(sigma, rel=4 / (2 * MANY) ** 0.5)
    assert large.x.std().item() > 1.5 * sigma


def test_strided_small_is_too_narrow_and_large_too_wide_in_between():
    spread = {kind: sampled(kind, "linear", 20)[-2].x.std().item() for kind in ("small", "exact", "large")}
    assert spread["small"] < 0.97 * spread["exact"]
    assert spread["large"] > 1.03 * spread["exact"]


# -- DDIM -----------------------------------------------------------------------------------------------------------


@pytest.mark.bare
@pytest.mark.parametrize("wrap", [lambda denoise: denoise, ud.clipped], ids=["free", "clipped"])
@pytest.mark.parametrize(
    "times", [ud.spacing(1000, n) for n in (1000, 50, 7)] + [[1000.0, 612.5, 33.3, 0.25, 0.0]], ids=len
)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddim_of_eta_one_is_ancestral_sampling_with_the_small_variance(name, times, wrap):
    made, wide = process("small", name), Data(0.9, 0.8)
    denoise = wrap(wide.denoiser(made))
    x_T = 2 * ud.rng.fold(3).normal((32, 1)).double()
    one, other = (
        run(made, denoise, sampler, x_T, times) for sampler in (ud.samplers.DDIM(1.0), ud.samplers.Ancestral())
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-8, atol=1e-8)
    assert (torch.cat([frame.x0 for frame in one]).abs() == 1).any() == (wrap is ud.clipped)


@pytest.mark.parametrize("family", [ud.Gaussian(), Laplace(), Mixture(), Uniform()], ids=lambda noise: noise.name)
def test_dpmpp_sde_without_a_past_is_ancestral_sampling_for_every_noise(family):
    made = ud.Process(schedule("linear"), noise=family)
    x_t, denoise = ud.rng.fold(3).normal((64, 1)).double(), DATA.denoiser(made)
    one, other = (
        sampler.step(made, denoise, x_t, 300.0, 200.0, ud.rng.fold(4))[0]
        for sampler in (ud.samplers.DPMppSDE(), ud.samplers.Ancestral())
    )
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_ddim_of_eta_zero_draws_nothing():
    made, x_T = process(), ud.rng.fold(3).normal((8, 1))
    one, other = (run(made, DATA.denoiser(made), ud.samplers.DDIM(), x_T, ud.spacing(1000, 9), seed) for seed in (0, 1))
    assert torch.equal(one[-1].x, other[-1].x)


def flow_error(made: ud.Process, times) -> float:
    """Largest distance from the exact probability-flow map, over x_T in [-2, 2]."""
    x_T = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    x = run(made, DATA.denoiser(made), ud.samplers.DDIM(), x_T, times)[-1].x
    first, last = alpha_bars(made, [times[0], times[-1]])
    return float((x - DATA.flow(x_T, first, last)).abs().max())


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_ddim_is_of_first_order(name):
    made, counts = process("small", name), [64, 128, 256, 512]
    errors = [flow_error(made, made.schedule.time_of(np.linspace(-5, 3, n + 1)).tolist()) for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert 0.75 <= slope <= 1.25, errors


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "trailing"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddim_to_the_data_gets_better_with_every_step(name, spacing):
    made = process("small", name)
    errors = [flow_error(made, ud.spacing(1000, n, spacing)) for n in (10, 40, 160, 640)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 4


@pytest.mark.parametrize("kind", SAMPLED)
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("times", [[1000.0, 0.0], [1000.0, 1.0, 0.0], [1000.0, 500.0, 1.0, 0.0]], ids=len)
def test_a_few_steps_are_finite(kind, name, times):
    made = process(kind, name)
    x = run(made, DATA.denoiser(made, times), SAMPLED[kind][1], made.prior((64, 1), ud.rng.fold(1)), times)[-1].x
    assert x.isfinite().all()
    assert x.abs().max() < 10


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_outside_the_unit_interval_is_refused(eta):
    with refused(UsageError, "eta must lie in [0, 1]"):
        ud.samplers.DDIM(eta)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"ddim"}))
def test_eta_is_refused_by_those_without(name):
    with refused(UsageError, f"eta is for the sampler 'ddim'; leave it at 0 for '{name}'"):
        SAMPLERS[name](0.5)


# -- what every sampler is ------------------------------------------------------------------------------------------


def noisy(name: str, eta: float) -> ud.samplers.Sampler:
    return SAMPLERS[name](eta if name == "ddim" else 0.0)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_sampling_works_on_zero_terminal_snr(name):
    made = ud.Process(ud.NoiseSchedule.from_betas(np.append(np.linspace(1e-4, 0.02, 999), 1.0)))

    def denoise(x_t, t):  # exact for N(0, 1): v = signal eps - sigma x0 = 0 on average
        return ud.Split.from_v(x_t, torch.zeros_like(x_t), *made.scales(t))

    x = run(made, denoise, SAMPLERS[name](0.0), made.prior((MANY, 1), ud.rng.fold(1)), ud.spacing(1000, 100))[-1].x
    assert x.isfinite().all()
    assert abs(x.mean().item()) < 4 / MANY**0.5


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_sampler_keeps_nothing_and_steps_straight_to_x0(name):
    made, sampler = process(), noisy(name, 0.5)
    x_t, denoise = ud.rng.fold(1).normal((8, 1)).double(), DATA.denoiser(process())
    steps = [sampler.step(made, denoise, x_t, 300.0, 200.0, ud.rng.fold(4)) for _ in range(2)]
    assert torch.equal(steps[0][0], steps[1][0])
    torch.testing.assert_close(sampler.step(made, denoise, x_t, 300.0, 0.0, ud.rng.fold(4))[0], denoise(x_t, 300.0).x0)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_network_calls_and_a_frame_for_each_step(name):
    """Two calls a step, but for the last: Heun's. Four in the first three steps: PNDM's. One: all others'."""
    made, asked = process(), []

    def denoise(x_t, t):
        asked.append(t)
        return DATA.denoiser(made)(x_t, t)

    times = ud.spacing(1000, 7)
    frames = run(made, denoise, SAMPLERS[name](0.0), made.prior((3, 1), ud.rng.fold(1)), times)
    calls = {"heun": [2] * 6 + [1], "edm": [2] * 6 + [1], "pndm": [4] * 3 + [1] * 4}.get(name, [1] * 7)
    firsts = np.array(asked)[np.cumsum([0, *calls[:-1]])]
    assert len(asked) == sum(calls)
    assert (firsts == times[:-1]).all() if name != "edm" else (firsts >= times[:-1]).all()
    assert [frame.t for frame in frames] == times[1:]
    before = [made.prior((3, 1), ud.rng.fold(1)), *(frame.x for frame in frames)]
    for (t, _), x_t, frame in zip(pairwise(times), before, frames, strict=False) if name != "edm" else ():
        assert torch.equal(frame.x0, DATA.denoiser(made)(x_t, t).x0)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_an_image_s_numbers_do_not_depend_on_its_batch(name):
    made = process("small", "cosine")

    def images(rows):
        rng = ud.rng.per_row(0, "sample", rows=rows)
        x_T = made.prior((len(rows), 1, 2, 2), rng)
        frames = ud.trajectory(made, DATA.denoiser(made), noisy(name, 0.7), x_T, ud.spacing(1000, 10), rng)
        return list(frames)[-1].x

    torch.testing.assert_close(images([0, 1, 2, 3, 4])[[3, 1]], images([3, 1]), rtol=0, atol=0)


def test_sampling_tracks_no_gradients():
    made, weight = process(), torch.ones((), requires_grad=True)

    def denoise(x_t, t):
        return DATA.denoiser(made)(weight * x_t, t)

    assert not run(made, denoise, ud.samplers.DDIM(), torch.ones(2, 1), [1000.0, 0.0])[-1].x.requires_grad


@pytest.mark.parametrize("times", [[1000.0], [], [0.0, 1000.0], [500.0, 500.0, 0.0], [1001.0, 0.0], [1000.0, -1.0]])
def test_times_that_do_not_fall_from_T_to_0_are_refused(times):
    with refused(UsageError, "times must fall strictly"):
        run(process(), DATA.denoiser(process()), ud.samplers.DDIM(), torch.ones(2, 1), times)


def test_a_sampler_that_never_asks_is_refused():
    class Idle:
        def step(self, process, denoise, x_t, t, s, rng, memory=None):
            return x_t, None

    with refused(UndiffuseError, "Idle took a step without asking the denoiser"):
        run(process(), DATA.denoiser(process()), Idle(), torch.ones(2, 1), [1000.0, 0.0])


def test_memory_goes_in_and_comes_out():
    class Counting:
        def step(self, process, denoise, x_t, t, s, rng, memory=None):
            count = 0 if memory is None else memory
            return denoise(x_t, t).x0 * 0 + count, count + 1

    frames = run(process(), DATA.denoiser(process()), Counting(), torch.ones(2, 1), [1000.0, 500.0, 1.0, 0.0])
    assert [frame.x[0, 0].item() for frame in frames] == [0, 1, 2]
