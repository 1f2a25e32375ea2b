"""The order of training as a function of (seed, step): nothing to save, nothing to lose at a resume."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from undiffuse.data.dataset import Part
from undiffuse.rng import per_row, permutation
from undiffuse.shapes import Tensor


@dataclass(frozen=True)
class Batches:
    """data[step] -> (images, labels): epochs of shuffled data laid end to end, cut into batches.

    Every datum is seen once per epoch; a batch may span two epochs, so no datum is ever left out. flip: each picture is
    mirrored left to right with probability 1/2, by its place in the training alone.
    """

    part: Part
    batch_size: int
    seed: int
    flip: bool = False

    def rows(self, step: int) -> np.ndarray:
        """The row in the data of each position of the global batch."""
        n = len(self.part)
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = places // n
        rows = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            rows[inside] = _order(n, self.seed, int(epoch))[places[inside] % n]
        return rows

    def batch(self, step: int, positions: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1] and labels at these positions of the global batch of this step."""
        rows = self.rows(step)[positions]
        return self._flipped(self.part.images(rows), step, positions), self.part.labels[rows]

    def _flipped(self, images: Tensor, step: int, positions: slice) -> Tensor:
        if not self.flip:
            return images
        places = range(self.batch_size)[positions]
        mirrored = per_row(self.seed, "flip", step, rows=places).uniform((len(images), 1, 1, 1)) < 0.5
        return torch.where(mirrored, images.flip(-1), images)


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return permutation(n, seed, "order", epoch)
