"""Is training getting anywhere? A cheap measure of the samples as it goes, and a plain word about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from undiffuse.config import Config, Train
from undiffuse.data.dataset import Dataset
from undiffuse.evaluation.real import RealImages
from undiffuse.evaluation.samples import Samples
from undiffuse.metrics.frechet import MANY_FEATURES, FeatureSums, frechet_with_error
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.labels import labels_by_share

START = 1 << 41  # the first index of the samples, far from any that is asked for: `evaluate` judges by others


@dataclass(frozen=True)
class Quality:
    """Frechet distance of a few samples drawn in few steps, with averaged and with raw weights, beside as many real
    train pictures (floor). verdict: first, improving, flat or getting worse."""

    step: int
    frechet: float
    stderr: float
    raw: float
    floor: float
    verdict: str
    idle: int  # measures in a row that were no improvement
    features: str

    def as_record(self) -> dict[str, Any]:
        """The line of quality.jsonl."""
        return dict(vars(self))

    def line(self) -> str:
        value = f"Frechet distance of {self.features} {self.frechet:.4g} ± {self.stderr:.2g}"
        return f"{value} (raw weights {self.raw:.4g}, real pictures {self.floor:.4g}): {self.verdict}"


class Judge:
    """Measures one run's samples, always the same n noises in the same few steps, so that only the weights differ.

    By the features of `undiffuse evaluate`, or by `pca` where those are so many that n samples leave no error to judge
    by (see `frechet_with_error`).
    """

    def __init__(self, config: Config, data: Dataset) -> None:
        self.real = RealImages.of(data, config.evaluate.features)
        self.n, self.shares = config.train.quality_n, data.shares(config.evaluate.mix)
        many = self.real.features(data.train.images(slice(0, 1))).shape[1]
        if many > MANY_FEATURES and self.n < 2 * many:
            self.real = RealImages.of(data, "pca")
        self.steps = min(config.train.quality_steps, config.diffusion.T)

    @cached_property
    def held_out(self) -> FeatureSums:
        return self.real.held_out().sums

    @cached_property
    def floor(self) -> float:
        return frechet_with_error(self.real.train(self.n).sums, self.held_out)[0]

    def measure(self, step: int, averaged: Pipeline, raw: Pipeline, before: Sequence[dict[str, Any]]) -> Quality:
        """before: what was said at earlier steps, as `Quality.as_record`."""
        (value, stderr), (raw_value, _) = (self._distance(pipe) for pipe in (averaged, raw))
        alike = [(r["frechet"], r["stderr"]) for r in before if r.get("features") == self.real.features.name]
        verdict, idle = verdict_of(alike, value, stderr)
        return Quality(step, value, stderr, raw_value, self.floor, verdict, idle, self.real.features.name)

    def _distance(self, pipe: Pipeline) -> tuple[float, float]:
        label = None  # of each image, by name: an index may be another's name
        if self.shares is not None and pipe.class_names:
            label = [pipe.class_names[index] for index in labels_by_share(self.shares, self.n).tolist()]
        x = pipe.configured(sampler="ddim", eta=0.0, steps=self.steps).sample(n=self.n, start=START, label=label)
        once = RealImages(self.real.data, self.real.features)  # which keeps what it measured: nothing of it stays
        value, stderr = frechet_with_error(once.of_samples(Samples(x, None)).sums, self.held_out)
        assert stderr is not None
        return value, stderr


def verdict_of(before: Sequence[tuple[float, float]], value: float, stderr: float) -> tuple[str, int]:
    """The verdict on a new value after earlier ones, and how many measures in a row were no improvement.

    A value improves on the last that did if it is lower by more than both their errors together (root of the sum of
    squares); it is getting worse if it is twice that above the best.
    """
    if not before:
        return "first", 0
    anchor, idle = before[0], 0
    for now in [*before[1:], (value, stderr)]:
        better = now[0] < anchor[0] - np.hypot(now[1], anchor[1])
        anchor, idle = (now, 0) if better else (anchor, idle + 1)
    if idle == 0:
        return "improving", 0
    best = min(before)
    worse = value > best[0] + 2 * np.hypot(stderr, best[1])
    return ("getting worse" if worse else "flat"), idle


def stop_reason(records: Sequence[Mapping[str, Any]], step: int, settings: Train) -> str:
    """Why training ends at this step: `patience` measures in a row were no improvement. Empty if it goes on.

    records: lines of quality.jsonl.
    """
    idle = next((record["idle"] for record in records if record["step"] == step), 0)
    over = 0 < settings.patience <= idle and step < settings.steps
    return f"stopped at step {step}: not clearly better for {settings.patience} measures" if over else ""
