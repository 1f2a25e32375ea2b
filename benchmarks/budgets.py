"""What a recipe makes of a budget: Frechet distance and train-on-generated accuracy after so many minutes or images.

Run: python benchmarks/budgets.py FOLDER NAME [--recipe fashion-mnist] --set train.minutes=15 [key=value ...]
     python benchmarks/budgets.py FOLDER NAME --images 40000 --set train.batch_size=32 ...     (to compare settings)
     python benchmarks/budgets.py FOLDER --table

The run is FOLDER/NAME, which goes on where it was stopped. Its numbers are lines of FOLDER/budgets.jsonl, one for each
of its averages and each guidance: samples by UniPC in ten steps, seed 0, beside held-out images. Whatever else works on
the machine shortens what minutes hold: compare by them only rows that were trained alone.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import undiffuse as ud
from undiffuse import config
from undiffuse.pipeline import Pipeline, build
from undiffuse.pipeline.build import average_name
from undiffuse.report.format import quantity
from undiffuse.train.job import Training

METRICS = {
    "frechet": "Frechet distance",
    "train_on_generated": "train on generated",
    "label_accuracy": "recognised as asked",
    "recall": "recall",
}
QUIET = ("train.sample_every=0", "train.checkpoint_every=1000", "train.log_every=50")
DRAWN = {"sampler": "unipc", "steps": 10, "spacing": "uniform"}


def trained(given: argparse.Namespace) -> Path:
    run: Path = given.folder / given.name
    if (run / "config.yaml").exists():
        training = Training.resume(run)
    else:
        wanted = config.load(given.recipe, [*QUIET, *given.set])
        if given.images:
            wanted = wanted.replaced({"train.steps": given.images // wanted.train.batch_size})
        training = Training.start(wanted, run, given.name)
    for report in training:
        print(f"{given.name}: {report}", flush=True)
    return run


def course(run: Path) -> dict[str, Any]:
    """By the run's own log: seconds of steps and the loss of the last eighth."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    size, done = config.read(run / "config.yaml").train.batch_size, [line["step"] for line in lines]
    seconds = sum(
        (step - before) * size / line["images_per_s"]
        for line, step, before in zip(lines, done, [0, *done], strict=False)
    )
    late = [line["loss"] for line in lines[-(len(lines) // 8 or 1) :]]
    return {"images": done[-1] * size, "minutes": round(seconds / 60, 2), "late_loss": sum(late) / len(late)}


def measured(run: Path, n: int, guidances: list[float]) -> Iterator[dict[str, Any]]:
    first = Pipeline.load(run)
    data, decays = build.dataset(first.config), first.config.train.decays
    for index, decay in enumerate(decays):
        weights = average_name(decays, index)
        for guidance in guidances:
            pipe = Pipeline.load(run, weights=weights).configured(**DRAWN, guidance=guidance)
            found = ud.evaluate(pipe, data=data, metrics=[*METRICS], n=n, seeds=[0], mix="even")
            yield {"ema": decay, "guidance": guidance, "n": n, "metrics": found.as_dict()["metrics"]}


def table(rows: list[dict[str, Any]]) -> str:
    heads = ("run", "minutes", "images", "late loss", "EMA", "guidance", *METRICS.values())
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        values = [quantity(row["metrics"][name]["value"], row["metrics"][name]["stderr"]) for name in METRICS]
        cells = [row["name"], f"{row['minutes']:.1f}", f"{row['images']:,}", f"{row['late_loss']:.4f}", row["ema"]]
        cells += [row["guidance"], *(" ± ".join(part for part in value if part) for value in values)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--recipe", default="fashion-mnist")
    parser.add_argument("--images", type=int)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5])
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    out = given.folder / "budgets.jsonl"
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    if given.name and all(row["name"] != given.name for row in rows):
        run = trained(given)
        facts = {"name": given.name, "set": given.set, **course(run)}
        rows += (new := [facts | row for row in measured(run, given.n, given.guidance)])
        with out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
    print(table(rows if given.table else [row for row in rows if row["name"] == given.name]))


if __name__ == "__main__":
    main()
