"""The run folder: the only interface between commands.

config.yaml, metrics.jsonl, quality.jsonl, environment.json, checkpoints/, samples/, evaluation.json, report.html.
"""

import itertools
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files.reading import check_regular, parse_json
from undiffuse.files.writing import write_text


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def quality(self) -> Path:
        """The file of what was measured of samples during training, if it was."""
        return self.path / "quality.jsonl"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def times(self) -> Path:
        """Times fitted to the model, if any."""
        return self.path / "times.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @classmethod
    def create(cls, out: Path | None, name: str) -> "RunFolder":
        """A new folder: `out`, which must not exist, or runs/NAME, runs/NAME-2, runs/NAME-3 ..."""
        if out is not None and out.exists():
            raise UsageError(f"{out}: exists already; choose another --out, or continue it with: {resuming(out)}")
        path = out or _free(Path("runs"), name)
        if os.fsencode(path) != str(path).encode(errors="replace"):  # which checkpoints' files do not know
            raise UsageError(f"{path}: the name is not UTF-8; choose another --out")
        try:
            path.mkdir(parents=True)
            (path / "samples").mkdir()
        except OSError as error:
            raise UndiffuseError(f"{path}: cannot be created ({error.strerror}); choose another --out") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing one."""
        folder = cls(path)
        if not folder.config.is_file():
            raise UndiffuseError(f"{path}: not a run folder (it has no config.yaml)")
        return folder

    def keep_evaluation(self, text: str) -> Path | None:
        """Write evaluation.json; another one that was there becomes evaluation-1.json, or -2 ..., which is returned."""
        before = None
        if self.evaluation.exists() and _text(self.evaluation) != text:
            numbers = itertools.count(1)
            before = next(path for k in numbers if not (path := self.path / f"evaluation-{k}.json").exists())
            self.evaluation.rename(before)
        write_text(self.evaluation, text)
        return before

    def cut_logs(self, step: int) -> None:
        """Forget what was logged after `step`: a resumed run says it again."""
        for log in (self.metrics, self.quality):
            if log.exists():
                kept = [line for line in _text(log).splitlines() if _step_of(line) <= step]
                write_text(log, "".join(line + "\n" for line in kept))

    def log(self, record: dict[str, Any], log: Path | None = None) -> None:
        """A line of metrics.jsonl, or of another log."""
        with (log or self.metrics).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record) + "\n")

    def quality_records(self) -> list[dict[str, Any]]:
        """The records of quality.jsonl, in order of their steps."""
        if not self.quality.exists():
            return []
        lines = _text(self.quality).splitlines()
        return [record for line in lines if (record := _measure(line)) is not None]

    def best_step(self) -> int:
        """The step whose samples measured best, of those by the features measured last. Raises UndiffuseError if none
        were measured."""
        if not (records := self.quality_records()):
            raise UndiffuseError(
                f"{self.path}: no quality was measured on the way (train.quality_every), so nobody knows its best "
                "checkpoint; take 'last' or a step"
            )
        alike = [record for record in records if record.get("features") == records[-1].get("features")]
        return int(min(alike, key=lambda record: record["frechet"])["step"])


def resuming(path: Path) -> str:
    """The command that goes on with a run, as a shell takes it."""
    return f"undiffuse train --resume --out {shlex.quote(str(path))}"


def _text(path: Path) -> str:
    try:
        check_regular(path)
    except ValueError as error:
        raise UndiffuseError(f"{path}: {error}; move it away") from error
    return path.read_text("utf-8", errors="replace")


def _step_of(line: str) -> float:
    """A line cut short by a kill belongs to no step."""
    found = re.match(r'\{"step": (\d+),.*\}$', line)
    return float(found.group(1)) if found else float("inf")


def _measure(line: str) -> dict[str, Any] | None:
    """A line of quality.jsonl; None if it is not whole."""
    try:
        record = parse_json(line)
        numbers = [record[name] for name in ("step", "frechet", "stderr", "idle")]
        sound = all(isinstance(x, int | float) and abs(x) < 1e30 for x in numbers)
    except (ValueError, KeyError, TypeError):
        return None
    return record if sound else None


def _free(parent: Path, name: str) -> Path:
    number = 1
    while (path := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path
