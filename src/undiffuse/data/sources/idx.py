"""IDX files, as MNIST and Fashion-MNIST come: http://yann.lecun.com/exdb/mnist describes the format."""

import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.data.budget import Budget, open_packed
from undiffuse.data.sources.base import Item, in_a_line, stamp_of
from undiffuse.errors import UndiffuseError

IDX_PARTS = {"train": False, "t10k": True, "test": True, "val": True, "valid": True}  # a name's beginning -> held out
UBYTE = 8
IDX_BLOCK = 1 << 20  # bytes read at once
MAX_SIDE, MAX_COUNT = 10_000, 2**26


@dataclass(frozen=True)
class Idx:
    """A folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k, test or val, perhaps
    gzipped."""

    folder: Path
    name: str
    names: tuple[str, ...] | None = None
    levels: int = 256
    budget: float = 1.0

    def classes(self) -> tuple[str, ...] | None:
        return self.names

    @classmethod
    def fits(cls, folder: Path) -> bool:
        return _found(folder, "train", "images") is not None

    def stamp(self) -> str:
        places = [_found(self.folder, part, what) for part in IDX_PARTS for what in ("images", "labels")]
        return f"{self.names} {stamp_of(path for path in places if path is not None)}"

    def items(self) -> Iterator[Item]:
        for part, held_out in IDX_PARTS.items():
            images, labels = (_found(self.folder, part, what) for what in ("images", "labels"))
            if images is not None:
                yield from self._part(images, labels, held_out)

    def _part(self, images: Path, labels: Path | None, held_out: bool) -> Iterator[Item]:
        classes = None if labels is None else _labels(Budget(labels, self.budget))
        with _open(Budget(images, self.budget)) as file:
            count, height, width, *rest = _header(file, images, 3)
            channels = rest[0] if rest else 1
            if classes is not None and len(classes) != count:
                raise UndiffuseError(f"{images}: {count} pictures, but {labels} holds {len(classes)} labels")
            if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and 0 < channels <= 4):
                raise UndiffuseError(f"{images}: pictures of {height} x {width} x {channels} make no sense")
            size = height * width * channels
            at_once = max(1, IDX_BLOCK // size)
            for first in range(0, count, at_once):
                rows = range(first, min(first + at_once, count))
                raw = _take(file, images, len(rows) * size, (first, count, size))
                pictures = np.frombuffer(raw, np.uint8).reshape(-1, height, width, channels)
                for row, picture in zip(rows, pictures, strict=True):
                    yield Item(f"{images.name}#{row}", picture, self._class(classes, row, images), held_out)
            _check_over(file, images)

    def _class(self, classes: np.ndarray | None, row: int, images: Path) -> str | None:
        if classes is None:
            return None
        index = int(classes[row])
        if self.names is None:
            return str(index)
        if index >= len(self.names):
            raise UndiffuseError(f"{images}: label {index} of picture {row}; {self.name} has {len(self.names)} classes")
        return self.names[index]


def _found(folder: Path, part: str, what: str) -> Path | None:
    """train-images-idx3-ubyte, train-images.idx3-ubyte (as some copies spell it), either gzipped."""
    for pattern in (f"{part}-{what}-idx*ubyte", f"{part}-{what}.idx*ubyte", f"{part}-{what}*idx*ubyte.gz"):
        for path in sorted(folder.glob(pattern)):
            return path
    return None


def _labels(budget: Budget) -> np.ndarray:
    path = budget.path
    with _open(budget) as file:
        (count,) = _header(file, path, 1)
        if count > MAX_COUNT:
            raise UndiffuseError(f"{path}: {count} labels make no sense")
        labels = np.frombuffer(_take(file, path, count, "all labels"), np.uint8)
        _check_over(file, path)
        return labels


def _check_over(file: Any, path: Path) -> None:
    try:
        more = file.read(1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UndiffuseError(f"{path}: damaged at its end: {in_a_line(error)}") from error
    if more:
        raise UndiffuseError(f"{path}: holds more than its header says; it is damaged, or not what it says it is")


@contextmanager
def _open(budget: Budget) -> Iterator[Any]:
    """Gzipped or not, whatever its name."""
    try:
        with open_packed(budget) as file:
            yield file
    except UndiffuseError:
        raise
    except (OSError, ValueError) as error:
        raise UndiffuseError(f"{budget.path}: cannot be read ({in_a_line(error)})") from error


def _header(file: Any, path: Path, dimensions: int) -> list[int]:
    magic = _take(file, path, 4, "the header")
    if magic[:2] != b"\0\0" or magic[2] != UBYTE or magic[3] not in (dimensions, dimensions + (dimensions == 3)):
        raise UndiffuseError(
            f"{path}: not an IDX file of unsigned bytes in {dimensions} dimensions (magic {magic.hex()})"
        )
    return [int(size) for size in np.frombuffer(_take(file, path, 4 * magic[3], "the header"), ">u4")]


def _take(file: Any, path: Path, count: int, what: str | tuple[int, int, int]) -> bytes:
    """Exactly so many bytes. what: they follow, in words; or how many pictures came before, of how many, of what size
    each."""
    data, wrong = b"", "ends early"
    try:
        data = file.read(count)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        wrong = f"damaged: {error}"
    if len(data) < count:
        after = what if isinstance(what, str) else f"{what[0] + len(data) // what[2]} of {what[1]} pictures"
        raise UndiffuseError(f"{path}: {wrong}, after {after}")
    return data
