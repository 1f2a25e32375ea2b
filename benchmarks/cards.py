"""The figures in the cards of the models that come with undiffuse, measured anew.

Run: python benchmarks/cards.py [NAME ...] [--keep]        (make reproduce-cards: all of them)

Each figure goes into figures.json beside the card (README.md in src/undiffuse/models/NAME) as soon as it is there, and
the card's tables, between their marks, are written from that file. --keep goes on where an earlier run stopped, in the
middle of the samples if need be.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import undiffuse as ud
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UndiffuseError
from undiffuse.evaluation.choice import choose_metrics
from undiffuse.evaluation.real import reference_data
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.bundled import MODELS, bundled_names
from undiffuse.report.format import quantity

STEPS, MANY, GUIDED, FEW = (10, 20, 50), 5000, 2000, 500
TERMS = 20  # of the T of the bound, drawn for each image, where more than a thousand images are held out
BEGIN, END = "<!-- figures: make reproduce-cards -->", "<!-- end of figures -->"
TITLES = {
    "frechet": "Frechet distance",
    "kid": "kernel distance (KID)",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "label_accuracy": "recognised as asked",
    "train_on_generated": "train on generated, test on real",
    "memorisation": "nearer to a train image than to a held-out one",
}
Found = dict[str, Any]


@dataclass(frozen=True)
class Card:
    """One bundled model, and what there is to measure of it."""

    name: str

    @cached_property
    def pipe(self) -> Pipeline:
        return Pipeline.load(self.name)

    @cached_property
    def data(self) -> Dataset:
        return reference_data(self.pipe, None)

    def work(self) -> dict[str, Callable[[], Found]]:
        """By name, in the order of the card."""
        told = {f"{k} steps": lambda k=k: self.samples(MANY, steps=k) for k in STEPS}
        told["guidance 2"] = lambda: self.samples(GUIDED, ("label_accuracy", "frechet", "recall"), guidance=2.0)
        told["bits"] = self.bits
        told["1000 steps"] = lambda: self.samples(FEW, ("kid",), steps=self.pipe.process.T)
        return told

    def samples(self, n: int, only: tuple[str, ...] = (), **changes: Any) -> Found:
        pipe = self.pipe.configured(**changes)
        able = choose_metrics(None, len(pipe.class_names), True, self.data, n)
        wanted = [name for name in able if name in (only or TITLES)]
        return ud.evaluate(pipe, data=self.data, metrics=wanted, n=n, seeds=[0]).as_dict()

    def bits(self) -> Found:
        times = TERMS if len(self.data.held_out) > 1000 else None
        bits = ud.evaluate(self.pipe, data=self.data, metrics="bpd", times=times).metrics["bpd"]
        return {"metrics": {"bpd": bits.as_dict()}, "protocol": {"bpd": bits.says}}

    # -- on disk ------------------------------------------------------------------------------------------------

    @property
    def figures(self) -> Path:
        return MODELS / self.name / "figures.json"

    def measure(self, keep: bool) -> None:
        found = json.loads(self.figures.read_text()) if keep and self.figures.exists() else {}
        for what, make in self.work().items():
            if what not in found:
                found[what] = make()
                self.figures.write_text(json.dumps(found, indent=1) + "\n")
                self.write()
                print(f"{self.name}: {what} measured", flush=True)

    def write(self) -> None:
        """The tables, between the marks of the card."""
        card = MODELS / self.name / "README.md"
        head, rest = card.read_text().split(BEGIN)
        card.write_text(f"{head}{BEGIN}\n{tables(json.loads(self.figures.read_text()))}{END}{rest.split(END)[1]}")


def tables(found: dict[str, Found]) -> str:
    """Of what was measured by now."""
    done = [found[f"{k} steps"] for k in STEPS if f"{k} steps" in found]
    lines = [*of_steps(done, [k for k in STEPS if f"{k} steps" in found])] if done else []
    lines += [line(found[what]) for what, line in LINES.items() if what in found]
    missing = [what for what in (*(f"{k} steps" for k in STEPS), *LINES) if what not in found]
    return "\n".join([*lines, *([f"- Not measured yet: {', '.join(missing)}."] if missing else []), ""])


def of_steps(done: list[Found], steps: list[int]) -> Iterator[str]:
    columns, protocol = [one["metrics"] for one in done], done[0]["protocol"]
    real = f"{protocol['real_in_their_place']:,} real images"
    yield f"| {MANY:,} samples | " + " | ".join(f"{k} steps" for k in steps) + f" | {real} |"
    yield "|---" * (len(steps) + 2) + "|"
    for name, title in TITLES.items():
        if name in columns[0]:
            values = " | ".join(said(column[name]) for column in columns)
            floor = quantity(columns[0][name]["floor"], columns[0][name]["stderr"])[0]
            yield f"| {title} | {values} | {floor} |"
    copies = ", ".join(str(one["protocol"]["memorisation"]["exact copies of train images"]) for one in done)
    mix = f", classes {protocol['class_mix']}" if "class_mix" in protocol else ""
    yield ""
    yield (
        f"- Drawn by {protocol['sampler'].upper()}, eta {protocol['eta']:g}, on the times of `auto` (docs/samplers.md, "
        f"where other samplers stand beside it), guidance {protocol['guidance']:g}, seed 0"
        f"{mix}. Features: {protocol['features']}."
    )
    yield f"- Precision, recall, density, coverage: {protocol['precision']['images a side']:,} images a side."
    yield f"- Exact copies of train images among the samples: {copies}."


def of_guidance(found: Found) -> str:
    also = ", ".join(f"{TITLES[name].lower()} {said(measure)}" for name, measure in found["metrics"].items())
    return f"- Guidance 2, {GUIDED:,} samples: {also}."


def of_many(found: Found) -> str:
    kid = found["metrics"]["kid"]
    return f"- 1000 steps, {FEW} samples: KID {said(kid)} (as many real ones: {kid['floor']:.2g})."


def of_bits(found: Found) -> str:
    return f"- {said(found['metrics']['bpd'])} bits per dimension of the held-out images ({terms(found)})."


LINES: dict[str, Callable[[Found], str]] = {"guidance 2": of_guidance, "1000 steps": of_many, "bits": of_bits}


def said(measure: Found) -> str:
    return " ± ".join(part for part in quantity(measure["value"], measure["stderr"]) if part)


def terms(found: Found) -> str:
    protocol = found["protocol"]["bpd"]
    taken, T = protocol["times_per_image"], protocol["T"]
    return "all terms of the bound" if taken == T else f"{taken} of the {T} terms of the bound for each image"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=bundled_names())
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    for name in given.names:
        try:
            card = Card(name)
            card.measure(given.keep)
            card.write()
        except UndiffuseError as error:  # no data, mostly
            raise SystemExit(f"{name}: {error}") from None


if __name__ == "__main__":
    main()
