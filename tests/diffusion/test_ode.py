"""The probability-flow ODE's likelihood against closed forms and sums, and what is refused."""

import math

import numpy as np
import pytest
import torch
from laws import NAMES, Data, alpha_bar_at, near, refused, schedule

import undiffuse as ud
from undiffuse.diffusion import ode
from undiffuse.diffusion.likelihood import decoder_term
from undiffuse.diffusion.ode import integrate_flow, path
from undiffuse.diffusion.process import Process
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.rng import fold, per_row

DATA = Data()
POINTS = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
LN2 = math.log(2)


class Atoms:
    """Scalars of weights[k] N(centres[k], std^2), with their exact denoiser, differentiable, at any float time."""

    def __init__(self, centres, weights, std=0.0):
        self.centres, self.std = torch.as_tensor(centres, dtype=torch.float64), std
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        self.weights = self.weights / self.weights.sum()

    def joint(self, x, ab):
        """log weights[k] N(x; signal centres[k], var), [n, 1, k]."""
        var = ab * self.std**2 + 1 - ab
        square = (x[..., None] - ab**0.5 * self.centres) ** 2 / var
        return self.weights.log() - (square + math.log(2 * math.pi * var)) / 2

    def nats(self, x, ab):
        """-log of the marginal density of x_t, [n]."""
        return -self.joint(x, ab).logsumexp(-1)[:, 0]

    def denoiser(self, process):
        def denoise(x_t, t):
            ab = float(alpha_bar_at(process.schedule, t))
            gain = ab**0.5 * self.std**2 / (ab * self.std**2 + 1 - ab)
            means = self.centres + gain * (x_t[..., None] - ab**0.5 * self.centres)
            x0 = (self.joint(x_t, ab).softmax(-1) * means).sum(-1)
            return ud.Split.from_x0(x_t, x0, *process.scales(t))

        return lambda rows: denoise


# -- laws -------------------------------------------------------------------------------------------------------------


def gaussian_nats(process, x):
    """-log p_1(x) for N(mu, std^2) data: the flow keeps (x - mean) / std, and p_T is N(0, 1)."""
    first, last = process.schedule.alpha_bar[[1, -1]]
    end, (_, var_1), (_, var_T) = DATA.flow(x, first, last), DATA.marginal(first), DATA.marginal(last)
    return (end**2 / 2 + math.log(2 * math.pi) / 2 - math.log(var_T / var_1) / 2)[:, 0]


@pytest.mark.parametrize("name", NAMES)
def test_gaussian_data_have_their_closed_form_to_order_four(name):
    process = Process(schedule(name))
    wanted = gaussian_nats(process, POINTS)
    errors = [
        float(
            (integrate_flow(process, lambda rows: DATA.denoiser(process), POINTS, None, k).total * LN2 - wanted)
            .abs()
            .max()
        )
        for k in (32, 64, 128)
    ]
    assert errors[-1] < 2e-5
    assert min(math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])) > 3.75


@pytest.mark.bare
def test_a_mixture_has_its_own_density():
    """The exact denoiser of a mixture: what the ODE gives is the marginal at t = 1, but for what is left at T."""
    mixture, process = Atoms([-0.6, 0.1, 0.7], [0.5, 0.2, 0.3], std=0.15), Process(schedule("cosine"))
    found = integrate_flow(process, mixture.denoiser(process), POINTS, None, 400).total * LN2
    wanted = mixture.nats(POINTS, float(process.schedule.alpha_bar[1]))
    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-4)


@pytest.mark.bare
def test_data_on_a_grid_have_nearly_their_own_probability():
    """A row of atoms: -log2 P(x_0) is known. Noise as dequantisation loses what the decoder's variance is wrong by."""
    centres, weights = torch.linspace(-1, 1, 17), torch.arange(1.0, 18)
    atoms, process = Atoms(centres, weights), Process(schedule("cosine"))
    x0 = centres[:, None].double().repeat(20, 1)
    flow = integrate_flow(process, atoms.denoiser(process), x0, 17, 600)
    wanted = -(weights / weights.sum()).log2().repeat(20).double()
    gap = flow.total - wanted
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / len(gap) ** 0.5 + 1e-3
    assert float(gap.std()) < 0.02


