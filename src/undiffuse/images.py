"""Pictures at the edges: levels <-> [-1, 1], grids, files. Inside the library images are float32 in [-1, 1]."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from undiffuse.errors import UndiffuseError
from undiffuse.shapes import Float, UInt8


def from_levels(picture: UInt8[Tensor, "b c h w"], levels: int = 256) -> Float[Tensor, "b c h w"]:
    """Grey levels 0..levels-1 to [-1, 1]: x = 2 u / (levels - 1) - 1."""
    return picture.to(torch.float32) * (2 / (levels - 1)) - 1


def to_levels(x: Float[Tensor, "b c h w"], levels: int = 256) -> UInt8[Tensor, "b c h w"]:
    """[-1, 1] to grey levels: clamp, scale, round to nearest. The only conversion out of the library."""
    return ((x.float().clamp(-1, 1) + 1) * ((levels - 1) / 2)).round().to(torch.uint8)


def visible(images: np.ndarray) -> np.ndarray:
    """Pictures [..., h, w, c] that can be shown: of 2 channels, or more than 4, each in grey, side by side."""
    *several, h, w, c = images.shape
    return images if c in (1, 3, 4) else np.moveaxis(images, -1, -2).reshape(*several, h, c * w, 1)


def grid(images: np.ndarray, columns: int | None = None, pad: int = 1, scale: int | None = None) -> np.ndarray:
    """Lay [n, h, w, c] uint8 pictures out in rows; tiny ones, and few, are enlarged by whole pixels to be seen.

    What has no colours is laid out as `visible` has it.
    """
    images = visible(images)
    n, h, w, c = images.shape
    columns, enlarged = laid_out(n, h, w, columns, pad)
    scale = scale or enlarged
    big = images.repeat(scale, axis=1).repeat(scale, axis=2)
    rows = -(-n // columns)
    cell_h, cell_w = big.shape[1] + pad * scale, big.shape[2] + pad * scale
    sheet = np.full((rows * cell_h + pad * scale, columns * cell_w + pad * scale, c), 96, np.uint8)
    for i, picture in enumerate(big):
        top, left = (i // columns) * cell_h + pad * scale, (i % columns) * cell_w + pad * scale
        sheet[top : top + big.shape[1], left : left + big.shape[2]] = picture
    return sheet


def laid_out(n: int, h: int, w: int, columns: int | None = None, pad: int = 1) -> tuple[int, int]:
    """The columns of a grid of n pictures, and how many times as large each is."""
    columns = columns or max(1, round(n**0.5 * (h / w) ** 0.5))
    return columns, max(1, round(48 / max(h, w)), 480 // (columns * (w + pad)))


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
