"""Noise families from the command line to the checkpoint: trained with one, a model keeps it."""

import json
import re

import pytest
from PIL import Image

import tiny
from undiffuse import Pipeline
from undiffuse.cli import main
from undiffuse.diffusion.noise import NOISES
from undiffuse.errors import UndiffuseError

OTHERS = [name for name in NOISES if name != "gaussian"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return {name: tiny.trained(folder / name, diffusion__noise=name) for name in NOISES}


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun"])
@pytest.mark.parametrize("name", NOISES)
def test_every_family_trains_and_samples(runs, name, sampler):
    pipe = Pipeline.load(runs[name]).configured(sampler=sampler, eta=0.5 if sampler == "ddim" else None)
    assert str(pipe.process.noise).startswith(name)
    assert pipe.sample(n=3).isfinite().all()


@pytest.mark.parametrize("loss", ["l2", "l1", "huber"])
def test_every_simple_loss_serves(tmp_path, loss):
    assert (
        Pipeline.load(tiny.trained(tmp_path / "run", diffusion__noise="laplace", diffusion__loss=loss))
        .sample(n=2)
        .isfinite()
        .all()
    )


def refused(capsys, command, *words) -> None:
    assert main(command) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line


@pytest.mark.bare
@pytest.mark.parametrize("name", OTHERS)
def test_what_needs_the_gaussian_is_one_line(runs, capsys, tmp_path, name):
    run, out = str(runs[name]), str(tmp_path / "x.png")
    for metric in ("bpd", "bpd_ode"):
        refused(capsys, ["evaluate", run, "--metrics", metric], "needs Gaussian noise", f"'{name}'")
    for kind in ("elbo", "score"):
        refused(capsys, ["plot", kind, run, "--out", out], "needs Gaussian noise", f"'{name}'")
    for key in ("diffusion.loss=vlb", "diffusion.loss=score_matching", "diffusion.prediction=score"):
        refused(capsys, train(tmp_path, name, key), "Gaussian noise", f"'{name}'")
    refused(
        capsys,
        train(tmp_path, name, "diffusion.variance=learned", "diffusion.loss=hybrid"),
        "learned variance",
        f"'{name}'",
    )
    assert not (tmp_path / "new").exists()


def train(tmp_path, name, *sets):
    command = ["train", "digits", "--out", str(tmp_path / "new"), "--set", f"diffusion.noise={name}"]
    return [*command, *(part for key in sets for part in ("--set", key))]


def test_another_family_on_the_command_line_is_refused(runs, capsys, tmp_path):
    command = ["sample", str(runs["laplace"]), "--out", str(tmp_path / "x.png"), "-n", "2"]
    capsys.readouterr()
    refused(capsys, [*command, "--noise", "gaussian"], "trained with laplace noise", "--set diffusion.noise=gaussian")
    assert main([*command, "--noise", "laplace"]) == 0
    capsys.readouterr()
    refused(capsys, ["sample", str(runs["gamma"]), *command[2:], "--noise", "laplace"], "trained with gamma noise")


@pytest.mark.bare
@pytest.mark.filterwarnings("ignore::undiffuse.pipeline.build.NoiseWarning")
@pytest.mark.parametrize(
    ("name", "change"), [("laplace", "noise: gaussian"), ("gaussian", "noise: uniform"), ("gamma", "theta: 0.5")]
)
def test_another_family_in_the_configuration_is_refused(tmp_path, capsys, name, change):
    run = tiny.trained(tmp_path / "run", diffusion__noise=name, train__steps=4)
    key = change.split(":")[0]
    config = run / "config.yaml"
    config.write_text(re.sub(rf"{key}: [a-z0-9.]+", change, config.read_text(), count=1))
    with pytest.raises(UndiffuseError, match="belongs to the model"):
        Pipeline.load(run)
    refused(capsys, ["train", "--resume", "--out", str(run)], "trained with the noise", "belongs to the model")


def test_a_checkpoint_that_does_not_say_is_read(tmp_path):
    run = tiny.trained(tmp_path / "run")
    for path in run.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())
        assert state.pop("noise") == "gaussian"
        path.write_text(json.dumps(state))
    assert Pipeline.load(run).process.noise.name == "gaussian"


@pytest.mark.filterwarnings("ignore::undiffuse.pipeline.build.NoiseWarning")
def test_theta_is_for_gamma(tmp_path, capsys):
    refused(capsys, train(tmp_path, "laplace", "diffusion.theta=0.1"), "diffusion.theta is for gamma")
    for theta in ("0", "2", "x"):
        refused(capsys, train(tmp_path, "gamma", f"diffusion.theta={theta}"), "diffusion.theta")
    assert "theta = 0.2" in str(
        Pipeline.load(tiny.trained(tmp_path / "g", diffusion__noise="gamma", diffusion__theta=0.2)).process.noise
    )


@pytest.mark.bare
def test_plot_noise_draws_every_family(tmp_path, capsys):
    assert main(["plot", "noise", "--out", str(tmp_path / "n.png"), "-T", "40", "--row", "3"]) == 0
    with Image.open(tmp_path / "n.png") as picture:
        assert picture.width > 1500
    refused(capsys, ["plot", "noise", "--out", str(tmp_path / "m.png"), "--row", "-1"], "--row must lie in")
    refused(capsys, ["plot", "noise", "--out", str(tmp_path / "m.png"), "--schedule", "cosin"], "did you mean 'cosine'")