def test_uniform_noise_on_the_bins_is_exact_for_a_density_that_is_flat_there():
    """Gaussian data wide beside the bins of 257 levels: density times bin, averaged over the bin."""
    process = Process(schedule("cosine"))
    x0 = torch.tensor([[-0.5], [0.0], [0.5]], dtype=torch.float64)
    flow = integrate_flow(process, lambda rows: DATA.denoiser(process), x0, 257, 64, dequantise="uniform")
    assert flow.rest.tolist() == [7.0] * 3  # -log2 of a bin of 2 / 256
    middle = gaussian_nats(process, x0) / LN2
    torch.testing.assert_close(flow.density, middle, rtol=0, atol=0.07)
    assert not torch.equal(flow.density, middle)


def test_the_trace_is_unbiased_where_dimensions_mix():
    """v = A x with a full matrix: the mean over many vectors of signs is tr(A) times the angle."""
    process = Process(schedule("cosine", 100))
    A = 0.3 * fold(0).normal((4, 4)).double()

    def denoise(x_t, t):
        return ud.Split.from_v(x_t, x_t @ A.T, *process.scales(t))

    n = 20_000
    signs = torch.where(fold(1).uniform((n, 4)) < 0.5, -1.0, 1.0).double()
    *_, end = path(process, denoise, torch.zeros(n, 4, dtype=torch.float64), signs, 3)
    first, last = (math.atan2(*process.scales(t)[::-1]) for t in (1, 100))
    wanted = float(A.trace()) * (last - first)
    assert abs(float(end.growth.mean()) - wanted) < 4 * float(end.growth.std()) / n**0.5
    exact = path(process, lambda x, t: ud.Split.from_v(x, 0.3 * x, *process.scales(t)), *[signs] * 2, 3)
    *_, end = exact
    np.testing.assert_allclose(end.growth, 4 * 0.3 * (last - first), rtol=1e-12)


def test_dimensions_are_averaged():
    """Independent dimensions: bits per dimension are the mean of the scalars' own."""
    process, x0 = Process(schedule("cosine")), fold(0).normal((5, 2, 3)).double() * DATA.std + DATA.mu
    found = integrate_flow(process, lambda rows: DATA.denoiser(process), x0, None, 64).total
    wanted = gaussian_nats(process, x0.reshape(-1, 1)).reshape(5, -1).mean(1) / LN2
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


def test_the_signs_are_fair_and_independent():
    n = 4000
    signs = ode._signs(torch.zeros(n, 3), per_row(0, rows=range(n)))
    assert signs.abs().unique().tolist() == [1.0]
    assert signs.mean(0).abs().max() < 4 / n**0.5
    assert (signs.T @ signs / n - torch.eye(3)).abs().max() < 4 / n**0.5


@pytest.mark.bare
def test_uniform_noise_covers_the_bin_and_no_more():
    """Mean and spread of the density over one bin of 17 levels, against sums over that bin."""
    process = Process(schedule("cosine"))
    x0 = torch.full((4000, 1), 0.5, dtype=torch.float64)
    flow = integrate_flow(process, lambda rows: DATA.denoiser(process), x0, 17, 32, dequantise="uniform")
    bin_ = gaussian_nats(process, torch.linspace(0.5 - 1 / 16, 0.5 + 1 / 16, 2001, dtype=torch.float64)[:, None]) / LN2
    assert float(flow.density.mean()) == pytest.approx(float(bin_.mean()), abs=5e-3)
    assert float(flow.density.std()) == pytest.approx(float(bin_.std()), rel=0.05)


def test_noise_pays_the_decoder_and_its_own_entropy():
    """Of the same draws; 257 levels under the linear schedule, where L_0 is not nothing."""
    process = Process(schedule("linear"))
    x0 = (fold(0).integers(64, 192, (6, 2, 2)).double() / 128) - 1
    flow = integrate_flow(process, lambda rows: DATA.denoiser(process), x0, 257, 2)
    truth = process.corrupt(x0, 1, per_row(0, "ode", rows=range(6)))
    decoder = decoder_term(process, truth, DATA.denoiser(process)(truth.x_t, 1), 257)
    sigma = float(process.schedule.scales(1)[1])
    log_q = torch.distributions.Normal(0.0, sigma).log_prob(sigma * truth.eps).flatten(1).mean(1) / LN2
    assert float(decoder.mean()) > 0.1
    torch.testing.assert_close(flow.rest, decoder + log_q, rtol=1e-6, atol=1e-6)


