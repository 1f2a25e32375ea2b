"""A model's samples, to be measured: sampling jobs in the user's cache, so that they may be many, be stopped on the way
and be shared by processes. They vanish once they are measured: other code may draw others.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from undiffuse import __version__
from undiffuse.data.generated import read_images
from undiffuse.errors import UndiffuseError
from undiffuse.evaluation.samples import LevelImages, Samples
from undiffuse.files import cache
from undiffuse.files.blocks import BLOCK_FORMATS
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.labels import Label, labels_by_share
from undiffuse.processes import ranks
from undiffuse.sampling.job import open_job
from undiffuse.sampling.request import Request
from undiffuse.shapes import Watch, unwatched

MONTH = 30 * 24 * 3600  # seconds


@dataclass(frozen=True)
class Shards:
    """The pictures of a finished job, uint8 [n, h, w, c] in its levels, read when they are asked for."""

    folder: Path
    request: Request

    def __len__(self) -> int:
        return self.request.n

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        c, h, w = self.request.shape
        found = np.empty((len(rows), h, w, c), np.uint8)
        for block in self.request.blocks():
            mine = (rows >= block.start) & (rows < block.stop)
            if mine.any():
                name = BLOCK_FORMATS["npz"].names(block)[0]
                found[mine] = read_images(self.folder / name)[0][rows[mine] - block.start]
        return found


@contextmanager
def drawn_samples(
    pipe: Pipeline,
    n: int,
    *,
    seeds: Sequence[int],
    levels: int = 256,
    classes: Sequence[str] | None = None,
    shares: Sequence[int] | None = None,
    watch: Watch = unwatched,
) -> Iterator[list[Samples]]:
    """n images for each seed, of all classes or of these, in the order of the data restricted to them, in turn.

    levels: of grey, that they are rounded to. shares: counts of these classes, to draw each as often as they say. What
    an interrupt leaves is gone on with by the next call alike, within a month, and nothing is left after a block that
    ends well. Processes that enter together share the work.
    """
    label: Label = None if classes is None else list(classes)
    labels = pipe.labels(range(n)) if classes is None else torch.arange(n) % len(classes)
    if shares is not None:
        labels = labels_by_share(shares, n)
        known = pipe.class_names if classes is None else classes
        label = [known[index] for index in labels.tolist()]  # by name: an index may be another's name
    with ExitStack() as open_jobs:
        sets, folders = [], []
        for seed in seeds:
            request = Request.of(pipe, n, seed=seed, label=label, format="npz", levels=levels)
            folder = _folder(request)
            job = open_jobs.enter_context(open_job(pipe, request, folder))
            job.run(_of_seed(watch, seed))
            sets.append(Samples(LevelImages(Shards(folder, request), levels), labels))
            folders.append(folder)
        yield sets
        if ranks.rank() == 0:
            for folder in (*folders, *_forgotten()):
                shutil.rmtree(folder, ignore_errors=True)


def _of_seed(watch: Watch, seed: int) -> Watch:
    """A Watch that is told which of several seeds the images are of."""
    return lambda items, total, what: watch(items, total, f"seed {seed}: {what}")


def _forgotten() -> list[Path]:
    """Folders that interrupts left and nobody went on with: in those folders nothing was written for MONTH."""
    with suppress(OSError):
        return [folder for folder in cache.folder("samples").iterdir() if time.time() - folder.stat().st_mtime > MONTH]
    return []


def _folder(request: Request) -> Path:
    key = repr((request.as_dict(), __version__, torch.__version__))
    folder = cache.folder("samples") / blake2b(key.encode(), digest_size=16).hexdigest()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{folder.parent}: samples are drawn there, and it cannot be made ({error.strerror})"
        raise UndiffuseError(f"{message}; set XDG_CACHE_HOME to a folder that can be written") from error
    return folder
