"""Sampling jobs for tests: a model that costs nothing, and the command without its words."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from undiffuse.diffusion.samplers import Frame
from undiffuse.pipeline import Pipeline
from undiffuse.sampling.job import Job, open_job
from undiffuse.sampling.request import Request
from undiffuse.shapes import unwatched


@dataclass(frozen=True)
class Cheap(Pipeline):
    """A model whose image i is a fixed pattern, drawn without a network."""

    def _frames(self, rows, seed, label):
        x = torch.stack([torch.sin(torch.arange(64.0) * (i + 1 + seed)).reshape(1, 8, 8) for i in rows])
        yield Frame(1.0, x, x)
        yield Frame(0.0, x, x)


def draw(pipe, out, watch=unwatched, **asked) -> Job:
    """The whole command, but for the words: seven images from the third on, in blocks of four, by default."""
    request = Request.of(pipe, **{"n": 7, "start": 2, "batch_size": 4, **asked})
    with open_job(pipe, request, out) as job:
        job.run(watch)
    return job


def telling(tell):
    """A Watch that tells each item."""

    def watch(items, total, what):
        for item in items:
            tell(item)
            yield item

    return watch


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def finished(folder: Path) -> bool:
    return json.loads((folder / "job.json").read_text())["finished"]
