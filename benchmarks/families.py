"""Noise families and losses on equal budgets: Frechet distance and train-on-generated accuracy of models of the digits.

Run: python benchmarks/families.py [FOLDER] [--only NAME ...]     (FOLDER: where runs and numbers are kept)

Every row trains the digits recipe; only the noise family and the loss differ, the seeds are the same. Samples are drawn
by DDIM with the recipe's eta in 10 and 50 steps and by ancestral sampling in 1000. A row that is already in FOLDER is
not made again, so rows may be made by several processes. Then the table of all rows in FOLDER is printed, and the first
ten samples of each row, one of each class and the same seeds throughout, are drawn into FOLDER/families.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import undiffuse as ud
from undiffuse import config, images
from undiffuse.pipeline import Pipeline, build
from undiffuse.train.job import Training

FAMILIES = {
    "gaussian": ("diffusion.noise=gaussian",),
    "laplace": ("diffusion.noise=laplace",),
    "gamma": ("diffusion.noise=gamma",),
    "mixture": ("diffusion.noise=mixture",),
    "uniform": ("diffusion.noise=uniform",),
}
LOSSES = ("l2", "l1")
ROWS = [f"{family}-{loss}" for family in ("gaussian", "laplace", "gamma") for loss in LOSSES] + [
    "mixture-l2",
    "uniform-l2",
]
QUIET = ["train.sample_every=0", "train.checkpoint_every=0", "train.log_every=190"]
WAYS = {10: {"steps": 10}, 50: {"steps": 50}, 1000: {"steps": 1000, "sampler": "ancestral"}}


def trained(name: str, folder: Path) -> Pipeline:
    family, loss = name.rsplit("-", 1)
    run = folder / name
    if not (run / "environment.json").exists():
        sets = [*QUIET, *FAMILIES[family], f"diffusion.loss={loss}"]
        for report in Training.start(config.load("digits", sets), run, name):
            print(f"{name}: step {report.step}, loss {report.loss}", flush=True)
    return Pipeline.load(run)


def measured(name: str, folder: Path) -> dict[str, Any]:
    pipe = trained(name, folder)
    data = build.dataset(pipe.config)
    result: dict[str, Any] = {}
    for steps, settings in WAYS.items():
        way = pipe.configured(**settings)
        names = ("frechet", "train_on_generated")
        found = ud.evaluate(way, data=data, metrics=names, seeds=[0], features="pixels").as_dict()["metrics"]
        result[str(steps)] = dict(zip(("frechet", "accuracy"), (found[name] for name in names), strict=True))
        images.write_png(folder / f"{name}-{steps}.png", images.grid(images.to_hwc(way.sample(40)), columns=10))
    return result


def table(folder: Path) -> str:
    lines = ["| family | loss | " + " | ".join(f"FD, {k} | accuracy, {k}" for k in WAYS) + " |", "|---" * 8 + "|"]
    for name in ROWS:
        path = folder / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text())
            cells = [
                _cell(found[str(k)][what], scale) for k in WAYS for what, scale in (("frechet", 1), ("accuracy", 100))
            ]
            lines.append("| " + " | ".join([*name.rsplit("-", 1), *cells]) + " |")
    return "\n".join(lines)


def picture(folder: Path) -> Figure:
    """The first row of every sheet of samples: families and losses down, numbers of steps across."""
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    axes = figure.subplots(len(ROWS), len(WAYS))
    for line, name in zip(axes, ROWS, strict=True):
        for place, steps in zip(line, WAYS, strict=True):
            sheet = np.asarray(Image.open(folder / f"{name}-{steps}.png"))
            place.imshow(sheet[: (len(sheet) - 6) // 4 + 6], cmap="gray", vmin=0, vmax=255)
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(" ".join(name.rsplit("-", 1)), rotation=0, ha="right", va="center", fontsize=8)
    for place, steps in zip(axes[0], WAYS, strict=True):
        place.set_title(f"{steps} steps", fontsize=9)
    return figure


def _cell(number: dict[str, float], scale: float) -> str:
    digits = 3 if scale == 1 else 1
    return f"{number['value'] * scale:.{digits}f} ± {number['stderr'] * scale:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/families"))
    parser.add_argument("--only", nargs="*", default=None)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.only or ROWS:
        done = given.folder / f"{name}.json"
        if not done.exists():
            done.write_text(json.dumps(measured(name, given.folder), indent=1))
    print(table(given.folder))
    picture(given.folder).savefig(given.folder / "families.png", dpi=110)


if __name__ == "__main__":
    main()
