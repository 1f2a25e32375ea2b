"""Every place where the schedulers of diffusers differ from ours: docs/samplers.md names each, with its size."""

import numpy as np
import pytest
import torch
from laws import Mixture
from peers import (
    FULL,
    PLAIN,
    QUIET,
    SHAPE,
    TRAILING,
    VARIANCE,
    apart,
    at_hand,
    diffusers,
    error,
    network,
    ours,
    process,
    same_draws,
    scheduler,
    start,
    states,
    times_of,
)
from scipy.integrate import quad

import undiffuse as ud
from undiffuse.diffusion.guidance import thresholded
from undiffuse.diffusion.samplers import DDIM, DEIS, EDM, PNDM, Ancestral, DPMpp, Heun, UniPC

pytestmark = QUIET


def slope(errors, counts) -> float:
    return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.mark.bare
def test_their_third_order_is_of_second():
    """DPM-Solver++(3M): the coefficient of the second difference is half of what the parabola's mean needs."""
    made, counts = process("linear"), [40, 80, 160]
    theirs_off, ours_off = [], []
    for n in counts:
        times = (np.round(1024 * made.schedule.time_of(np.linspace(-5, 3, n + 1))) / 1024).tolist()
        theirs = scheduler("DPMSolverMultistep", made, n, solver_order=3, final_sigmas_type="sigma_min", **FULL)
        at_hand(theirs, made, times[:-1], times[-1])
        exact = Mixture(made.schedule).flow(start().numpy(), times[0], times[-1])
        theirs_off.append(np.abs(states(theirs, made, start())[-1].numpy() - exact).max())
        ours_off.append(np.abs(ours(made, DPMpp(3), start(), times)[-1].numpy() - exact).max())
    assert slope(theirs_off, counts) < 2.3 and slope(ours_off, counts) > 3
    assert theirs_off[-1] > 5 * ours_off[-1]


def test_their_third_order_with_noise_loses_a_sign():
    """SDE-DPM-Solver++(3M): x0 = lambda^2 and no noise, which a parabola integrates; they are off by signal_s h^2."""
    made, h = process("linear"), 0.125
    lambdas = -1 + h * np.arange(4)
    times = made.schedule.time_of(lambdas)
    theirs = scheduler(
        "DPMSolverMultistep",
        made,
        3,
        "sample",
        algorithm_type="sde-dpmsolver++",
        solver_order=3,
        final_sigmas_type="sigma_min",
        **FULL,
    )
    at_hand(theirs, made, times[:-1], times[-1])
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    seen = []
    for i in range(3):
        seen.append(x)
        x0 = torch.full_like(x, lambdas[i] ** 2)
        x = theirs.step(x0, theirs.timesteps[i], x, variance_noise=torch.zeros_like(x)).prev_sample
    (signal, sigma_s), (_, sigma_t) = made.scales(times[3]), made.scales(times[2])
    area = quad(lambda u: 2 * np.exp(2 * (u - lambdas[3])) * u**2, lambdas[2], lambdas[3])[0]
    exact = sigma_s / sigma_t * np.exp(-h) * seen[2].item() + signal * area
    assert x.item() - exact == pytest.approx(-signal * h**2, rel=0.1)


@pytest.mark.parametrize(("kind", "sampler"), [("UniPCMultistep", UniPC(3)), ("DPMSolverMultistep", DPMpp(2))])
@pytest.mark.parametrize("steps", [10, 50])
def test_they_lower_the_order_near_the_end(kind, sampler, steps):
    """UniPC at the last but one step. Ours do where a step is long, wherever that is. Elsewhere nothing differs."""
    made = process("linear")
    theirs = scheduler(kind, made, steps, solver_order=getattr(sampler, "order", 2), **TRAILING)
    one = states(theirs, made, start())
    other = ours(made, sampler, start(), times_of(theirs))
    assert apart(one[:-2], other[:-2]) < 5e-6
    assert (apart(one[-2:-1], other[-2:-1]) > 0.01) == (kind == "UniPCMultistep")


