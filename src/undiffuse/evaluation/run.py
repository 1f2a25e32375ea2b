"""Samples in, numbers out: what `undiffuse evaluate` measures, with its protocol."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from undiffuse import __version__, images
from undiffuse.data.dataset import Dataset
from undiffuse.evaluation import measures
from undiffuse.evaluation.measures import (
    MEASURES,
)
from undiffuse.evaluation.real import MOST_SAMPLES, MeasureWarning, RealImages
from undiffuse.evaluation.samples import Samples, to_grid
from undiffuse.pipeline import Pipeline

Watch = Callable[[Iterator[Any]], Iterable[Any]]


def default_count(data: Dataset) -> int:
    """As many as there are train images, at most 5,000, rounded up so that every class gets the same number."""
    classes = max(len(data.class_names), 1)
    return -(-min(len(data.train), MOST_SAMPLES) // classes) * classes


def measure(
    sets: Sequence[Samples], real: RealImages, names: Iterable[str], protocol: dict[str, Any]
) -> dict[str, Any]:
    """{"metrics": {name: {value, stderr, floor, unit, n}}, "protocol": {...}}: what is written as JSON.

    Between them, where there are several classes, "per_class": {name: {class: {value, stderr, floor, unit, n}}}.
    """
    names = list(names)
    _warn_of_few_to_train_on(len(sets[0].images) if sets else 0, real.data, names)
    found, data = {name: MEASURES[name](sets, real) for name in names}, real.data
    ours = {
        "data": data.name,
        "reference": "held-out images",
        "real_train": len(data.train),
        "real_held_out": len(data.held_out),
        "generated": [len(s.images) for s in sets],
        "real_in_their_place": min(len(sets[0].images), len(data.train)) if sets else 0,
        "rounding": f"to the data's own {data.levels} levels",
        **real.features.says,
        "classifier": "SVC(gamma=0.064 / number of pixels) on pixels scaled to 0..16",
        "undiffuse": __version__,
    }
    by_class = {
        name: {known: estimate.as_dict() for known, estimate in classes.items()}
        for name, classes in measures.per_class(sets, real, names).items()
    }
    says = {name: estimate.says for name, estimate in found.items() if estimate.says}
    return {
        "metrics": {name: estimate.as_dict() for name, estimate in found.items()},
        **({"per_class": by_class} if by_class else {}),
        "protocol": ours | protocol | says,
    }


def _warn_of_few_to_train_on(n: int, data: Dataset, names: Sequence[str]) -> None:
    """Where the samples are more, like is not compared with like."""
    spoilt = [name for name in ("frechet", "train_on_generated") if name in names]
    rounded_up = len(data.train) + len(data.class_names)  # as the default is, to equal numbers of each class
    if n > rounded_up and spoilt:
        warnings.warn(
            f"{n:,} samples beside {len(data.train):,} real images, all there are to train on: {' and '.join(spoilt)} "
            f"depend on how many there are, so for the column of real images take -n {len(data.train)}",
            MeasureWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class Neighbours:
    """The samples closest to a train image, and the real images nearest to each: uint8 [k, h, w, c], and the distances
    to those, [k], in grey levels of the data by root mean square."""

    generated: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    to_train: list[float]
    to_held_out: list[float]


def neighbours(sets: Sequence[Samples], real: RealImages, result: dict[str, Any]) -> Neighbours | None:
    """The pairs that memorisation told in the protocol, as pictures; None if it was not measured."""
    if "memorisation" not in result["metrics"]:
        return None
    said, data = result["protocol"]["memorisation"]["closest"], real.data
    drawn = torch.cat([sets[i].images[[j]] for i, j in zip(said["set"], said["sample"], strict=True)])
    return Neighbours(
        images.to_hwc(to_grid(drawn, data)),
        images.to_hwc(data.train.images(np.array(said["train image"]))),
        images.to_hwc(data.held_out.images(np.array(said["held-out image"]))),
        said["distance"],
        said["held-out distance"],
    )


def model_protocol(
    pipe: Pipeline, seeds: Sequence[int], weights: str, checkpoint: str, shares: list[int] | None = None
) -> dict[str, Any]:
    """How a model's samples were drawn."""
    sampling = pipe.config.sample.model_dump()
    mix = {} if shares is None else {"class_mix": "as among the train images"}
    return {"seeds": list(seeds), "weights": weights, "checkpoint": checkpoint, **mix, **sampling}
