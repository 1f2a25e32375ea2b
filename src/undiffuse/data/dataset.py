"""What training sees: pictures on their own grid of levels, in a train part and a held-out part."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from undiffuse.errors import UsageError, nearest
from undiffuse.images import from_levels
from undiffuse.shapes import Int64, Tensor, UInt8


@dataclass(frozen=True)
class Part:
    """Pictures on the data's own grid, uint8 0..levels-1, in memory or mapped from a file, and their labels (-1: none).

    rows: the part is these rows of `pictures` only; all of them by default. labels are those of the part.
    """

    pictures: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, "m"]
    levels: int
    rows: Int64[Tensor, "m"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: np.ndarray | slice = slice(None)) -> Tensor:
        """float32 [n, c, h, w] in [-1, 1]."""
        return from_levels(self.pictures[rows if self.rows is None else self.rows[rows]], self.levels)

    def chosen(self, rows: Tensor) -> "Part":
        """This part's rows of these indices, an int64 tensor, in this order; no picture is copied."""
        return replace(self, labels=self.labels[rows], rows=rows if self.rows is None else self.rows[rows])


@dataclass(frozen=True)
class Dataset:
    """A train part, a held-out part that training never sees, and the names of the classes (none: no labels).

    content: a key of all pictures and labels and how they were prepared. notes: what was left out or changed, in words.
    bits: those that its files of 16 bits use, if it has some. own_parts: the source says what is held out.
    """

    name: str
    train: Part
    held_out: Part
    class_names: tuple[str, ...]
    content: str = ""
    notes: tuple[str, ...] = ()
    bits: int | None = None
    own_parts: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w)."""
        return tuple(self.train.pictures.shape[1:])

    @property
    def levels(self) -> int:
        return self.train.levels

    def as_reference(self) -> "Dataset":
        """All images to compare with, and none to train on: of a source without parts of its own."""
        return replace(self, held_out=self.train, train=self.train.chosen(torch.arange(0)))

    def restricted(self, classes: Sequence[str]) -> "Dataset":
        """This data set with only these classes, re-indexed 0.. in this source's own order."""
        if not self.class_names:
            raise UsageError(f"data.classes: {self.name} has no classes; leave it out")
        kept = sorted({_class_index(self.class_names, name) for name in classes})
        if not kept:
            raise UsageError("data.classes: name at least one class, or leave it out for all")
        if len(kept) == len(self.class_names):
            return self
        found = self.only(kept)
        if not len(found.train):
            raise UsageError(f"data.classes: no train picture of {', '.join(found.class_names)}")
        told = f"of {', '.join(found.class_names)}: {len(found.train):,} pictures, {len(found.held_out):,} held out"
        return replace(found, notes=(*self.notes, told))

    def shares(self, mix: str) -> list[int] | None:
        """How often to draw each class of a model: as often as it is among the train images, or (None) all alike.

        Measures of all samples together, such as the Frechet distance, compare how often classes come too. mix: "even",
        "train", or "auto": even, unless some class has over twice as many train images as another.
        """
        if mix == "even" or not self.class_names:
            return None
        counts = torch.bincount(self.train.labels, minlength=len(self.class_names))
        return None if mix == "auto" and int(counts.max()) <= 2 * int(counts.min()) else counts.tolist()

    def scored(self, classes: Sequence[str]) -> "Dataset":
        """This data set with the held-out images of these classes alone, under the indices that a model of all classes
        knows."""
        kept = torch.tensor([_class_index(self.class_names, name) for name in classes])
        return replace(self, held_out=self.held_out.chosen(torch.isin(self.held_out.labels, kept).nonzero()[:, 0]))

    def only(self, kept: Sequence[int]) -> "Dataset":
        """The classes of these indices, ascending, re-indexed 0.."""
        names = tuple(self.class_names[index] for index in kept)
        train, held_out = (_of_classes(part, torch.tensor(kept)) for part in (self.train, self.held_out))
        return replace(self, train=train, held_out=held_out, class_names=names)


def _of_classes(part: Part, kept: Tensor) -> Part:
    chosen = part.chosen(torch.isin(part.labels, kept).nonzero()[:, 0])
    return replace(chosen, labels=torch.searchsorted(kept, chosen.labels))


def _class_index(names: Sequence[str], name: str) -> int:
    if name in names:
        return list(names).index(name)
    lowered = [known.lower() for known in names]
    if str(name).lower() not in lowered:
        raise UsageError(f"data.classes: no class '{name}'; {nearest(str(name), list(names))}")
    return lowered.index(str(name).lower())
