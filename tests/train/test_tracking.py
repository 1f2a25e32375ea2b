"""Trackers are told what the run's own logs say."""

import json

import accelerate.tracking
import pytest

import tiny
from undiffuse.train.job import Training
from undiffuse.train.tracking import TrackerWarning, flat_settings


def test_tensorboard_is_told_what_the_logs_say(tmp_path):
    """By a real tracker, read back by TensorBoard itself."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    changes = {"train__quality_every": 4, "train__quality_n": 20, "train__quality_steps": 2}
    run = tiny.trained(tmp_path / "run", train__trackers=["tensorboard"], **changes)
    (file,) = (run / "undiffuse").glob("events*")
    events = reader.EventAccumulator(str(file))
    events.Reload()
    for name, log in (("loss", "metrics"), ("grad_norm", "metrics"), ("frechet", "quality"), ("raw", "quality")):
        records = [json.loads(line) for line in (run / f"{log}.jsonl").read_text().splitlines()]
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in told] == [record["step"] for record in records]
        assert [value for _, value in told] == pytest.approx([record[name] for record in records], rel=1e-6)


def test_tensorboard_forgets_what_a_kill_undid(tiny_run, tmp_path):
    """Steps after the checkpoint that a run goes on from were told once already."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tiny.trained(tmp_path / "whole", train__trackers=["tensorboard"], train__log_every=1)
    copy = tiny.without_later_checkpoints(run, 4, tmp_path / "run")
    list(Training.resume(copy))
    events = reader.EventAccumulator(str(copy / "undiffuse"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


class Silent:
    """A service that nobody is logged in to."""

    requires_logging_directory = False

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self) -> None:
        raise ValueError("no key")


def test_a_tracker_that_cannot_start_is_named_and_training_goes_on(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Silent)
    monkeypatch.setattr("undiffuse.train.tracking.check_trackers", lambda names: None)
    with pytest.warns(TrackerWarning, match="tensorboard: no key; nothing more is told to it"):
        run = tiny.trained(tmp_path / "run", train__trackers=["tensorboard"])
    assert tiny.weights(run, 6) == tiny.weights(tiny_run, 6)


def test_a_configuration_becomes_plain_dotted_values():
    nested = {"seed": 0, "train": {"ema": [0.9, 0.99], "lr": 1e-3, "minutes": None}}
    assert flat_settings(nested) == {"seed": 0, "train.ema": "[0.9, 0.99]", "train.lr": 1e-3}
