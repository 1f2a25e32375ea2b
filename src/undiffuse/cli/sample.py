"""sample and plot: from a model to files."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from undiffuse import images
from undiffuse.cli import say
from undiffuse.cli.options import SampleOptions
from undiffuse.cli.progress import show
from undiffuse.errors import UsageError
from undiffuse.files.writing import check_file, file_kind, whole
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.labels import named_labels
from undiffuse.processes import ranks
from undiffuse.sampling.job import check_folder, open_job
from undiffuse.sampling.request import Request
from undiffuse.viz import of_model
from undiffuse.viz.animation import denoising_gif

MOST_ANIMATED = 256
MOST_BYTES = 2**31  # of pixels in one file, which are in memory together
Writer = Callable[[Path, SampleOptions, Pipeline], None]


def sample(given: SampleOptions) -> None:
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


def _blocks(given: SampleOptions, pipe: Pipeline) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
    """Indices, uint8 [n, h, w, c] and int64 labels (-1 = none) of one block after the other."""
    label = named_labels(given.label, pipe.class_names)
    for rows, frame in pipe.stream(given.n, given.seed, given.start, label, given.batch_size, watch=show):
        if frame.t == 0:
            y = pipe.labels(rows, label)
            yield rows, images.to_hwc(frame.x), np.full(len(rows), -1) if y is None else y.numpy()


def _write_png(out: Path, given: SampleOptions, pipe: Pipeline) -> None:
    pictures = np.concatenate([pictures for _, pictures, _ in _blocks(given, pipe)])
    images.write_png(out, images.grid(pictures))


def _write_npz(out: Path, given: SampleOptions, pipe: Pipeline) -> None:
    _, pictures, labels = zip(*_blocks(given, pipe), strict=True)
    images.write_npz(out, np.concatenate(pictures), np.concatenate(labels))


def _write_gif(out: Path, given: SampleOptions, pipe: Pipeline) -> None:
    if given.n > MOST_ANIMATED:
        raise UsageError(f"an animation of {given.n} images cannot be seen; take -n {MOST_ANIMATED} or fewer")
    frames = pipe.frames(given.n, given.seed, given.start, named_labels(given.label, pipe.class_names), watch=show)
    denoising_gif(out, of_model.states(pipe, pipe.noise(given.n, given.seed, given.start), frames))


def _write_folder(out: Path, given: SampleOptions, pipe: Pipeline) -> None:
    """A job that may be stopped and goes on; process 0 speaks for all."""
    ranks.warn_if_alone()
    request = Request.of(
        pipe,
        given.n,
        seed=given.seed,
        start=given.start,
        label=named_labels(given.label, pipe.class_names),
        batch_size=given.batch_size,
        format=given.format or "png",
    )
    with open_job(pipe, request, out) as job:
        there = "all" if job.finished else f"{job.done:,} of"
        if job.done and ranks.rank() == 0:
            say(f"{there} {given.n:,} images are there already")
        job.run(show)


WRITERS: dict[str, Writer] = {".png": _write_png, ".gif": _write_gif, ".npz": _write_npz, "": _write_folder}
