"""Sets of generated images: a tensor, a folder, or the files of a job, read when they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from undiffuse import images
from undiffuse.data.dataset import Dataset
from undiffuse.data.generated import in_channels, read_images
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.shapes import Labels, Tensor

CHUNK = 10_000  # images that are in memory at once as floats
FARTHEST_VALUE = 2.0  # from 0 that a sampler without clipping may end; beyond it, images are on another scale


@runtime_checkable
class Pictures(Protocol):
    """Images float32 [n, c, h, w] in [-1, 1]: a tensor of them, or what reads them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor:
        """The images of a slice, of indices or of a mask."""
        ...


@runtime_checkable
class Stored(Protocol):
    """Pictures uint8 [n, h, w, c]: an array of them, or what reads them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class LevelImages:
    """Images of pictures in grey levels 0..levels - 1, made when they are asked for."""

    pictures: Stored
    levels: int = 256

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, rows: Any) -> Tensor:
        chosen = np.arange(len(self))[rows.numpy() if isinstance(rows, Tensor) else rows]
        return images.from_levels(torch.from_numpy(self.pictures[chosen]).permute(0, 3, 1, 2), self.levels)


@dataclass(frozen=True, eq=False)
class Samples:
    """One set of generated images, with labels if they were asked for by class."""

    images: Pictures
    labels: Labels | None

    def __post_init__(self) -> None:
        if not all(bool(part.isfinite().all()) for part in self.parts()):
            raise UndiffuseError("some of the samples hold NaN or infinity: there is nothing to measure in them")

    def parts(self) -> Iterator[Tensor]:
        """One after the other: never more than that are in memory as floats."""
        return (self.images[i : i + CHUNK] for i in range(0, len(self.images), CHUNK))


def to_grid(x: Tensor, data: Dataset) -> Tensor:
    """Rounded to the data's own levels, as a written picture is."""
    return images.from_levels(images.to_levels(x, data.levels), data.levels)


def samples_of_files(path: Path, data: Dataset) -> Samples:
    """Pictures that someone wrote, as `undiffuse sample` does; at least 2, of the data's shape."""
    pictures, labels = read_images(path)
    if len(pictures) < 2:
        raise UndiffuseError(f"{path}: pictures to measure: {len(pictures)}, and at least 2 are needed")
    shape = (pictures.shape[3], *pictures.shape[1:3])
    alike = in_channels(pictures, data.shape[0])
    if alike is None or shape[1:] != data.shape[1:]:
        raise UndiffuseError(
            f"{path}: pictures are {_size(shape)} but {data.name} is {_size(data.shape)}; save them with its size and "
            "colours, without transparency, or give other --data"
        )
    known = torch.from_numpy(labels)
    if ((known < -1) | (known >= len(data.class_names))).any():
        raise UndiffuseError(f"{path}: a label lies outside the {len(data.class_names)} classes of {data.name}")
    if 0 < (without := int((known < 0).sum())) < len(known):
        raise UndiffuseError(
            f"{path}: {without} of {len(known)} pictures have no label (-1); give it to all, or to none"
        )
    return Samples(LevelImages(alike), known if not without else None)


def samples_of_tensor(images: Tensor | np.ndarray, labels: Any, data: Dataset) -> Samples:
    """Images float32 [n, c, h, w] in [-1, 1], at least 2, of the data's shape; labels: class indices, if there are."""
    if isinstance(images, np.ndarray):
        if images.dtype.kind != "f" or isinstance(images, np.ma.MaskedArray):
            raise UsageError(f"give images as a float32 tensor [n, c, h, w] in [-1, 1]; got {images.dtype}")
        images = torch.from_numpy(np.ascontiguousarray(images, np.float32))
    if not images.is_floating_point() or images.ndim != 4 or images.layout != torch.strided or images.is_meta:
        got = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        raise UsageError(f"give images as a float32 tensor [n, c, h, w] in [-1, 1]; got {got}")
    if len(images) < 2:
        raise UsageError(f"images to measure: {len(images)}, and at least 2 are needed")
    samples = Samples(images.detach().float().cpu(), None if labels is None else _indices(labels))
    check_alike(samples, data)
    return samples


def _indices(labels: Any) -> Tensor:
    try:
        found = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    except ValueError:  # rows of unlike lengths
        found = np.empty(0)
    if found.dtype.kind not in "iu":
        raise UsageError(f"labels are class indices, whole numbers, one for each image; got {repr(labels)[:40]}")
    return torch.from_numpy(found.astype(np.int64))


def check_alike(samples: Samples, data: Dataset) -> None:
    """Refuse samples that cannot lie beside these data: another shape or scale, labels of other classes."""
    if len(samples.images) < 2:
        raise UsageError(f"images to measure: {len(samples.images)}, and at least 2 are needed")
    shape = tuple(samples.images[:1].shape[1:])
    if shape != data.shape:
        raise UsageError(f"images are {_size(shape)} but {data.name} is {_size(data.shape)}")
    if (largest := max(float(part.abs().max()) for part in samples.parts())) > FARTHEST_VALUE:
        raise UsageError(f"values reach {largest:g}, and images lie in [-1, 1]: scale them first")
    if samples.labels is None:
        return
    if samples.labels.shape != (len(samples.images),):
        raise UsageError(f"labels are {list(samples.labels.shape)} for {len(samples.images)} images; give one for each")
    if ((samples.labels < 0) | (samples.labels >= len(data.class_names))).any():
        raise UsageError(f"a label lies outside the {len(data.class_names)} classes of {data.name}")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
