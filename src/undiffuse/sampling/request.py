"""What a sampling job was asked for, as DIR/job.json holds it."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import nn
from typing_extensions import TypedDict

from undiffuse.errors import UndiffuseError, UsageError, nearest
from undiffuse.files.blocks import BLOCK_FORMATS
from undiffuse.files.drawn import JOB
from undiffuse.files.reading import checked_record, read_json
from undiffuse.files.writing import write_text
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.labels import Label, listed_labels
from undiffuse.pipeline.pipeline import BLOCK
from undiffuse.pipeline.ranges import aligned, check_blocks

JOB_VERSION = 1
LONGEST_SAID = 80
MOST_IMAGES, MOST_BLOCKS = 10_000_000, 250_000


class JobRecord(TypedDict):
    """job.json: what was asked for, and whether all of it is there."""

    format_version: Annotated[int, Ge(0)]
    finished: bool
    request: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that the images and their files depend on.

    label: image i has the class label[i mod its length]; None for a model without classes. given: the same as the user
    put it, for the pipeline, to which a number may be a class's name; it is not written. levels: of grey, that the
    files hold as 0..levels - 1.
    """

    format: str
    n: int
    start: int
    seed: int
    batch_size: int
    label: list[int] | None
    shape: list[int]
    classes: list[str]
    sample: dict[str, Any]
    weights: str
    times: list[float]
    levels: int = 256
    given: Label = None

    @classmethod
    def of(
        cls,
        pipe: Pipeline,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        label: Label = None,
        batch_size: int | None = None,
        format: str = "png",
        levels: int = 256,
    ) -> "Request":
        """Arguments as of Pipeline.sample. Raises UsageError for what cannot be drawn, or not be written like this."""
        size = BLOCK if batch_size is None else batch_size
        label = None if label is None else listed_labels(label)
        check_blocks(start, n, size)
        if n > MOST_IMAGES:
            raise UsageError(
                f"a job has at most {MOST_IMAGES:,} images, not {n:,}; make several, each with its own --start"
            )
        if n > MOST_BLOCKS * size:
            raise UsageError(f"batches of {size} images are too small for {n:,}: take a larger --batch-size")
        pipe.check()
        _check_format(format, pipe.shape)
        classes = pipe.labels(range(_period(pipe, label)), label)
        return cls(
            format=format,
            n=n,
            start=start,
            seed=seed,
            batch_size=size,
            label=None if classes is None else classes.tolist(),
            shape=list(pipe.shape),
            classes=list(pipe.class_names),
            sample=pipe.config.sample.model_dump(),
            weights=model_digest(pipe),
            times=[float(t) for t in pipe.times()],
            levels=levels,
            given=label,
        )

    def as_dict(self) -> dict[str, Any]:
        """The request as job.json holds it."""
        return {name: value for name, value in asdict(self).items() if name != "given"}

    def labels(self, rows: range) -> np.ndarray:
        """Class of each image, int64; -1 = none."""
        known = [-1] if self.label is None else self.label
        return np.array([known[row % len(known)] for row in rows], np.int64)

    def blocks(self) -> Iterator[range]:
        return aligned(self.start, self.n, self.batch_size)

    def block(self, row: int) -> range | None:
        """The one that image `row` is in, if it is asked for."""
        first, end = row - row % self.batch_size, self.start + self.n
        asked = self.start <= row < end
        return range(max(first, self.start), min(first + self.batch_size, end)) if asked else None

    def difference(self, other: dict[str, Any]) -> str | None:
        """The first thing that another request has otherwise, in words."""
        ours, theirs = _flat(self.as_dict()), _flat(other)
        name = next((name for name, value in ours.items() if theirs.get(name) != value), None)
        if name is None or name == "weights":
            return name and "the model's weights"
        values = f" ({theirs.get(name)} there, {ours[name]} here)"
        return name.removeprefix("sample.") + (values if len(values) < LONGEST_SAID else "")

    def write(self, folder: Path, finished: bool) -> None:
        written = {"format_version": JOB_VERSION, "finished": finished, "request": self.as_dict()}
        write_text(folder / JOB, json.dumps(written, indent=1) + "\n")

    def labels_text(self) -> str | None:
        """labels.json of a folder of pictures; None for shards, which have their labels within."""
        if self.format != "png":
            return None
        rows = range(self.start, self.start + self.n)
        named = zip(rows, cycle(self.labels(range(self.start, self.start + len(self.label or [0])))), strict=False)
        return "{\n" + ",\n".join(f'"{row:06d}.png": {label}' for row, label in named) + "\n}"


def read_job(folder: Path) -> tuple[dict[str, Any], bool] | None:
    """Read what was asked for in this folder and whether it is finished; None if nothing was."""
    path = folder / JOB
    if not path.exists():
        return None
    try:
        known = checked_record(JobRecord, read_json(path))
    except (OSError, ValueError) as error:
        why = str(error)[:LONGEST_SAID]
        raise UndiffuseError(f"{path}: does not say what was asked for ({why}); choose another folder") from error
    if (version := known["format_version"]) > JOB_VERSION:
        raise UndiffuseError(f"{path}: format_version {version} is newer than this undiffuse reads; please upgrade")
    asked = {"levels": 256} | known["request"]  # which version 0.1.0's first job.json did not say
    return asked, known["finished"]


def model_digest(pipe: Pipeline) -> str:
    """A digest of a model's weights and of the sections of its configuration that say how they are used."""
    settings = {name: getattr(pipe.config, name).model_dump() for name in ("model", "diffusion")}
    hashed = blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    if isinstance(pipe.denoiser.backbone, nn.Module):
        for name, tensor in pipe.denoiser.backbone.state_dict().items():
            hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()


def _check_format(format: str, shape: tuple[int, ...]) -> None:
    if format not in BLOCK_FORMATS:
        raise UsageError(f"--format {format}: unknown; {nearest(format, list(BLOCK_FORMATS))}")
    channels = shape[0]
    if format != "npz" and channels not in (1, 3, 4):
        raise UsageError(f"pictures of {channels} channels have no image file format; take --format npz")


def _period(pipe: Pipeline, label: Label) -> int:
    """The number of images after which their classes repeat."""
    if label is None:
        return max(1, len(pipe.class_names))
    return max(1, len(listed_labels(label)))


def _flat(request: dict[str, Any]) -> dict[str, Any]:
    """The settings of sampling in place of their section."""
    flat: dict[str, Any] = {}
    for key, value in request.items():
        flat |= {f"sample.{name}": it for name, it in value.items()} if isinstance(value, dict) else {key: value}
    return flat
