"""Samples beside real images, in: a number with its error and its floor, out."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch

from undiffuse import images, rng
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UndiffuseError
from undiffuse.metrics.base import Estimate
from undiffuse.metrics.classifier import shipped_for
from undiffuse.metrics.features import About, Features, extractor
from undiffuse.metrics.frechet import FeatureSums, frechet_with_error
from undiffuse.metrics.reference import kept
from undiffuse.metrics.transfer import binomial_stderr, svc_accuracy
from undiffuse.shapes import Images, Labels, Tensor

MOST = 5000  # images, of a seed by default
CHUNK = 10_000  # images whose features are held at once


@dataclass(frozen=True)
class Samples:
    """One set of generated images, with labels if they were asked for by class."""

    images: Images
    labels: Labels | None


@dataclass(frozen=True)
class Real:
    """Real images, and the features that they are compared by."""

    data: Dataset
    features: Features

    @classmethod
    def of(cls, data: Dataset, features: str) -> "Real":
        if len(data.held_out) < 2:
            raise UndiffuseError(
                f"{data.name}: {len(data.held_out)} held-out pictures to compare with, and at least 2 are needed; take "
                "more classes, or a larger data.held_out"
            )
        return cls(
            data, extractor(features, About(data.shape, data.class_names, lambda: data.train.images(_some(data, MOST))))
        )

    def held_out(self) -> FeatureSums:
        """Of all held-out images, from the cache if they are there."""
        part, data = self.data.held_out, self.data
        chosen = sha256(b"" if part.rows is None else part.rows.numpy().tobytes()).hexdigest()
        key = repr((data.content, "held out", len(part), chosen, data.levels, self.features.says))
        return kept(key, lambda: self.sums(lambda rows: part.images(rows), len(part)))

    def floor(self, n: int) -> FeatureSums:
        """Of as many train images: the distance depends on how many there are, so like is compared with like."""
        rows = _some(self.data, n)
        return self.sums(lambda some: self.data.train.images(rows[some]), len(rows))

    def of_samples(self, x: Images) -> FeatureSums:
        return self.sums(lambda rows: _on_grid(x[rows], self.data), len(x))

    def sums(self, images: Callable[[slice], Images], n: int) -> FeatureSums:
        parts = (FeatureSums.of(self.features(images(slice(i, min(i + CHUNK, n))))) for i in range(0, n, CHUNK))
        return functools.reduce(FeatureSums.merge, parts)


def frechet(sets: Sequence[Samples], real: Real) -> Estimate:
    """Frechet distance, samples against held-out images; floor: as many train images in their place."""
    held_out = real.held_out()
    measured = [frechet_with_error(real.of_samples(s.images), held_out) for s in sets]
    floor, _ = frechet_with_error(real.floor(len(sets[0].images)), held_out)
    values = np.array([value for value, _ in measured])
    return Estimate(
        float(values.mean()), _combined([stderr for _, stderr in measured]), floor, real.features.unit, _n(sets)
    )


def train_on_generated(sets: Sequence[Samples], real: Real) -> Estimate:
    """Accuracy on held-out images of an SVC trained on samples; floor: of one trained on as many train images."""
    data = real.data
    test = (data.held_out.images(), data.held_out.labels)
    scores = [svc_accuracy((s.images, _labels(s, "train_on_generated")), test, data.levels) for s in sets]
    rows = _some(data, len(sets[0].images))
    trained = svc_accuracy((data.train.images(rows), data.train.labels[rows]), test, data.levels)
    return Estimate(*_share(scores, len(data.held_out)), trained, "accuracy", _n(sets))


def label_accuracy(sets: Sequence[Samples], real: Real) -> Estimate:
    """How many samples a classifier of real images takes for the class that they were asked for.

    floor: how many held-out images it takes for theirs.
    """
    data = real.data
    shipped = shipped_for(data.shape, data.class_names)
    if shipped is None:
        raise UndiffuseError(
            f"label_accuracy needs a classifier, and none comes with undiffuse for {data.name}; leave it out"
        )
    index = torch.tensor([shipped.class_names.index(name) for name in data.class_names])

    def accuracy(images: Images, labels: Labels) -> float:
        return float((shipped.classes(_on_grid(images, data)) == index[labels]).float().mean())

    value = float(np.mean([accuracy(s.images, _labels(s, "label_accuracy")) for s in sets]))
    held_out = accuracy(data.held_out.images(), data.held_out.labels)
    return Estimate(value, binomial_stderr(value, _n(sets)), held_out, "accuracy", _n(sets))


def _labels(s: Samples, metric: str) -> Labels:
    if s.labels is None:
        raise UndiffuseError(f"{metric} needs labelled samples; these have no labels, leave it out")
    return s.labels


def _share(scores: Sequence[float], n: int) -> tuple[float, float]:
    """Mean of shares among the same n, and its standard error: binomial, and the spread over sampling seeds."""
    value = float(np.mean(scores))
    spread = _spread(np.array(scores)) if len(scores) > 1 else 0.0
    return value, float(np.hypot(binomial_stderr(value, n), spread))


def _some(data: Dataset, n: int) -> np.ndarray:
    """n train images at random, or all, in order: a source may hold one class after the other."""
    total = len(data.train)
    return np.arange(total) if n >= total else np.sort(rng.permutation(total, 0, "floor")[:n])


METRICS: dict[str, Callable[[Sequence[Samples], Real], Estimate]] = {
    "frechet": frechet,
    "train_on_generated": train_on_generated,
    "label_accuracy": label_accuracy,
}
NEED_LABELS = ("train_on_generated", "label_accuracy")


def _on_grid(x: Images, data: Dataset) -> Tensor:
    """Rounded to the data's own levels, as a written picture is."""
    return images.from_levels(images.to_levels(x, data.levels), data.levels)


def _combined(stderrs: Sequence[float | None]) -> float | None:
    """Of the mean of independent estimates; steadier than the spread of a few of them."""
    known = [stderr for stderr in stderrs if stderr is not None]
    return float(np.sqrt(np.square(known).sum()) / len(known)) if len(known) == len(stderrs) else None


def _spread(values: np.ndarray) -> float:
    """Standard error of the mean over sampling seeds."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _n(sets: Sequence[Samples]) -> int:
    return sum(len(s.images) for s in sets)
