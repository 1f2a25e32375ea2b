"""Bits per dimension of a model: what goes in, what comes out, and on the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from undiffuse import Pipeline
from undiffuse.cli import main
from undiffuse.data.prepare import digits
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.evaluation.likelihood import ODE_STEPS

DATA = digits()
X, Y = DATA.held_out.images()[:12], DATA.held_out.labels[:12]


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return Pipeline.load(tiny.trained(tmp_path_factory.mktemp("bits") / "run"))


def test_the_terms_add_up(conditional):
    bits = conditional.bound(X, Y)
    assert bits.terms.shape == bits.mse_x0.shape == bits.mse_eps.shape == (12, 50)
    assert torch.equal(bits.t, torch.arange(1.0, 51).double().expand(12, 50))
    torch.testing.assert_close(bits.total, bits.prior + bits.terms.sum(1))
    torch.testing.assert_close(conditional.bits_per_dim(X, Y), bits.total)
    assert (bits.terms[:, 1:] >= 0).all()
    value, error = bits.mean()
    assert value == pytest.approx(float(bits.total.mean()), rel=1e-6)
    assert error == pytest.approx(float(bits.total.std()) / 12**0.5, rel=1e-5)


def test_an_images_bits_depend_on_its_index_and_not_on_its_company(conditional):
    torch.testing.assert_close(conditional.bits_per_dim(X[:5], Y[:5]), conditional.bits_per_dim(X, Y)[:5])


def test_labels_matter_and_none_is_the_null_label(conditional):
    none, null = (conditional.bits_per_dim(X, y) for y in (None, torch.full((12,), 10)))
    assert torch.equal(none, null)
    assert not torch.equal(none, conditional.bits_per_dim(X, Y))


def test_a_learned_variance_trains_and_is_scored(tmp_path):
    changes = {"diffusion__variance": "learned", "diffusion__loss": "hybrid", "train__steps": 40, "train__lr": 2e-3}
    pipe = Pipeline.load(tiny.trained(tmp_path / "run", **changes))
    assert pipe.denoiser.backbone.head.weight.shape[0] == 2
    assert pipe.sample(n=3).isfinite().all()
    assert pipe.bits_per_dim(X, Y).isfinite().all()


@pytest.mark.parametrize("prediction", ["score", "mean"])
@pytest.mark.parametrize("loss", ["l2", "vlb", "score_matching"])
def test_other_predictions_and_losses_train_and_sample(tmp_path, prediction, loss):
    pipe = Pipeline.load(tiny.trained(tmp_path / "run", diffusion__prediction=prediction, diffusion__loss=loss))
    assert pipe.sample(n=2).isfinite().all()
    assert pipe.bits_per_dim(X[:2]).isfinite().all()


@pytest.mark.parametrize(
    ("images", "label", "times", "kind", "words"),
    [
        (X + 0.01, None, None, UndiffuseError, "grid of 17 levels"),
        (X * float("nan"), None, None, UndiffuseError, "hold NaN"),
        (X * 127.5 + 127.5, None, None, UndiffuseError, "reach from 0 to 255"),
        (X[:, :, :5], None, None, UsageError, r"float32 tensor \[n, 1, 8, 8\]; got torch.float32 \[12, 1, 5, 8\]"),
        (X[0], None, None, UsageError, r"float32 tensor \[n, 1, 8, 8\]"),
        (X.bfloat16(), None, None, UsageError, r"got torch\.bfloat16"),
        (X[:0], None, None, UsageError, "at least one image"),
        ((8 * X + 8).to(torch.uint8), None, None, UsageError, "float"),
        (X, Y[:5], None, UsageError, "12 labels"),
        (X, Y + 5, None, UsageError, "0 to 10"),
        (X, Y[:, None], None, UsageError, "12 labels"),
        (X, Y.float(), None, UsageError, "int64"),
        (X, Y, 0, UsageError, "between 1 and T = 50"),
        (X, Y, 51, UsageError, "between 1 and T = 50"),
    ],
)
def test_what_cannot_be_scored_is_one_clear_line(conditional, images, label, times, kind, words):
    with pytest.raises(kind, match=words) as caught:
        conditional.bits_per_dim(images, label, times)
    assert "\n" not in str(caught.value)


def test_evaluate_measures_bits_and_says_what_they_are_made_of(conditional, tmp_path, capsys):
    run = str(conditional.save(tmp_path / "run"))
    out = tmp_path / "n.json"
    assert main(["evaluate", run, "--metrics", "bpd", "--out", str(out)]) == 0
    assert "bits per dimension" in capsys.readouterr().out
    found = json.loads(out.read_text())
    measured, parts = found["metrics"]["bpd"], found["protocol"]["bpd"]
    assert list(found["metrics"]) == ["bpd"]
    assert measured["n"] == 450
    assert 0 < measured["stderr"] < 0.1 * measured["value"]
    total = sum(parts[name]["value"] for name in ("L_T", "L_0", "L_1..L_T-1"))
    assert total == pytest.approx(measured["value"], rel=1e-5)
    assert main(["evaluate", run, "--metrics", "bpd", "--times", "10", "--out", str(out)]) == 0
    fewer = json.loads(out.read_text())
    assert fewer["protocol"]["bpd"]["times_per_image"] == 10
    gap = abs(fewer["metrics"]["bpd"]["value"] - measured["value"])
    assert gap < 4 * np.hypot(fewer["metrics"]["bpd"]["stderr"], measured["stderr"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--metrics", "bpd", "--times", "0"], "between 1 and T = 50"),
        (["--metrics", "bpd", "--times", "51"], "between 1 and T = 50"),
        (["--metrics", "bdp"], "did you mean 'bpd'"),
        (["--metrics", "frechet", "--times", "5"], "times is for bpd"),
        (["--metrics", "bpd", "--dequantise", "noise"], "dequantise is for bpd_ode"),
        (["--metrics", "bpd", "-n", "10"], "n counts samples"),
        (["--metrics", "frechet", "--out", "."], "evaluate writes .json"),
        (["--metrics", "bpd_ode", "--dequantise", "nose"], "did you mean 'noise'"),
    ],
)
def test_wrong_requests_are_one_line(conditional, tmp_path, capsys, options, words):
    run = str(conditional.save(tmp_path / "run"))
    capsys.readouterr()
    assert main(["evaluate", run, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_the_ode_is_a_second_opinion(conditional):
    """Rough agreement of a trained network's two numbers, labels that matter, and weights left as they were."""
    flow = conditional.ode_likelihood(X, Y, steps=20)
    assert flow.total.shape == (12,) and flow.total.isfinite().all()
    torch.testing.assert_close(conditional.ode_likelihood(X[:5], Y[:5], steps=20).total, flow.total[:5])
    assert not torch.equal(flow.total, conditional.ode_likelihood(X, steps=20).total)
    assert flow.mean()[0] < conditional.bound(X, Y).mean()[0] + 0.5
    assert all(parameter.requires_grad for parameter in conditional.denoiser.backbone.parameters())
    with pytest.raises(UsageError, match="12 labels"):
        conditional.ode_likelihood(X, Y[:5])


