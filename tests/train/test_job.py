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
from undiffuse.config import read
from undiffuse.errors import Interrupted, UndiffuseError, UsageError
from undiffuse.files import checkpoint
from undiffuse.pipeline import Pipeline
from undiffuse.train.job import Training
from undiffuse.train.quality import Quality, verdict_of
from undiffuse.train.starting import CheckpointWarning


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
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__dropout": 0.5, "train__lr_decay": "cosine", "train__warmup": 2},
        {"train__optimizer": "muon", "model__channels": 16},
    ],
)
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
    with pytest.warns(
        CheckpointWarning, match="has no checkpoint, though it was trained before; training starts again"
    ):
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


def truncated(path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flipped(path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [truncated, flipped, lambda path: path.unlink()])
@pytest.mark.parametrize("name", ["backbone.safetensors", "ema.safetensors", "optimizer.safetensors"])
def test_a_broken_newest_checkpoint_falls_back_to_the_one_before_and_says_so(tiny_run, run_copy, name, spoil):
    spoil(run_copy / "checkpoints" / "00000006" / name)
    with pytest.warns(CheckpointWarning, match=f"00000006/{name}: .*going on from the checkpoint before it"):
        training = Training.resume(run_copy)
    assert training.trainer.step == 4
    for _ in training:
        pass
    assert logged(run_copy) == [2, 4, 6]
    assert tiny.weights(run_copy, 6) == tiny.weights(tiny_run, 6)


def test_a_broken_state_falls_back_too(run_copy):
    (run_copy / "checkpoints" / "00000006" / "state.json").write_text("{")
    with pytest.warns(CheckpointWarning, match="not a checkpoint's state"):
        assert Training.resume(run_copy).trainer.step == 4


@pytest.mark.parametrize(
    "change", [{"micro_batch": 0}, {"micro_batch": "x"}, {"micro_batches": [2, 0]}, {"micro_batches": 2},
               {"digests": 3}, {"digests": {"a": 3}}, {"scale": {"a": 1}},
               {"scale": {"value": 0, "good": 0, "overflows": 0}}, {"scale": {"value": 1.0, "good": 0}}, {"scale": 2}]
)  # fmt: skip
def test_a_state_that_says_what_cannot_be_is_broken(run_copy, change):
    path = run_copy / "checkpoints" / "00000006" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.warns(CheckpointWarning, match="not a checkpoint's state"):
        assert Training.resume(run_copy).trainer.step == 4


def test_a_checkpoint_without_its_state_is_named(run_copy):
    (run_copy / "checkpoints" / "00000006" / "state.json").unlink()
    with pytest.warns(CheckpointWarning, match="00000006: has no state.json; going on from step 4"):
        assert Training.resume(run_copy).trainer.step == 4


def test_a_checkpoint_can_be_read_by_whom_the_folder_lets_in(tiny_run):
    folder = tiny_run / "checkpoints" / "00000006"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {folder.stat().st_mode & 0o666}


def test_nothing_is_saved_or_deleted_while_losses_are_not_finite(tmp_path):
    """One update of such a size spoils the weights for good: what was saved before it must stay."""
    changes = {
        "train__lr": 1e30,
        "train__warmup": 0,
        "train__steps": 20,
        "train__checkpoint_every": 1,
        "train__keep": 1,
    }
    training = Training.start(tiny.config(**changes), tmp_path / "run", "x")
    with pytest.raises(UndiffuseError, match="nothing was saved since the first"):
        list(training)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [training.trainer.step - 9]


def test_a_run_from_a_model_that_was_killed_before_its_weights_were_saved_cannot_be_resumed(
    tiny_run, tmp_path, monkeypatch
):
    def killed(*given: object) -> None:
        raise Stop

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(Stop):
        Training.start(tiny.config(), tmp_path / "run", "x", Pipeline.load(tiny_run))
    with pytest.raises(UndiffuseError, match="not a run folder"):
        Training.resume(tmp_path / "run")


@pytest.mark.parametrize("group", ["backbone", "ema", "optimizer"])
def test_where_no_checkpoint_is_whole_the_first_is_named_and_nothing_is_touched(tiny_run, tmp_path, group):
    run = tiny.without_later_checkpoints(tiny_run, 2, tmp_path / "run")
    truncated(run / "checkpoints" / "00000002" / f"{group}.safetensors")
    before = tiny.tree(run)
    with pytest.raises(UndiffuseError, match=f"00000002/{group}.safetensors: missing or truncated"):
        Training.resume(run)
    assert tiny.tree(run) == before


def test_a_full_disk_ends_in_one_line_and_what_is_saved_is_whole(tiny_run, tmp_path, monkeypatch):
    training = Training.start(tiny.config(), tmp_path / "run", "x")
    real = checkpoint.save_file

    def full(tensors, path):
        if training.trainer.step == 4 and path.name.startswith("optimizer"):
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UndiffuseError, match=r"No space left on device.*; step 2 is saved: make room, then go on with"):
        list(training)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["00000002"]
    monkeypatch.undo()
    finish(tmp_path / "run")
    assert tiny.weights(tmp_path / "run", 6) == tiny.weights(tiny_run, 6)


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    run = tiny.trained(
        tmp_path / "run", train__keep=1, train__quality_every=2, train__quality_n=20, train__quality_steps=2
    )
    records = [json.loads(line) for line in (run / "quality.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 6]
    assert records[0]["verdict"] == "first"
    best = min(records, key=lambda record: record["frechet"])["step"]
    assert checkpoint.steps(run / "checkpoints") == sorted({best, 6})
    pipe = Pipeline.load(run, checkpoint="best")
    saved = checkpoint.load_tensors(run / "checkpoints" / f"{best:08d}", "ema")
    assert all(torch.equal(saved[name], value) for name, value in pipe.denoiser.backbone.state_dict().items())


def test_measuring_on_the_way_changes_nothing_and_resumes(tiny_run, tmp_path):
    changes = {"train__quality_every": 2, "train__quality_n": 20, "train__quality_steps": 2}
    run = tiny.trained(tmp_path / "run", **changes)
    assert tiny.weights(run, 6) == tiny.weights(tiny_run, 6)
    before = (run / "quality.jsonl").read_text()
    for step in (4, 6):
        shutil.rmtree(run / "checkpoints" / f"{step:08d}")
    finish(run)
    assert (run / "quality.jsonl").read_text() == before


def test_training_stops_of_itself_when_nothing_gets_better(tmp_path, monkeypatch):
    values = iter([3.0, 2.0, 2.01, 2.02, 1.0])
    monkeypatch.setattr("undiffuse.train.quality.Judge._distance", lambda judge, pipe: (next(values), 0.1))
    monkeypatch.setattr("undiffuse.train.quality.Judge.floor", 0.5)
    monkeypatch.setattr(
        "undiffuse.train.quality.Judge.measure",
        lambda self, step, averaged, raw, before: _quality(self, step, before),
    )

    def _quality(judge, step, before):
        value, stderr = judge._distance(None)
        verdict, idle = verdict_of([(r["frechet"], r["stderr"]) for r in before], value, stderr)
        return Quality(step, value, stderr, value, 0.5, verdict, idle, "pixels")

    training = Training.start(
        tiny.config(train__steps=20, train__quality_every=2, train__patience=2), tmp_path / "run", "x"
    )
    list(training)
    assert training.trainer.step == 8
    assert training.ended == "stopped at step 8: not clearly better for 2 measures"
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == 8


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        ([], (1.0, 0.1), ("first", 0)),
        ([(2.0, 0.1)], (1.0, 0.1), ("improving", 0)),
        ([(2.0, 0.1)], (1.95, 0.1), ("flat", 1)),
        ([(2.0, 0.1)], (2.5, 0.1), ("getting worse", 1)),
        ([(2.0, 0.1), (1.9, 0.1)], (1.8, 0.1), ("improving", 0)),  # slowly, against the last that improved
    ],
)
def test_verdicts(before, now, verdict):
    assert verdict_of(before, *now) == verdict


