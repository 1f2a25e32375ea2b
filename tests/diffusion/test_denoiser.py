"""The denoiser turns a network's output into a split and knows when it cannot."""

import numpy as np
import pytest
import torch
from laws import NAMES, refused, schedule

from undiffuse.diffusion.denoiser import PREDICTED, Denoiser, bind
from undiffuse.diffusion.noise import Gaussian
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.schedule import NoiseSchedule
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.rng import fold

PROCESS = Process(schedule("linear"))
LEARNED = Process(schedule("linear"), variance="learned")
T = np.array([1.0, 333.5, 1000.0])
TRUTH = PROCESS.corrupt(fold(0).normal((3, 2, 4, 4)), T, fold(1))


class Recorder:
    """A backbone that gives a prepared output and remembers what it was asked."""

    def __init__(self, output):
        self.output = output

    def __call__(self, x, t, y=None):
        self.asked = x, t, y
        return self.output


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_perfect_network_finds_the_split(prediction):
    field = getattr(TRUTH, prediction)
    guess = Denoiser(Recorder(field), PROCESS, prediction)(TRUTH.x_t, T)
    torch.testing.assert_close(guess.v, TRUTH.v, rtol=0, atol=2e-3)  # x0 from eps at T: float32 / 0.006
    torch.testing.assert_close(guess.x_t, TRUTH.x_t, rtol=0, atol=1e-5)
    assert guess.var_fraction is None
    if prediction != "v":
        assert torch.equal(getattr(guess, prediction), field)


def test_the_network_is_given_x_t_our_t_and_the_labels():
    backbone, y = Recorder(TRUTH.eps), torch.tensor([2, 0, 1])
    Denoiser(backbone, PROCESS)(TRUTH.x_t, T, y)
    x, t, labels = backbone.asked
    assert x.equal(TRUTH.x_t)
    assert t.tolist() == T.tolist()
    assert t.dtype == torch.float32
    assert labels is y


@pytest.mark.parametrize("t", [7, 7.0, torch.tensor(7), np.float64(7)])
def test_one_time_serves_the_whole_batch(t):
    backbone = Recorder(TRUTH.eps)
    guess = Denoiser(backbone, PROCESS)(TRUTH.x_t, t)
    assert backbone.asked[1].tolist() == [7.0] * 3
    assert (guess.signal, guess.sigma) == PROCESS.scales(7)


