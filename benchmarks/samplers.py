"""Quality against network calls: Frechet distance of samples by every sampler and spacing, the same seeds throughout.

Run: python benchmarks/samplers.py MODEL OUT.jsonl [--n 5000] [--calls 5 8 10 ...] [--samplers ...] [--spacings ...]
     python benchmarks/samplers.py MODEL OUT.jsonl --table [--plot OUT.png] [--at 10] [--against ddim uniform 250]

Steps are as many, up to one a call, as make no more network calls than that on the model's own schedule and times: Heun
and EDM make two a step, PNDM four in each of its first three, and one where they start from hardly any signal. A row
that is already in OUT.jsonl is not made again, so it can be stopped, or shared by processes (--part 0/2, --part 1/2).
`euler` and `dpmpp_1m` are `ddim` in other letters (tests/diffusion/test_solvers.py), so they are left out.
Each row keeps 200 bootstrap replicates of the distance over samples, the same resampling in every row, so that rows can
be compared pair by pair. Excess is the distance above that of as many train images (the floor).
"""

import argparse
import json
import time
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse import build, images, measures, rng
from undiffuse.diffusion.samplers import GUESSES, SAMPLERS, trajectory
from undiffuse.diffusion.split import Split
from undiffuse.errors import UndiffuseError
from undiffuse.metrics.frechet import FeatureSums, Reference
from undiffuse.pipeline import Pipeline
from undiffuse.shapes import Data, Times

CALLS = (5, 8, 10, 15, 20, 50, 100, 250, 1000)
SPACED = ("uniform", "quadratic", "trailing", "log-snr", "karras", "fitted")
WITH_NOISE = ("ancestral_small", "ancestral_large", "dpmpp_2m_sde", "edm")
SAME = ("ancestral", "euler", "dpmpp_1m")  # named by variance below; and those that are ddim
NAMES = [*(name for name in SAMPLERS if name not in SAME), *WITH_NOISE[:2]]
MORE_CALLS = ("heun", "edm", "pndm")  # than one a step
REPLICATES = 200


def at(pipe: Pipeline, name: str, spacing: str, steps: int) -> Pipeline:
    sampler = name.split("_")[0] if name.startswith("ancestral_") else name
    return pipe.configured(sampler=sampler, spacing=spacing, steps=steps, eta=0.0)


def calls_of(pipe: Pipeline) -> int:
    """Network calls of a run of this sampler at these times, counted on a number in place of a picture."""
    asked, draws = [], rng.fold(0, "calls")

    def denoise(x_t: Data, t: Times) -> Split:
        asked.append(t)
        return Split.from_eps(x_t, 0 * x_t, *pipe.process.scales(t))

    frames = trajectory(pipe.process, denoise, build.sampler(pipe.config), torch.ones(1, 1), pipe.times(), draws)
    return len(asked) if list(frames) else 0


def steps_of(pipe: Pipeline, name: str, spacing: str, calls: int) -> int:
    """The most steps, at most `calls`, that make no more network calls than `calls`."""
    if name not in MORE_CALLS:
        return calls
    return bisect_right(range(1, calls + 1), calls, key=lambda steps: calls_of(at(pipe, name, spacing, steps)))


def configured(pipe: Pipeline, name: str, spacing: str, steps: int) -> Pipeline:
    if name.startswith("ancestral_"):
        wanted = {"diffusion.variance": name.removeprefix("ancestral_")}
        config = pipe.config.replaced(wanted)
        denoiser = build.denoiser(config)
        denoiser.backbone.load_state_dict(pipe.denoiser.backbone.state_dict())
        pipe = Pipeline.of(config, denoiser)
    return at(pipe, name, spacing, steps)


def replicates(features: np.ndarray, reference: Reference) -> list[float]:
    values, n = [], len(features)
    for i in range(REPLICATES):
        drawn = rng.fold(0, "bootstrap", i).integers(0, n - 1, (n,)).numpy()
        counts = np.bincount(drawn, minlength=n)
        mean = counts @ features / len(features)
        cov = (features.T * counts) @ features - len(features) * np.outer(mean, mean)
        values.append(reference.distance((mean, cov / (len(features) - 1))))
    return values


def measured(pipe: Pipeline, real: measures.Real, n: int, batch: int) -> dict[str, Any]:
    began = time.monotonic()
    x = pipe.sample(n, batch_size=batch)
    seconds = time.monotonic() - began
    levels = real.data.levels
    features = real.features(images.from_levels(images.to_levels(x, levels), levels))
    reference = Reference.of(real.held_out().sums.moments())
    return {
        "frechet": reference.distance(FeatureSums.of(features).moments()),
        "replicates": [round(value, 5) for value in replicates(features, reference)],
        "seconds": round(seconds, 1),
    }


def twin(
    pipe: Pipeline, name: str, steps: int, calls: int, rows: dict[tuple[str, str, int], dict[str, Any]]
) -> dict[str, Any] | None:
    """Numbers of the same sampler at the same times, under another spacing's name: uniform and trailing in T steps."""
    times = pipe.times()
    for spacing in SPACED[:-1]:
        row = rows.get((name, spacing, calls))
        if row is not None and row["frechet"] and at(pipe, name, spacing, steps).times() == times:
            return {key: row[key] for key in ("frechet", "replicates")} | {"seconds": 0}
    return None


def rows_of(out: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    lines = out.read_text().splitlines() if out.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["sampler"], row["spacing"], row["calls"]): row for row in rows}


