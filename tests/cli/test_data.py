"""The path of someone with pictures: check, train, fine-tune, evaluate."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny
from made import files, pictures, png, written
from undiffuse.cli import main
from undiffuse.cli.progress import count_along, time
from undiffuse.config import read
from undiffuse.pipeline import Pipeline

pytestmark = pytest.mark.filterwarnings("ignore:the Frechet distance of")  # of few images: said, and so be it here


def lay_out(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("undiffuse.files.cache.folder", lambda kind="": folder / "cache")
    patch.chdir(folder)
    written(folder / "pictures", files(30))
    (folder / "tiny.yaml").write_text(tiny.config().as_yaml())


@pytest.fixture
def place(tmp_path, monkeypatch):
    lay_out(tmp_path, monkeypatch)
    return tmp_path


def ours(*sets: str) -> list[str]:
    every = ("data.source=pictures", "data.levels=null", "data.shape=null", "data.classes=null", *sets)
    return ["train", "tiny.yaml", *(part for text in every for part in ("--set", text))]


def test_check_reports_and_says_all_is_well(place, capsys):
    assert main(["check", "pictures"]) == 0
    out, err = capsys.readouterr()
    assert "3: cat 10, dog 10, owl 10" in out and "no trouble found" in out and not err


def test_check_fails_on_trouble_and_names_it(place, capsys):
    (place / "pictures/cat/x.png").write_bytes(b"")
    (place / "pictures/dog/y.png").write_bytes(png(pictures(1, (9, 9, 3))[0]))
    assert main(["check", "pictures"]) == 1
    out, err = capsys.readouterr()
    assert "cat/x.png: the file is empty" in out
    assert len(err.splitlines()) == 1 and "2 kinds of trouble" in err and "2 sizes" in err
    assert "trouble" in out and "1 empty: training would stop" in out
    assert main(["check", "pictures", "--set", "data.size=8"]) == 1
    err = capsys.readouterr().err
    assert "sizes" not in err and "training would stop; with data.bad=skip" in err
    assert main(["check", "pictures", "--set", "data.size=8", "--set", "data.bad=skip"]) == 0  # left out as asked
    out = capsys.readouterr().out
    assert "training sees" in out and "1 empty, as data.bad=skip has it" in out and "no other trouble found" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "nowhere"], "unknown data source 'nowhere'"),
        (["check", "pictures", "--set", "train.steps=3"], "check knows the keys data.* only"),
        (["check", "pictures", "--set", "data.sise=3"], "unknown key 'data.sise'; did you mean 'data.size'"),
        (["check", "pictures", "--set", "data.size=0"], "data.size"),
        (["check", "pictures", "--set", "data.fit=squash"], "data.fit: unknown name 'squash'"),
        (["train", "--from", "nowhere"], "no model 'nowhere'"),
        (["train", "--resume", "--from", "x", "--out", "y"], "--resume takes --out DIR and nothing else"),
    ],
)
def test_mistakes_are_one_line(place, capsys, arguments, words):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_training_says_what_it_leaves_out(place, capsys):
    (place / "pictures/cat/x.png").write_bytes(b"")
    assert main([*ours("data.bad=skip"), "--out", "run"]) == 0
    assert "pictures: skipped 1 empty (undiffuse check" in capsys.readouterr().out
    said = read(place / "run/config.yaml").data
    assert (said.classes, said.shape) == (["cat", "dog", "owl"], [3, 8, 8]) and said.source == str(place / "pictures")
    assert Pipeline.load("run").sample(n=3).shape == (3, 3, 8, 8)


def test_a_run_goes_on_only_with_its_own_pictures(place, capsys):
    assert main([*ours("train.steps=4"), "--out", "run"]) == 0
    (place / "pictures/cat/x.png").write_bytes(png(pictures(1, seed=4)[0]))
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "run"]) == 1
    assert "have changed since this run began" in capsys.readouterr().err


# -- train --from -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of the same pictures, made once."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        lay_out(folder, patch)
        assert main([*ours(), "--out", "model"]) == 0
    return folder / "model"


@pytest.fixture
def model(place, trained):
    made = Path(shutil.copytree(trained, place / "model"))
    text = (made / "config.yaml").read_text()
    (made / "config.yaml").write_text(text.replace(str(trained.parent), str(place)))  # the pictures lie here now
    return made


def first(folder: Path, group: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "00000000" / f"{group}.safetensors")


def last(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((folder / "checkpoints").iterdir())[-1] / "ema.safetensors")


def test_fine_tuning_starts_from_the_averaged_weights_and_keeps_class_rows_by_name(model, place):
    assert main(["train", "--from", "model", "--set", "data.classes=[owl]", "--out", "owls"]) == 0
    trained, start = last(model), first(place / "owls", "backbone")
    for name, tensor in start.items():
        expected = trained[name][[2, 3]] if name == "conditioning.label.weight" else trained[name]
        assert torch.equal(tensor, expected), name
    assert all(torch.equal(tensor, start[name]) for name, tensor in first(place / "owls", "ema").items())
    said, before = read(place / "owls/config.yaml"), read(model / "config.yaml")
    assert said.data.classes == ["owl"] and said.train.lr == pytest.approx(before.train.lr / 10)
    assert any(not torch.equal(tensor, start[name]) for name, tensor in last(place / "owls").items())
    assert Pipeline.load("owls").class_names == ("owl",)


def test_new_classes_start_as_no_label(model, place):
    for i, picture in enumerate(pictures(10, seed=3)):
        written(place / "pictures", {f"bat/{i}.png": png(picture)})
    assert main(["train", "--from", "model", "--out", "more"]) == 0
    trained, start = (weights["conditioning.label.weight"] for weights in (last(model), first(place / "more", "ema")))
    assert torch.equal(start, trained[[3, 0, 1, 2, 3]])  # bat, cat, dog, owl, none


def test_a_recipe_beside_from_is_what_counts(model, place):
    assert main([*ours("train.steps=2"), "--from", "model", "--out", "again"]) == 0
    assert read(place / "again/config.yaml").train.steps == 2


@pytest.mark.parametrize(
    ("sets", "status", "words"),
    [
        (["diffusion.schedule=linear"], 2, "diffusion.schedule: the model to start from has cosine, not linear"),
        (["diffusion.prediction=x0"], 2, "diffusion.prediction: the model to start from has"),
        (["model.channels=24"], 1, "--from: weights of another network"),
        (["data.classes=[emu]"], 2, "data.classes: no class 'emu'"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(model, place, capsys, sets, status, words):
    capsys.readouterr()
    command = ["train", "--from", "model", "--out", "no", *(part for text in sets for part in ("--set", text))]
    assert main(command) == status
    assert words in capsys.readouterr().err and not (place / "no").exists()


def test_one_class_can_be_measured_alone(model, capsys, place):
    command = ["evaluate", "model", "-n", "6", "--repeats", "1", "--metrics", "frechet", "--label", "owl,cat"]
    assert main([*command, "--features", "pca", "--out", "x.json"]) == 0
    result = json.loads((place / "x.json").read_text())
    assert result["protocol"]["classes"] == ["cat", "owl"] and "principal components" in result["protocol"]["features"]
    assert main([*command[:-1], "emu"]) == 2
    assert "no class 'emu'" in capsys.readouterr().err


def test_reading_tells_no_rate_of_its_first_picture(monkeypatch, capsys):
    """A data set that comes as a whole takes its time before the first."""
    clock = iter([0.0, 6.0, 12.0, 12.1])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert list(count_along("pictures read", iter(range(4)))) == [0, 1, 2, 3]
    assert capsys.readouterr().err.splitlines() == [
        "pictures read: 1  0.167 a second",
        "pictures read: 2  0.167 a second",
    ]


def test_check_draws_what_training_will_see(tmp_path, capsys):
    """A row a class; of what cannot be read there is no sheet; a name of another kind is refused at once."""
    for name, value in (("cat", 40), ("dog", 200)):
        (tmp_path / "x" / name).mkdir(parents=True)
        for i in range(14):
            Image.fromarray(np.full((8, 8), value + i, np.uint8)).save(tmp_path / "x" / name / f"{i}.png")
    sheet = tmp_path / "sheet.png"
    assert main(["check", str(tmp_path / "x"), "--out", str(sheet)]) == 0
    assert f"sheet: {sheet}" in capsys.readouterr().out
    assert Image.open(sheet).size[0] > 1000
    assert main(["check", str(tmp_path / "x"), "--out", str(tmp_path / "sheet.jpg")]) == 2
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "x" / "cat" / "other.png")
    assert main(["check", str(tmp_path / "x"), "--out", str(tmp_path / "no.png")]) == 1
    assert not (tmp_path / "no.png").exists()
