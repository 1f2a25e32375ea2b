"""What a run folder is left with however training ended, and what going on from there does."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

import tiny
from undiffuse.cli import main
from undiffuse.config import read
from undiffuse.errors import Interrupted, UndiffuseError, UsageError
from undiffuse.files import checkpoint
from undiffuse.files.run import RunFolder
from undiffuse.pipeline import Pipeline
from undiffuse.processes import signals
from undiffuse.train import tracking
from undiffuse.train.job import Training
from undiffuse.train.quality import Judge, Quality, verdict_of
from undiffuse.train.starting import CheckpointWarning

MEASURED = {"train__quality_every": 2, "train__quality_n": 20, "train__quality_steps": 2}


def finish(out) -> Training:
    training = Training.resume(out)
    list(training)
    return training


def named(run) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_set_aside_and_counts_no_more(tiny_run, run_copy):
    """Else it would be the last, and the one to keep, while those written after it are deleted."""
    config = read(run_copy / "config.yaml").replaced({"train.keep": 1, "train.checkpoint_every": 1})
    (run_copy / "config.yaml").write_text(config.as_yaml())
    (run_copy / "checkpoints" / "00000006" / "ema.safetensors").write_bytes(b"junk")
    shutil.rmtree(run_copy / "checkpoints" / "00000002")
    with pytest.warns(CheckpointWarning, match="going on from the checkpoint before it"):
        training = Training.resume(run_copy)
    assert named(run_copy) == ["00000004", "00000006.damaged"]
    assert checkpoint.find(run_copy / "checkpoints").name == "00000004"
    kept = [checkpoint.steps(run_copy / "checkpoints")[-1] for _ in training]  # as each report comes
    assert kept == [5]
    assert named(run_copy) == ["00000006", "00000006.damaged"]
    assert tiny.weights(run_copy, 6) == tiny.weights(tiny_run, 6)


def test_the_last_good_checkpoint_outlives_one_of_spoilt_weights(tmp_path, monkeypatch):
    """The update of step 5 spoils them, its own loss being fine; only the loss of step 6 can tell."""
    changes = {"train__steps": 30, "train__checkpoint_every": 1, "train__keep": 1}
    training = Training.start(tiny.config(**changes), tmp_path / "run", "x")
    monkeypatch.setattr("undiffuse.train.trainer.learning_rate", lambda settings, step: 1e30 if step == 4 else 1e-3)
    with pytest.raises(UndiffuseError, match="nothing was saved since the first"):
        list(training)
    monkeypatch.undo()
    assert named(tmp_path / "run") == ["00000004", "00000005"]
    with pytest.raises(UndiffuseError, match="or the checkpoint of step 5 is spoilt: remove it"):
        finish(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "00000005")
    assert finish(tmp_path / "run").trainer.step == 30
    assert named(tmp_path / "run") == ["00000030"]


def test_two_commands_cannot_train_one_run(tmp_path):
    training = Training.start(tiny.config(), tmp_path / "run", "x")
    late = Training.resume(tmp_path / "run")
    one = iter(training)
    next(one)
    next(one)  # the checkpoint of step 2 is there
    before = tiny.tree(tmp_path / "run")
    with pytest.raises(UsageError, match="another command is writing into it"):
        finish(tmp_path / "run")
    assert tiny.tree(tmp_path / "run") == before
    list(one)
    with pytest.raises(UsageError, match="another command has just trained it to step 6; resume again"):
        list(late)
    finish(tmp_path / "run")


# -- quality ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def distances(monkeypatch):
    """Measures say what they are told, one after the other."""
    values: list[float] = []

    def measure(self, step, averaged, raw, before):
        value = values.pop(0)
        return Quality(
            step, value, 0.1, value, 0.5, *verdict_of([(r["frechet"], 0.1) for r in before], value, 0.1), "pca"
        )

    monkeypatch.setattr(Judge, "measure", measure)
    return values


def test_a_run_that_ended_itself_stays_ended(tmp_path, distances, capsys):
    distances += [3.0, 2.0, 2.01, 2.02]
    run = tmp_path / "run"
    list(Training.start(tiny.config(train__steps=20, train__patience=2, **MEASURED), run, "x"))
    before = tiny.tree(run / "checkpoints")
    again = finish(run)
    assert (again.trainer.step, again.ended) == (8, "stopped at step 8: not clearly better for 2 measures")
    assert tiny.tree(run / "checkpoints") == before
    (run / "report.html").touch()
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert (
        f"{run} has stopped at step 8: not clearly better for 2 measures; to train its model further"
        in capsys.readouterr()[0]
    )
    (run / "config.yaml").write_text(read(run / "config.yaml").replaced({"train.patience": 3}).as_yaml())
    distances += [1.0, 1.0, 1.0, 1.0]
    assert finish(run).trainer.step == 16


def test_told_to_leave_where_a_measure_is_due_it_leaves_and_measures_later(tmp_path, monkeypatch):
    changes = {**MEASURED, "train__checkpoint_every": 3}
    whole = tiny.trained(tmp_path / "whole", **changes)
    training = Training.start(tiny.config(**changes), tmp_path / "cut", "x")
    real = training.trainer._one_step

    def interrupted() -> None:
        real()
        if training.trainer.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training.trainer, "_one_step", interrupted)
    with pytest.raises(Interrupted, match="stopped at step 4 of 6, saved"):
        list(training)
    measured = [json.loads(line)["step"] for line in (tmp_path / "cut" / "quality.jsonl").read_text().splitlines()]
    assert measured == [2]
    finish(tmp_path / "cut")
    assert (tmp_path / "cut" / "quality.jsonl").read_text() == (whole / "quality.jsonl").read_text()
    assert tiny.weights(tmp_path / "cut", 6) == tiny.weights(whole, 6)


def test_where_features_are_too_many_for_an_error_quality_is_of_principal_components(tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.train.quality.MANY_FEATURES", 63)
    for n, name in ((127, "pca"), (128, "pixels")):
        run = tiny.trained(tmp_path / name, **{**MEASURED, "train__quality_every": 6, "train__quality_n": n})
        (record,) = (json.loads(line) for line in (run / "quality.jsonl").read_text().splitlines())
        assert record["features"] == name and record["stderr"] > 0


BROKEN = ['{"step": 4, "frech', "[1]", '{"step": 4}', '{"step": 4, "frechet": "x", "stderr": 1, "idle": 0}']


@pytest.mark.parametrize("line", BROKEN)
def test_a_damaged_line_of_quality_is_no_measure(tmp_path, line):
    run = RunFolder(tmp_path)
    good = {"step": 2, "frechet": 1.0, "stderr": 0.1, "idle": 0}
    run.quality.write_text(f"{json.dumps(good)}\n{line}\n")
    assert run.quality_records() == [good] and run.best_step() == 2


def test_distances_of_other_features_are_not_compared(tmp_path):
    run = RunFolder(tmp_path)
    for step, value, features in ((2, 0.1, "pca"), (4, 5.0, "inception"), (6, 6.0, "inception")):
        run.log({"step": step, "frechet": value, "stderr": 0.1, "idle": 0, "features": features}, run.quality)
    assert run.best_step() == 4


# -- who else is there ------------------------------------------------------------------------------------------------


class Tracker:
    """A service that is down."""

    name = "service"

    def __init__(self) -> None:
        self.asked = 0

    def log(self, *given, **more) -> None:
        self.asked += 1
        raise ConnectionError("no answer\nfrom there")

    def finish(self) -> None:
        self.asked += 1


def test_a_tracker_that_fails_is_told_no_more_and_training_goes_on(tiny_run, tmp_path, monkeypatch):
    tracker = Tracker()
    monkeypatch.setattr(tracking.Trackers, "__init__", lambda self, *given: setattr(self, "all", [tracker]))
    with pytest.warns(tracking.TrackerWarning, match="service: no answer from there; nothing more is told to it"):
        run = tiny.trained(tmp_path / "run")
    assert tracker.asked == 1
    assert tiny.weights(run, 6) == tiny.weights(tiny_run, 6)


def test_one_wish_may_come_twice_and_a_later_one_stops_at_once(monkeypatch):
    """torchrun passes on a SIGTERM that its processes were sent too."""
    with signals.stop_signals() as asked:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert asked.is_set()
        monkeypatch.setattr(signals, "SECONDS_OF_ONE_WISH", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_training_outlives_whoever_read_its_progress(tiny_run, tmp_path):
    (tmp_path / "t.yaml").write_text(read(tiny_run / "config.yaml").as_yaml())
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "undiffuse", "train", "t.yaml", "--out", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    os.close(ours)
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert tiny.weights(tmp_path / "run", 6) == tiny.weights(tiny_run, 6)


def test_samples_beside_a_training_short_of_memory_are_as_few_at_once(tiny_run):
    training = Training.resume(tiny_run)
    assert training.pipeline().block == Pipeline.load(tiny_run).block
    training.trainer.micro = 3
    assert training.pipeline().block == 3
