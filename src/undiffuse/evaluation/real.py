"""Samples and real images beside each other: the features of both, each made once."""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from undiffuse import rng
from undiffuse.data.dataset import Dataset, Part
from undiffuse.data.prepare import load_data
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.evaluation.samples import CHUNK, Samples, to_grid
from undiffuse.metrics.base import Rows
from undiffuse.metrics.feature_cache import cached_features
from undiffuse.metrics.features import About, Features, extractor
from undiffuse.metrics.frechet import FeatureSums
from undiffuse.metrics.kernel import row_sums
from undiffuse.metrics.manifold import Membership, membership
from undiffuse.pipeline import Pipeline, build
from undiffuse.shapes import Tensor

MOST_SAMPLES = 5000  # images, of a seed by default
MOST_NEIGHBOURS = 10_000  # images a side whose neighbours are looked for: the work grows with the square

_Made = TypeVar("_Made")


class MeasureWarning(UserWarning):
    """A number that means less than it seems to."""


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features [n, d] of a set of images, float32, and what several measures make of them."""

    features: Rows

    def __len__(self) -> int:
        return len(self.features)

    @functools.cached_property
    def sums(self) -> FeatureSums:
        starts = range(0, max(len(self), 1), CHUNK)
        parts = (FeatureSums.of(self.features[i : i + CHUNK].astype(np.float64)) for i in starts)
        return functools.reduce(FeatureSums.merge, parts)

    @functools.cached_property
    def kernel_sums(self) -> np.ndarray:
        return row_sums(self.features)

    def some(self, n: int) -> Rows:
        """n of them at random: in order, they can be all of one class."""
        return self.features[random_rows(len(self), n)]


@dataclass(frozen=True, eq=False)
class RealImages:
    """Real images, and the features that they are compared by."""

    data: Dataset
    features: Features
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, data: Dataset, features: str) -> "RealImages":
        if len(data.held_out) < 2:
            raise UndiffuseError(
                f"{data.name}: {len(data.held_out)} held-out pictures to compare with, and at least 2 are needed; take "
                "more classes, or a larger data.held_out"
            )
        train = data.train if len(data.train) else data.held_out
        which = "train" if len(data.train) else "reference"
        rows = random_rows(len(train), MOST_SAMPLES)
        about = About(data.shape, data.class_names, lambda: train.images(rows), which)
        return cls(data, extractor(features, about))

    def held_out(self) -> FeatureSet:
        """All held-out images, from the cache if they are there."""
        part, data = self.data.held_out, self.data
        chosen = sha256(b"" if part.rows is None else part.rows.numpy().tobytes()).hexdigest()
        key = repr((data.content, "held out", len(part), chosen, data.levels, self.features.says))
        everything = np.arange(len(part))
        return self.once(
            "held out", lambda: FeatureSet(cached_features(key, lambda: self._extract(in_chunks(part, everything))))
        )

    def train(self, n: int) -> FeatureSet:
        """Features of n train images: measures depend on how many there are, so like is compared with like."""
        part = self.data.train
        return self.once(("train", n), lambda: FeatureSet(self._extract(in_chunks(part, random_rows(len(part), n)))))

    def of_samples(self, s: Samples) -> FeatureSet:
        return self.once(s, lambda: FeatureSet(self._extract(to_grid(part, self.data) for part in s.parts())))

    def membership(self, x: FeatureSet) -> Membership:
        """Whether each of these lies among the held-out images, and the other way round, in like numbers of both."""
        size = self.neighbours(len(x))
        return self.once((x, "membership"), lambda: membership(x.some(size), self.held_out().some(size)))

    def neighbours(self, n: int) -> int:
        """The number of images a side: as many as there are of samples, held-out images and train images."""
        held_out = len(self.data.held_out)
        return min(n, held_out, len(self.data.train) or held_out, MOST_NEIGHBOURS)

    def of_class(self, index: int, sets: Sequence[Samples]) -> tuple[list[Samples], "RealImages"]:
        """One class alone: its samples, labelled 0, and its real images, with what features were made already."""
        n, train, held_out = len(sets[0].images), self.data.train, self.data.held_out
        masks = [s.labels == index for s in sets if s.labels is not None]
        pairs = list(zip(sets, masks, strict=True))
        own = [Samples(s.images[mask], torch.zeros_like(mask.nonzero()[:, 0])) for s, mask in pairs]
        alone = RealImages(self.data.only([index]), self.features)
        chosen = train.labels[torch.from_numpy(random_rows(len(train), n))]
        made: list[tuple[Any, Any, Tensor]] = [
            ("held out", "held out", held_out.labels == index),
            (("train", n), ("train", len(own[0].images)), chosen == index),
            *zip(sets, own, masks, strict=True),
        ]
        for known, new, mask in made:
            if known in self._made:
                alone._made[new] = FeatureSet(self._made[known].features[mask.numpy()])
        return own, alone

    def once(self, key: Any, make: Callable[[], _Made]) -> _Made:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _extract(self, parts: Iterable[Tensor]) -> Rows:
        found = np.concatenate([self.features(part).astype(np.float32) for part in parts])
        if not np.isfinite(found).all():
            raise UndiffuseError(f"some features ({self.features.name}) are not finite")
        return found


def random_rows(total: int, n: int) -> np.ndarray:
    """n rows of so many at random, or all, in order: a source may hold one class after the other."""
    return np.arange(total) if n >= total else np.sort(rng.permutation(total, 0, "floor")[:n])


def in_chunks(part: Part, rows: np.ndarray) -> Iterator[Tensor]:
    """Real images, some at a time."""
    return (part.images(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK))


def reference_data(pipe: Pipeline, source: Dataset | str | None) -> Dataset:
    """The model's own data set, or another of the same shape and classes."""
    data = source if isinstance(source, Dataset) else _prepare(pipe, source)
    if source is None and not build.is_same_data(pipe.config, data):
        warnings.warn(
            f"the pictures of {data.name} are not those that this model was trained on: 'held out' and memorisation "
            "may mean something else",
            MeasureWarning,
            stacklevel=2,
        )
    known, asked = pipe.class_names, data.name if isinstance(source, Dataset) else source
    if data.shape != pipe.shape:
        raise UsageError(f"--data {asked}: images of {list(data.shape)}, but the model draws {list(pipe.shape)}")
    alike = len(data.class_names) <= len(known) if _is_imported(pipe) else data.class_names == known
    if known and not alike:  # an imported model's classes have numbers, not names
        raise UsageError(
            f"--data {asked}: its classes are {_first(data.class_names)}, the model's are {_first(known)}, so labels "
            "mean something else; leave --data out"
        )
    return data


