"""NumPy files: .npz and .npy, never unpickled, read a few pictures at a time."""

import contextlib
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.lib import format as npy

from undiffuse.data.sources.base import Item, in_a_line, stamp_of
from undiffuse.errors import UndiffuseError

ARRAY_PARTS = (
    ("images", "labels", None),
    ("x_train", "y_train", False),
    ("x_test", "y_test", True),
    ("train_images", "train_labels", False),
    ("val_images", "val_labels", True),
    ("test_images", "test_labels", True),
    ("data", "labels", None),
    ("x", "y", None),
    ("arr_0", "arr_1", None),
)
MAX_CHANNELS, MAX_LABELS = 16, 2**26
FEW_CHANNELS = 4  # as pictures have
ARRAY_BLOCK = 16 * 1024 * 1024


@runtime_checkable
class Readable(Protocol):
    """A file, or a member of an archive."""

    def read(self, count: int = -1, /) -> bytes: ...


Reopen = Callable[[], Any]  # opens the array's file again, from its beginning


@dataclass(frozen=True)
class Arrays:
    """images [n, h, w, c] or [n, h, w] (or [n, c, h, w]) and labels [n], or Keras' x_train, y_train, x_test and y_test,
    or MedMNIST's train_images, train_labels and so on. A negative label is none. What is not uint8 is brought to it by
    the range of its values, see `scale_of`.
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
                yield from self._part(lambda: self.path.open("rb"), None, None, self.path.name)
                return
            with zipfile.ZipFile(self.path) as archive:
                held = {name.removesuffix(".npy") for name in archive.namelist()}
                parts = self._parts(held)
                told = self.remarks() if len(parts) > 1 else ()
                if len({note.partition("taken")[2] for note in told}) > 1:
                    raise UndiffuseError(f"{self.path}: {'; '.join(told)}: save all parts in one range")
                for images, labels, held_out in parts:
                    known = _labels(archive, f"{labels}.npy", self.path) if labels in held else None
                    yield from self._part(partial(archive.open, f"{images}.npy"), known, held_out, images)

    def remarks(self) -> tuple[str, ...]:
        """The range that was taken for the values of arrays that are not uint8."""
        found = []
        with _reading(self.path):
            if self.path.suffix.lower() == ".npy":
                found.append(self._told(lambda: self.path.open("rb"), self.path.name))
            else:
                with zipfile.ZipFile(self.path) as archive:
                    held = {name.removesuffix(".npy") for name in archive.namelist()}
                    for images, _, _ in self._parts(held):
                        found.append(self._told(partial(archive.open, f"{images}.npy"), images))
        return tuple(filter(None, found))

    def passed_over(self) -> str:
        return ""

    def _parts(self, held: set[str]) -> list[tuple[str, str, bool | None]]:
        """Which arrays of those that are there, with their labels and whether they are held out."""
        parts: list[tuple[str, str, bool | None]] = [part for part in ARRAY_PARTS if part[0] in held]
        if not parts:
            raise UndiffuseError(f"{self.path}: holds {', '.join(sorted(held)[:9])}; an array 'images' is wanted")
        return [part for part in parts if part[2] is not None] or parts[:1]

    def _told(self, reopen: Reopen, key: str) -> str:
        with reopen() as file:
            if _header(file)[2] == np.uint8:
                return ""
        return f"'{key}': {scale_of(reopen, self.path, key)[1]}"

    def _part(self, reopen: Reopen, labels: np.ndarray | None, held_out: bool | None, key: str) -> Iterator[Item]:
        with reopen() as file:
            shape, fortran, dtype = _header(file)
            channels_first = self._check(shape, fortran, dtype, labels, key)
            scale = None if dtype == np.uint8 else scale_of(reopen, self.path, key)[0]
            for row, raw in enumerate(_pictures(file, shape, dtype, self.path)):
                picture = raw if scale is None else scale(raw)
                picture = picture.transpose(1, 2, 0) if channels_first else picture.reshape(*picture.shape[:2], -1)
                label = None if labels is None or labels[row] < 0 else str(int(labels[row]))
                yield Item(f"{key}#{row}", np.ascontiguousarray(picture), label, held_out)

    def _check(
        self, shape: tuple[int, ...], fortran: bool, dtype: np.dtype, labels: np.ndarray | None, key: str
    ) -> bool:
        """Whether channels come first. Raises UndiffuseError for what is no array of pictures, or could be two."""
        if dtype.kind not in "uibf" or len(shape) not in (3, 4):
            raise UndiffuseError(
                f"{self.path}: '{key}' is {dtype} {list(shape)}; uint8 [n, h, w] or [n, h, w, c] is wanted"
            )
        if fortran and len(shape) > 1:
            raise UndiffuseError(
                f"{self.path}: '{key}' lies in Fortran order; save it again with numpy.ascontiguousarray"
            )
        if labels is not None and len(labels) != shape[0]:
            raise UndiffuseError(f"{self.path}: {shape[0]} pictures, but {len(labels)} labels")
        if 0 in shape[1:]:
            raise UndiffuseError(f"{self.path}: '{key}' is {list(shape)}; pictures without a side are none")
        if len(shape) == 3:
            return False
        first, last = shape[1] <= FEW_CHANNELS, shape[3] <= MAX_CHANNELS
        if first and shape[3] <= FEW_CHANNELS and (shape[1] == shape[2]) == (shape[2] == shape[3]):
            raise UndiffuseError(
                f"{self.path}: '{key}' is {list(shape)}, whose channels may be first or last; save it with larger "
                "pictures, or as [n, h, w]"
            )
        if not (first or last):
            raise UndiffuseError(
                f"{self.path}: '{key}' is {list(shape)}; [n, h, w, c] with 1 to {MAX_CHANNELS} channels is wanted"
            )
        return first and (shape[3] > FEW_CHANNELS or shape[2] == shape[3])


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
            if other := Arrays(path).remarks():
                raise UndiffuseError(f"{path}: {other[0]}; of several files each must hold uint8, or ranges may differ")
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


def scale_of(reopen: Reopen, path: Path, key: str) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """What brings values to uint8, and the range that it takes them for, by all of them: false and true, 0 to 255, 0 to
    1, or -1 to 1. Raises UndiffuseError for any other range."""
    with reopen() as file:
        shape, _, dtype = _header(file)
        low, high = math.inf, -math.inf
        for picture in _pictures(file, shape, dtype, path):
            ends = float(picture.min()), float(picture.max())
            if not all(map(math.isfinite, ends)):
                raise UndiffuseError(f"{path}: '{key}' is {dtype} with values that are NaN or infinite")
            low, high = min(low, ends[0]), max(high, ends[1])
    if dtype.kind == "b":
        return lambda x: x.astype(np.uint8) * 255, "bool, false is black and true is white"
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return lambda x: np.round(x * 255.0).astype(np.uint8), f"{dtype} {low:g} to {high:g}, taken for 0 to 1"
    if dtype.kind == "f" and low >= -1 and high <= 1:
        return lambda x: np.round((x + 1.0) * 127.5).astype(np.uint8), f"{dtype} {low:g} to {high:g}, taken for -1 to 1"
    if low >= 0 and high <= 255 and not (dtype.kind == "f" and 1 < high <= 2):  # which may be 0 to 1, badly rounded
        return lambda x: np.round(x).astype(np.uint8), f"{dtype} {low:g} to {high:g}, taken for 0 to 255"
    raise UndiffuseError(
        f"{path}: '{key}' is {dtype} with values from {low:g} to {high:g}; 0 to 255, 0 to 1 or -1 to 1 is wanted"
    )


def _pictures(file: Readable, shape: tuple[int, ...], dtype: np.dtype, path: Path) -> Iterator[np.ndarray]:
    size = math.prod(shape[1:]) * dtype.itemsize
    if size > 4 * ARRAY_BLOCK * 8:
        raise UndiffuseError(f"{path}: pictures of {' x '.join(map(str, shape[1:]))} are too large")
    at_once = max(1, ARRAY_BLOCK // size)
    for start in range(0, shape[0], at_once):
        count = min(at_once, shape[0] - start)
        yield from np.frombuffer(_take(file, count * size), dtype).reshape(count, *shape[1:])


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