def test_uniform_dequantisation_does_not_clip_what_reaches_beyond_the_range(conditional):
    unclipped = conditional.configured(clip=False)
    one, two = (pipe.ode_likelihood(X, Y, 4, "uniform") for pipe in (conditional, unclipped))
    assert torch.equal(one.total, two.total)
    one, two = (pipe.ode_likelihood(X, Y, 4, "noise") for pipe in (conditional, unclipped))
    assert not torch.equal(one.total, two.total)


def test_evaluate_measures_bits_by_the_ode(conditional, tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.evaluation.likelihood.ODE_STEPS", 2)
    run, out = str(conditional.save(tmp_path / "run")), tmp_path / "n.json"
    assert main(["evaluate", run, "--metrics", "bpd_ode", "--dequantise", "uniform", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["metrics"]["bpd_ode"]["n"] == 450 and found["metrics"]["bpd_ode"]["stderr"] > 0
    protocol = found["protocol"]["bpd_ode"]
    assert (protocol["dequantisation"], protocol["labels"], protocol["grid"]) == ("uniform", "given", "17 levels")
    assert "2 steps uniform in half_log_snr from t = 1 to 50" in protocol["solver"]


def test_bits_of_one_class_are_those_of_its_images_as_that_class(conditional, tmp_path):
    run, out = str(conditional.save(tmp_path / "run")), tmp_path / "n.json"
    given = ["evaluate", run, "--metrics", "bpd,bpd_ode", "--dequantise", "uniform", "--label", "3", "--out", str(out)]
    assert main(given) == 0
    found = json.loads(out.read_text())["metrics"]
    held_out = digits().held_out
    x, y = held_out.images()[held_out.labels == 3], torch.full((int((held_out.labels == 3).sum()),), 3)
    assert found["bpd"]["n"] == found["bpd_ode"]["n"] == len(x)
    assert found["bpd"]["value"] == pytest.approx(conditional.bound(x, y).mean()[0], rel=1e-6)
    flow = conditional.ode_likelihood(x, y, ODE_STEPS, "uniform")
    assert found["bpd_ode"]["value"] == pytest.approx(flow.mean()[0], rel=1e-6)


def test_pictures_have_no_likelihood(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8, 1), np.uint8), labels=np.full(4, -1))
    assert main(["evaluate", str(tmp_path / "x.npz"), "--data", "digits", "--metrics", "bpd"]) == 2
    assert "bpd is a property of a model" in capsys.readouterr().err


def test_plot_elbo_draws_the_bound(conditional, tmp_path, capsys):
    run = str(conditional.save(tmp_path / "run"))
    assert main(["plot", "elbo", run, "--out", str(tmp_path / "elbo.png"), "-n", "8"]) == 0
    with Image.open(tmp_path / "elbo.png") as picture:
        assert picture.width > 1500
    for n in ("0", "1", "451", "-3"):
        assert main(["plot", "elbo", run, "--out", str(tmp_path / "no.png"), "-n", n]) == 2
    assert not (tmp_path / "no.png").exists()


def test_plot_score_draws_the_comparison(conditional, tmp_path, capsys):
    run = str(conditional.save(tmp_path / "run"))
    assert main(["plot", "score", run, "--out", str(tmp_path / "score.png"), "-n", "5"]) == 0
    with Image.open(tmp_path / "score.png") as picture:
        assert picture.width > 1400
    assert main(["plot", "score", run, "--out", str(tmp_path / "no.png"), "-n", "451"]) == 2
    assert "2..450" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


def test_weights_that_are_nan_have_no_likelihood(conditional, tmp_path, capsys):
    spoilt = Pipeline.load(conditional.save(tmp_path / "spoilt"))
    with torch.no_grad():
        next(iter(spoilt.denoiser.backbone.parameters())).fill_(float("nan"))
    for ask in (spoilt.bound, lambda x, y: spoilt.ode_likelihood(x, y, 2)):
        with pytest.raises(UndiffuseError, match="NaN or infinite"):
            ask(X, Y)
    run = str(spoilt.save(tmp_path / "run"))
    assert main(["plot", "score", run, "--out", str(tmp_path / "no.png"), "-n", "2"]) == 1
    assert "its weights hold some" in capsys.readouterr().err
    assert main(["evaluate", run, "--metrics", "bpd", "--times", "2", "--out", str(tmp_path / "no.json")]) == 1
    assert not (tmp_path / "no.png").exists() and not (tmp_path / "no.json").exists()


def test_labels_of_other_classes_are_refused(tmp_path, capsys):
    run = str(tiny.trained(tmp_path / "run", data__classes=["1", "7"]))
    for command in (["evaluate", run, "--metrics", "bpd"], ["plot", "score", run, "--out", str(tmp_path / "x.png")]):
        assert main([*command, "--data", "digits"]) == 2
        assert "its classes are 0, 1, 2, 3 ... (10), the model's are 1, 7" in capsys.readouterr().err


def test_an_imported_model_is_scored_on_the_grid_of_the_images(conditional, tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.evaluation.likelihood.ODE_STEPS", 2)
    run, theirs, out = conditional.save(tmp_path / "run"), tmp_path / "theirs", tmp_path / "n.json"
    assert main(["convert", str(run), str(theirs), "--to", "diffusers"]) == 0
    (theirs / "config.yaml").unlink()
    command = [
        "evaluate",
        str(theirs),
        "--data",
        "digits",
        "--metrics",
        "bpd,bpd_ode",
        "--times",
        "2",
        "--out",
        str(out),
    ]
    assert main(command) == 0
    protocol = json.loads(out.read_text())["protocol"]
    assert protocol["bpd"]["grid"] == protocol["bpd_ode"]["grid"] == "17 levels"


@pytest.mark.parametrize("T", [1, 2, 3])
def test_few_times_are_drawn_too(tmp_path, T):
    run = str(tiny.trained(tmp_path / "run", diffusion__T=T, sample__steps=1))
    for kind in ("elbo", "score"):
        assert main(["plot", kind, run, "--out", str(tmp_path / f"{kind}.png"), "-n", "3"]) == 0
