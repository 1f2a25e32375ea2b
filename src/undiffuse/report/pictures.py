"""The pictures of a run's report: what the model draws, how it gets there, what lies nearest."""

from pathlib import Path

from matplotlib.figure import Figure

from undiffuse import images
from undiffuse.evaluation.result import Neighbours
from undiffuse.files.run import RunFolder
from undiffuse.files.writing import whole
from undiffuse.pipeline import Pipeline, build
from undiffuse.report.page import write_report
from undiffuse.viz.animation import denoising_gif
from undiffuse.viz.of_model import SEED, forward, reverse, save_figure, states
from undiffuse.viz.strips import neighbour_strips, sample_grid

SHOWN, ANIMATED = 100, 40


def write_views(run: RunFolder, pipe: Pipeline) -> Path:
    """Draw samples, classes, denoising (GIF), reverse and forward pictures, then the report; return its path."""
    folder = run.samples
    drawn = images.to_hwc(pipe.sample(n=SHOWN))
    images.write_png(folder / "samples.png", images.grid(drawn, columns=10))
    if 1 < len(pipe.class_names) <= 20:
        save_figure(class_rows(pipe), folder / "classes.png")
    x_T, frames = pipe.noise(n=ANIMATED, seed=SEED), list(pipe.frames(n=ANIMATED, seed=SEED))
    denoising_gif(folder / "denoising.gif", states(pipe, x_T, frames), columns=10)
    save_figure(reverse(pipe, x_T, frames, count=3), folder / "reverse.png")
    save_figure(forward(pipe.config, build.dataset(pipe.config)), folder / "forward.png")
    return write_report(run.path)


def write_neighbours(run: RunFolder, found: Neighbours | None) -> None:
    """Draw the samples nearest to training pictures; that of an earlier evaluation stays where this had none, as its
    numbers do."""
    if found is None:
        return
    path = run.samples / "neighbours.png"
    rows = {
        "in training": (found.train, found.to_train),
        "held out": (found.held_out, found.to_held_out),
    }
    run.samples.mkdir(exist_ok=True)
    with whole(path) as aside:
        save_figure(neighbour_strips(found.generated, rows), aside)


def class_rows(pipe: Pipeline, each: int = 10) -> Figure:
    """`each` samples of every class, a row per class."""
    names = pipe.class_names
    drawn = images.to_hwc(pipe.sample(n=each * len(names), seed=SEED))
    return sample_grid(drawn, [names[i % len(names)] for i in range(len(drawn))])
