"""NumPy files: .npz and .npy, never unpickled, read a few pictures at a time."""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.lib import format as npy

from undiffuse.data.sources.base import Item, in_a_line, stamp_of
from undiffuse.errors import UndiffuseError

ARRAY_PARTS = (
    ("images", "labels", None),
    ("x_train", "y_train", False),
    ("x_test", "y_test", True),
    ("data", "labels", None),
    ("x", "y", None),
    ("arr_0", "arr_1", None),
)
MAX_CHANNELS, MAX_LABELS = 16, 2**26
ARRAY_BLOCK = 16 * 1024 * 1024


@runtime_checkable
class Readable(Protocol):
    """A file, or a member of an archive."""

    def read(self, count: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class Arrays:
    """images uint8 [n, h, w, c] or [n, h, w] (or [n, c, h, w]) and labels [n], or Keras' x_train, y_train, x_test and
    y_test. A negative label is none.
    """

    path: Path
    levels: int = 256

    @property
    def name(self) -> str:
        return self.path.name

    def classes(self) -> None:
        return None

    def stamp(self) -> str:
        return stamp_of([self.path])

    def items(self) -> Iterator[Item]:
        with _reading(self.path):
            if self.path.suffix.lower() == ".npy":
                with self.path.open("rb") as file:
                    yield from self._part(file, None, None, self.path.name)
                return
            with zipfile.ZipFile(self.path) as archive:
                held = {name.removesuffix(".npy") for name in archive.namelist()}
                parts = [part for part in ARRAY_PARTS if part[0] in held]
                if not parts:
                    raise UndiffuseError(
                        f"{self.path}: holds {', '.join(sorted(held)[:9])}; an array 'images' is wanted"
                    )
                for images, labels, held_out in [p for p in parts if p[2] is not None] or parts[:1]:
                    known = _labels(archive, f"{labels}.npy", self.path) if labels in held else None
                    with archive.open(f"{images}.npy") as file:
                        yield from self._part(file, known, held_out, images)

    def _part(self, file: Readable, labels: np.ndarray | None, held_out: bool | None, key: str) -> Iterator[Item]:
        shape, fortran, dtype = _header(file)
        if dtype != np.uint8 or len(shape) not in (3, 4):
            raise UndiffuseError(
                f"{self.path}: '{key}' is {dtype} {list(shape)}; uint8 [n, h, w] or [n, h, w, c] is wanted"
            )
        if fortran and len(shape) > 1:
            raise UndiffuseError(
                f"{self.path}: '{key}' lies in Fortran order; save it again with numpy.ascontiguousarray"
            )
        if labels is not None and len(labels) != shape[0]:
            raise UndiffuseError(f"{self.path}: {shape[0]} pictures, but {len(labels)} labels")
        channels_first = len(shape) == 4 and shape[1] <= 4 < shape[3]
        if 0 in shape[1:] or (len(shape) == 4 and not channels_first and shape[3] > MAX_CHANNELS):
            raise UndiffuseError(
                f"{self.path}: '{key}' is {list(shape)}; [n, h, w, c] with 1 to {MAX_CHANNELS} channels is wanted"
            )
        for row, picture in enumerate(_pictures(file, shape, self.path)):
            picture = picture.transpose(1, 2, 0) if channels_first else picture.reshape(*picture.shape[:2], -1)
            label = None if labels is None or labels[row] < 0 else str(int(labels[row]))
            yield Item(f"{key}#{row}", np.ascontiguousarray(picture), label, held_out)


@dataclass(frozen=True)
class ArrayFiles:
    """Several .npz files that together are one set, as `undiffuse sample --format npz` writes them."""

    paths: tuple[Path, ...]
    levels: int = 256

    @property
    def name(self) -> str:
        return self.paths[0].name + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")

    def classes(self) -> None:
        return None

    def stamp(self) -> str:
        return stamp_of(self.paths)

    def items(self) -> Iterator[Item]:
        for path in self.paths:
            for item in Arrays(path).items():
                yield replace(item, name=f"{path.name}/{item.name}")


def _labels(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    with archive.open(name) as file:
        shape, _, dtype = _header(file)
        count = math.prod(shape)
        if dtype.kind not in "iu" or count > MAX_LABELS or count != max(shape, default=0):
            raise UndiffuseError(f"{path}: labels are {dtype} {list(shape)}; n integers are wanted")
        return np.frombuffer(_take(file, count * dtype.itemsize), dtype).astype(np.int64)


def _header(file: Readable) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(file)


def _pictures(file: Readable, shape: tuple[int, ...], path: Path) -> Iterator[np.ndarray]:
    size = math.prod(shape[1:])
    if size > 4 * ARRAY_BLOCK * 8:
        raise UndiffuseError(f"{path}: pictures of {' x '.join(map(str, shape[1:]))} are too large")
    at_once = max(1, ARRAY_BLOCK // size)
    for start in range(0, shape[0], at_once):
        count = min(at_once, shape[0] - start)
        yield from np.frombuffer(_take(file, count * size), np.uint8).reshape(count, *shape[1:])


def _take(file: Readable, count: int) -> bytes:
    """Exactly so many bytes; a zip member gives them piecemeal."""
    data = file.read(count)
    while len(data) < count:
        more = file.read(count - len(data))
        if not more:
            raise EOFError(f"ends early: {len(data)} bytes where {count} are wanted")
        data += more
    return data


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UndiffuseError:
        raise
    except MemoryError as error:
        raise UndiffuseError(f"{path}: too large for the memory") from error
    except Exception as error:  # zlib, zipfile, NumPy's header parser: whatever damaged files make them raise
        raise UndiffuseError(f"{path}: not a sound NumPy file ({in_a_line(error)})") from error
