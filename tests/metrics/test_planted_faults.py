"""Faults planted in real digits are caught: each moves the measure that should see it, by the amount said here.

Train images stand for samples. A fault counts as caught when it moves the measure by more than four standard errors of
the difference, and the amount, which docs/evaluation.md prints, is held to within four of them. The errors are of two
independent sets; these share their images, so they are on the safe side.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from undiffuse.data.dataset import Part
from undiffuse.data.prepare import digits
from undiffuse.evaluation import measures
from undiffuse.evaluation.real import RealImages
from undiffuse.evaluation.samples import Samples
from undiffuse.images import from_levels, to_levels
from undiffuse.rng import fold


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def judged(data):
    return {features: RealImages.of(data, features) for features in ("pixels", "classifier")}


@pytest.fixture(scope="module")
def sound(data):
    return Samples(data.train.images(), data.train.labels)


def blurred(s: Samples) -> Samples:
    """By the 3 x 3 binomial kernel."""
    row = torch.tensor([0.25, 0.5, 0.25])
    padded = F.pad(s.images, (1, 1, 1, 1), mode="replicate")
    return Samples(F.conv2d(padded, (row[:, None] * row)[None, None]), s.labels)


def without_threes(s: Samples) -> Samples:
    return Samples(s.images[s.labels != 3], s.labels[s.labels != 3])


def swapped(s: Samples) -> Samples:
    """3 is called 8, and 8 is called 3: a fifth of the labels."""
    other = torch.arange(10)
    other[3], other[8] = 8, 3
    return Samples(s.images, other[s.labels])


def moved(name: str, real: RealImages, fault: Samples, sound: Samples) -> tuple[float, float]:
    """By how much, and the standard error of that."""
    after, before = (measures.MEASURES[name]([s], real) for s in (fault, sound))
    return after.value - before.value, float(np.hypot(after.stderr, before.stderr))


@pytest.mark.parametrize(
    ("fault", "name", "features", "amount"),
    [
        (blurred, "frechet", "pixels", 7.21),
        (blurred, "frechet", "classifier", 59.6),
        (blurred, "kid", "pixels", 0.134),
        (blurred, "kid", "classifier", 1.44),
        (blurred, "precision", "pixels", -0.100),
        (blurred, "precision", "classifier", -0.553),
        (blurred, "density", "classifier", -0.992),
        (blurred, "density", "pixels", 0.263),  # the wrong way: blurred pictures lie in the middle, where balls overlap
        (blurred, "recall", "pixels", -0.893),
        (blurred, "recall", "classifier", -0.836),
        (blurred, "coverage", "pixels", -0.416),
        (blurred, "coverage", "classifier", -0.978),
        (blurred, "inception_score", "pixels", -5.78),
        (blurred, "label_accuracy", "pixels", -0.453),
        (blurred, "train_on_generated", "pixels", -0.104),
        (without_threes, "frechet", "pixels", 0.278),
        (without_threes, "frechet", "classifier", 5.89),
        (without_threes, "kid", "classifier", 0.0561),
        (without_threes, "coverage", "pixels", -0.071),
        (without_threes, "coverage", "classifier", -0.111),
        (without_threes, "inception_score", "pixels", -0.610),
        (without_threes, "train_on_generated", "pixels", -0.100),
        (swapped, "label_accuracy", "pixels", -0.199),
        (swapped, "train_on_generated", "pixels", -0.191),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_fault_moves_the_measure_that_should_see_it(judged, sound, fault, name, features, amount):
    difference, stderr = moved(name, judged[features], fault(sound), sound)
    assert difference == pytest.approx(amount, abs=4 * stderr + 5e-4)
    assert abs(difference) > 4 * stderr


@pytest.mark.parametrize("name", ["precision", "density", "label_accuracy"])
def test_what_a_dropped_class_leaves_is_as_real_as_before(judged, sound, name):
    """Fidelity and variety are told apart."""
    difference, stderr = moved(name, judged["classifier"], without_threes(sound), sound)
    assert abs(difference) <= 2 * stderr


@pytest.mark.parametrize(
    "name", ["frechet", "kid", "inception_score", "precision", "recall", "density", "coverage", "memorisation"]
)
def test_labels_are_no_matter_of_pictures(judged, sound, name):
    assert moved(name, judged["pixels"], swapped(sound), sound)[0] == 0


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fewer(data):
    """A thousand train images, and 347 that are neither among them nor held out."""
    rows = torch.from_numpy(np.random.default_rng(3).permutation(len(data.train)))
    seen, fresh = (data.train.chosen(part) for part in (rows[:1000], rows[1000:]))
    return RealImages.of(replace(data, train=seen), "pixels"), Samples(fresh.images(), fresh.labels)


def test_fresh_images_are_at_the_floor_of_memorisation(fewer):
    real, fresh = fewer
    found = measures.memorisation([fresh], real)
    assert found.floor == pytest.approx(1000 / 1450)
    assert abs(found.value - found.floor) < 4 * found.stderr
    assert found.says["exact copies of train images"] == 0


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_copied_train_images_are_caught_by_memorisation_alone(fewer, noise):
    """Exact, or with Gaussian noise of one grey level: from the floor of 0.69 to 1."""
    real, fresh = fewer
    images = real.data.train.images(slice(347))
    copied = Samples(images + noise * fold(5).normal(images.shape) * (2 / 16), None)
    found, before = measures.memorisation([copied], real), measures.memorisation([fresh], real)
    assert found.value > 0.99 and found.value - before.value > 4 * before.stderr
    assert found.says["exact copies of train images"] == (347 if noise == 0 else 0)
    if noise == 0:
        for name in ("frechet", "kid", "inception_score", "precision", "recall", "density", "coverage"):
            difference, stderr = moved(name, real, copied, fresh)
            assert abs(difference) < 4 * stderr


# -- half a level darker -----------------------------------------------------------------------------------------------


def between_levels(part: Part) -> torch.Tensor:
    """What a model might draw: the images, each pixel anywhere in its own level; in levels."""
    levels = to_levels(part.images(), part.levels).float()
    return levels + fold(4).uniform(levels.shape).float() - 0.5


def written(levels: torch.Tensor, most: int, truncate: bool) -> Samples:
    kept = levels.clamp(0, most)
    whole = kept.floor() if truncate else (kept + 0.5).floor()
    return Samples(from_levels(whole.to(torch.uint8), most + 1), None)


@pytest.mark.parametrize(("name", "amount"), [("frechet", 0.117), ("kid", 0.0091)])
def test_truncation_in_place_of_rounding_is_caught_on_seventeen_levels(data, judged, name, amount):
    drawn = between_levels(data.train)
    rounded, truncated = (written(drawn, 16, truncate) for truncate in (False, True))
    assert torch.equal(rounded.images, data.train.images())
    difference, stderr = moved(name, judged["pixels"], truncated, rounded)
    assert difference == pytest.approx(amount, abs=4 * stderr)
    assert difference > 4 * stderr


def test_at_256_levels_truncation_is_caught_by_comparing_the_same_samples_only(data):
    """Half a level is then too little for the distance to tell from chance, but the samples' mean tells it exactly."""
    wide = {
        name: replace(part, pictures=part.pictures * 15 + 7, levels=256)
        for name, part in (("train", data.train), ("held_out", data.held_out))
    }
    real = RealImages.of(replace(data, content="wide", **wide), "pixels")
    rounded, truncated = (written(between_levels(wide["train"]), 255, truncate) for truncate in (False, True))
    difference, stderr = moved("frechet", real, truncated, rounded)
    assert 0 < difference < stderr / 4
    darker = (to_levels(truncated.images) - to_levels(rounded.images).float()).flatten(1).mean(1)
    assert float(darker.mean()) == pytest.approx(-0.5, abs=4 * float(darker.std()) / len(darker) ** 0.5)
