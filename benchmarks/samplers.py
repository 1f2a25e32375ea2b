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

from undiffuse import images, rng
from undiffuse.diffusion.samplers import GUESSES, SAMPLERS, trajectory
from undiffuse.diffusion.split import Split
from undiffuse.errors import UndiffuseError
from undiffuse.evaluation.real import RealImages
from undiffuse.metrics.frechet import FeatureSums, Reference
from undiffuse.pipeline import Pipeline, build
from undiffuse.shapes import Data, Times

CALLS = (5, 8, 10, 15, 20, 50, 100, 250, 1000)
SPACED = ("uniform", "quadratic", "trailing", "log-snr", "karras", "fitted")
WITH_NOISE = ("ancestral_small", "ancestral_large", "dpmpp_2m_sde", "edm")
SAME = ("ancestral", "euler", "dpmpp_1m")  # named by variance below; and those that are ddim
NAMES = [*(name for name in SAMPLERS if name not in SAME), *WITH_NOISE[:2]]
MORE_CALLS = ("heun", "edm", "pndm")  # than one a step
REPLICATES = 200
LABELS = {
    "ancestral_small": "`ancestral`, small variance",
    "ancestral_large": "`ancestral`, large variance",
}
STYLES = {  # a colour for each family
    "ddim": ("C1", "-"),
    "heun": ("C3", "-"),
    "dpmpp_2m": ("C0", "-"),
    "dpmpp_3m": ("C0", "--"),
    "deis": ("C9", "-"),
    "unipc": ("black", "-"),
    "pndm": ("0.6", "-"),
    "dpmpp_2m_sde": ("C2", "-"),
    "edm": ("C2", "--"),
    "ancestral_small": ("C4", "-"),
    "ancestral_large": ("C4", "--"),
}
CLOSE = (0.42, 0.56)
Rows = dict[tuple[str, str, int], dict[str, Any]]


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


def measured(pipe: Pipeline, real: RealImages, n: int, batch: int) -> dict[str, Any]:
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


def twin(pipe: Pipeline, name: str, steps: int, calls: int, rows: Rows) -> dict[str, Any] | None:
    """Numbers of the same sampler at the same times, under another spacing's name: uniform and trailing in T steps."""
    times = pipe.times()
    for spacing in SPACED[:-1]:
        row = rows.get((name, spacing, calls))
        if row is not None and row["frechet"] and at(pipe, name, spacing, steps).times() == times:
            return {key: row[key] for key in ("frechet", "replicates")} | {"seconds": 0}
    return None


def rows_of(out: Path) -> Rows:
    lines = out.read_text().splitlines() if out.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["sampler"], row["spacing"], row["calls"]): row for row in rows}


def made(given: argparse.Namespace) -> None:
    pipe = Pipeline.load(given.model)
    if "fitted" in given.spacings and pipe.fitted is None:
        pipe = pipe.fit()
    real = RealImages.of(build.dataset(pipe.config), given.features)
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


def best_of(rows: Rows, name: str, calls: int) -> dict[str, Any] | None:
    """The row of the spacing that suits this sampler best in so many calls."""
    known = [row for key, row in rows.items() if key[::2] == (name, calls) and row["frechet"] is not None]
    return min(known, key=lambda row: row["frechet"], default=None)


def complete(rows: Rows, names: list[str]) -> list[int]:
    """The numbers of calls that all samplers have been measured in, at all spacings without those fitted."""
    wanted = [(name, spacing) for name in names for spacing in SPACED[:-1]]
    return [count for count in sorted({key[2] for key in rows}) if all((*pair, count) in rows for pair in wanted)]


def table(given: argparse.Namespace) -> None:
    """For each sampler its best spacing at every number of calls, and the spacings of one number of calls."""
    rows = rows_of(given.out)
    names = [name for name in NAMES if any(key[0] == name for key in rows)]
    calls = complete(rows, names) or sorted({key[2] for key in rows})
    first = next(iter(rows.values()))
    print(f"floor {first['floor']:.4f}, n = {first['n']}\n")
    print("| calls | " + " | ".join(map(str, calls)) + " | enough |\n|" + "---|" * (len(calls) + 2))
    for name in names:
        found = [best_of(rows, name, count) for count in calls]
        cells = [f"{row['frechet']:.3f} {row['spacing']}" if row else "" for row in found]
        print(
            f"| {LABELS.get(name, f'`{name}`')} | " + " | ".join([*cells, str(enough(rows, name, calls) or "")]) + " |"
        )
    sampler, spacing, long = given.against
    for count in given.at:
        at_one_budget(rows, names, count, rows.get((sampler, spacing, int(long))))
    if given.plot:
        plotted(rows, names, calls, first, given.plot)


