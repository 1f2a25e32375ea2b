"""The schedulers of diffusers, run on the same noise, times and denoiser as ours.

The data are numbers of a mixture of two Gaussians, whose exact denoiser and probability flow are known (laws.Mixture).
Their t is ours less 1. Schedulers hold their tables in float32; `exact` puts float64 ones in their place, so that what
is compared is formulas.
"""

import warnings

import numpy as np
import pytest
import torch
from laws import Mixture, schedule

import undiffuse as ud
from undiffuse.diffusion.samplers import DDIM, DEIS, PNDM, DPMpp, DPMppSDE, Euler, Heun, UniPC

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")

QUIET = [  # what theirs says on float64 tables: each test module's pytestmark
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

FIELD = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SHAPE = (12, 1, 2, 2)
TRAILING = {"timestep_spacing": "trailing"}
FULL = {"lower_order_final": False}
PLAIN = TRAILING | {"clip_sample": False}
SAMPLERS = {  # name -> (ours, theirs, their options, where they end; at 1 on equal steps of lambda)
    "ddim": (DDIM(), "DDIM", PLAIN, 0.0),
    "ddim eta 1": (DDIM(1.0), "DDIM", PLAIN, 0.0),
    "dpmpp_1m": (DPMpp(1), "DPMSolverMultistep", TRAILING | {"solver_order": 1}, 0.0),
    "dpmpp_2m": (DPMpp(2), "DPMSolverMultistep", TRAILING | {"solver_order": 2}, 0.0),
    "dpmpp_2m_sde": (DPMppSDE(), "DPMSolverMultistep", TRAILING | {"algorithm_type": "sde-dpmsolver++"}, 0.0),
    "unipc_1": (UniPC(1), "UniPCMultistep", TRAILING | {"solver_order": 1}, 0.0),
    "unipc_2": (UniPC(2), "UniPCMultistep", TRAILING | {"solver_order": 2}, 0.0),
    "unipc_3": (UniPC(3), "UniPCMultistep", FULL | {"solver_order": 3, "final_sigmas_type": "sigma_min"}, 1.0),
    "deis_0": (DEIS(0), "DEISMultistep", FULL | {"solver_order": 1}, 1.0),
    "deis_1": (DEIS(1), "DEISMultistep", FULL | {"solver_order": 2}, 1.0),
    "deis_2": (DEIS(2), "DEISMultistep", FULL | {"solver_order": 3}, 1.0),
    "pndm": (PNDM(), "PNDM", TRAILING | {"set_alpha_to_one": True}, 0.0),
    "euler": (Euler(), "EulerDiscrete", TRAILING, 0.0),
    "heun": (Heun(), "HeunDiscrete", TRAILING, 0.0),
}
ETA = {"ddim eta 1": 1.0}


def process(name: str, variance: str = "small") -> ud.Process:
    return ud.Process(schedule(name), variance=variance)


def network(made: ud.Process, prediction: str):
    """(x, our t) -> what a network of that prediction says, in x's dtype; with learned variance, twice the channels."""
    exact = Mixture(made.schedule)

    def said(x: torch.Tensor, t: float) -> torch.Tensor:
        output = getattr(exact.denoise(x, t), FIELD[prediction]).to(x)
        return torch.cat([output, torch.sin(3 * x)], 1) if made.variance == "learned" else output

    return said


def ours(made: ud.Process, sampler, x_T: torch.Tensor, times, prediction="epsilon", wrap=lambda d: d):
    """The states after each step."""
    said = network(made, prediction)
    denoiser = ud.Denoiser(lambda x, t, y=None: said(x, float(t[0])), made, FIELD[prediction])
    frames = ud.trajectory(made, wrap(ud.bind(denoiser)), sampler, x_T, times, ud.rng.fold(5, "steps"))
    return [frame.x for frame in frames]


def scheduler(kind: str, made: ud.Process, steps, prediction="epsilon", exact=True, **options):
    """Theirs, its times set; with `exact`, its tables in float64."""
    theirs = getattr(diffusers, kind + "Scheduler")(
        trained_betas=np.array(made.schedule.beta[1:]), prediction_type=prediction, **options
    )
    theirs.set_timesteps(steps)
    if exact:
        theirs.alphas_cumprod = torch.from_numpy(np.array(made.schedule.alpha_bar[1:]))
        if hasattr(theirs, "sigmas"):
            at_hand(theirs, made, theirs.timesteps.double() + 1, end=1.0 if theirs.sigmas[-1] > 0 else 0.0)
    return theirs


def at_hand(theirs, made: ud.Process, times, end: float = 0.0) -> None:
    """Let it visit these times of ours, exactly, and end there."""
    at = np.array([*times, end], np.float64)
    theirs.timesteps = torch.from_numpy(at[:-1] - 1)
    theirs.sigmas = torch.from_numpy(np.exp(-made.schedule.half_log_snr(at)))
    theirs.num_inference_steps = len(at) - 1


def states(theirs, made: ud.Process, x_T: torch.Tensor, prediction="epsilon", scaled=True, **step):
    """Theirs after each of their steps, in our scale: Euler and Heun count x / signal."""
    said, out, x = network(made, prediction), [], x_T
    of_y = type(theirs).__name__.startswith(("Euler", "Heun"))
    rng = ud.rng.fold(5, "steps")
    if of_y and scaled:
        x = x_T / float(made.scales(1000.0)[0])
    for i, t in enumerate(theirs.timesteps):
        if "variance_noise" in step:
            step["variance_noise"] = rng.normal(x.shape).to(x)
        x = theirs.step(said(theirs.scale_model_input(x, t), float(t) + 1), t, x, **step).prev_sample
        out.append(x / (1 + theirs.sigmas[i + 1] ** 2) ** 0.5 if of_y else x)
    if of_y and type(theirs).__name__.startswith("Heun"):
        return out[1::2] + out[-1:]
    return out[3:12:4] + out[12:] if starts_with_runge_kutta(theirs) else out


def starts_with_runge_kutta(theirs) -> bool:
    return type(theirs).__name__ == "PNDMScheduler" and not theirs.config.skip_prk_steps


def times_of(theirs, end: float = 0.0) -> list[float]:
    """The times it visits, in ours, without those between."""
    visited = [float(t) + 1 for t in theirs.timesteps]
    if starts_with_runge_kutta(theirs):
        visited = visited[:12:4] + visited[12:]
    if type(theirs).__name__.startswith("Heun"):
        visited = visited[:1] + visited[1::2]
    return [*visited, end]


def even(made: ud.Process, steps: int) -> list[float]:
    """Equal steps of lambda from -5 to its value at t = 1, on 1024ths, which float32 holds."""
    times = made.schedule.time_of(np.linspace(-5, made.schedule.half_log_snr(1), steps + 1))
    return (np.round(1024 * times) / 1024).tolist()


def start(dtype=torch.float64) -> torch.Tensor:
    return ud.rng.fold(1).normal(SHAPE).to(dtype)


def apart(one, other) -> float:
    """The largest difference, in units of the larger state where that is above 1."""
    assert len(one) == len(other)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(one, other, strict=True))


