"""Samples and real images beside each other: the features of both, each made once."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch

from undiffuse import images, rng
from undiffuse.data.dataset import Dataset, Part
from undiffuse.errors import UndiffuseError
from undiffuse.metrics.base import Rows
from undiffuse.metrics.feature_cache import cached_features
from undiffuse.metrics.features import About, Features, extractor
from undiffuse.metrics.frechet import FeatureSums
from undiffuse.metrics.kernel import row_sums
from undiffuse.metrics.manifold import Membership, membership
from undiffuse.shapes import Labels, Tensor

MOST = 5000  # images, of a seed by default
MOST_NEIGHBOURS = 10_000  # images a side whose neighbours are looked for: the work grows with the square
CHUNK = 10_000  # images that are in memory at once as floats

Made = TypeVar("Made")


@runtime_checkable
class Pictures(Protocol):
    """Images float32 [n, c, h, w] in [-1, 1]: a tensor of them, or what reads them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor:
        """Those of a slice, of indices or of a mask."""
        ...


@runtime_checkable
class Stored(Protocol):
    """Pictures uint8 [n, h, w, c]: an array of them, or what reads them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class OfLevels:
    """Images of pictures in grey levels 0..levels - 1, made when they are asked for."""

    pictures: Stored
    levels: int = 256

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, rows: Any) -> Tensor:
        chosen = np.arange(len(self))[rows.numpy() if isinstance(rows, Tensor) else rows]
        return images.from_levels(torch.from_numpy(self.pictures[chosen]).permute(0, 3, 1, 2), self.levels)


@dataclass(frozen=True, eq=False)
class Samples:
    """One set of generated images, with labels if they were asked for by class."""

    images: Pictures
    labels: Labels | None

    def __post_init__(self) -> None:
        if not all(bool(part.isfinite().all()) for part in self.parts()):
            raise UndiffuseError("some of the samples hold NaN or infinity: there is nothing to measure in them")

    def parts(self) -> Iterator[Tensor]:
        """One after the other: never more than that are in memory as floats."""
        return (self.images[i : i + CHUNK] for i in range(0, len(self.images), CHUNK))


@dataclass(frozen=True, eq=False)
class Described:
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
        return self.features[some(len(self), n)]


@dataclass(frozen=True, eq=False)
class Real:
    """Real images, and the features that they are compared by."""

    data: Dataset
    features: Features
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, data: Dataset, features: str) -> "Real":
        if len(data.held_out) < 2:
            raise UndiffuseError(
                f"{data.name}: {len(data.held_out)} held-out pictures to compare with, and at least 2 are needed; take "
                "more classes, or a larger data.held_out"
            )
        train = data.train
        about = About(data.shape, data.class_names, lambda: train.images(some(len(train), MOST)))
        return cls(data, extractor(features, about))

    def held_out(self) -> Described:
        """All held-out images, from the cache if they are there."""
        part, data = self.data.held_out, self.data
        chosen = sha256(b"" if part.rows is None else part.rows.numpy().tobytes()).hexdigest()
        key = repr((data.content, "held out", len(part), chosen, data.levels, self.features.says))
        everything = np.arange(len(part))
        return self.once(
            "held out", lambda: Described(cached_features(key, lambda: self._extracted(shown(part, everything))))
        )

    def train(self, n: int) -> Described:
        """As many train images: measures depend on how many there are, so like is compared with like."""
        part = self.data.train
        return self.once(("train", n), lambda: Described(self._extracted(shown(part, some(len(part), n)))))

    def of_samples(self, s: Samples) -> Described:
        return self.once(s, lambda: Described(self._extracted(on_grid(part, self.data) for part in s.parts())))

    def membership(self, x: Described) -> Membership:
        """Which of these lie among the held-out images and the other way round, in like numbers of both."""
        size = self.neighbours(len(x))
        return self.once((x, "membership"), lambda: membership(x.some(size), self.held_out().some(size)))

    def neighbours(self, n: int) -> int:
        """How many a side: as many as there are of samples, held-out images and train images."""
        return min(n, len(self.data.held_out), len(self.data.train), MOST_NEIGHBOURS)

    def of_class(self, index: int, sets: Sequence[Samples]) -> tuple[list[Samples], "Real"]:
        """One class alone: its samples, labelled 0, and its real images, with what features were made already."""
        n, train, held_out = len(sets[0].images), self.data.train, self.data.held_out
        masks = [s.labels == index for s in sets if s.labels is not None]
        pairs = list(zip(sets, masks, strict=True))
        own = [Samples(s.images[mask], torch.zeros_like(mask.nonzero()[:, 0])) for s, mask in pairs]
        alone = Real(self.data.only([index]), self.features)
        chosen = train.labels[torch.from_numpy(some(len(train), n))]
        made: list[tuple[Any, Any, Tensor]] = [
            ("held out", "held out", held_out.labels == index),
            (("train", n), ("train", len(own[0].images)), chosen == index),
            *zip(sets, own, masks, strict=True),
        ]
        for known, new, mask in made:
            if known in self._made:
                alone._made[new] = Described(self._made[known].features[mask.numpy()])
        return own, alone

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _extracted(self, parts: Iterable[Tensor]) -> Rows:
        found = np.concatenate([self.features(part).astype(np.float32) for part in parts])
        if not np.isfinite(found).all():
            raise UndiffuseError(f"some features ({self.features.name}) are not finite")
        return found


def some(total: int, n: int) -> np.ndarray:
    """n rows of so many at random, or all, in order: a source may hold one class after the other."""
    return np.arange(total) if n >= total else np.sort(rng.permutation(total, 0, "floor")[:n])


def on_grid(x: Tensor, data: Dataset) -> Tensor:
    """Rounded to the data's own levels, as a written picture is."""
    return images.from_levels(images.to_levels(x, data.levels), data.levels)


def shown(part: Part, rows: np.ndarray) -> Iterator[Tensor]:
    """Real images, some at a time."""
    return (part.images(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK))