def test_a_long_step_is_extrapolated_there():
    """To the last training sigma from t = 100 of equal times: UniPC-3 is off by more than the data's spread."""
    made = process("linear")
    theirs = scheduler("UniPCMultistep", made, 10, solver_order=3, final_sigmas_type="sigma_min", **FULL)
    other = ours(made, UniPC(3), start(), times_of(theirs, 1.0))
    assert error(made, states(theirs, made, start())[-1], start(), 1.0) > 0.9 > 5 * error(made, other[-1], start(), 1.0)


@pytest.mark.parametrize(
    ("spacing", "steps", "sizes"), [("linspace", 600, (0.116, 0.0024)), ("trailing", 300, (0.019, 0.0048))]
)
def test_ddim_goes_back_by_a_whole_number_that_is_not_the_gap(spacing, steps, sizes):
    """T // steps, whatever the times are: x at a noise level that the next call is not told."""
    made = process("linear")
    theirs = scheduler("DDIM", made, steps, clip_sample=False, timestep_spacing=spacing)
    one, other = states(theirs, made, start()), ours(made, DDIM(), start(), times_of(theirs))
    assert error(made, one[-1], start()) == pytest.approx(sizes[0], rel=0.05)
    assert error(made, other[-1], start()) == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.parametrize(
    ("variance", "low", "high"), [("small", 0.0, 2e-10), ("learned", 0.1, 0.2), ("large", 0.3, 0.4)]
)
def test_ancestral_sampling_adds_noise_in_its_last_step(variance, low, high, monkeypatch):
    """Where its last t is not 0 ("trailing"): sigma_t of it for large, 0.32 in ten steps; by eye, noise left in."""
    same_draws(monkeypatch)
    made = process("linear", variance)
    theirs = scheduler("DDPM", made, 10, variance_type=VARIANCE[variance], **PLAIN)
    one, other = states(theirs, made, start()), ours(made, Ancestral(), start(), times_of(theirs))
    assert apart(one[:-1], other[:-1]) < 1e-7
    assert low < (one[-1] - other[-1]).std() < high


def test_pndm_combines_v_at_different_times():
    """v of other times is read as if it were said of this x_t at this t: first order, where eps has second."""
    made, off = process("linear"), {}
    for prediction in ("epsilon", "v_prediction"):
        for n in (50, 100):
            theirs = scheduler("PNDM", made, n, prediction, set_alpha_to_one=True, **TRAILING)
            x, s = states(theirs, made, start(), prediction)[-2], times_of(theirs)[-2]
            off[prediction, n] = error(made, x, start(), s)
    assert off["v_prediction", 50] > 5 * off["epsilon", 50] and off["v_prediction", 100] > 20 * off["epsilon", 100]
    assert off["v_prediction", 50] / off["v_prediction", 100] == pytest.approx(2, rel=0.2)
    own = ours(made, PNDM(), start(), ud.spacing(1000, 100, "trailing"), "v_prediction")
    assert error(made, own[-2], start(), 10.0) == pytest.approx(off["epsilon", 100], rel=1e-6)


def test_pndm_ends_where_its_options_say_and_strides_as_ddim():
    made = process("linear")
    theirs = scheduler("PNDM", made, 50, exact=False, **TRAILING)
    assert float(theirs.final_alpha_cumprod) == pytest.approx(made.schedule.alpha_bar[1])  # noise of t = 1 is left
    off = {}
    for n in (80, 100):
        theirs = scheduler("PNDM", made, n, set_alpha_to_one=True, **TRAILING)
        one, other = states(theirs, made, start()), ours(made, PNDM(), start(), times_of(theirs))
        off[n] = error(made, one[-1], start()) / error(made, other[-1], start())
    assert off[80] > 4 and off[100] == pytest.approx(1)


def test_pndm_without_its_runge_kutta_start_asks_the_second_time_twice():
    """A step, its repeat with the mean of two eps, then Adams-Bashforth of rising order: n + 1 calls, not n + 9."""
    made = process("linear")
    whole, short = (
        scheduler("PNDM", made, 50, set_alpha_to_one=True, skip_prk_steps=skip, **TRAILING) for skip in (False, True)
    )
    assert (len(whole.timesteps), len(short.timesteps)) == (59, 51)
    assert short.timesteps[1] == short.timesteps[2]
    one, other = (error(made, states(theirs, made, start())[-1], start()) for theirs in (whole, short))
    assert one == pytest.approx(other, rel=0.01)


