"""Samples beside real images, in: a number with its error and its floor, out."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from undiffuse import images
from undiffuse.data.dataset import Dataset, Part
from undiffuse.errors import UndiffuseError
from undiffuse.evaluation.real import MOST_SAMPLES, FeatureSet, MeasureWarning, RealImages, in_chunks, random_rows
from undiffuse.evaluation.samples import Samples, to_grid
from undiffuse.metrics.base import Estimate, combined_error, spread_error
from undiffuse.metrics.classifier import Shipped, shipped_for
from undiffuse.metrics.frechet import frechet_with_error
from undiffuse.metrics.inception_score import inception_score as score_of
from undiffuse.metrics.kernel import kernel_distance
from undiffuse.metrics.manifold import K_DENSITY, K_PRECISION, Membership
from undiffuse.metrics.memorisation import Nearest, share_nearer, split_error
from undiffuse.metrics.transfer import binomial_stderr, svc, svc_accuracy
from undiffuse.shapes import Labels, Tensor

PIXELS_BLOCK = 2000  # images whose pixels are compared with those of all samples at once
CLOSEST = 12  # pairs that are told


def frechet(sets: Sequence[Samples], real: RealImages) -> Estimate:
    """Frechet distance, samples against held-out images; floor: as many train images in their place."""
    held_out, numbers = real.held_out(), [len(s.images) for s in sets]
    few, d = min(len(real.data.train) or len(held_out), len(held_out), *numbers), held_out.features.shape[1]
    if few <= d:
        warnings.warn(
            f"the Frechet distance of {few} images by {d} features is too large, and says little: with no more images "
            "than features a covariance is singular; take more images, fewer features (--features), or --metrics kid",
            MeasureWarning,
            stacklevel=2,
        )
    found = [frechet_with_error(real.of_samples(s).sums, held_out.sums) for s in sets]
    floor = _floor(sets, real, lambda x: frechet_with_error(x.sums, held_out.sums)[0])
    return _mean(found, floor, real.features.unit, sets)


def kid(sets: Sequence[Samples], real: RealImages) -> Estimate:
    """Kernel distance (KID), samples against held-out images; floor: as many train images in their place."""
    held_out = real.held_out()

    def distance(x: FeatureSet) -> tuple[float, float | None]:
        return kernel_distance(x.features, held_out.features, (x.kernel_sums, held_out.kernel_sums))

    found = [distance(real.of_samples(s)) for s in sets]
    unit = f"squared kernel distance of {real.features.name} features"
    return _mean(found, _floor(sets, real, lambda x: distance(x)[0]), unit, sets)


def precision(sets: Sequence[Samples], real: RealImages) -> Estimate:
    """Precision: the share of samples that lie among held-out images; floor: how many train images do."""
    found = [(m.precision, binomial_stderr(m.precision, len(m.precise))) for m in _memberships(sets, real)]
    return _neighbours(found, "precision", sets, real)


def recall(sets: Sequence[Samples], real: RealImages) -> Estimate:
    """Recall: the share of held-out images that lie among samples; floor: among train images."""
    scores = [m.recall for m in _memberships(sets, real)]
    return _neighbours([_share(scores, real.neighbours(len(sets[0].images)))], "recall", sets, real)


def density(sets: Sequence[Samples], real: RealImages) -> Estimate:
    """Among how many held-out images samples lie, over k; floor: the same of train images."""
    found = [(m.density, m.density_error) for m in _memberships(sets, real)]
    return _neighbours(found, "density", sets, real)


def coverage(sets: Sequence[Samples], real: RealImages) -> Estimate:
    """Coverage: the share of held-out images that have a sample among their neighbours; floor: a train image."""
    scores = [m.coverage for m in _memberships(sets, real)]
    return _neighbours([_share(scores, real.neighbours(len(sets[0].images)))], "coverage", sets, real)


def inception_score(sets: Sequence[Samples], real: RealImages) -> Estimate:
    """Inception Score by the class probabilities of a classifier of such images; floor: that of held-out images, which
    the classifier has not seen."""
    data = real.data
    shipped = _shipped(data, "inception_score")

    def score(parts: Iterable[Tensor]) -> tuple[float, float | None]:
        return score_of(np.concatenate([shipped.probabilities(to_grid(part, data)).numpy() for part in parts]))

    found = [score(s.parts()) for s in sets]
    floor = score(in_chunks(data.held_out, random_rows(len(data.held_out), len(sets[0].images))))[0]
    says = {"probabilities": f"of the classifier '{shipped.name}' of undiffuse, {len(shipped.class_names)} classes"}
    return _mean(found, floor, "classes", sets, says)


def memorisation(sets: Sequence[Samples], real: RealImages) -> Estimate:
    """The share of samples that are nearer to a train image than to any held-out one, by their pixels.

    floor: what is expected of fresh data. The closest pairs and the exact copies go into the protocol.
    """
    data = real.data
    n, m = len(data.train), len(data.held_out)
    if not n:
        raise UndiffuseError(f"memorisation is of the images of training, and all of {data.name} are the reference")
    drawn = [_levels(s.images[random_rows(len(s.images), MOST_SAMPLES)], data) for s in sets]
    near, far = (
        Nearest.together([Nearest.of(x, _blocks(part, data)) for x in drawn]) for part in (data.train, data.held_out)
    )
    says = _pairs(sets, near, far, real) | {"copies of held-out images": int((far.squared == 0).sum())}
    value, stderr = share_nearer(near, far), split_error(near, far, n, m)
    return Estimate(value, stderr, n / (n + m), "share nearer to train images", sum(map(len, drawn)), says)


def train_on_generated(sets: Sequence[Samples], real: RealImages) -> Estimate:
    """Accuracy on held-out images of an SVC trained on samples; floor: of one trained on as many train images."""
    data = real.data
    test = (data.held_out.images(), data.held_out.labels)
    scores = [svc_accuracy((s.images[:], _labels(s, "train_on_generated")), test, data.levels) for s in sets]
    rows = random_rows(len(data.train), len(sets[0].images))
    train = data.train.images(rows), data.train.labels[rows]
    trained = svc_accuracy(train, test, data.levels) if len(rows) else None
    return Estimate(*_share(scores, len(data.held_out)), trained, "accuracy", _n(sets))


def label_accuracy(sets: Sequence[Samples], real: RealImages) -> Estimate:
    """The share of samples that a classifier of real images takes for the class that they were asked for.

    The classifier is the one that comes with undiffuse for such images; where there is none, the SVC of
    train_on_generated, trained on as many train images as there are samples. floor: how many held-out images it takes
    for theirs.
    """
    data, wanted = real.data, [_labels(s, "label_accuracy") for s in sets]
    classes, says = _judge(real, len(sets[0].images))

    def accuracy(parts: Iterable[Tensor], labels: Labels) -> float:
        taken = torch.cat([classes(to_grid(part, data)) for part in parts])
        return float((taken == labels).float().mean())

    value = float(np.mean([accuracy(s.parts(), labels) for s, labels in zip(sets, wanted, strict=True)]))
    held_out = accuracy(in_chunks(data.held_out, np.arange(len(data.held_out))), data.held_out.labels)
    return Estimate(value, binomial_stderr(value, _n(sets)), held_out, "accuracy", _n(sets), says)


def _judge(real: RealImages, n: int) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """Images -> which of the data's classes they are taken for; -1 for another."""
    data = real.data
    shipped = shipped_for(data.shape, data.class_names)
    if shipped is None:
        if not len(data.train):
            raise UndiffuseError(f"label_accuracy needs images to train by, and all of {data.name} are the reference")
        rows = random_rows(len(data.train), n)
        classes = real.once(("svc", n), lambda: svc(data.train.images(rows), data.train.labels[rows], data.levels))
        return classes, {"classifier": f"the SVC, trained on {len(rows)} train images"}
    place = torch.full((len(shipped.class_names),), -1)
    place[[shipped.class_names.index(name) for name in data.class_names]] = torch.arange(len(data.class_names))
    return lambda x: place[shipped.classes(x)], {}