def error(made: ud.Process, x: torch.Tensor, x_T: torch.Tensor, s: float = 0.0) -> float:
    """Root mean square distance from the exact flow of x_T."""
    exact = Mixture(made.schedule).flow(x_T.double().numpy(), 1000.0, s)
    return float(np.sqrt(np.mean((x.double().numpy() - exact) ** 2)))


def both(kind: str, made: ud.Process, prediction: str, steps: int, exact: bool):
    """(theirs, ours)"""
    sampler, name, options, end = SAMPLERS[kind]
    theirs = scheduler(name, made, steps, prediction, exact, **options)
    if end == 1:
        at_hand(theirs, made, even(made, steps)[:-1], end)
    x_T = start(torch.float64 if exact else torch.float32)
    drawn = {"variance_noise": None} if kind in ("ddim eta 1", "dpmpp_2m_sde") else {}
    eta = {"eta": ETA[kind]} if kind in ETA else {}
    times = times_of(theirs, end)
    return states(theirs, made, x_T, prediction, **drawn, **eta), ours(made, sampler, x_T, times, prediction)


class Draws:
    """In place of their randn_tensor: the draws that ours makes."""

    def __init__(self) -> None:
        self.rng = ud.rng.fold(5, "steps")

    def __call__(self, shape, generator=None, device=None, dtype=None):
        return self.rng.normal(shape).to(dtype)


def same_draws(monkeypatch) -> None:
    """Let their ancestral sampling draw what ours draws."""
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", Draws())


VARIANCE = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}