@pytest.mark.parametrize(("kind", "sampler", "least"), [("PNDM", PNDM(), 1e5), ("HeunDiscrete", Heun(), 2.0)])
def test_solving_for_x0_where_there_is_none(kind, sampler, least):
    """Cosine, ten steps: eps of a point that x_T says nothing of is multiplied by 1 / signal_T. Ours are DDIM there."""
    made = process("cosine")
    options = {"set_alpha_to_one": True} if kind == "PNDM" else {}
    theirs = scheduler(kind, made, 10, **options, **TRAILING)
    other = ours(made, sampler, start(), times_of(theirs))
    assert error(made, states(theirs, made, start())[-1], start()) > least > 1 > 20 * error(made, other[-1], start())


def test_deis_stops_at_t_1_and_with_karras_sigmas_takes_a_step_of_nothing():
    made = process("linear")
    theirs = scheduler("DEISMultistep", made, 10, exact=False)
    assert float(theirs.sigmas[-1]) == pytest.approx(np.exp(-made.schedule.half_log_snr(1)), rel=1e-3)
    theirs = scheduler("DEISMultistep", made, 10, exact=False, use_karras_sigmas=True)
    one = states(theirs, made, start(torch.float32))
    assert torch.equal(one[-1], one[-2])


@pytest.mark.parametrize(("steps", "least"), [(50, 1e-4), (250, 5e-3)])
def test_deis_in_closed_form_cancels_in_float32(steps, least):
    """Differences of logs of sigmas that are close; ours integrate numerically and lose nothing."""
    made, options = process("linear"), {"solver_order": 3, **FULL}
    theirs = [scheduler("DEISMultistep", made, steps, exact=exact, **options) for exact in (False, True)]
    one = [
        states(made_so, made, start(dtype))
        for made_so, dtype in zip(theirs, (torch.float32, torch.float64), strict=True)
    ]
    other = [ours(made, DEIS(2), start(dtype), times_of(theirs[0], 1.0)) for dtype in (torch.float32, torch.float64)]
    assert apart(one[0], one[1]) > least > 5e-6 > apart(other[0], other[1])


@pytest.mark.parametrize(("name", "at_1"), [("linear", 8.3e-5), ("cosine", 2.6e-4)])
def test_tables_in_float32(name, at_1):
    """1 - alpha_bar of the first t's has lost digits; a running product of float32 is the rest."""
    made = process(name)
    theirs = scheduler("DDPM", made, 10, exact=False)
    alpha_bar = theirs.alphas_cumprod.double().numpy()
    sigma = made.scales(np.arange(1.0, 1001.0))[1]
    off = np.abs((1 - alpha_bar) ** 0.5 / sigma - 1)
    assert off.argmax() == 0 and off[0] == pytest.approx(at_1, rel=0.1)


@pytest.mark.parametrize(("option", "off"), [("karras", 0.49), ("lu", 0.47), ("exponential", 0.96)])
def test_sigmas_of_other_times_than_the_network_is_told(option, off):
    """x_t stands at the sigma, the network is told that sigma's t rounded, or (exponential) cut to a whole number."""
    made = process("linear")
    theirs = scheduler(
        "DPMSolverMultistep",
        made,
        20,
        exact=False,
        **{f"use_{option}_{'lambdas' if option == 'lu' else 'sigmas'}": True},
    )
    stands = made.schedule.time_of(-np.log(theirs.sigmas[:-1].double().numpy()))
    assert np.abs(stands - (theirs.timesteps.numpy() + 1)).max() == pytest.approx(off, abs=0.01)


def test_times_that_fall_together_end_in_an_error():
    """Karras sigmas of a cosine schedule: 999 twice after rounding; the first step takes the second of them."""
    made = process("cosine")
    theirs = scheduler("DPMSolverMultistep", made, 10, exact=False, use_karras_sigmas=True)
    assert theirs.timesteps[0] == theirs.timesteps[1]
    with pytest.raises(IndexError):
        states(theirs, made, start(torch.float32))
    assert len(ud.spacing(made.schedule, 10, "karras")) <= 11


