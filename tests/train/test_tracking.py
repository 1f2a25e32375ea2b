"""Trackers are told what the run's own logs say."""

import json

import pytest

import tiny
from undiffuse.train.tracking import flat


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


def test_a_configuration_becomes_plain_dotted_values():
    nested = {"seed": 0, "train": {"ema": [0.9, 0.99], "lr": 1e-3, "minutes": None}}
    assert flat(nested) == {"seed": 0, "train.ema": "[0.9, 0.99]", "train.lr": 1e-3}
