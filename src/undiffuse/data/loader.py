"""The order of training as a function of (seed, step): nothing to save, nothing to lose at a resume."""

from dataclasses import dataclass

import numpy as np

from undiffuse.data.sources import Part
from undiffuse.rng import permutation
from undiffuse.shapes import Tensor


@dataclass(frozen=True)
class Batches:
    """data[step] -> (images, labels): epochs of shuffled data laid end to end, cut into batches.

    Every datum is seen once per epoch; a batch may span two epochs, so no datum is ever left out.
    """

    part: Part
    batch_size: int
    seed: int

    def rows(self, step: int) -> np.ndarray:
        """The row in the data of each position of the global batch."""
        n = len(self.part)
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = places // n
        orders = {int(epoch): permutation(n, self.seed, "order", int(epoch)) for epoch in np.unique(epochs)}
        return np.array([orders[int(epoch)][place % n] for epoch, place in zip(epochs, places, strict=True)])

    def batch(self, step: int, positions: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1] and labels at these positions of the global batch of this step."""
        rows = self.rows(step)[positions]
        return self.part.images(rows), self.part.labels[rows]
