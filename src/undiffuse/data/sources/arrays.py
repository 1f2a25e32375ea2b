"""NumPy files: .npz and .npy, never unpickled, read a few pictures at a time."""

import contextlib
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.lib import format as npy

from undiffuse.data.budget import Budget, open_zip
from undiffuse.data.sources.base import Item, in_a_line, stamp_of
from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import check_regular

PART_ARRAYS = ("train", "val", "valid", "validation", "dev", "test")
ARRAY_PARTS = (  # pictures, labels, held out; in any case
    ("images", "labels", None),
    *((f"x_{part}", f"y_{part}", part != "train") for part in PART_ARRAYS),
    *((f"{part}_images", f"{part}_labels", part != "train") for part in PART_ARRAYS),
    *((part, f"{part}_labels", part != "train") for part in PART_ARRAYS),
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


Scale = Callable[[np.ndarray], np.ndarray]  # values -> uint8
Opener = Callable[[], Any]


class ArrayPart(NamedTuple):
    """An array of pictures: its name, labels, whether it is held out, and what opens it at its beginning."""

    key: str
    labels: np.ndarray | None
    held_out: bool | None
    open: Opener


@dataclass(frozen=True)
class Arrays:
    """images [n, h, w, c] or [n, h, w] (or [n, c, h, w]) and labels [n], or Keras' x_train, y_train, x_test and y_test,
    or MedMNIST's train_images, train_labels and so on. A negative label is none. What is not uint8 is brought to it by
    the range of its values, see `scale_of`. path: an .npz or .npy file, or a folder of .npy files that lie there as in
    an .npz.
    """

    path: Path
    levels: int = 256
    budget: float = 1.0

    @property
    def name(self) -> str:
        return self.path.name

    def classes(self) -> None:
        return None

    def stamp(self) -> str:
        return stamp_of(sorted(self.path.glob("*.npy")) if self.path.is_dir() else [self.path])

    def items(self) -> Iterator[Item]:
        with self._parts() as parts:
            for part in parts:
                yield from self._of(part)

    def remarks(self) -> tuple[str, ...]:
        """The range that was taken for values that are not uint8, and what is not read."""
        return (*([self.range_taken()] if self.range_taken() else []), *self.unread())

    def range_taken(self) -> str:
        return self._scale[1]

    def unread(self) -> list[str]:
        """A line of arrays that are there and not read, if there are some."""
        with self._held() as held:
            known = {name for part in _chosen_of(held, self.path) for name in part[:2]}
        others = [] if "" in held else sorted(name for name in held if name not in known)
        return [f"arrays that are not read: {', '.join(others[:9])}"] if others else []

    def passed_over(self) -> str:
        return ""

    @contextlib.contextmanager
    def _held(self) -> Iterator[dict[str, Opener]]:
        """What opens each array at its beginning, by its name ("" in a file of one), while they lie open."""
        with _reading(self.path):
            if self.path.is_dir():
                yield {file.stem: partial(_opened, file) for file in sorted(self.path.glob("*.npy"))}
                return
            check_regular(self.path)
            if self.path.suffix.lower() == ".npy":
                yield {"": partial(self.path.open, "rb")}
                return
            with open_zip(Budget(self.path, self.budget)) as archive:
                self._check_members(archive.infolist())
                yield {name.removesuffix(".npy"): partial(archive.open, name) for name in archive.namelist()}

    def _check_members(self, members: Sequence[zipfile.ZipInfo]) -> None:
        """Refuse what NumPy does not write: two arrays of one name, and kinds of packing that no read can bound."""
        names = [member.filename for member in members]
        if twice := next((name for name in names if names.count(name) > 1), None) if len({*names}) < len(names) else "":
            raise UndiffuseError(f"{self.path}: holds {twice} twice; save it again with one of them")
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise UndiffuseError(f"{self.path}: packed as NumPy does not; save it again with numpy.savez_compressed")

    @contextlib.contextmanager
    def _parts(self) -> Iterator[list[ArrayPart]]:
        """The arrays of pictures, while their file is open."""
        with self._held() as held:
            if "" in held:
                yield [ArrayPart(self.path.name, None, None, held[""])]
                return
            yield [
                ArrayPart(key, _labels(held[labels], self.path) if labels else None, held_out, held[key])
                for key, labels, held_out in _chosen_of(held, self.path)
            ]

    @cached_property
    def _scale(self) -> tuple[Scale | None, str]:
        """What brings the values that are not uint8 to it, by the range of all of them together, and a line of it."""
        types: set[str] = set()
        low, high = math.inf, -math.inf
        with self._parts() as parts:
            for part in parts:
                with part.open() as file:
                    shape, _, dtype = _header(file)
                    if dtype == np.uint8 or dtype.kind not in "uibf" or 0 in shape:
                        continue
                    types.add(str(dtype))
                    for picture in _pictures(file, shape, dtype, self.path):
                        ends = float(picture.min()), float(picture.max())
                        if not all(map(math.isfinite, ends)):
                            raise UndiffuseError(f"{self.path}: '{part.key}' has values that are NaN or infinite")
                        low, high = min(low, ends[0]), max(high, ends[1])
        if len(types) > 1:
            raise UndiffuseError(f"{self.path}: arrays of {' and '.join(sorted(types))}; save all parts in one type")
        return scale_of(types.pop(), low, high, self.path) if types else (None, "")

    def _of(self, part: ArrayPart) -> Iterator[Item]:
        with part.open() as file:
            shape, fortran, dtype = _header(file)
            channels_first = self._check(shape, fortran, dtype, part)
            scale = None if dtype == np.uint8 else self._scale[0]
            for row, raw in enumerate(_pictures(file, shape, dtype, self.path)):
                picture = raw if scale is None else scale(raw)
                picture = picture.transpose(1, 2, 0) if channels_first else picture.reshape(*picture.shape[:2], -1)
                label = None if part.labels is None or part.labels[row] < 0 else str(int(part.labels[row]))
                yield Item(f"{part.key}#{row}", np.ascontiguousarray(picture), label, part.held_out)

    def _check(self, shape: tuple[int, ...], fortran: bool, dtype: np.dtype, part: ArrayPart) -> bool:
        """Whether channels come first. Raises UndiffuseError for what is no array of pictures, or could be two."""
        key, labels = part.key, part.labels
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


def _chosen_of(held: Mapping[str, Opener], path: Path) -> list[tuple[str, str | None, bool | None]]:
    """The arrays that are read: of pictures and, if they are there, of their labels, and whether they are held out."""
    if "" in held:
        return []
    called = {name.lower(): name for name in held}
    known = [(called[key], called.get(labels), side) for key, labels, side in ARRAY_PARTS if key in called]
    if not known:
        raise UndiffuseError(f"{path}: holds {', '.join(sorted(held)[:9])}; an array 'images' is wanted")
    return [part for part in known if part[2] is not None] or known[:1]


def _opened(path: Path) -> Any:
    check_regular(path)
    return path.open("rb")


def _labels(opener: Opener, path: Path) -> np.ndarray:
    with opener() as file:
        shape, _, dtype = _header(file)
        count = math.prod(shape)
        if dtype.kind not in "iu" or count > MAX_LABELS or count != max(shape, default=0):
            raise UndiffuseError(f"{path}: labels are {dtype} {list(shape)}; n integers are wanted")
        labels = np.frombuffer(_take(file, count * dtype.itemsize), dtype)
    if dtype.kind == "u" and count and labels.max() > np.iinfo(np.int64).max:
        raise UndiffuseError(f"{path}: a label of {labels.max():,}, which 64 bits with a sign do not hold")
    return labels.astype(np.int64)


def _header(file: Readable) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        return read(file)
    except ValueError as error:  # it quotes Python's own words
        raise ValueError("its header says no type and shape of an array") from error


def scale_of(dtype: str, low: float, high: float, path: Path) -> tuple[Scale, str]:
    """What brings values of this type and range to uint8, and what it takes the range for: false and true, 0 to 255, 0
    to 1, or -1 to 1. Raises UndiffuseError for any other."""
    found, is_float = f"{dtype} {low:g} to {high:g}", dtype.startswith("float")
    if dtype == "bool":
        return lambda x: x.astype(np.uint8) * 255, "bool, false is black and true is white"
    if is_float and low >= 0 and high <= 1:
        return lambda x: np.round(x * 255.0).astype(np.uint8), f"{found}, taken for 0 to 1"
    if is_float and low >= -1 and high <= 1:
        return lambda x: np.round((x + 1.0) * 127.5).astype(np.uint8), f"{found}, taken for -1 to 1"
    if low >= 0 and high <= 255 and not (is_float and 1 < high <= 2):  # which may be 0 to 1, badly rounded
        return lambda x: np.round(x).astype(np.uint8), f"{found}, taken for 0 to 255"
    raise UndiffuseError(f"{path}: {dtype} with values from {low:g} to {high:g}; 0 to 255, 0 to 1 or -1 to 1 is wanted")


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
