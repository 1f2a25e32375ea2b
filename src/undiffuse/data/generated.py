"""Pictures that `undiffuse sample` or another program wrote: read as they are, never cut, resized or left out."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.data.budget import Budget, open_zip
from undiffuse.data.decode import decode_picture
from undiffuse.data.sources.base import picture_bytes
from undiffuse.data.spec import BadPicture
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files.drawn import LABELS, check_finished
from undiffuse.files.reading import read_json

OTHER_KINDS = (".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".avif", ".tga")


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, h, w, c] and int64 labels [n] (-1 = none) of an .npz, a folder of them, or a folder of PNG files.

    A folder's PNG files have their labels in labels.json, if it is there; transparency is a last channel, and 16 bits
    are rounded to 8. Raises UndiffuseError for what cannot be read whole.
    """
    if path.is_dir():
        check_finished(path)
        files = _files(path)
        return _read_pngs(path, files) if files[0].suffix.lower() == ".png" else _read_shards(path, files)
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    raise UsageError(f"{path}: cannot read pictures from this; give an .npz file or a folder of PNG files")


def in_channels(pictures: np.ndarray, channels: int) -> np.ndarray | None:
    """The same pictures in this many channels, where nothing is lost: gray saved as colour, transparency that is not
    used; else None."""
    if pictures.shape[3] in (2, 4) and pictures.shape[3] != channels and (pictures[..., -1] == 255).all():
        pictures = pictures[..., :-1]
    if pictures.shape[3] == 3 and channels == 1 and (pictures == pictures[..., :1]).all():
        pictures = pictures[..., :1]
    if pictures.shape[3] == 1 and channels == 3:
        pictures = pictures.repeat(3, axis=3)
    return pictures if pictures.shape[3] == channels else None


def _files(folder: Path) -> list[Path]:
    """The pictures of a folder, which must be of one kind; refuses a folder of which only a part would be read."""
    names = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    pngs, arrays, others = (
        [path for path in names if path.suffix.lower() in kinds] for kinds in ((".png",), (".npz",), OTHER_KINDS)
    )
    if bool(pngs) + bool(arrays) + bool(others) > 1:
        counts = f"{len(pngs)} PNG, {len(arrays)} .npz and {len(others)} other pictures"
        raise UndiffuseError(f"{folder}: holds {counts}; leave one kind in it, PNG files or .npz")
    if others:
        message = f"no PNG files here, but {len(others)} of other kinds ({others[0].name})"
        raise UndiffuseError(f"{folder}: {message}; save them as PNG, which keeps every grey level")
    if not pngs and not arrays:
        inside = next((path.name for path in names if path.is_dir()), None)
        hint = f"; is it one of its folders that is meant, such as {inside}?" if inside else ""
        if any(path.suffix.lower() == ".tar" for path in names):
            hint = "; tar shards are for training: draw with --format png or npz"
        raise UndiffuseError(f"{folder}: no PNG files here, and no .npz{hint}")
    return pngs or arrays


def _read_shards(folder: Path, files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    pictures, labels = zip(*map(_read_npz, files), strict=True)
    if len({part.shape[1:] for part in pictures}) > 1:
        raise UndiffuseError(f"{folder}: the pictures of its .npz files differ in shape; they must all be alike")
    return np.concatenate(pictures), np.concatenate(labels)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise UndiffuseError(f"{path}: not an .npz with an array 'images': it is not a zip archive, or is cut short")
    try:
        with open_zip(Budget(path)):
            pass
        with np.load(path, allow_pickle=False) as file:
            images = file["images"]
            labels = file["labels"] if "labels" in file else np.full(images.shape[:1], -1, np.int64)
    except UndiffuseError:
        raise
    except MemoryError as error:
        raise UndiffuseError(f"{path}: too large for the memory") from error
    except Exception as error:  # what damaged archives make their readers raise has no end
        raise UndiffuseError(f"{path}: not an .npz with an array 'images': {error}") from error
    message = f"'images' is {images.dtype} {list(images.shape)}, 'labels' {labels.dtype} {list(labels.shape)}"
    fits = images.dtype == np.uint8 and images.ndim == 4 and min(images.shape[1:]) > 0
    if not fits or labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UndiffuseError(f"{path}: 'images' must be uint8 [n, h, w, c] and 'labels' n integers; {message}")
    if labels.dtype == np.uint64 and len(labels) and labels.max() > np.iinfo(np.int64).max:
        raise UndiffuseError(f"{path}: the label {labels.max()} is no class index")
    return images, labels.astype(np.int64)


def _read_pngs(folder: Path, files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    pictures = [_read_png(file) for file in files]
    if len({picture.shape for picture in pictures}) > 1:
        raise UndiffuseError(f"{folder}: the pictures differ in size or colour; they must all be alike")
    return np.stack(pictures), _labels(folder, files)


def _read_png(file: Path) -> np.ndarray:
    try:
        return decode_picture(picture_bytes(file))[0]
    except (OSError, BadPicture) as error:
        raise UndiffuseError(f"{file}: not a readable picture: {error}") from error


def _labels(folder: Path, files: list[Path]) -> np.ndarray:
    if not (folder / LABELS).exists():
        return np.full(len(files), -1, np.int64)
    try:
        known = read_json(folder / LABELS)
        return np.array([_whole(known[file.name]) for file in files], np.int64)
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise UndiffuseError(f"{folder / LABELS}: must map every picture's name to a class index: {error}") from error


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{str(value)[:40]} is no whole number")
    return value
