"""What the data cost: preparing them, waiting for them in training, features and distances of them.

Run: python benchmarks/loading.py [--data fashion-mnist]

Waiting is the time to have a batch beside the time of a whole training step of the recipe, in one process, in turns.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from undiffuse import config, rng
from undiffuse.data import prepare
from undiffuse.data.spec import DataSpec
from undiffuse.files import cache
from undiffuse.metrics.features import About, extractor
from undiffuse.metrics.frechet import FeatureSums, frechet_with_error
from undiffuse.pipeline import build
from undiffuse.train import starting
from undiffuse.train.trainer import Trainer

TURNS, STEPS = 5, 20


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def prepared(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept, cache.folder = cache.folder, lambda kind="": Path(folder) / kind
        first, again = (seconds(lambda: prepare.dataset(DataSpec(name))) for _ in range(2))
        cache.folder = kept
    print(f"{name}: prepared in {first:.2f} s, opened again in {again:.3f} s")


def waiting(name: str) -> None:
    chosen = config.load(name)
    data = build.dataset(chosen)
    chosen = build.resolved(chosen, data)
    batches = starting.batches(chosen, data)
    trainer = Trainer(build.denoiser(chosen), starting.loss(chosen), batches, chosen.train, build.num_classes(chosen))
    run = trainer.run()
    next(run)
    shares = []
    for _ in range(TURNS):
        step = seconds(lambda: [next(run) for _ in range(STEPS)]) / STEPS
        wait = seconds(lambda: [batches.batch(trainer.step + i) for i in range(STEPS)]) / STEPS
        shares.append((100 * wait / step, 1000 * step, 1000 * wait))
    share, step, wait = np.median(shares, 0)
    print(f"{name}: a step {step:.1f} ms, of which {wait:.2f} ms ({share:.2f} %) to have the batch")


def measuring(name: str) -> None:
    data = prepare.load_data(name)
    about = About(data.shape, data.class_names, lambda: data.train.images(slice(5000)))
    images = data.train.images(slice(10_000))
    for features in ("pixels", "pca", "classifier", "efficientnet"):
        extract = partial(extractor(features, about), images)
        print(f"{features}: features of {len(images)} images in {seconds(extract):.1f} s")
    rows = [rng.fold(seed).normal((5000, 2048)).double().numpy() for seed in range(2)]
    sums: list[FeatureSums] = []
    print(f"2048 features: sums of 2 x 5000 in {seconds(lambda: sums.extend(map(FeatureSums.of, rows))):.1f} s")
    print(f"2048 features: distance and its error from sums in {seconds(lambda: frechet_with_error(*sums)):.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="fashion-mnist")
    given = parser.parse_args()
    prepared(given.data)
    waiting(given.data)
    measuring(given.data)


if __name__ == "__main__":
    main()
