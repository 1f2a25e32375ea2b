"""What is known ends as it is with every sampler; resampling keeps the law and mends the seam; inversion inverts."""

import numpy as np
import pytest
import torch
from laws import SAMPLED, Data, alpha_bar_at, assert_law, run, schedule

import undiffuse as ud
from undiffuse.diffusion.guidance import known
from undiffuse.diffusion.inversion import inverted, slerp
from undiffuse.diffusion.samplers import DDIM, SAMPLERS, Ancestral, Resampled
from undiffuse.errors import UsageError

DATA = Data(0.4, 0.3)


class Pair:
    """Two scalars of law N(0, [[1, rho], [rho, 1]]): the exact denoiser."""

    rho = 0.9

    def __init__(self, process: ud.Process) -> None:
        self.process = process
        self.cov = torch.tensor([[1.0, self.rho], [self.rho, 1.0]], dtype=torch.float64)

    def __call__(self, x_t, t):
        signal, sigma = self.process.scales(t)
        gain = signal * self.cov @ torch.linalg.inv(signal**2 * self.cov + sigma**2 * torch.eye(2))
        return ud.Split.from_x0(x_t, x_t @ gain.T, signal, sigma)


# -- what is known ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_sampler_brings_what_is_known_to_what_it_is(kind, name):
    process = ud.Process(schedule(name))
    x0 = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(8, 2)
    denoise = known(DATA.denoiser(process), x0, torch.tensor([True, False]))
    times = ud.spacing(process.schedule, 20, "uniform")
    x = run(process, denoise, SAMPLERS[kind](0.0), process.prior((8, 2), ud.rng.fold(1)), times)[-1].x
    torch.testing.assert_close(x[:, 0], x0[:, 0], rtol=0, atol=1e-4)
    assert (x[:, 1] - x0[:, 1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ancestral_sampling_takes_what_is_known_along_the_forward_law(name):
    process = ud.Process(schedule(name))
    x0 = torch.full((20_000, 1), 0.7, dtype=torch.float64)
    denoise = known(DATA.denoiser(process), x0, torch.tensor([True]))
    times = ud.spacing(process.schedule, 25, "uniform")
    for frame in run(process, denoise, Ancestral(), process.prior((20_000, 1), ud.rng.fold(1)), times)[:-1]:
        ab = float(alpha_bar_at(process.schedule, frame.t))
        assert_law(frame.x.numpy(), ab**0.5 * 0.7, 1 - ab)


@pytest.mark.bare
@pytest.mark.parametrize("kind", ["ddim", "dpmpp_2m", "unipc", "deis"])
def test_resampling_brings_what_is_painted_to_fit_what_is_known(kind):
    """E[b | a = 1] = rho; painting without going back, eps of b knows nothing of a until late."""
    process = ud.Process(schedule("linear"))
    x0 = torch.ones(4000, 2, dtype=torch.float64)
    denoise, times = known(Pair(process), x0, torch.tensor([True, False])), ud.spacing(process.schedule, 50, "uniform")
    stops, x_T = [*times[:-1:10], 0.0], process.prior((4000, 2), ud.rng.fold(1)).double()
    sampler = SAMPLERS[kind](0.0)
    plain = run(process, denoise, sampler, x_T, times)[-1].x[:, 1].mean()
    often = run(process, denoise, Resampled(sampler, tuple(times), 20), x_T, stops)[-1].x[:, 1].mean()
    assert abs(often - Pair.rho) < abs(plain - Pair.rho) / 3


@pytest.mark.parametrize("kind", ["dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc", "deis", "pndm"])
def test_what_is_put_back_reaches_a_sampler_with_a_memory(kind):
    """After noise it stands at another x_t: what it remembers of the one before must not take its place."""
    process = ud.Process(schedule("linear"))
    times, seen = ud.spacing(process.schedule, 20, "uniform"), []

    class Watching:
        def step(self, process, denoise, x_t, t, s, rng, memory=None):
            seen.append((t, memory))
            return SAMPLERS[kind](0.0).step(process, denoise, x_t, t, s, rng, memory)

    x_T = process.prior((4, 1), ud.rng.fold(1))
    run(process, DATA.denoiser(process), Resampled(Watching(), tuple(times), 3), x_T, [*times[:-1:5], 0.0])
    begun = {t: [memory is None for at, memory in seen if at == t] for t in times[:-1]}
    assert begun[times[0]] == [True] * 3
    assert all(begun[t] == [False, True, True] for t in times[5:-1:5])
    assert all(begun[t] == [False] * 3 for t in times[1:5])


# -- resampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAMPLERS)
def test_once_is_the_sampler_itself(kind):
    process = ud.Process(schedule("cosine"))
    times, x_T = ud.spacing(process.schedule, 12, "uniform"), process.prior((8, 1), ud.rng.fold(1))
    denoise, sampler = DATA.denoiser(process), SAMPLERS[kind](0.0)
    plain = run(process, denoise, sampler, x_T, times)[-1].x
    for stops in (times, [*times[:-1:4], 0.0]):
        assert torch.equal(run(process, denoise, Resampled(sampler, tuple(times), 1), x_T, stops)[-1].x, plain)


@pytest.mark.parametrize("repeats", [2, 5])
def test_going_back_keeps_the_law(repeats):
    process = ud.Process(schedule("linear"), variance=SAMPLED["exact"][0])
    times = ud.spacing(process.schedule, 20, "uniform")
    stops, sampler = [*times[:-1:5], 0.0], Resampled(Ancestral(), tuple(times), repeats)
    x_T = torch.from_numpy(np.random.default_rng(0).normal(*_marginal(process, 1000), (20_000, 1)))
    for frame in run(process, DATA.denoiser(process, times), sampler, x_T, stops)[:-1]:
        mean, std = _marginal(process, frame.t)
        assert_law(frame.x.numpy(), mean, std**2)


def _marginal(process, t) -> tuple[float, float]:
    mean, var = DATA.marginal(float(alpha_bar_at(process.schedule, t)))
    return mean, var**0.5


def test_network_calls_are_multiplied():
    process, calls = ud.Process(schedule("cosine")), []

    def denoise(x_t, t):
        calls.append(t)
        return DATA.denoiser(process)(x_t, t)

    times = [1000.0, 800.0, 600.0, 300.0, 0.0]
    run(process, denoise, Resampled(DDIM(), tuple(times), 3), torch.zeros(2, 1), [1000.0, 600.0, 0.0])
    assert calls == [1000, 800] + [600, 300] * 3  # of x_600 put into the noise of T nothing is left: once is enough


def test_repeats_below_one_are_refused():
    with pytest.raises(UsageError, match="repeats must be at least 1"):
        Resampled(DDIM(), (1000.0, 0.0), 0)


# -- inversion --------------------------------------------------------------------------------------------------------

X0 = torch.linspace(-0.4, 1.2, 9, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_inversion_is_the_flow_to_first_order(name):
    process, errors = ud.Process(schedule(name)), []
    for n in (64, 128, 256, 512):
        rising = process.schedule.time_of(np.linspace(3, -5, n + 1)).tolist()
        ab = alpha_bar_at(process.schedule, np.array(rising))
        x_0 = ab[0] ** 0.5 * X0
        x_T = list(inverted(process, DATA.denoiser(process), x_0, rising))[-1].x
        errors.append(float((x_T - DATA.flow(x_0, ab[0], ab[-1])).abs().max()))
    slope = -np.polyfit(np.log([64, 128, 256, 512]), np.log(errors), 1)[0]
    assert 0.75 <= slope <= 1.5, errors


@pytest.mark.bare
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_there_and_back_gets_better_with_steps_as_in_ddims_table_2(name):
    process = ud.Process(schedule(name))
    errors = []
    for steps in (10, 20, 50, 100, 200, 500, 1000):
        times = ud.spacing(process.schedule, steps, "uniform")
        x_T = list(inverted(process, DATA.denoiser(process), X0, times[::-1]))[-1].x
        back = run(process, DATA.denoiser(process), DDIM(), x_T, times)[-1].x
        errors.append(float((back - X0).square().mean()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 1000


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_refined_it_is_the_inverse_of_ddim(name):
    process = ud.Process(schedule(name))
    rising = [1.0, 100.0, 300.0, 600.0, 800.0, 950.0, 1000.0]
    *_, last = inverted(process, DATA.denoiser(process), X0, rising, 60)
    back = run(process, DATA.denoiser(process), DDIM(), last.x, rising[::-1])[-1].x
    torch.testing.assert_close(back, X0, rtol=0, atol=1e-9)


def test_negative_refinements_are_refused():
    process = ud.Process(schedule("cosine"))
    with pytest.raises(UsageError, match="refinements"):
        next(inverted(process, DATA.denoiser(process), X0, [0.0, 1000.0], -1))


# -- from noise to noise ----------------------------------------------------------------------------------------------


def test_the_way_between_two_noises_has_their_ends_and_stays_noise():
    a, b = (ud.rng.fold(i).normal((1, 3, 32, 32)) for i in (1, 2))
    b *= a.norm() / b.norm()  # of one length, so that the way is an arc of a circle
    way = slerp(a, b, np.linspace(0, 1, 9))
    torch.testing.assert_close(way[[0, -1]], torch.cat([a, b]))
    assert all(abs(float(x.std()) - 1) < 0.05 for x in way)
    turn = torch.nn.functional.cosine_similarity(way[1:].flatten(1), way[:-1].flatten(1))
    assert float(turn.max() - turn.min()) < 1e-5  # equal angles


def test_between_equal_noises_there_is_nowhere_to_go():
    a = ud.rng.fold(1).normal((1, 4))
    torch.testing.assert_close(slerp(a, a, np.array([0.0, 0.3, 1.0])), a.expand(3, 4))
