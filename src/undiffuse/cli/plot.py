"""plot: schedules, the forward and reverse process, noise, the bound, the score."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

from undiffuse.cli.plot_options import (
    PlotElboOptions,
    PlotForwardOptions,
    PlotNoiseOptions,
    PlotReverseOptions,
    PlotSchedulesOptions,
    PlotScoreOptions,
)
from undiffuse.cli.progress import show
from undiffuse.config import Config
from undiffuse.data.dataset import Dataset
from undiffuse.data.prepare import load_data
from undiffuse.diffusion.likelihood import check_gaussian
from undiffuse.diffusion.schedule import SCHEDULES
from undiffuse.errors import UsageError
from undiffuse.evaluation.real import on_its_grid, reference_data
from undiffuse.files.writing import check_file, whole
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.labels import named_labels
from undiffuse.viz import curves, of_model

MOST_ROWS = 6


def plot_schedules(given: PlotSchedulesOptions) -> None:
    T = Config().replaced({"diffusion.T": given.T}).diffusion.T
    _figure(lambda: curves.plot_schedules({name: make(T) for name, make in SCHEDULES.items()}), given.out)


def plot_noise(given: PlotNoiseOptions) -> None:
    data = _with_row(given.data, given.row)
    config = Config().replaced({"diffusion.T": given.T, "diffusion.schedule": given.schedule})
    _figure(lambda: of_model.noises(config, data, given.row), given.out)


def _with_row(source: str, row: int) -> Dataset:
    data = load_data(source)
    if not 0 <= row < len(data.train):
        raise UsageError(f"--row must lie in 0..{len(data.train) - 1}, got {row}")
    return data


def plot_forward(given: PlotForwardOptions) -> None:
    data = _with_row(given.data, given.row)
    config = Config().replaced({"diffusion.T": given.T})
    _figure(lambda: of_model.forward(config, data, given.row), given.out)


def plot_reverse(given: PlotReverseOptions) -> None:
    if not 1 <= given.n <= MOST_ROWS:
        raise UsageError(f"-n must lie in 1..{MOST_ROWS}, got {given.n}")
    pipe = Pipeline.load(given.model)
    frames = pipe.frames(given.n, given.seed, label=named_labels(given.label, pipe.class_names), watch=show)
    _figure(lambda: of_model.reverse(pipe, pipe.noise(given.n, given.seed), list(frames), given.n), given.out)


def plot_elbo(given: PlotElboOptions) -> None:
    pipe = Pipeline.load(given.model, given.weights, given.checkpoint, given.device)
    data = reference_data(pipe, given.data)
    pipe = on_its_grid(pipe, data)
    held_out = data.held_out.chosen(torch.arange(_held_out_count(given.n, data)))
    data = replace(data, held_out=held_out)

    def draw() -> Figure:
        label = held_out.labels if pipe.class_names else None
        return of_model.bound_figure(pipe, data, pipe.bound(held_out.images(), label, None, given.seed, show))

    _figure(draw, given.out)


def plot_score(given: PlotScoreOptions) -> None:
    pipe = Pipeline.load(given.model, given.weights, given.checkpoint, given.device)
    check_gaussian(pipe.process, "the score", "score = -eps / sigma is the Gaussian's")
    data = reference_data(pipe, given.data)
    n = _held_out_count(given.n, data)
    _figure(lambda: of_model.score(pipe, data, n, given.seed, show), given.out)


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
        of_model.save_figure(figure, aside)
    print(out)
