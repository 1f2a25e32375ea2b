"""A user's own pictures and masks, brought to a model's shape."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from undiffuse.data.decode import decode_picture
from undiffuse.data.fit import shaped
from undiffuse.data.generated import read_images
from undiffuse.data.sources.base import picture_bytes
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.images import from_levels
from undiffuse.pipeline import build
from undiffuse.pipeline.pipeline import Pipeline
from undiffuse.shapes import Images, Mask, Tensor


def read_pictures(pipe: Pipeline, path: Path) -> Images:
    """Pictures of a file of any kind, an .npz or a folder of PNG files, brought to the model's shape by its data's
    policy. Raises UndiffuseError for what cannot be read."""
    if path.is_dir() or path.suffix.lower() == ".npz":
        pictures = [(picture, picture.shape[-1] in (2, 4)) for picture in read_images(path)[0]]
    else:
        pictures = [_decode(path, pipe.config.data.bits or 16)]
    if not pictures:
        raise UndiffuseError(f"{path}: holds no pictures")
    return from_levels(_fit(path, build.data_spec(pipe.config), pictures, pipe.shape))


def read_mask(pipe: Pipeline, path: Path, sizes: Iterable[tuple[int, int]] = ()) -> Mask:
    """bool [1, h, w] of a black and white picture, True where it is white, brought to size as pictures are.

    What is transparent in it is black, and so is a frame. sizes: (h, w) of the pictures it is for, whose proportions it
    must have, or it would not lie where they do.
    """
    picture = _decode(path)
    tall, wide = picture[0].shape[:2]
    for h, w in sizes:
        if abs(tall * w - wide * h) > max(h, w, tall, wide):  # a pixel's rounding
            raise UsageError(f"{path}: {wide} x {tall} has not the proportions of the picture, {w} x {h}")
    spec = replace(build.data_spec(pipe.config), background="black")
    return _fit(path, spec, [picture], (1, *pipe.shape[1:]))[0] >= 128


def size_of(path: Path) -> tuple[int, int]:
    """(h, w) of a picture's file, or of the pictures of an .npz or a folder, which are alike."""
    several = path.is_dir() or path.suffix.lower() == ".npz"
    height, width = read_images(path)[0].shape[1:3] if several else _decode(path)[0].shape[:2]
    return height, width


def _decode(path: Path, bits: int = 16) -> tuple[np.ndarray, bool]:
    try:
        return decode_picture(picture_bytes(path), bits=bits)
    except (OSError, BadPicture) as error:
        raise UndiffuseError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _fit(path: Path, spec: DataSpec, pictures: list[tuple[np.ndarray, bool]], shape: tuple[int, ...]) -> Tensor:
    """uint8 [n, *shape]."""
    channels, height, width = shape
    try:
        fitted = [shaped(*picture, spec, (height, width), channels) for picture in pictures]
    except BadPicture as error:
        raise UndiffuseError(f"{path}: {error}") from error
    return torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).contiguous()
