"""Names become classes in one place; a name nobody knows is refused with its key."""

import pytest
import torch

import tiny
from undiffuse.diffusion.losses import LOSSES
from undiffuse.diffusion.samplers import SAMPLERS
from undiffuse.diffusion.schedule import SCHEDULES
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.pipeline import build
from undiffuse.train import starting


@pytest.fixture(scope="module")
def data():
    return build.dataset(tiny.config())


@pytest.fixture(scope="module")
def config(data):
    return build.resolved(tiny.config(), data)


def test_a_resolved_configuration_says_what_the_data_are(config):
    assert (config.data.levels, config.data.shape, config.data.classes) == (17, [1, 8, 8], list("0123456789"))
    assert build.num_classes(config) == 10
    assert build.num_classes(config.replaced({"model.conditional": False})) == 0


def test_restricted_classes_are_resolved_in_the_sources_order():
    some = tiny.config(data__classes=["7", "1"])
    assert build.resolved(some, build.dataset(some)).data.classes == ["1", "7"]


@pytest.mark.parametrize(("key", "value"), [("data.levels", 256), ("data.shape", [3, 8, 8])])
def test_data_that_are_not_what_was_said_are_refused(config, key, value):
    with pytest.raises(UsageError, match=f"{key}: the source 'digits' has"):
        build.dataset(config.replaced({key: value}))


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_every_schedule(config, name):
    process = build.process(config.replaced({"diffusion.schedule": name}))
    assert (process.schedule.name, process.T) == (name, 50)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler(config, name):
    made = build.sampler(config.replaced({"sample.sampler": name}))
    assert name.startswith(type(made).__name__.lower()) or type(made).__name__ == "DPMppSDE"
    assert name[:6] != "dpmpp_" or name[7:] != "m" or made.order == int(name[6])


@pytest.mark.parametrize("name", ["l2", "l1", "huber"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score", "mean"])
def test_every_loss_compares_what_the_network_predicts(config, name, prediction):
    loss = starting.loss(config.replaced({"diffusion.loss": name, "diffusion.prediction": prediction}))
    assert (loss.distance, loss.field) == (name, prediction)


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_can_be_built(config, name):
    variance = "learned" if name == "hybrid" else "small"
    made = config.replaced({"diffusion.loss": name, "diffusion.variance": variance})
    assert callable(starting.loss(made))
    if name in ("vlb", "hybrid"):
        assert starting.loss(made).levels == 17


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"diffusion.loss": "vlb", "diffusion.weighting": "snr"}, "'vlb' has its own weights"),
        ({"diffusion.loss": "l1", "diffusion.weighting": "snr"}, "weighting 'snr' is defined for the l2 loss"),
        ({"diffusion.prediction": "mean", "diffusion.weighting": "p2"}, "weighting 'p2' is defined for"),
    ],
)
def test_combinations_without_a_meaning_are_refused(config, changes, words):
    with pytest.raises(UsageError, match=words):
        starting.loss(config.replaced(changes))


@pytest.mark.parametrize(
    ("key", "name", "words"),
    [
        ("diffusion.schedule", "cosin", "diffusion.schedule: unknown name 'cosin'; did you mean 'cosine'"),
        ("diffusion.noise", "laplas", "diffusion.noise: unknown name 'laplas'; did you mean 'laplace'"),
        ("diffusion.loss", "mse", "diffusion.loss: unknown name 'mse'; known: l2"),
        ("diffusion.prediction", "epss", "unknown prediction 'epss'; did you mean 'eps'"),
        ("diffusion.variance", "tiny", "diffusion.variance: unknown name 'tiny'; known: small"),
        ("diffusion.variance", "learned", "'l2' does not teach a learned variance; take 'hybrid' or 'vlb'"),
        ("diffusion.loss", "hybrid", "'hybrid' is for diffusion.variance=learned"),
        ("diffusion.weighting", "minsnr", "diffusion.weighting: unknown name 'minsnr'; did you mean 'min_snr'"),
        ("sample.sampler", "dim", "sample.sampler: unknown name 'dim'; did you mean 'ddim'"),
    ],
)
def test_unknown_names_are_refused(config, key, name, words):
    changed = config.replaced({key: name})
    with pytest.raises(UsageError, match=words):
        for make in (build.denoiser, starting.loss, build.sampler):
            make(changed)


def test_the_network_follows_from_the_seed_and_from_nothing_else(config):
    torch.manual_seed(1)
    one = build.backbone(config)
    torch.manual_seed(2)
    two, other = build.backbone(config), build.backbone(config.replaced({"seed": 1}))
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_a_configuration_that_no_run_wrote_has_no_network():
    with pytest.raises(UndiffuseError, match=r"data\.shape is missing"):
        build.backbone(tiny.config())


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_any_schedule_is_rescaled_to_zero_terminal_snr(config, name):
    said = {"diffusion.schedule": name, "diffusion.zero_terminal_snr": True, "diffusion.prediction": "v"}
    schedule = build.process(config.replaced(said)).schedule
    assert schedule.beta[-1] == 1 and schedule.name == f"{name}, zero terminal SNR"


def test_what_a_rescaled_schedule_had_left_at_T_is_nothing_to_warn_of(config):
    betas = [0.05] * 50  # sqrt(alpha_bar_T) = 0.277
    said = {"diffusion.schedule": "betas", "diffusion.betas": betas, "diffusion.zero_terminal_snr": True}
    assert build.process(config.replaced(said)).schedule.alpha_bar[-1] == 0


def test_noise_cannot_be_predicted_where_nothing_but_noise_is_left(config):
    for prediction in ("eps", "score"):
        said = {"diffusion.zero_terminal_snr": True, "diffusion.prediction": prediction}
        with pytest.raises(UsageError, match=r"cannot work with beta_T = 1: .* take 'v' or 'x0'"):
            build.denoiser(config.replaced(said))
