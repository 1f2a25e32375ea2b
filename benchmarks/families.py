"""Noise families and losses on equal budgets: Frechet distance and train-on-generated accuracy of models of the digits.

Run: python benchmarks/families.py [FOLDER] [--only NAME ...]     (FOLDER: where runs and numbers are kept)

Every row trains the digits recipe; only the noise family and the loss differ, the seeds are the same. Samples are drawn
by DDIM with the recipe's eta in 10 and 50 steps and by ancestral sampling in 1000. A row that is already in FOLDER is
not made again, so rows may be made by several processes. Then the table of all rows in FOLDER is printed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from undiffuse import build, config, evaluation, images
from undiffuse.jobs import Training
from undiffuse.pipeline import Pipeline

FAMILIES = {
    "gaussian": ("diffusion.noise=gaussian",),
    "laplace": ("diffusion.noise=laplace",),
    "gamma": ("diffusion.noise=gamma",),
    "gamma-0.02": ("diffusion.noise=gamma", "diffusion.theta=0.02"),
    "mixture": ("diffusion.noise=mixture",),
    "uniform": ("diffusion.noise=uniform",),
}
LOSSES = ("l2", "l1")
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
        sets = evaluation.of_model(pipe.configured(**settings), evaluation.default_count(data), [0])
        result[str(steps)] = {
            "frechet": evaluation.frechet(sets, data).as_dict(),
            "accuracy": evaluation.train_on_generated(sets, data).as_dict(),
        }
        images.write_png(folder / f"{name}-{steps}.png", images.grid(images.to_hwc(sets[0].images[:40]), columns=10))
    return result


def table(folder: Path) -> str:
    lines = ["| family | loss | " + " | ".join(f"FD, {k} | accuracy, {k}" for k in WAYS) + " |", "|---" * 8 + "|"]
    for name in (f"{family}-{loss}" for family in FAMILIES for loss in LOSSES):
        path = folder / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text())
            cells = [
                _cell(found[str(k)][what], scale) for k in WAYS for what, scale in (("frechet", 1), ("accuracy", 100))
            ]
            lines.append("| " + " | ".join([*name.rsplit("-", 1), *cells]) + " |")
    return "\n".join(lines)


def _cell(number: dict[str, float], scale: float) -> str:
    digits = 3 if scale == 1 else 1
    return f"{number['value'] * scale:.{digits}f} ± {number['stderr'] * scale:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/families"))
    parser.add_argument("--only", nargs="*", default=None)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.only or [f"{family}-{loss}" for family in FAMILIES for loss in LOSSES]:
        done = given.folder / f"{name}.json"
        if not done.exists():
            done.write_text(json.dumps(measured(name, given.folder), indent=1))
    print(table(given.folder))


if __name__ == "__main__":
    main()