def _labels(s: Samples, metric: str) -> Labels:
    if s.labels is None:
        raise UndiffuseError(f"{metric} needs labelled samples; these have no labels, leave it out")
    return s.labels


def _share(scores: Sequence[float], n: int) -> tuple[float, float]:
    """Mean of shares among the same n, and its standard error: binomial, and the spread over sampling seeds."""
    value = float(np.mean(scores))
    spread = spread_error(np.array(scores)) if len(scores) > 1 else 0.0
    return value, float(np.hypot(binomial_stderr(value, n), spread))


MEASURES: dict[str, Callable[[Sequence[Samples], RealImages], Estimate]] = {
    "frechet": frechet,
    "train_on_generated": train_on_generated,
    "label_accuracy": label_accuracy,
    "kid": kid,
    "inception_score": inception_score,
    "precision": precision,
    "recall": recall,
    "density": density,
    "coverage": coverage,
    "memorisation": memorisation,
}
NEED_LABELS = ("train_on_generated", "label_accuracy")
NEED_CLASSES = ("train_on_generated",)  # at least two
NEED_CLASSIFIER = ("inception_score",)
NEED_EITHER = ("label_accuracy",)  # one of the two
NEED_TRAIN = ("memorisation",)
NEED_NEIGHBOURS = ("precision", "recall", "density", "coverage")
# Of the few images of one class a Frechet distance would be mostly bias, and a kernel distance has none.
PER_CLASS = ("label_accuracy", "kid")


