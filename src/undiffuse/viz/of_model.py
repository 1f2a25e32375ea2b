"""The pictures of a run: what the model draws, how it gets there, and how data became noise on the way in."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from undiffuse import images, rng
from undiffuse.config import Config
from undiffuse.data.dataset import Dataset
from undiffuse.diffusion.bound import Bits
from undiffuse.diffusion.finite import Finite, score_errors
from undiffuse.diffusion.noise import NOISES, Gamma
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers import Frame
from undiffuse.diffusion.schedule import SCHEDULES
from undiffuse.errors import UndiffuseError
from undiffuse.pipeline import Pipeline, build
from undiffuse.shapes import Tensor, Watch, unwatched, watch_items
from undiffuse.viz.bound import plot_bound
from undiffuse.viz.noise import REACH, Cell, plot_noise
from undiffuse.viz.score import Scores, plot_score
from undiffuse.viz.strips import forward_strips, reverse_strips

STATES = 9
PARTS, DRAWN = (0.05, 0.2, 0.4, 0.7, 1.0), 100_000
SEED = 1  # not the seed that `sample` starts from, so that the pictures show other images


def bound_figure(pipe: Pipeline, data: Dataset, bits: Bits, shown: int = 3) -> Figure:
    """The bound's terms, and the first held-out images decoded from x_t at ten times."""
    x0 = data.held_out.images()[:shown]
    label = data.held_out.labels[:shown] if pipe.class_names else None
    times = np.unique(np.linspace(1, pipe.process.T, 10).round().astype(int))[::-1]
    decoded = [(int(t), images.to_hwc(pipe.guess(x0, int(t), label).x0)) for t in times]
    return plot_bound(bits, decoded)


def score(pipe: Pipeline, data: Dataset, n: int, seed: int, watch: Watch = unwatched) -> Figure:
    """The model's score beside exact ones, on n noisy train images and n held-out ones at forty times."""
    pipe = pipe.configured(guidance=1.0, clip=False)  # the model's own score, not the one that sampling bends
    times = np.unique(np.geomspace(1, pipe.process.T, 40).round())
    known = {"train": data.train, "held_out": data.held_out}
    labelled = bool(pipe.class_names)
    found = {}
    pairs = (("train", "train"), ("held_out", "train"), ("held_out", "held_out"))
    for noisy, exact in watch_items(watch, pairs, len(pairs), "comparison"):
        y = known[noisy].labels[:n].to(pipe.device) if labelled else None
        classes = known[exact].labels.to(pipe.device) if labelled else None
        finite = Finite(pipe.process, known[exact].images().to(pipe.device), classes)
        x0 = known[noisy].images()[:n].to(pipe.device)
        found[f"{noisy}_{exact}"] = score_errors(pipe.process, pipe.denoise(y), finite.of(y), x0, times, seed=seed)
    return plot_score(Scores(**found), n)


def states(pipe: Pipeline, x_T: Tensor, frames: Iterable[Frame]) -> Iterator[tuple[float, np.ndarray]]:
    """(t, uint8 [n, h, w, c]) from t = T to the last frame: what `denoising_gif` takes."""
    yield float(pipe.process.T), images.to_hwc(x_T)
    for frame in frames:
        yield frame.t, images.to_hwc(frame.x)


def reverse(pipe: Pipeline, x_T: Tensor, frames: Sequence[Frame], count: int = 3) -> Figure:
    """States x_t of the first images at times spread over the way, from T to 0, and the guess of x0 made at each."""
    moving = [(t, x[:count]) for t, x in states(pipe, x_T, frames)]
    guesses = [images.to_hwc(frame.x0[:count]) for frame in frames] + [moving[-1][1]]
    chosen = np.unique(np.linspace(0, len(frames), STATES).round().astype(int))
    x, x0 = (np.stack([pictures[i] for i in chosen], axis=1) for pictures in ([x for _, x in moving], guesses))
    return reverse_strips(x, x0, [moving[i][0] for i in chosen])


def forward(config: Config, data: Dataset, row: int = 0) -> Figure:
    """One datum at times from 0 to T under every schedule, with the same noise."""
    T = config.diffusion.T
    times = np.linspace(0, T, STATES).round()
    x0 = data.train.images(np.array([row])).expand(len(times), -1, -1, -1)
    rows = {}
    for name, schedule in SCHEDULES.items():
        try:
            process = Process(schedule(T))
        except UndiffuseError:
            continue  # this T is too small for that formula
        noisy = [process.corrupt(x[None], t, rng.fold(SEED)).x_t for x, t in zip(x0, times, strict=True)]
        rows[name] = np.concatenate([images.to_hwc(x) for x in noisy])
    return forward_strips(rows, times.tolist())


def noises(config: Config, data: Dataset, row: int = 0) -> Figure:
    """White pixels and one datum in every family's noise, under the configuration's schedule."""
    families = [*(kind() for kind in NOISES.values()), Gamma(0.3)]
    schedule = build.process(config).schedule
    rows = {str(noise): [_noisy(Process(schedule, noise), data, row, part) for part in PARTS] for noise in families}
    return plot_noise(rows)


def _noisy(process: Process, data: Dataset, row: int, part: float) -> Cell:
    t = float(max(round(part * process.T), 1))
    signal, sigma = (float(scale) for scale in process.scales(t))
    white = process.corrupt(torch.ones(DRAWN, 1), t, rng.fold(SEED)).x_t.numpy().ravel()
    x = np.linspace(-REACH, REACH, 2001)
    density = process.noise.density((x - signal) / sigma, float(process.schedule.snr(t))) / sigma
    picture = images.to_hwc(process.corrupt(data.train.images(np.array([row])), t, rng.fold(SEED)).x_t)[0]
    return Cell(t, white, x, density, picture)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, sharp on a screen of any kind."""
    figure.savefig(path, format="png", dpi=figure.dpi)
