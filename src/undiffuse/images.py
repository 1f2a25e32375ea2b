"""Pictures at the edges: levels <-> [-1, 1], grids, files. Inside the library images are float32 in [-1, 1]."""

import json
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.shapes import Float, UInt8

LABELS = "labels.json"  # beside the pictures of a folder: file name -> class index
JOB = "job.json"  # in a folder that `undiffuse sample` fills: what was asked for, and whether all of it is there


def from_levels(picture: UInt8[Tensor, "b c h w"], levels: int = 256) -> Float[Tensor, "b c h w"]:
    """Grey levels 0..levels-1 to [-1, 1]: x = 2 u / (levels - 1) - 1."""
    return picture.to(torch.float32) * (2 / (levels - 1)) - 1


def to_levels(x: Float[Tensor, "b c h w"], levels: int = 256) -> UInt8[Tensor, "b c h w"]:
    """[-1, 1] to grey levels: clamp, scale, round to nearest. The only conversion out of the library."""
    return ((x.float().clamp(-1, 1) + 1) * ((levels - 1) / 2)).round().to(torch.uint8)


def grid(images: np.ndarray, columns: int | None = None, pad: int = 1, scale: int | None = None) -> np.ndarray:
    """Lay [n, h, w, c] uint8 pictures out in rows; tiny ones are enlarged by whole pixels to be seen."""
    n, h, w, c = images.shape
    columns = columns or max(1, round(n**0.5 * (h / w) ** 0.5))
    scale = scale or max(1, round(48 / max(h, w)))
    big = images.repeat(scale, axis=1).repeat(scale, axis=2)
    rows = -(-n // columns)
    cell_h, cell_w = big.shape[1] + pad * scale, big.shape[2] + pad * scale
    sheet = np.full((rows * cell_h + pad * scale, columns * cell_w + pad * scale, c), 96, np.uint8)
    for i, picture in enumerate(big):
        top, left = (i // columns) * cell_h + pad * scale, (i % columns) * cell_w + pad * scale
        sheet[top : top + big.shape[1], left : left + big.shape[2]] = picture
    return sheet


def to_pil(picture: np.ndarray) -> Image.Image:
    """[h, w, c] uint8 to a Pillow image: 1 channel grey, 3 colour, 4 with alpha."""
    if picture.shape[-1] not in (1, 3, 4):
        raise UndiffuseError(f"a picture of {picture.shape[-1]} channels has no image file format; write .npz instead")
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def to_hwc(x: Tensor, levels: int = 256) -> np.ndarray:
    """float [n, c, h, w] in [-1, 1] to uint8 [n, h, w, c]."""
    return np.ascontiguousarray(to_levels(x, levels).permute(0, 2, 3, 1).cpu().numpy())


def write_png(file: Path | BytesIO, picture: np.ndarray) -> None:
    to_pil(picture).save(file, format="PNG")


def write_gif(path: Path, pictures: list[np.ndarray], seconds: float = 0.08, hold: float = 1.5) -> None:
    """An endless animation; the last picture is held."""
    frames = [to_pil(picture) for picture in pictures]
    durations = [int(seconds * 1000)] * (len(frames) - 1) + [int(hold * 1000)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def write_npz(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """`images` uint8 [n, h, w, c] and `labels` int64 [n] (-1 = none)."""
    with path.open("wb") as file:
        np.savez_compressed(file, images=images, labels=labels.astype(np.int64))


def write_folder(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """A new folder with 000000.png, 000001.png ... and labels.json."""
    path.mkdir()
    names = [f"{i:06d}.png" for i in range(len(images))]
    for name, picture in zip(names, images, strict=True):
        write_png(path / name, picture)
    (path / LABELS).write_text(json.dumps(dict(zip(names, labels.tolist(), strict=True)), indent=0))


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pictures and labels that `sample` wrote: an .npz, a folder of them, or a folder of PNG files with labels.json
    (without it every label is -1)."""
    if path.is_dir():
        check_finished(path)
        return _read_shards(path) if any(path.glob("*.npz")) and not any(path.glob("*.png")) else _read_folder(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    raise UsageError(f"{path}: cannot read pictures from this; give an .npz file or a folder of PNG files")


def check_finished(folder: Path) -> None:
    """Raise UndiffuseError for a folder that `undiffuse sample` has yet to fill: a part of a set looks like a set."""
    try:
        job = json.loads((folder / JOB).read_text())
        unfinished = job["finished"] is False or len(list(folder.glob(f"*.{_ending(job)}"))) < _file_count(job)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, ZeroDivisionError):
        return  # another's file of this name, or none
    if unfinished:
        raise UndiffuseError(f"{folder}: not all of its images are there; run the command that draws them again")


def _ending(job: dict[str, Any]) -> str:
    return str(job["request"]["format"])


def _file_count(job: dict[str, Any]) -> int:
    """A file for each picture, or for each block of indices that are alike once divided by its size."""
    asked = job["request"]
    first, last = int(asked["start"]), int(asked["start"]) + int(asked["n"]) - 1
    size = 1 if _ending(job) == "png" else int(asked["batch_size"])
    return last // size - first // size + 1


def _read_shards(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    pictures, labels = zip(*(_read_npz(path) for path in sorted(folder.glob("*.npz"))), strict=True)
    if len({part.shape[1:] for part in pictures}) > 1:
        raise UndiffuseError(f"{folder}: the pictures of its .npz files differ in shape; they must all be alike")
    return np.concatenate(pictures), np.concatenate(labels)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            images = file["images"]
            labels = file["labels"] if "labels" in file else np.full(images.shape[:1], -1, np.int64)
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UndiffuseError(f"{path}: not an .npz with an array 'images': {error}") from error
    said = f"'images' is {images.dtype} {list(images.shape)}, 'labels' {labels.dtype} {list(labels.shape)}"
    fits = images.dtype == np.uint8 and images.ndim == 4
    if not fits or labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UndiffuseError(f"{path}: 'images' must be uint8 [n, h, w, c] and 'labels' n integers; {said}")
    return images, labels.astype(np.int64)


def _read_folder(path: Path) -> tuple[np.ndarray, np.ndarray]:
    files = sorted(path.glob("*.png"))
    if not files:
        raise UndiffuseError(f"{path}: no PNG files here")
    pictures = []
    for file in files:
        try:
            with Image.open(file) as opened:
                picture = np.asarray(opened.convert("L" if opened.mode in ("L", "1", "I;16") else "RGB"))
        except OSError as error:
            raise UndiffuseError(f"{file}: not a readable picture: {error}") from error
        pictures.append(picture.reshape(*picture.shape[:2], -1))
    if len({picture.shape for picture in pictures}) > 1:
        raise UndiffuseError(f"{path}: the pictures differ in size or colour; they must all be alike")
    return np.stack(pictures), _folder_labels(path, files)


def _folder_labels(path: Path, files: list[Path]) -> np.ndarray:
    if not (path / LABELS).exists():
        return np.full(len(files), -1, np.int64)
    try:
        known = json.loads((path / LABELS).read_text())
        return np.array([int(known[file.name]) for file in files], np.int64)
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise UndiffuseError(f"{path / LABELS}: must map every picture's name to a class index: {error}") from error