def made(given: argparse.Namespace) -> None:
    pipe = Pipeline.load(given.model)
    if "fitted" in given.spacings and pipe.fitted is None:
        pipe = pipe.fit()
    real = measures.Real.of(build.dataset(pipe.config), given.features)
    floor = Reference.of(real.held_out().sums.moments()).distance(real.train(given.n).sums.moments())
    part, parts = map(int, given.part.split("/"))
    wanted = [(name, spacing, calls) for calls in given.calls for name in given.samplers for spacing in given.spacings]
    for name, spacing, calls in wanted[part::parts]:
        if (name, spacing, calls) in rows_of(given.out):
            continue
        if spacing == "fitted" and (name not in GUESSES or calls > 50):
            continue
        try:
            steps = steps_of(pipe, name, spacing, calls)
            fixed = replace(configured(pipe, name, spacing, steps), fitted=pipe.fitted)
            row = {"sampler": name, "spacing": spacing, "calls": calls, "steps": len(fixed.times()) - 1}
            row |= {"n": given.n, "floor": floor}
            row |= twin(fixed, name, steps, calls, rows_of(given.out)) or measured(fixed, real, given.n, given.batch)
        except UndiffuseError as error:  # an answer too: not finite, or more steps than there are times
            row |= {"frechet": None, "said": str(error), "replicates": [], "seconds": 0}
        with given.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{name} {spacing} {calls}: {row['frechet']}  ({row['seconds']} s)", flush=True)


def table(given: argparse.Namespace) -> None:
    """For each sampler its best spacing at every number of calls, and the spacings of one sampler."""
    rows = rows_of(given.out)
    calls = sorted({key[2] for key in rows})
    names = [name for name in NAMES if any(key[0] == name for key in rows)]
    floor = next(iter(rows.values()))["floor"]
    print(f"floor {floor:.4f}, n = {next(iter(rows.values()))['n']}\n")
    print("| sampler | " + " | ".join(map(str, calls)) + " |\n|" + "---|" * (len(calls) + 1))
    for name in names:
        cells = []
        for count in calls:
            found = [
                (row["frechet"], row["spacing"]) for key, row in rows.items() if key[0] == name and key[2] == count
            ]
            known = [(value, spacing) for value, spacing in found if value is not None]
            cells.append("{:.3f} {}".format(*min(known)) if known else "")
        print(f"| {name} | " + " | ".join(cells) + " |")
    if given.at:
        at_one_budget(rows, names, given.at, tuple(given.against[:2]), int(given.against[2]))
    if given.plot:
        plotted(rows, names, calls, floor, given.plot)


def at_one_budget(
    rows: dict[tuple[str, str, int], dict[str, Any]], names: list[str], calls: int, against: tuple[Any, ...], long: int
) -> None:
    """Every spacing at this many calls, and the best five beside a long run: difference and its 95 % interval."""
    print(f"\n| {calls} calls | " + " | ".join(SPACED) + " |\n|" + "---|" * (len(SPACED) + 1))
    for name in names:
        found = [rows.get((name, spacing, calls)) for spacing in SPACED]
        cells = ["" if row is None or row["frechet"] is None else f"{row['frechet']:.3f}" for row in found]
        print(f"| {name} | " + " | ".join(cells) + " |")
    reference = rows.get((*against, long))
    if reference is None:
        return
    print(f"\n{' '.join(against)} {long}: {reference['frechet']:.4f}")
    known = [row for key, row in rows.items() if key[2] == calls and row["frechet"] is not None]
    for row in sorted(known, key=lambda row: row["frechet"])[:5]:
        apart = np.array(row["replicates"]) - np.array(reference["replicates"])
        low, high = np.quantile(apart, (0.025, 0.975))
        gap = row["frechet"] - reference["frechet"]
        print(
            f"{row['sampler']} {row['spacing']} {calls}: {row['frechet']:.4f}, {gap:+.4f} ({low:+.4f} to {high:+.4f})"
        )


def plotted(
    rows: dict[tuple[str, str, int], dict[str, Any]], names: list[str], calls: list[int], floor: float, out: Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(names):
        best = [
            min(
                (row["frechet"] for key, row in rows.items() if key[0] == name and key[2] == count and row["frechet"]),
                default=np.nan,
            )
            for count in calls
        ]
        axes.loglog(calls, best, marker="o", ms=4, color=f"C{i % 10}", ls="-" if i < 10 else "--", label=name)
    axes.axhline(floor, color="0.5", lw=1, ls=":", label="real train images")
    axes.minorticks_off()
    low, high = axes.get_ylim()
    ticks = [
        tick
        for power in range(-3, 5)
        for digit in (1, 1.5, 2, 3, 4, 5, 7)
        if low <= (tick := digit * 10.0**power) <= high
    ]
    axes.set(xlabel="network calls", ylabel="Frechet distance, best spacing of each")
    axes.set(xticks=calls, xticklabels=calls, yticks=ticks, yticklabels=[f"{tick:g}" for tick in ticks])
    axes.legend(fontsize=8, ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=250, help="no image depends on it; for a GPU, as many as it holds")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--samplers", nargs="+", default=NAMES)
    parser.add_argument("--spacings", nargs="+", default=SPACED)
    parser.add_argument("--features", default="classifier")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--at", type=int, metavar="CALLS")
    parser.add_argument(
        "--against", nargs=3, default=("ddim", "uniform", "250"), metavar=("SAMPLER", "SPACING", "CALLS")
    )
    given = parser.parse_args()
    table(given) if given.table else made(given)


if __name__ == "__main__":
    main()