def test_patience_without_measures_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"train\.quality_every"):
        Training.start(tiny.config(train__patience=2), tmp_path / "run", "x")


def test_a_time_budget_becomes_a_number_of_steps(tmp_path):
    training = Training.start(tiny.config(train__minutes=0.005), tmp_path / "run", "x")
    assert read(training.run.config).train.steps == training.config.train.steps >= 1
    assert training.trainer.step == 0


def test_several_averages_side_by_side(tiny_run, tmp_path):
    run = tiny.trained(tmp_path / "run", train__ema=[0.9, 0.1])
    mine, wanted = tiny.weights(run, 6), tiny.weights(tiny_run, 6)
    other = mine.pop("ema-0.1.safetensors")
    assert mine == wanted
    assert other != mine["ema.safetensors"]
    first, other_one = (Pipeline.load(run, weights).sample(n=2) for weights in ("ema", "ema-0.1"))
    assert torch.equal(Pipeline.load(run, "ema-0.9").sample(n=2), first) and not torch.equal(first, other_one)
    same = tiny.trained(tmp_path / "same", train__ema=0.1)
    assert tiny.weights(same, 6)["ema.safetensors"] == other
    loaded = Pipeline.load(run, weights="ema-0.1").denoiser.backbone.state_dict()
    assert all(torch.equal(x, Pipeline.load(same).denoiser.backbone.state_dict()[name]) for name, x in loaded.items())
    with pytest.raises(UsageError, match=r"'ema', 'raw' or 'ema-0\.1', not 'ema-0\.7'"):
        Pipeline.load(run, weights="ema-0.7")


def test_a_tracker_that_is_unknown_or_not_installed_is_refused(tmp_path):
    for name, words in (("tensorbord", "did you mean 'tensorboard'"), ("clearml", "pip install clearml")):
        with pytest.raises(UsageError, match=words):
            Training.start(tiny.config(train__trackers=[name]), tmp_path / "run", "x")
    assert not (tmp_path / "run").exists()


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
