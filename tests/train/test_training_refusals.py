"""What training refuses, or says, before it begins; junk in a run's files, in the environment, in its start."""

import json
import subprocess
import sys

import pytest
import torch

import tiny
from undiffuse.cli import main
from undiffuse.config import load, read
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files.checkpoint import save
from undiffuse.files.run import RunFolder
from undiffuse.pipeline import Pipeline
from undiffuse.train.job import Training
from undiffuse.train.trainer import NotFinite


def edited(run, old: str, new: str) -> None:
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))


# -- a run's own files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("prediction: v", "prediction: eps", r"diffusion\.prediction: .* was trained with v, config.yaml says eps"),
        ("schedule: cosine", "schedule: linear", r"diffusion\.schedule: .* put it back"),
        ("T: 50", "T: 49", r"diffusion\.T"),
        ("['0', '1', ", "['1', '0', ", r"data\.classes: digits has the classes 0, 1, .* in this order"),
    ],
)
def test_what_weights_mean_cannot_be_edited(tiny_run, tmp_path, old, new, words):
    run = tiny.without_later_checkpoints(tiny_run, 4, tmp_path / "run")
    edited(run, old, new)
    with pytest.raises(UndiffuseError, match=words):
        Training.resume(run)


@pytest.mark.parametrize("section", ["train", "sample", "evaluate"])
def test_a_configuration_cut_short_does_not_go_on_with_defaults(tiny_run, tmp_path, section):
    run = tiny.without_later_checkpoints(tiny_run, 4, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text[: text.index(f"\n{section}:") + 1])
    with pytest.raises(UsageError, match=r"config\.yaml: lacks .*evaluate.*put it back"):
        Training.resume(run)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("false", "a mapping of sections"),
        ("train: {steps: 2}\ntrain: {lr: 1.0}\n", "'train' stands twice"),
        ("train:\n  steps: 2\n  steps: 3\n", "'steps' stands twice"),
    ],
)
def test_a_file_that_says_no_or_two_things_is_no_configuration(tmp_path, text, words):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=words):
        load(str(tmp_path / "x.yaml"))


@pytest.mark.parametrize(
    "record",
    [
        {"step": 4, "frechet": "1.0", "stderr": 0.1, "idle": 0},
        {"step": 4, "frechet": 1.0, "stderr": "3", "idle": 0},
        {"step": 4, "frechet": 1.0, "stderr": 0.1, "idle": 10**400},
        {"step": 4, "frechet": float("nan"), "stderr": 0.1, "idle": 0},
    ],
)
def test_junk_among_the_measures_is_no_measure(tmp_path, record):
    run = RunFolder(tmp_path)
    run.quality.write_text(json.dumps(record) + "\n")
    assert run.quality_records() == []


