"""A run may stop at any instant; resumed, it ends with the same bits as if it had not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import tiny
from undiffuse.errors import Interrupted, UndiffuseError, UsageError
from undiffuse.jobs import Training
from undiffuse.train import checkpoint


def finish(out) -> Training:
    training = Training.resume(out)
    for _ in training:
        pass
    return training


def logged(run) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_holds_what_the_contract_says(tiny_run):
    assert {p.name for p in tiny_run.iterdir()} == {
        "config.yaml", "metrics.jsonl", "environment.json", "checkpoints", "samples"
    }  # fmt: skip
    assert sorted(p.name for p in (tiny_run / "checkpoints").iterdir()) == ["00000002", "00000004", "00000006"]
    files = {p.name for p in (tiny_run / "checkpoints" / "00000006").iterdir()}
    assert files == {"backbone.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}
    records = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    keys = {"step", "loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "grad_norm", "lr", "images_per_s"}
    assert all(record.keys() >= keys for record in records)
    assert [record["step"] for record in records] == [2, 4, 6]
    assert json.loads((tiny_run / "environment.json").read_text())["training_seconds"] > 0


class Stop(Exception):
    """A crash at a place of our choosing."""


@pytest.mark.parametrize("at", [1, 2, 3, 5])
@pytest.mark.parametrize("changes", [{}, {"model__dropout": 0.5, "train__lr_decay": "cosine", "train__warmup": 2}])
def test_a_crash_at_any_step_then_resume_gives_the_same_bits(tiny_run, tmp_path, monkeypatch, at, changes):
    whole = tiny.trained(tmp_path / "whole", **changes) if changes else tiny_run
    training = Training.start(tiny.config(**changes), tmp_path / "cut", "x")
    real = training.trainer._one_step

    def crashing() -> None:
        if training.trainer.step == at:
            raise Stop
        real()

    monkeypatch.setattr(training.trainer, "_one_step", crashing)
    with pytest.raises(Stop):
        list(training)
    finish(tmp_path / "cut")
    assert tiny.weights(tmp_path / "cut", 6) == tiny.weights(whole, 6)
    assert logged(tmp_path / "cut") == [2, 4, 6]


@pytest.mark.parametrize("at", [1, 3, 4])
def test_an_interrupt_saves_and_says_how_to_go_on(tiny_run, tmp_path, monkeypatch, at):
    training = Training.start(tiny.config(), tmp_path / "cut", "x")
    real = training.trainer._one_step

    def interrupted() -> None:
        real()
        if training.trainer.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(training.trainer, "_one_step", interrupted)
    with pytest.raises(Interrupted, match=f"stopped at step {at} of 6, saved; go on with: undiffuse train --resume"):
        list(training)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert checkpoint.steps(tmp_path / "cut" / "checkpoints")[-1] == at
    finish(tmp_path / "cut")
    assert tiny.weights(tmp_path / "cut", 6) == tiny.weights(tiny_run, 6)
    steps = logged(tmp_path / "cut")
    assert steps == sorted({2, 4, 6, at})


def test_resuming_from_any_earlier_checkpoint_gives_the_same_bits(tiny_run, tmp_path):
    """As after a SIGKILL: the log is ahead of the last checkpoint."""
    run = tiny.without_later_checkpoints(tiny_run, 2, tmp_path / "run")
    (run / "checkpoints" / ".00000004.writing").mkdir()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    finish(run)
    assert tiny.weights(run, 6) == tiny.weights(tiny_run, 6)
    assert logged(run) == [2, 4, 6]
    assert not (run / "checkpoints" / ".00000004.writing").exists()


def test_resuming_without_a_checkpoint_starts_again(tiny_run, run_copy):
    shutil.rmtree(run_copy / "checkpoints")
    finish(run_copy)
    assert tiny.weights(run_copy, 6) == tiny.weights(tiny_run, 6)
    assert logged(run_copy) == [2, 4, 6]


def test_resuming_a_finished_run_changes_nothing_that_counts(tiny_run, run_copy):
    before = tiny.tree(run_copy / "checkpoints"), (run_copy / "metrics.jsonl").read_bytes()
    assert finish(run_copy).trainer.step == 6
    assert (tiny.tree(run_copy / "checkpoints"), (run_copy / "metrics.jsonl").read_bytes()) == before


@pytest.mark.parametrize("junk", [b"[1", b"[1]", b'{"training_seconds": "x"}', b"\xff\xfe", b"", b"null"])
def test_junk_beside_the_checkpoints_does_not_stop_a_resume(tiny_run, tmp_path, junk):
    run = tiny.without_later_checkpoints(tiny_run, 4, tmp_path / "run")
    (run / "environment.json").write_bytes(junk)
    (run / "metrics.jsonl").write_bytes(junk)
    shutil.rmtree(run / "samples")
    finish(run)
    assert tiny.weights(run, 6) == tiny.weights(tiny_run, 6)
    assert json.loads((run / "environment.json").read_text())["training_seconds"] >= 0
    assert (run / "samples").is_dir()


@pytest.mark.parametrize("group", ["backbone", "ema", "optimizer"])
def test_a_broken_checkpoint_is_named_and_nothing_is_touched(run_copy, group):
    path = run_copy / "checkpoints" / "00000006" / f"{group}.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    before = tiny.tree(run_copy)
    with pytest.raises(UndiffuseError, match=f"00000006/{group}.safetensors: truncated"):
        Training.resume(run_copy)
    assert tiny.tree(run_copy) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample__steps": 51}, "steps must lie in 1..T = 50|steps"),
        ({"sample__spacing": "even"}, "unknown .*'even'"),
        ({"sample__sampler": "dim"}, "did you mean 'ddim'"),
        ({"sample__guidance": 2.0, "train__label_dropout": 0.0}, "label_dropout above 0"),
        ({"sample__guidance": 2.0, "model__conditional": False}, "guidance needs labels"),
        ({"diffusion__schedule": "linear", "diffusion__T": 20, "sample__steps": 5}, "T = 20 has beta_T = 1"),
        ({"model__channels": 7}, "must be even"),
        ({"data__source": "digitz"}, "unknown data source"),
    ],
)
def test_everything_is_checked_before_the_folder_is_made(tmp_path, changes, words):
    """Also what only sampling after hours of training would need."""
    with pytest.raises(UsageError, match=words):
        Training.start(tiny.config(**changes), tmp_path / "run", "x")
    assert not (tmp_path / "run").exists()


def test_grids_are_drawn_on_the_way(tmp_path):
    run = tiny.trained(tmp_path / "run", train__sample_every=4, train__checkpoint_every=0)
    assert [p.name for p in (run / "samples").iterdir()] == ["step_00000004.png"]
    assert checkpoint.steps(run / "checkpoints") == [6]


def test_nan_in_training_ends_with_the_last_good_checkpoint(tmp_path):
    training = Training.start(tiny.config(train__lr=1e30, train__steps=40, train__max_skips=3), tmp_path / "run", "x")
    with pytest.raises(UndiffuseError, match="not finite 3 times in a row"):
        list(training)


# -- real processes -------------------------------------------------------------------------------------------------

LONG = {"train__steps": 240, "train__checkpoint_every": 20, "train__log_every": 20}


def start(tmp_path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "undiffuse", "train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(found, process) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return tiny.trained(tmp_path_factory.mktemp("long") / "run", **LONG, model__dropout=0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_stopped_by_a_signal_resumes_to_the_same_bits(uninterrupted, tmp_path, number):
    (tmp_path / "some recipe.yaml").write_text(tiny.config(**LONG, model__dropout=0.1).as_yaml())
    run = tmp_path / "my run"
    process = start(tmp_path, "some recipe.yaml", "--out", "my run")
    wait_for(lambda: checkpoint.steps(run / "checkpoints"), process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    step = checkpoint.steps(run / "checkpoints")[-1]
    assert step < 240
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert said.splitlines()[-1].startswith(f"undiffuse: stopped at step {step} of 240, saved; go on with: undiff")
        assert "Traceback" not in said
    finish(run)
    assert tiny.weights(run, 240) == tiny.weights(uninterrupted, 240)
    assert [s for s in logged(run) if s % 20 == 0] == list(range(20, 241, 20))
    assert len(logged(run)) == len(set(logged(run)))
