"""Models that come with the package load by name, are small, carry a card, and are never written to."""

import json
import re
import shutil

import pytest
import torch

import tiny
import undiffuse
from undiffuse.cli import main
from undiffuse.errors import UsageError
from undiffuse.pipeline import Pipeline, bundled

NAMES = bundled.bundled_names()


def test_there_are_some_and_they_are_small():
    assert "digits" in NAMES
    assert sum(path.stat().st_size for path in bundled.MODELS.rglob("*") if path.is_file()) < 15e6


@pytest.mark.parametrize("name", NAMES)
def test_its_card_is_complete(name):
    """Written by benchmarks/cards.py, which says in the card what it has not measured."""
    found = json.loads((bundled.MODELS / name / "figures.json").read_text())
    assert {"10 steps", "20 steps", "50 steps", "guidance 2", "bits", "1000 steps"} <= set(found)
    assert "Not measured yet" not in (bundled.MODELS / name / "README.md").read_text()


@pytest.mark.bare
@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_draws_in_few_steps_from_a_place_of_its_own(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = tiny.tree(bundled.MODELS)
    pipe = Pipeline.load(name)
    x = pipe.configured(sampler="unipc").sample(4, steps=5)
    assert x.shape == (4, *pipe.shape) and float(x.std()) > 0.3
    assert pipe.fitted is not None and (bundled.MODELS / name / "README.md").read_text().startswith(f"# {name}")
    assert all(p.dtype == torch.float32 for p in pipe.denoiser.backbone.parameters())
    assert main(["sample", name, "--out", "x.png", "-n", "2", "--steps", "2"]) == 0
    assert main(["fit", name]) == 2
    told = re.search(
        r"comes with undiffuse, and its times with it; in Python (.*) is a copy to fit", capsys.readouterr().err
    )
    copy = eval(told[1], {"undiffuse": undiffuse})  # the advice is good
    assert main(["fit", str(copy), "-n", "2"]) == 0
    assert tiny.tree(bundled.MODELS) == before


@pytest.mark.bare
def test_pictures_in_a_folder_of_its_name_do_not_hide_a_bundled_model(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "digits", "--out", "digits", "-n", "2", "--steps", "2"]) == 0
    assert main(["sample", "digits", "--out", "digits", "-n", "2", "--steps", "2"]) == 0
    assert bundled.locate_model("digits") == bundled.MODELS / "digits"
    shutil.copytree(tiny_run, "fashion-mnist")
    assert not bundled.is_bundled(bundled.locate_model("fashion-mnist"))


@pytest.mark.bare
def test_numbers_of_a_bundled_model_are_printed_and_not_kept_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = tiny.tree(bundled.MODELS)
    assert (
        main(["evaluate", "digits", "-n", "20", "--repeats", "1", "--steps", "5", "--metrics", "label_accuracy"]) == 0
    )
    assert "label_accuracy" in capsys.readouterr().out
    assert tiny.tree(bundled.MODELS) == before


def test_a_folder_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.trained(tmp_path / "digits")
    assert Pipeline.load("digits").config.train.steps == 6


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(UsageError, match=r"one of those that come with undiffuse; did you mean 'digits'\?"):
        bundled.locate_model("digit")
    with pytest.raises(UsageError, match=r"one of those that come with undiffuse; known: digits, .*fashion-mnist"):
        bundled.locate_model("cifar-10")