def per_class(sets: Sequence[Samples], real: RealImages, names: Iterable[str]) -> dict[str, dict[str, Estimate]]:
    """The measures that mean something class by class, each of a class's own samples and real images.

    {measure: {class: ...}}: of the classes that have at least 2 samples in every set, 2 train images among as many as
    there are samples, and 2 held-out ones; empty without labels, and where there is one class only.
    """
    labelled = len(real.data.class_names) > 1 and all(s.labels is not None for s in sets)
    judged = shipped_for(real.data.shape, real.data.class_names) is not None  # by one that knows the others too
    wanted = [name for name in names if name in PER_CLASS and labelled and (judged or name not in NEED_EITHER)]
    found: dict[str, dict[str, Estimate]] = {name: {} for name in wanted}
    for known, one in _by_class(sets, real) if wanted else ():
        for name in wanted:
            found[name][known] = MEASURES[name](*one)
    return {name: classes for name, classes in found.items() if classes}


def _by_class(sets: Sequence[Samples], real: RealImages) -> Iterator[tuple[str, tuple[list[Samples], RealImages]]]:
    data = real.data
    train = data.train.labels[torch.from_numpy(random_rows(len(data.train), len(sets[0].images)))]
    sides = [*([train] if len(train) else []), data.held_out.labels, *(s.labels for s in sets)]
    for index, name in enumerate(data.class_names):
        if min(int((labels == index).sum()) for labels in sides if labels is not None) >= 2:
            yield name, real.of_class(index, sets)


def _mean(
    found: Iterable[tuple[float, float | None]],
    floor: float | None,
    unit: str,
    sets: Sequence[Samples],
    says: dict[str, Any] | None = None,
) -> Estimate:
    """The mean of the numbers of independent sets, with its error."""
    values, stderrs = zip(*found, strict=True)
    return Estimate(float(np.mean(values)), combined_error(stderrs), floor, unit, _n(sets), says or {})


def _floor(sets: Sequence[Samples], real: RealImages, score: Callable[[FeatureSet], float]) -> float | None:
    """The score of as many train images; None where all images are the reference."""
    return score(real.train(len(sets[0].images))) if len(real.data.train) else None


def _memberships(sets: Sequence[Samples], real: RealImages) -> list[Membership]:
    return [real.membership(real.of_samples(s)) for s in sets]


def _neighbours(
    found: Iterable[tuple[float, float | None]], name: str, sets: Sequence[Samples], real: RealImages
) -> Estimate:
    """One of precision, recall, density and coverage: what they have in common."""
    k = K_PRECISION if name in ("precision", "recall") else K_DENSITY
    says = {"k": k, "images a side": real.neighbours(len(sets[0].images)), "features": real.features.name}
    floor = _floor(sets, real, lambda x: float(getattr(real.membership(x), name)))
    estimate = _mean(found, floor, "images in a ball / k" if name == "density" else "share", sets, says)
    return replace(estimate, n=len(sets) * real.neighbours(len(sets[0].images)))


def _pairs(sets: Sequence[Samples], near: Nearest, far: Nearest, real: RealImages) -> dict[str, Any]:
    """The samples closest to a train image: which of which set, which image, how far; and which held-out image is
    closest to them."""
    place = [(i, int(j)) for i, s in enumerate(sets) for j in random_rows(len(s.images), MOST_SAMPLES)]
    first = np.argsort(near.squared, kind="stable")[:CLOSEST]
    pixels = int(np.prod(real.data.shape))
    return {
        "space": "grey levels of pixels, by root mean square",
        "exact copies of train images": int((near.squared == 0).sum()),
        "closest": {
            "set": [place[i][0] for i in first],
            "sample": [place[i][1] for i in first],
            "train image": near.row[first].tolist(),
            "distance": np.sqrt(near.squared[first] / pixels).tolist(),
            "held-out image": far.row[first].tolist(),
            "held-out distance": np.sqrt(far.squared[first] / pixels).tolist(),
        },
    }


def _levels(x: Tensor, data: Dataset) -> np.ndarray:
    return images.to_levels(x, data.levels).flatten(1).numpy()


def _blocks(part: Part, data: Dataset) -> Iterable[np.ndarray]:
    return (_levels(part.images(slice(i, i + PIXELS_BLOCK)), data) for i in range(0, len(part), PIXELS_BLOCK))


def _shipped(data: Dataset, metric: str) -> Shipped:
    shipped = shipped_for(data.shape, data.class_names)
    if shipped is None:
        raise UndiffuseError(
            f"{metric} needs a classifier, and none comes with undiffuse for {data.name}; leave it out"
        )
    return shipped


def _n(sets: Sequence[Samples]) -> int:
    return sum(len(s.images) for s in sets)
