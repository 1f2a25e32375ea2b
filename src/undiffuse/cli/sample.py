"""sample and plot: from a model to files."""

import functools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from undiffuse import images
from undiffuse.cli import progress
from undiffuse.cli.options import (
    PlotElbo,
    PlotForward,
    PlotNoise,
    PlotReverse,
    PlotSchedules,
    PlotScore,
    Sample,
    listed,
)
from undiffuse.config import Config
from undiffuse.data.dataset import Dataset
from undiffuse.data.prepare import load_data
from undiffuse.diffusion.bound import BOUND_BLOCK
from undiffuse.diffusion.likelihood import check_gaussian
from undiffuse.diffusion.schedule import SCHEDULES
from undiffuse.errors import UsageError
from undiffuse.evaluation.run import on_its_grid, real_images
from undiffuse.files.writing import check_file, file_kind, whole
from undiffuse.pipeline import Pipeline
from undiffuse.processes import ranks
from undiffuse.sampling.job import check_folder, open_job
from undiffuse.sampling.request import Request
from undiffuse.viz import curves, of_model
from undiffuse.viz.animation import denoising_gif

MOST_ANIMATED, MOST_ROWS = 256, 6
MOST_BYTES = 2**31  # of pixels in one file, which are in memory together
Writer = Callable[[Path, Sample, Pipeline], None]


def sample(given: Sample) -> None:
    write = _writer(given.out, given.format)
    if given.n < 1:
        raise UsageError(f"-n must be at least 1, got {given.n}")
    if file_kind(given.out) == ".gif" and given.batch_size is not None:
        raise UsageError("an animation is made in one batch; leave --batch-size out")
    pipe = Pipeline.load(given.model, given.weights, given.checkpoint, given.device or ranks.own_device())
    changes = {name: getattr(given, name) for name in ("guidance", "sampler", "steps", "eta", "spacing")}
    if given.noise not in (None, pipe.process.noise.name):
        raise UsageError(
            f"--noise {given.noise}: this model was trained with {pipe.process.noise.name} noise, for good; "
            f"train another with: undiffuse train RECIPE --set diffusion.noise={given.noise}"
        )
    pipe = pipe.configured(**changes)
    if kind := file_kind(given.out):
        larger = images.laid_out(given.n, *pipe.shape[1:])[1] if kind == ".png" else 1
        if given.n * math.prod(pipe.shape) * larger**2 > MOST_BYTES:
            raise UsageError(f"{given.n:,} images are too many for one file; give --out a new folder's name")
        with whole(given.out) as aside:
            write(aside, given, pipe)
    else:
        write(given.out, given, pipe)
    if ranks.rank() == 0:
        print(given.out)


def _writer(out: Path, format: str | None) -> Writer:
    """The function for this kind of file, after checking that it can be written: fail before the work, not after."""
    suffix = file_kind(out)
    if suffix not in WRITERS:
        known = ", ".join(kind for kind in WRITERS if kind)
        raise UsageError(f"{out}: unknown file extension '{suffix}'; known: {known}, or a new folder")
    if suffix and format is not None:
        raise UsageError(f"--format is for a folder, and {out} is a file; leave it out, or give a folder's name")
    if suffix and ranks.count() > 1:
        raise UsageError(f"several processes can share a folder, not a file; give --out a folder's name, not {out}")
    check_file(out) if suffix else check_folder(out)
    return WRITERS[suffix]


def _blocks(given: Sample, pipe: Pipeline) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
    """Indices, uint8 [n, h, w, c] and int64 labels (-1 = none) of one block after the other."""
    label = listed(given.label)
    frames = pipe.stream(given.n, given.seed, given.start, label, given.batch_size)
    for rows, frame in progress.track("step", frames, pipe.frame_count(given.n, given.start, given.batch_size)):
        if frame.t == 0:
            y = pipe.labels(rows, label)
            yield rows, images.to_hwc(frame.x), np.full(len(rows), -1) if y is None else y.numpy()


def _write_png(out: Path, given: Sample, pipe: Pipeline) -> None:
    pictures = np.concatenate([pictures for _, pictures, _ in _blocks(given, pipe)])
    images.write_png(out, images.grid(pictures))


def _write_npz(out: Path, given: Sample, pipe: Pipeline) -> None:
    _, pictures, labels = zip(*_blocks(given, pipe), strict=True)
    images.write_npz(out, np.concatenate(pictures), np.concatenate(labels))