def test_learned_variance_is_the_second_half_of_the_channels():
    raw = torch.linspace(-1, 1, 96).reshape(3, 2, 4, 4)
    guess = Denoiser(Recorder(torch.cat([TRUTH.eps, raw], 1)), LEARNED)(TRUTH.x_t, T)
    assert torch.equal(guess.eps, TRUTH.eps)
    torch.testing.assert_close(guess.var_fraction, torch.linspace(0, 1, 96).reshape(3, 2, 4, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_ends_at_the_output(dtype):
    guess = Denoiser(Recorder(TRUTH.eps.to(dtype)), PROCESS)(TRUTH.x_t, T)
    assert guess.x0.dtype == guess.eps.dtype == torch.float32


def test_gradients_reach_the_network():
    output = TRUTH.eps.clone().requires_grad_()
    Denoiser(Recorder(output), PROCESS)(TRUTH.x_t, T).x0.sum().backward()
    assert output.grad.ne(0).all()


def test_bind_fills_the_labels_in():
    backbone, y = Recorder(TRUTH.eps), torch.tensor([2, 0, 1])
    bind(Denoiser(backbone, PROCESS), y)(TRUTH.x_t, 5.0)
    assert backbone.asked[2] is y
    bind(Denoiser(backbone, PROCESS))(TRUTH.x_t, 5.0)
    assert backbone.asked[2] is None


def test_an_output_of_another_shape_is_refused():
    twice = torch.cat([TRUTH.eps, TRUTH.eps], 1)
    with refused(UndiffuseError, "the network gave [3, 4, 4, 4] where [3, 2, 4, 4] is needed"):
        Denoiser(Recorder(twice), PROCESS)(TRUTH.x_t, T)
    with refused(UndiffuseError, "the network gave [3, 2, 4, 4] where [3, 4, 4, 4] is needed"):
        Denoiser(Recorder(TRUTH.eps), LEARNED)(TRUTH.x_t, T)


def test_an_output_with_too_few_variance_channels_is_refused():
    output = torch.cat([TRUTH.eps, TRUTH.eps[:, :1]], 1)
    with refused(UndiffuseError, "the network gave"):
        Denoiser(Recorder(output), LEARNED)(TRUTH.x_t, T)


def test_eps_prediction_is_refused_where_no_signal_is_left_at_T():
    empty = Process(NoiseSchedule.from_betas(np.append(np.linspace(1e-4, 0.02, 999), 1.0)))
    with refused(UsageError, "beta_T = 1"):
        Denoiser(Recorder(TRUTH.eps), empty, "eps")
    for prediction in ("x0", "v"):
        guess = Denoiser(Recorder(TRUTH.x0), empty, prediction)(TRUTH.x_t, 1000)
        assert guess.x0.isfinite().all()
        assert guess.eps.equal(TRUTH.x_t)


def test_an_unknown_prediction_is_refused_with_the_nearest_name():
    with refused(UsageError, "unknown prediction 'epsi'; did you mean 'eps'"):
        Denoiser(Recorder(TRUTH.eps), PROCESS, "epsi")


# -- every prediction says the same split -----------------------------------------------------------------------------


def field_of(truth, process, prediction, t):
    """What a perfect network of this prediction gives, from alpha_bar and beta alone (float64)."""
    ab, beta = (
        table[t.astype(int)].reshape(-1, 1, 1, 1) for table in (process.schedule.alpha_bar, process.schedule.beta)
    )
    before = process.schedule.alpha_bar[t.astype(int) - 1].reshape(-1, 1, 1, 1)
    x0, eps = truth.x0.numpy(), truth.eps.numpy()
    x_t = ab**0.5 * x0 + (1 - ab) ** 0.5 * eps
    given = {
        "eps": eps,
        "x0": x0,
        "v": ab**0.5 * eps - (1 - ab) ** 0.5 * x0,
        "score": -(x_t - ab**0.5 * x0) / (1 - ab),
        "mean": before**0.5 * beta / (1 - ab) * x0 + (1 - beta) ** 0.5 * (1 - before) / (1 - ab) * x_t,
    }
    return torch.from_numpy(given[prediction])


@pytest.mark.parametrize("variance", ["small", "learned"])
@pytest.mark.parametrize("prediction", PREDICTED)
@pytest.mark.parametrize("name", NAMES)
def test_every_prediction_of_a_perfect_network_is_the_true_split(name, prediction, variance):
    process, t = Process(schedule(name), variance=variance), np.array([1.0, 2, 500, 999, 1000])
    truth = process.corrupt(fold(0).normal((5, 2, 4, 4)).double(), t, fold(1))
    output = field_of(truth, process, prediction, t)
    if variance == "learned":
        output = torch.cat([output, torch.full_like(output, 0.5)], 1)
    guess = Denoiser(Recorder(output), process, prediction)(truth.x_t, t)
    for field in ("x0", "eps", "v"):
        torch.testing.assert_close(getattr(guess, field), getattr(truth, field), rtol=0, atol=1e-8)
    torch.testing.assert_close(guess.x_t, truth.x_t, rtol=0, atol=1e-12)
    assert (guess.var_fraction is None) == (variance != "learned")
    if variance == "learned":
        assert guess.var_fraction.eq(0.75).all()


@pytest.mark.parametrize("t", [0.25, 1.0])
def test_a_mean_predicted_before_the_first_step_is_x0(t):
    """s = t - 1 stops at 0, where the posterior is x0 itself."""
    output = fold(5).normal((3, 2, 4, 4)).double()
    truth = PROCESS.corrupt(TRUTH.x0.double(), t, fold(1))
    guess = Denoiser(Recorder(output), PROCESS, "mean")(truth.x_t, t)
    torch.testing.assert_close(guess.x0, output, rtol=1e-14, atol=0)


def test_a_mean_may_be_predicted_between_the_integers():
    truth = PROCESS.corrupt(TRUTH.x0.double(), 7.5, fold(1))
    mean = PROCESS.posterior(truth, 7.5, 6.5).mean
    guess = Denoiser(Recorder(mean), PROCESS, "mean")(truth.x_t, 7.5)
    torch.testing.assert_close(guess.x0, truth.x0, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variance", ["small", "learned"])
@pytest.mark.parametrize("prediction", PREDICTED)
def test_zero_terminal_snr_refuses_what_divides_by_the_signal_and_serves_the_rest(prediction, variance):
    empty = Process(NoiseSchedule.from_betas(np.append(np.linspace(1e-4, 0.02, 999), 1.0)), variance=variance)
    t = np.array([1.0, 999, 1000])
    truth = empty.corrupt(TRUTH.x0.double(), t, fold(1))
    if prediction in ("eps", "score"):
        with refused(UsageError, f"prediction '{prediction}' cannot work with beta_T = 1"):
            Denoiser(Recorder(truth.eps), empty, prediction)
        return
    output = field_of(truth, empty, prediction, t)
    output = torch.cat([output, output], 1) if variance == "learned" else output
    guess = Denoiser(Recorder(output), empty, prediction)(truth.x_t, t)
    torch.testing.assert_close(guess.x0, truth.x0, rtol=0, atol=1e-8)
    torch.testing.assert_close(guess.eps, truth.eps, rtol=0, atol=1e-8)


def test_score_prediction_is_refused_for_other_noise():
    class Uniform(Gaussian):
        name = "uniform"
        exact = frozenset({"chain", "posterior"})

    process = Process(schedule("linear"), Uniform())
    with refused(
        UsageError,
        "prediction 'score' needs Gaussian noise: score = -eps / sigma holds for no other, not for 'uniform' noise",
    ):
        Denoiser(Recorder(TRUTH.eps), process, "score")
    assert Denoiser(Recorder(TRUTH.eps), process, "eps")(TRUTH.x_t, T).eps.equal(TRUTH.eps)


def test_double_precision_is_kept():
    guess = Denoiser(Recorder(TRUTH.eps.double()), PROCESS)(TRUTH.x_t.double(), T)
    assert guess.x0.dtype == guess.eps.dtype == torch.float64
