"""Where pictures come from. A source is a function -> Dataset (its two parts: train and held out)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from undiffuse.errors import UsageError, nearest
from undiffuse.images import from_levels
from undiffuse.shapes import Int64, Tensor, UInt8


@dataclass(frozen=True)
class Part:
    """Pictures on the data's own grid, uint8 0..levels-1, and their labels."""

    pictures: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, "n"]
    levels: int

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: np.ndarray | slice = slice(None)) -> Tensor:
        """float32 [n, c, h, w] in [-1, 1]."""
        return from_levels(self.pictures[rows], self.levels)


@dataclass(frozen=True)
class Dataset:
    """A train part, a held-out part that training never sees, and the names of the classes."""

    name: str
    train: Part
    held_out: Part
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w)."""
        return tuple(self.train.pictures.shape[1:])

    @property
    def levels(self) -> int:
        return self.train.levels

    def restricted(self, classes: Sequence[str]) -> "Dataset":
        """Only these classes, re-indexed 0.. in this source's own order."""
        wanted = {_class_index(self.class_names, name) for name in classes}
        kept = sorted(wanted)
        if not kept:
            raise UsageError("data.classes: name at least one class, or leave it out for all")

        def part(whole: Part) -> Part:
            rows = torch.isin(whole.labels, torch.tensor(kept))
            labels = torch.searchsorted(torch.tensor(kept), whole.labels[rows])
            return Part(whole.pictures[rows], labels, whole.levels)

        names = tuple(self.class_names[index] for index in kept)
        return replace(self, train=part(self.train), held_out=part(self.held_out), class_names=names)


def _class_index(names: Sequence[str], name: str) -> int:
    lowered = [known.lower() for known in names]
    if str(name).lower() not in lowered:
        raise UsageError(f"data.classes: no class '{name}'; {nearest(str(name), list(names))}")
    return lowered.index(str(name).lower())


def digits() -> Dataset:
    """scikit-learn's handwritten digits: 1x8x8, 17 levels, 10 classes; 1,347 to train, 450 held out, stratified."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pictures = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, held_out = train_test_split(np.arange(len(labels)), test_size=450, random_state=0, stratify=labels.numpy())
    parts = [Part(pictures[rows], labels[rows], 17) for rows in (train, held_out)]
    return Dataset("digits", parts[0], parts[1], tuple("0123456789"))


SOURCES: dict[str, Callable[[], Dataset]] = {"digits": digits}


def load(source: str, classes: Sequence[str] | None = None) -> Dataset:
    """A data set by name, whole or restricted to some classes."""
    if source not in SOURCES:
        raise UsageError(f"unknown data source '{source}'; {nearest(source, list(SOURCES))}")
    dataset = SOURCES[source]()
    return dataset if classes is None else dataset.restricted(classes)