def _write_gif(out: Path, given: Sample, pipe: Pipeline) -> None:
    if given.n > MOST_ANIMATED:
        raise UsageError(f"an animation of {given.n} images cannot be seen; take -n {MOST_ANIMATED} or fewer")
    frames = pipe.frames(given.n, given.seed, given.start, listed(given.label))
    watched = progress.track("step", frames, pipe.frame_count(given.n, batch_size=given.n))
    denoising_gif(out, of_model.states(pipe, pipe.noise(given.n, given.seed, given.start), watched))


def _write_folder(out: Path, given: Sample, pipe: Pipeline) -> None:
    """A job that may be stopped and goes on; process 0 speaks for all."""
    ranks.warn_if_alone()
    asked = (given.n, given.seed, given.start, listed(given.label), given.batch_size, given.format or "png")
    with open_job(pipe, Request.of(pipe, *asked), out) as job:
        if job.finished and ranks.rank() == 0:
            print(f"all {given.n:,} images are there already", file=sys.stderr)
        progress.drawing(job)


WRITERS: dict[str, Writer] = {".png": _write_png, ".gif": _write_gif, ".npz": _write_npz, "": _write_folder}


def plot_schedules(given: PlotSchedules) -> None:
    _figure(lambda: curves.plot_schedules({name: make(given.T) for name, make in SCHEDULES.items()}), given.out)


def plot_noise(given: PlotNoise) -> None:
    data = _with_row(given.data, given.row)
    config = Config().replaced({"diffusion.T": given.T, "diffusion.schedule": given.schedule})
    _figure(lambda: of_model.noises(config, data, given.row), given.out)


def _with_row(source: str, row: int) -> Dataset:
    data = load_data(source)
    if not 0 <= row < len(data.train):
        raise UsageError(f"--row must lie in 0..{len(data.train) - 1}, got {row}")
    return data


def plot_forward(given: PlotForward) -> None:
    data = _with_row(given.data, given.row)
    config = Config().replaced({"diffusion.T": given.T})
    _figure(lambda: of_model.forward(config, data, given.row), given.out)


def plot_reverse(given: PlotReverse) -> None:
    if not 1 <= given.n <= MOST_ROWS:
        raise UsageError(f"-n must lie in 1..{MOST_ROWS}, got {given.n}")
    pipe = Pipeline.load(given.model)
    count = pipe.frame_count(given.n)
    frames = progress.track("step", pipe.frames(given.n, given.seed, label=listed(given.label)), count)
    _figure(lambda: of_model.reverse(pipe, pipe.noise(given.n, given.seed), list(frames), given.n), given.out)


def plot_elbo(given: PlotElbo) -> None:
    pipe = Pipeline.load(given.model, given.weights, given.checkpoint, given.device)
    data = real_images(pipe, given.data)
    pipe = on_its_grid(pipe, data)
    held_out = data.held_out.chosen(torch.arange(_held_out_count(given.n, data)))
    data = replace(data, held_out=held_out)
    calls = -(-len(held_out) // BOUND_BLOCK) * pipe.process.T

    def draw() -> Figure:
        label = held_out.labels if pipe.class_names else None
        watch = functools.partial(progress.track, "term of the bound", total=calls)
        return of_model.bound(pipe, data, pipe.bound(held_out.images(), label, None, given.seed, watch))

    _figure(draw, given.out)


def plot_score(given: PlotScore) -> None:
    pipe = Pipeline.load(given.model, given.weights, given.checkpoint, given.device)
    check_gaussian(pipe.process, "the score", "score = -eps / sigma is the Gaussian's")
    data = real_images(pipe, given.data)
    n = _held_out_count(given.n, data)
    watch = functools.partial(progress.track, "comparison", total=3)
    _figure(lambda: of_model.score(pipe, data, n, given.seed, watch), given.out)


def _held_out_count(n: int | None, data: Dataset) -> int:
    held_out = len(data.held_out)
    if n is not None and not 2 <= n <= held_out:
        raise UsageError(f"-n must lie in 2..{held_out}, the held-out images of {data.name}, got {n}")
    return held_out if n is None else n


def _figure(draw: Callable[[], Figure], out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise UsageError(f"{out}: plots are written as .png")
    check_file(out)
    figure = draw()
    with whole(out) as aside:
        of_model.save(figure, aside)
    print(out)