def test_clipping_lambda_starts_below_T_with_the_noise_of_T():
    made = process("cosine")
    theirs = scheduler("DPMSolverMultistep", made, 10, lambda_min_clipped=-5.1)
    assert float(theirs.timesteps[0]) < 999


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_clipping_keeps_the_old_eps_unless_told(name):
    made = process(name)
    theirs = scheduler("DDIM", made, 10, clip_sample_range=0.5, **TRAILING)
    other = ours(made, DDIM(), start(), times_of(theirs), wrap=lambda denoise: ud.clipped(denoise, -0.5, 0.5))
    assert apart(states(theirs, made, start(), use_clipped_model_output=True), other) < 1e-9
    assert apart(states(theirs, made, start()), other) > 0.04


def test_dynamic_thresholding_is_clipping_unless_told():
    """sample_max_value is 1: the quantile never takes effect. At a large one theirs is ours."""
    wide = torch.linspace(-4, 4, 4001).reshape(1, 1, 1, -1)
    plain, free = (
        diffusers.DDIMScheduler(thresholding=True, **options)._threshold_sample(wide)
        for options in ({}, {"sample_max_value": 100.0})
    )
    assert torch.equal(plain, wide.clamp(-1, 1))
    half = np.float64(0.5)
    moved = thresholded(lambda x, t: ud.Split.from_x0(x, x, half, half))(wide, 1.0).x0
    torch.testing.assert_close(free, moved)


def test_churn_is_added_after_the_network_was_asked(monkeypatch):
    """Euler's x0 keeps the fresh noise that no network saw; ours asks where the noise has brought x."""
    made = process("linear")
    t = float(made.schedule.time_of(0.0))
    theirs = scheduler("EulerDiscrete", made, 10)
    at_hand(theirs, made, [t, 1.0])
    y = start() * 2**0.5
    said = network(made, "epsilon")
    z = ud.rng.fold(7).normal(SHAPE).double()
    monkeypatch.setattr("diffusers.schedulers.scheduling_euler_discrete.randn_tensor", lambda *a, **k: z)
    theirs.is_scale_input_called = True
    step = theirs.step(said(y / 2**0.5, t), theirs.timesteps[0], y, s_churn=9.0)
    higher = 2**0.5
    noisy = y + (higher**2 - 1) ** 0.5 * z
    there = float(made.schedule.time_of(-np.log(higher)))
    honest = Mixture(made.schedule).denoise(noisy / (1 + higher**2) ** 0.5, there).x0
    assert float((step.pred_original_sample - honest).square().mean().sqrt()) > 0.9
    seen = []

    def denoise(x, t):
        seen.append(t)
        return Mixture(made.schedule).denoise(x, t)

    EDM(9.0).step(made, denoise, start(), t, 1.0, ud.rng.fold(7))
    assert seen[0] == pytest.approx(there)


def test_euler_and_heun_start_from_sigma_T_without_the_data():
    """sigma_T / signal_T of noise for "linspace" and "trailing", where x_T / signal_T has 1 / signal_T."""
    made = process("linear")
    theirs = scheduler("EulerDiscrete", made, 10, **TRAILING)
    signal = float(made.scales(1000.0)[0])
    assert float(theirs.init_noise_sigma) * signal == pytest.approx(1 - signal**2 / 2, abs=1e-7)


def test_halves_are_rounded_to_the_even_number_which_is_one_less_of_theirs():
    """499.5 to 500, our 501, where 500.5 of ours becomes 500. Neither is better."""
    made = process("linear")
    one, other = times_of(scheduler("DDPM", made, 333, timestep_spacing="linspace")), ud.spacing(1000, 333)
    assert [(a, b) for a, b in zip(one, other, strict=True) if a != b] == [(501, 500)]


def test_leading_times_never_visit_the_noisiest():
    """The default of DDPM, DDIM and PNDM there: noise is handed to a network that is told t = 901 of 1000."""
    made = process("linear")
    assert scheduler("DDIM", made, 10).timesteps.tolist()[:2] == [900, 800]


def test_zero_terminal_snr_is_a_small_one_there():
    theirs = diffusers.DPMSolverMultistepScheduler(rescale_betas_zero_snr=True)
    assert float(theirs.alphas_cumprod[-1]) == 2**-24
