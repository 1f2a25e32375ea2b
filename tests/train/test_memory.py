"""What training takes is counted before it begins: refused in one line, or done in parts that fit into half of it."""

import re

import pytest

import tiny
from undiffuse.data.prepare import digits
from undiffuse.errors import UsageError
from undiffuse.pipeline import build
from undiffuse.processes import machine
from undiffuse.train.memory import fitting, pictures_at_once

DATA = digits()


def at_once(monkeypatch, memory: int, wanted: int = 1000, **changes) -> int:
    monkeypatch.setattr(machine, "memory", lambda: memory)
    config = build.resolved(tiny.config(**changes), DATA)
    return pictures_at_once(build.backbone(config), config, wanted)


def test_the_more_memory_the_more_pictures_and_never_more_than_wanted(monkeypatch):
    counts = [at_once(monkeypatch, 1 << exponent) for exponent in range(21, 34)]
    assert counts == sorted(counts)
    assert counts[0] < 20 < counts[3] < 1000 == counts[-1]
    assert at_once(monkeypatch, 1 << 33, wanted=7) == 7


def test_what_saves_memory_makes_room_for_more_pictures(monkeypatch):
    plain, saving, half = (
        at_once(monkeypatch, 1 << 24, **changes)
        for changes in ({}, {"train__gradient_checkpointing": True}, {"train__precision": "bf16"})
    )
    assert plain < saving
    assert half >= 2 * plain
    assert at_once(monkeypatch, 1 << 24, train__ema=[0.9, 0.99, 0.999]) < plain


def test_a_network_that_cannot_fit_is_refused_in_one_line(monkeypatch):
    with pytest.raises(UsageError, match=re.escape("take smaller model.channels, multipliers or blocks")) as caught:
        at_once(monkeypatch, 1 << 16)
    assert "memory" in str(caught.value) and "\n" not in str(caught.value)


def test_of_a_network_that_is_not_ours_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: 1)
    assert pictures_at_once(object(), build.resolved(tiny.config(), DATA), 12) == 12


def test_another_error_is_not_taken_for_want_of_memory():
    def work(size: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fitting(work, 8, build.backbone(build.resolved(tiny.config(), DATA)))
