"""The embedded data set."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from undiffuse.data.sources.base import Item


@dataclass(frozen=True)
class Digits:
    """scikit-learn's handwritten digits: 1x8x8, 17 levels, 10 classes; 1,347 to train, 450 held out, stratified."""

    name: str = "digits"
    levels: int = 17

    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def stamp(self) -> None:
        return None

    def items(self) -> Iterator[Item]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        bunch = load_digits()
        parts = train_test_split(np.arange(len(bunch.target)), test_size=450, random_state=0, stratify=bunch.target)
        for rows, held_out in zip(parts, (False, True), strict=True):
            for row in rows:
                picture = bunch.images[row].astype(np.uint8)[..., None]
                yield Item(f"digits#{row}", picture, str(bunch.target[row]), held_out)