def apart(row: dict[str, Any], other: dict[str, Any]) -> tuple[float, float, float]:
    """Difference of two distances, and its 95 % interval over the resamplings that they share."""
    low, high = np.quantile(np.array(row["replicates"]) - np.array(other["replicates"]), (0.025, 0.975))
    return row["frechet"] - other["frechet"], low, high


def enough(rows: Rows, name: str, calls: list[int]) -> int | None:
    """The fewest calls from which on this sampler's best cannot be told from, or beats, its best in the most calls."""
    last, fewest = best_of(rows, name, calls[-1]), None
    for count in reversed(calls):
        row = best_of(rows, name, count)
        if row is None or last is None or apart(row, last)[1] > 0:
            break
        fewest = count
    return fewest


def at_one_budget(rows: Rows, names: list[str], calls: int, against: dict[str, Any] | None) -> None:
    """Every spacing at this many calls, bold what cannot be told from the lowest; and all of them beside another run:
    excess over the floor in units of its own, difference and its 95 % interval."""
    known = [row for key, row in rows.items() if key[2] == calls and row["frechet"] is not None]
    known.sort(key=lambda row: row["frechet"])
    print(f"\n| {calls} calls | " + " | ".join(SPACED) + " |\n|" + "---|" * (len(SPACED) + 1))
    for name in names:
        found = {row["spacing"]: row for row in known if row["sampler"] == name}
        cells = ["" if spacing not in found else said(found[spacing], known[0]) for spacing in SPACED]
        print(f"| {LABELS.get(name, f'`{name}`')} | " + " | ".join(cells) + " |")
    if against is None:
        return
    print(f"\n{against['sampler']} {against['spacing']} {against['calls']}: {against['frechet']:.4f}")
    for row in known:
        gap, low, high = apart(row, against)
        excess = (row["frechet"] - row["floor"]) / (against["frechet"] - row["floor"])
        told = f", excess {excess:.2f}" if against["frechet"] > row["floor"] else ""
        name = f"{row['sampler']} {row['spacing']} {calls}"
        print(f"{name}: {row['frechet']:.4f}{told}, {gap:+.4f} ({low:+.4f} to {high:+.4f})")


def said(row: dict[str, Any], lowest: dict[str, Any]) -> str:
    value = f"{row['frechet']:.3f}"
    return f"**{value}**" if apart(row, lowest)[1] <= 0 else value


def plotted(rows: Rows, names: list[str], calls: list[int], first: dict[str, Any], out: Path) -> None:
    """All of it on the left, on the right the end where lines meet."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.2), layout="constrained")
    for axes, (low, high, scale) in zip(figure.subplots(1, 2), ((None, None, "log"), (*CLOSE, "linear")), strict=True):
        for name in names:
            found = [best_of(rows, name, count) for count in calls]
            style: dict[str, Any] = dict(zip(("color", "ls"), STYLES[name], strict=True))
            values = [row["frechet"] if row else np.nan for row in found]
            axes.plot(calls, values, marker="o", ms=3.5, label=LABELS.get(name, name).replace("`", ""), **style)
        axes.axhline(first["floor"], color="0.5", lw=1, ls=":", label="real train images")
        axes.set(xscale="log", yscale=scale, xlabel="network calls", ylim=(low, high))
        axes.minorticks_off()
        axes.set(xticks=calls, xticklabels=calls)
        axes.spines[["top", "right"]].set_visible(False)
    whole, close = figure.axes
    low, high = whole.get_ylim()
    ticks = [tick for tick in (0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 4, 6, 8, 10) if low <= tick <= high]
    whole.set(yticks=ticks, yticklabels=[f"{tick:g}" for tick in ticks])
    whole.set_ylabel(f"Frechet distance of {first['n']:,} samples, best spacing of each")
    close.set_title("the same, nearer", fontsize=10)
    figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
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
    parser.add_argument("--at", type=int, nargs="+", default=(), metavar="CALLS")
    parser.add_argument(
        "--against", nargs=3, default=("ddim", "uniform", "250"), metavar=("SAMPLER", "SPACING", "CALLS")
    )
    given = parser.parse_args()
    table(given) if given.table else made(given)


if __name__ == "__main__":
    main()