# -- before the first step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "0", "WORLD_SIZE": "abc"}, "WORLD_SIZE=abc"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE=0"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "no MASTER_ADDR and no MASTER_PORT"),
    ],
)
def test_a_launchers_variables_are_whole_or_refused(tmp_path, monkeypatch, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        Training.start(tiny.config(), tmp_path / "run", "x")
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_no_start(tiny_run, tmp_path):
    start = Pipeline.load(tiny_run, device="cpu")
    next(start.denoiser.backbone.parameters()).data[0] = torch.nan
    with pytest.raises(UndiffuseError, match="not finite"):
        Training.start(tiny.config(), tmp_path / "run", "x", start)
    assert not (tmp_path / "run").exists()


def test_a_time_budget_that_cannot_be_measured_names_no_files(tmp_path):
    changes = {"train__minutes": 0.05, "train__lr": 1e30, "train__max_skips": 2}
    with pytest.raises(UndiffuseError, match=r"train\.minutes .* lower train\.lr") as said:
        Training.start(tiny.config(**changes), tmp_path / "run", "x")
    assert "resume" not in str(said.value) and isinstance(said.value.__cause__, NotFinite)


def test_labels_are_for_folders_and_archives(tmp_path):
    config = tiny.config(data__labels=str(tmp_path / "labels.csv"))
    with pytest.raises(UsageError, match=r"data\.labels is for folders and archives of pictures; digits has its own"):
        Training.start(config, tmp_path / "run", "x")


# -- what it says -----------------------------------------------------------------------------------------------------


def notes(tmp_path, start=None, **changes) -> str:
    return "\n".join(Training.start(tiny.config(**changes), tmp_path / "run", "x", start).notes)


def test_a_warm_up_as_long_as_the_run_is_told(tmp_path):
    said = notes(tmp_path, train__steps=100, train__warmup=200)
    assert "rises for train.warmup=200 of the 100 steps" in said and "--set train.warmup=5" in said


def test_one_that_ends_in_time_is_not(tmp_path):
    assert notes(tmp_path, train__steps=100, train__warmup=25) == SEEN


SEEN = "digits: training sees 1,347 pictures, 450 held out (as the source says)"  # which is always said


def test_a_time_budget_says_its_steps(tmp_path):
    said = notes(tmp_path, train__minutes=0.005)
    steps = read(tmp_path / "run" / "config.yaml").train.steps
    assert said == f"{SEEN}\n{steps} steps fit into 0.005 minutes"


def test_a_start_from_weights_says_so_and_which_classes_are_new(tmp_path):
    start = Pipeline.load(tiny.trained(tmp_path / "first", data__classes=["3", "4"]), device="cpu")
    said = notes(tmp_path, start, data__classes=["4", "7", "9"], train__lr=0.002)
    assert "from trained weights: 6 steps, learning rate 0.002" in said
    assert "begin as 'no label': 7, 9" in said


# -- ends -------------------------------------------------------------------------------------------------------------


def test_a_kill_between_the_two_renames_of_a_checkpoint_loses_nothing(tiny_run, run_copy):
    folder = run_copy / "checkpoints"
    (folder / "00000006").rename(folder / ".00000006.replaced")
    assert Training.resume(run_copy).trainer.step == 6
    assert tiny.weights(run_copy, 6) == tiny.weights(tiny_run, 6)
    (folder / "00000006").rename(folder / ".00000006.replaced")
    (folder / "00000004").rename(folder / ".00000004.replaced")
    training = Training.resume(run_copy)
    save(folder, training.trainer.snapshot())  # which removes what is left of a save
    assert {"00000004", "00000006"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("change", [{"step": 3}, {"skipped": 7}])
def test_a_state_that_contradicts_itself_is_damage(tiny_run, run_copy, change):
    path = run_copy / "checkpoints" / "00000006" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.warns(UserWarning, match="going on from the checkpoint before it"):
        assert Training.resume(run_copy).trainer.step == 4


def test_the_last_checkpoint_takes_no_sound_one_with_it_if_its_weights_are_spoilt(tmp_path, monkeypatch):
    run = tiny.trained(tmp_path / "run", train__steps=3, train__keep=1)
    edited(run, "steps: 3", "steps: 4")
    training = Training.resume(run)
    monkeypatch.setattr("undiffuse.train.trainer.learning_rate", lambda settings, step: 1e20)
    list(training)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"00000003", "00000004"}


def test_an_interrupt_while_pictures_are_drawn_says_that_training_is_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(tiny.config().as_yaml())

    def drawn(run, pipe):
        raise KeyboardInterrupt

    monkeypatch.setattr("undiffuse.cli.train.write_views", drawn)
    assert main(["train", "tiny.yaml", "--out", "my run"]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert "trained and saved" in last and "undiffuse train --resume --out 'my run'" in last
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "--out", "my run"]) == 0
    assert (tmp_path / "my run" / "report.html").is_file()


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_training_needs_nobody_to_hear_it(tiny_run, tmp_path, closed):
    (tmp_path / "tiny.yaml").write_text(tiny.config().as_yaml())
    command = f"{sys.executable} -m undiffuse train tiny.yaml --out run {closed}"
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False, timeout=120).returncode == 0
    assert tiny.weights(tmp_path / "run", 6) == tiny.weights(tiny_run, 6)
