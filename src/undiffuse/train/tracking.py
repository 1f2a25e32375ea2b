"""Trackers (TensorBoard, W&B, MLflow and others) through accelerate: what metrics.jsonl says, said to them too."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from undiffuse.errors import UsageError, nearest

PACKAGES = {"comet_ml": "comet-ml"}  # where the package's name is another


def check_trackers(names: Sequence[str]) -> None:
    """Raises UsageError for an unknown tracker, or one whose package is not installed."""
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UsageError(f"train.trackers: unknown name '{name}'; {nearest(name, sorted(LOGGER_TYPE_TO_CLASS))}")
        if name not in installed:
            raise UsageError(f"train.trackers: {name} is not installed: pip install {PACKAGES.get(name, name)}")


class TrackerWarning(UserWarning):
    """A tracker that does not answer."""


class Trackers:
    """The trackers that were asked for; none is fine. One that fails on the way is told no more: training goes on."""

    def __init__(self, names: Sequence[str], run: Path, config: dict[str, Any], step: int = 0) -> None:
        check_trackers(names)
        self.all: list[Any] = []
        for name in names:
            try:
                self.all.append(_start(name, run, step))
            except Exception as error:  # no login, no service
                _warn(name, error)
        self._tell(lambda tracker: tracker.store_init_configuration(flat_settings(config)))

    def log(self, record: dict[str, Any]) -> None:
        """A record of metrics.jsonl or quality.jsonl; what has no value is left out."""
        numbers = {name: x for name, x in record.items() if isinstance(x, int | float | str) and name != "step"}
        self._tell(lambda tracker: tracker.log(numbers, step=record["step"]))

    def finish(self) -> None:
        self._tell(lambda tracker: tracker.finish())

    def _tell(self, tell: Callable[[Any], object]) -> None:
        for tracker in [*self.all]:
            try:
                tell(tracker)
            except Exception as error:  # whatever a service and its client think of
                self.all.remove(tracker)
                _warn(tracker.name, error)


def _warn(name: str, error: Exception) -> None:
    message = " ".join(str(error).split()) or type(error).__name__
    told = f"{name}: {message}; nothing more is told to it, the run's own logs have everything"
    warnings.warn(told, TrackerWarning, stacklevel=2)


@contextmanager
def open_trackers(names: Sequence[str], run: Path, config: dict[str, Any], step: int = 0) -> Iterator[Trackers]:
    """Trackers of a run that stands at this step; they are finished whatever happens."""
    trackers = Trackers(names, run, config, step)
    try:
        yield trackers
    finally:
        trackers.finish()


def flat_settings(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys; lists as text, for trackers want plain values."""
    pairs: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            pairs |= flat_settings(value, f"{prefix}{key}.")
        elif value is not None:
            pairs[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return pairs


def _start(name: str, run: Path, step: int) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    behind = {"purge_step": step + 1} if name == "tensorboard" and step else {}  # what a kill undid is to vanish
    tracker = kind("undiffuse", run, **behind) if kind.requires_logging_directory else kind("undiffuse")
    tracker.start()
    return tracker
