"""Objectives and variances on equal budgets: bits per dimension and Frechet distance of small models of the digits.

Run: python benchmarks/objectives.py [FOLDER] [--only NAME ...]     (FOLDER: where runs and numbers are kept)

Every row trains the digits recipe's network with prediction eps for the recipe's number of steps; only the keys of the
row differ. A row that is already in FOLDER is not trained or measured again, so rows may be made by several processes.
Then the table of all rows in FOLDER is printed.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import undiffuse as ud
from undiffuse import config
from undiffuse.pipeline import Pipeline, build
from undiffuse.train.job import Training

COMMON = ["diffusion.prediction=eps", "train.sample_every=0", "train.checkpoint_every=0", "train.log_every=190"]
OBJECTIVES = {
    "simple": ("diffusion.loss=l2", "diffusion.variance=small"),
    "hybrid-learned": ("diffusion.loss=hybrid", "diffusion.variance=learned"),
    "vlb-fixed": ("diffusion.loss=vlb", "diffusion.variance=small"),
    "vlb-learned": ("diffusion.loss=vlb", "diffusion.variance=learned"),
    "vlb-learned-importance": (
        "diffusion.loss=vlb", "diffusion.variance=learned", "train.time_sampling=second_moment",
    ),
}  # fmt: skip
SCHEDULES = ("linear", "cosine")
SEEDS = {0: tuple(OBJECTIVES), 1: ("simple", "hybrid-learned")}  # the two that the paper compares twice
FAST, ANCESTRAL = {"sampler": "ddim", "steps": 50, "eta": 0.0}, {"sampler": "ancestral", "steps": 250}


@dataclass(frozen=True)
class Row:
    objective: str
    schedule: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.objective}-{self.schedule}-{self.seed}"

    @property
    def sets(self) -> list[str]:
        own = [*OBJECTIVES[self.objective], f"diffusion.schedule={self.schedule}", f"seed={self.seed}"]
        return [*COMMON, *own]


def trained(row: Row, folder: Path) -> Pipeline:
    run = folder / row.name
    if not (run / "environment.json").exists():
        for report in Training.start(config.load("digits", row.sets), run, row.name):
            print(f"{row.name}: step {report.step}, loss {report.loss}", flush=True)
    return Pipeline.load(run)


def measured(row: Row, folder: Path) -> dict[str, Any]:
    """Bits per dimension for every variance that the model can be read with, and Frechet distances."""
    pipe = trained(row, folder)
    data = build.dataset(pipe.config)
    fixed = pipe.process.variance != "learned"
    result: dict[str, Any] = {"row": asdict(row), "bpd": {}}
    for variance in ("small", "large") if fixed else ("learned",):
        denoiser = replace(pipe.denoiser, process=replace(pipe.process, variance=variance))
        bits = ud.evaluate(replace(pipe, denoiser=denoiser), data=data, metrics="bpd").metrics["bpd"]
        result["bpd"][variance] = {"value": bits.value, "stderr": bits.stderr, "parts": bits.says}
    for name, settings in (("ddim", FAST), ("ancestral", ANCESTRAL)):
        way = pipe.configured(**settings)
        found = ud.evaluate(way, data=data, metrics="frechet", seeds=[0], features="pixels")
        result[name] = found.metrics["frechet"].as_dict()
    return result


def table(folder: Path) -> str:
    """One line per row and variance."""
    lines = [
        "| objective | variance | schedule | seed | bits/dim | FD ancestral 250 | FD DDIM 50 |",
        "|---|---|---|---|---|---|---|",
    ]
    results = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    for result in sorted(results, key=lambda r: (r["row"]["schedule"], r["row"]["objective"], r["row"]["seed"])):
        row = result["row"]
        for variance, bits in result["bpd"].items():
            sampled = variance != "large"  # samples were drawn with the variance of training
            distances = [_with_error(result[way]) if sampled else "" for way in ("ancestral", "ddim")]
            cells = [row["objective"], variance, row["schedule"], str(row["seed"]), _with_error(bits), *distances]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_error(number: dict[str, float]) -> str:
    return f"{number['value']:.3f} ± {number['stderr']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--only", nargs="*", default=None)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    rows = [Row(objective, schedule, seed) for seed in SEEDS for objective in SEEDS[seed] for schedule in SCHEDULES]
    for row in rows:
        done = given.folder / f"{row.name}.json"
        if (given.only is None or row.name in given.only) and not done.exists():
            done.write_text(json.dumps(measured(row, given.folder), indent=1))
    print(table(given.folder))


if __name__ == "__main__":
    main()
