"""The first steps of each recipe, on pictures drawn here in place of its data, by a narrow network.

    PYTHONPATH=tests python tests/train/curves.py   # writes curves.json anew, after a change that is to change training

All else is the recipe's own: where its data lies and in what form, its batches, process, loss, optimiser, averages.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import made
from undiffuse.config import load
from undiffuse.pipeline import build
from undiffuse.train import starting
from undiffuse.train.team import Team
from undiffuse.train.trainer import Trainer
from undiffuse.train.window import Report

STORED = Path(__file__).with_name("curves.json")
STEPS = 100
NARROW = {"model.channels": 8, "model.norm_groups": 4}
NARROWER = {"cifar10": {"model.patch": 2}}  # bf16 is slow on a CPU
RECIPES = ("cifar10", "digits", "emoji", "fashion-mnist", "folder", "mnist")


def waves(count: int, size: int, channels: int, seed: int) -> np.ndarray:
    """Pictures [n, h, w, c] with something to learn: waves, whose direction is the class's, of any phase."""
    rng, angle = np.random.default_rng(seed), np.pi * (np.arange(count) % 10) / 10
    rows, columns = np.mgrid[:size, :size] * (6 / size)
    along = np.multiply.outer(np.cos(angle), rows) + np.multiply.outer(np.sin(angle), columns)
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, channels))
    return (127.5 * (1 + np.sin(along[..., None] + phase))).astype(np.uint8)


def idx_files(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    for part, count in (("train", 300), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(made.idx(waves(count, 28, 1, seed)[..., 0]))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(made.idx(labels))


def cifar_files(folder: Path) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        pixels, labels = waves(60, 32, 3, seed).transpose(0, 3, 1, 2).reshape(60, -1), np.arange(60) % 10
        (folder / name).write_bytes(np.concatenate([labels[:, None].astype(np.uint8), pixels], 1).tobytes())
    (folder / "batches.meta.txt").write_text("".join(f"class {i}\n" for i in range(10)))


def emoji_package(path: Path) -> None:
    """64x64, transparent outside a disc, classes told by a JSON file."""
    rows, columns = np.mgrid[:64, :64] - 31.5
    disc = np.broadcast_to(255 * (rows**2 + columns**2 < 900)[..., None], (300, 64, 64, 1)).astype(np.uint8)
    pictures = np.concatenate([waves(300, 64, 3, 8), disc], -1)
    told = [{"image": f"{i:04x}.png", "category": f"class {i % 10}"} for i in range(300)]
    files = {f"package/img/google/64/{i:04x}.png": made.png(picture) for i, picture in enumerate(pictures)}
    path.write_bytes(made.tarred(files | {"package/emoji.json": json.dumps(told).encode()}, "w:gz"))


@contextlib.contextmanager
def data_laid_out(folder: Path) -> Iterator[None]:
    """Every recipe finds its data from the working folder, as its file says."""
    idx_files(folder / "data" / "mnist", 6)
    idx_files(folder / "data" / "fashion-mnist", 7)
    cifar_files(folder / "data" / "cifar10")
    emoji_package(folder / "emoji-datasource-google-16.0.0.tgz")
    pictures = waves(300, 40, 3, 9)
    made.written(folder / "pictures", {f"class {i % 10}/{i}.png": made.png(p) for i, p in enumerate(pictures)})
    with contextlib.chdir(folder):
        yield


def curve(recipe: str, steps: int = STEPS, **changes: Any) -> list[tuple[float, float, float]]:
    """Loss, norm of the gradient, and how far the average lies from the weights, after each of the first steps.

    The working folder is one of `data_laid_out`.
    """
    config = load(recipe).replaced(NARROW | NARROWER.get(recipe, {}) | changes)
    data = starting.prepare_data(config)
    trainer = starting.trainer(build.resolved(config, data), data, Team())
    return [(*told(trainer.report()), apart(trainer)) for _ in islice(trainer.run(), steps)]


def told(report: Report) -> tuple[float, float]:
    assert report.loss is not None and report.grad_norm is not None
    return report.loss, report.grad_norm


def apart(trainer: Trainer) -> float:
    pairs = zip(trainer.network.parameters(), trainer.ema.backbone.parameters(), strict=True)
    return float(sum((one - other).detach().double().square().sum() for one, other in pairs)) ** 0.5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, data_laid_out(Path(folder)):
        curves = {recipe: [[float(f"{x:.7g}") for x in step] for step in curve(recipe)] for recipe in RECIPES}
    lines = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, steps)) + "\n ]" for name, steps in curves.items()]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
