"""A run folder read for the report. What is not there is empty; what is there and broken is refused by its name."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undiffuse.config import yaml
from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import parse_json, read_text
from undiffuse.viz.curves import QUALITY_COLUMNS, TRAINING_COLUMNS, to_columns

EARLIER = re.compile(r"evaluation-(\d+)\.json")
STEP_PICTURE = re.compile(r"step_(\d+)\.png")


@dataclass(frozen=True)
class Measure:
    """One number of evaluation.json. stderr: its standard error; floor: its reference, the number for real data.

    file: the earlier evaluation that it is from, if it is not from the last.
    """

    value: float
    stderr: float | None
    floor: float | None
    unit: str
    n: int | None
    file: str = ""


@dataclass(frozen=True)
class RunContents:
    """name: the folder's. config, protocol, environment: flat, `a.b.c` -> value. records, quality: the lines of
    metrics.jsonl and quality.jsonl. per_class: measure -> class -> its value. progress: step -> picture, sorted."""

    name: str
    config: dict[str, Any]
    records: list[dict[str, Any]]
    quality: list[dict[str, Any]]
    measures: dict[str, Measure]
    per_class: dict[str, dict[str, Measure]]
    protocol: dict[str, Any]
    environment: dict[str, Any]
    samples: Path
    progress: dict[int, Path]

    def picture(self, name: str) -> Path | None:
        """samples/NAME, if it is there."""
        path = self.samples / name
        return path if path.is_file() else None


def read_run(run: Path) -> RunContents:
    """Raises UndiffuseError, naming the file, for a folder without config.yaml or with a file that cannot be read."""
    config = run / "config.yaml"
    if not config.is_file():
        raise UndiffuseError(f"{run}: not a run folder, it has no config.yaml")
    measures, per_class, protocol = _evaluations(run)
    samples = run / "samples"
    steps = {int(match[1]): path for path in samples.glob("*.png") if (match := STEP_PICTURE.fullmatch(path.name))}
    return RunContents(
        name=run.resolve().name,
        config=_read_yaml(config),
        records=_read_lines(run / "metrics.jsonl", TRAINING_COLUMNS),
        quality=_read_lines(run / "quality.jsonl", QUALITY_COLUMNS),
        measures=measures,
        per_class=per_class,
        protocol=protocol,
        environment=flat(_read_json(run / "environment.json")),
        samples=samples,
        progress=dict(sorted(steps.items())),
    )


def _evaluations(run: Path) -> tuple[dict[str, Measure], dict[str, dict[str, Measure]], dict[str, Any]]:
    """Measures, the same by class, protocol: of evaluation.json, then of the evaluations before it what it has not.

    The protocol of an earlier one stands under its name.
    """
    measures: dict[str, Measure] = {}
    per_class: dict[str, dict[str, Measure]] = {}
    protocol: dict[str, Any] = {}
    numbered = {
        int(match[1]): path for path in run.glob("evaluation-*.json") if (match := EARLIER.fullmatch(path.name))
    }
    for path in (run / "evaluation.json", *(numbered[k] for k in sorted(numbered, reverse=True))):
        found, file = _read_json(path), "" if path.stem == "evaluation" else path.name
        new = _measures(path, found.get("metrics", {}), file)
        if not file or new.keys() - measures.keys():
            protocol |= flat(_mapping(path, found.get("protocol", {})), f"{path.stem}." if file else "")
        measures |= {name: measure for name, measure in new.items() if name not in measures}
        for name, classes in _mapping(path, found.get("per_class", {})).items():
            per_class.setdefault(str(name), _measures(path, classes, file))
    return measures, per_class, protocol


def flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"a": {"b": 1}} -> {"a.b": 1}."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        out |= flat(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return out


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise UndiffuseError(f"{path}: cannot be read as text: {error}") from error


def _mapping(path: Path, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UndiffuseError(f"{path}: names with values are expected, found {type(value).__name__}")
    return value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return flat(_mapping(path, yaml.parsed(_text(path))))
    except ValueError as error:
        raise UndiffuseError(f"{path}: not YAML: {error}") from error


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        value = parse_json(_text(path))
    except UndiffuseError:
        raise
    except ValueError as error:
        raise UndiffuseError(f"{path}: not JSON: {error}") from error
    return _mapping(path, value)


def _read_lines(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    text = _text(path)
    lines = text.splitlines()
    if lines and not text.endswith("\n"):
        lines = lines[:-1] if not _is_json(lines[-1]) else lines  # a run that is being written, or was killed
    records = [_record(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if records:
        _check_numbers(path, records, columns)
    return records


def _check_numbers(path: Path, records: list[dict[str, Any]], columns: Sequence[str]) -> None:
    try:
        to_columns(records, columns)
    except UndiffuseError as error:
        raise UndiffuseError(f"{path}: {error}") from error


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise UndiffuseError(f"{path}: line {number} is not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise UndiffuseError(f"{path}: line {number} is not a record with a whole number 'step'")
    return record


def _is_json(line: str) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _measures(path: Path, metrics: object, file: str) -> dict[str, Measure]:
    measures = {}
    for name, fields in _mapping(path, metrics).items():
        fields = _mapping(path, fields)
        value, stderr, floor = (_number(path, name, fields.get(key)) for key in ("value", "stderr", "floor"))
        n = _number(path, name, fields.get("n"))
        whole = None if n is None else int(n)
        measures[str(name)] = Measure(
            math.nan if value is None else value, stderr, floor, str(fields.get("unit") or ""), whole, file
        )
    return measures


def _number(path: Path, name: str, value: object) -> float | None:
    """A finite number, or None for what is missing or undefined."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UndiffuseError(f"{path}: '{name}' holds {value!r} where a number belongs")
    return float(value) if math.isfinite(value) else None