@pytest.mark.bare
def test_the_order_is_four_where_the_trace_depends_on_x():
    mixture, process = Atoms([-0.6, 0.1, 0.7], [0.5, 0.2, 0.3], std=0.3), Process(schedule("cosine"))
    reference, *found = (
        integrate_flow(process, mixture.denoiser(process), POINTS, None, steps).total for steps in (800, 50, 100, 200)
    )
    errors = [float((values - reference).abs().mean()) for values in found]
    assert math.log2(errors[0] / errors[2]) > 7


# -- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("name", [*NAMES, "zero", "one", "two"])
def test_the_way_leads_from_1_to_T_and_stays_finite(name, steps):
    made = {
        "zero": lambda: schedule("linear").zero_terminal_snr(),
        "one": lambda: schedule("cosine", 1),
        "two": lambda: ud.NoiseSchedule.from_betas([0.5, 1.0]),
    }.get(name, lambda: schedule(name))()
    process = Process(made)

    def denoise(x_t, t):
        return ud.Split.from_v(x_t, 0.1 * x_t, *process.scales(t))

    seen = []

    def watch(states, total, what):
        assert total == steps
        for state in states:
            seen.append(state.t)
            yield state

    flow = integrate_flow(process, lambda rows: denoise, POINTS.float(), None, steps, watch=watch)
    assert flow.total.isfinite().all() and len(flow.total) == len(POINTS)
    assert seen == sorted(seen) and seen[-1] == process.T and seen.count(process.T) == 1
    if process.T == 1000:
        assert len(seen) == max(steps, 2 if name == "zero" else 1)
    if name in ("one", "two"):
        assert seen == [float(process.T)]


def test_zero_terminal_snr_ends_in_the_prior_itself():
    """There p_T is N(0, 1) whatever the data; then the marginal of Gaussian data comes out without a remainder."""
    process = Process(schedule("linear").zero_terminal_snr())
    found = integrate_flow(process, lambda rows: zero_safe(process), POINTS, None, 200).total * LN2
    mean, var = DATA.marginal(process.schedule.alpha_bar[1])
    wanted = ((POINTS - mean) ** 2 / var + math.log(2 * math.pi * var)) / 2
    torch.testing.assert_close(found, wanted[:, 0], rtol=0, atol=1e-3)


def zero_safe(process):
    """DATA's denoiser where log alpha_bar may be -inf and is not linear."""

    def denoise(x_t, t):
        signal = float(process.scales(t)[0])
        mean, var = DATA.marginal(signal**2)
        x0 = DATA.mu + signal * DATA.std**2 / var * (x_t - mean)
        return ud.Split.from_x0(x_t, x0, *process.scales(t))

    return denoise


@pytest.mark.parametrize("dequantise", ode.DEQUANTISATIONS)
def test_draws_belong_to_the_datum_and_not_to_its_block(dequantise, monkeypatch):
    process = Process(schedule("cosine", 50))
    x0 = fold(0).integers(0, 16, (7, 2, 3)).double() / 8 - 1
    asked = []

    def denoiser(rows):
        asked.append(rows)
        return lambda x_t, t: ud.Split.from_v(x_t, torch.sin(x_t) + x_t.flip(-1), *process.scales(t))

    whole = integrate_flow(process, denoiser, x0, 17, 4, dequantise=dequantise, seed=3)
    monkeypatch.setattr(ode, "FLOW_BLOCK", 3)
    parts = integrate_flow(process, denoiser, x0, 17, 4, dequantise=dequantise, seed=3)
    assert asked == [slice(0, 7), slice(0, 3), slice(3, 6), slice(6, 7)]
    torch.testing.assert_close(parts.total, whole.total, rtol=1e-12, atol=0)
    other = integrate_flow(process, denoiser, x0, 17, 4, dequantise=dequantise, seed=4)
    assert (other.total != whole.total).all()
    value, error = whole.mean()
    assert value == near(float(whole.total.mean()), 1e-12)
    assert error == near(float(whole.total.std()) / 7**0.5, 1e-12)


def test_what_has_no_meaning_is_refused():
    process, x0 = Process(schedule("cosine", 50)), torch.zeros(2, 3)
    for changes, error, said in (
        ({"steps": 0}, UsageError, "at least 1, not 0"),
        ({"dequantise": "unifrom"}, UsageError, "did you mean 'uniform'"),
        ({"x0": x0 + 0.03}, UndiffuseError, "off it by"),
        ({"x0": x0 + math.nan}, UndiffuseError, "NaN"),
    ):
        given = {"x0": x0, "levels": 17} | changes
        with refused(error, said):
            integrate_flow(process, lambda rows: DATA.denoiser(process), **given)