def _prepare(pipe: Pipeline, source: str | None) -> Dataset:
    if source is None and _is_imported(pipe):
        raise UsageError("say which real images to compare this model with, for example: --data digits")
    try:
        return build.dataset(pipe.config) if source is None else _prepare_alike(pipe, source)
    except UsageError as error:
        raise UsageError(f"{error}" + ("" if source else "; or say where its pictures are with --data")) from None


def _prepare_alike(pipe: Pipeline, source: str) -> Dataset:
    """Another source by the model's own policy: size, channels, background and what to do with bad pictures; a file or
    folder named as the model's own, so the same in another place, also by its choice of pictures and labels.
    """
    if _is_imported(pipe):
        return load_data(source)
    own = Path(source).name == Path(pipe.config.data.source).name
    facts = ("levels", "shape", "classes", "content", *(() if own else ("select", "labels", "label_key", "limit")))
    return build.dataset(pipe.config.replaced({f"data.{key}": None for key in facts} | {"data.source": source}))


def on_its_grid(pipe: Pipeline, data: Dataset) -> Pipeline:
    """An imported model does not know what grid its data had: that of the images it is scored on."""
    if not _is_imported(pipe):
        return pipe
    return replace(pipe, config=pipe.config.replaced({"data.levels": data.levels}))


def _is_imported(pipe: Pipeline) -> bool:
    return pipe.config.data.source == "imported"


def _first(names: Sequence[str]) -> str:
    return (", ".join(names[:4]) or "none") + (f" ... ({len(names)})" if len(names) > 4 else "")
