"""CIFAR-10 and CIFAR-100 as they are published: https://www.cs.toronto.edu/~kriz/cifar.html describes both formats.

The binary version is records of one label byte (CIFAR-100: coarse, then fine) and 3072 bytes, [3, 32, 32]. The Python
version is pickles, read here without running anything they ask for: only dictionaries, lists, bytes and arrays of bytes
come out.
"""

import io
import pickle
import pickletools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.data.budget import Budget, open_tar, tar_headers
from undiffuse.data.sources.base import Item, in_a_line, printable, stamp_of
from undiffuse.errors import UndiffuseError

SIDE, PIXELS = 32, 3 * 32 * 32
MAX_FILE = 512 * 1024 * 1024
CIFAR_PARTS = (  # file, held out, label bytes before the picture (the last one counts)
    *((f"data_batch_{i}.bin", False, 1) for i in range(1, 6)),
    ("test_batch.bin", True, 1),
    ("train.bin", False, 2),
    ("test.bin", True, 2),
    *((f"data_batch_{i}", False, 0) for i in range(1, 6)),
    ("test_batch", True, 0),
    ("train", False, 0),
    ("test", True, 0),
)
NAME_FILES = ("batches.meta.txt", "fine_label_names.txt", "batches.meta", "meta")


@dataclass(frozen=True)
class Cifar:
    """A folder with the files of either version, or the archive they are published in."""

    path: Path
    name: str
    levels: int = 256
    budget: float = 1.0

    @classmethod
    def fits(cls, path: Path) -> bool:
        if path.is_dir():
            return (
                (path / "data_batch_1.bin").is_file()
                or (path / "data_batch_1").is_file()
                or (path / "train.bin").is_file()
            )
        return path.name.startswith("cifar-") and path.name.endswith((".tar.gz", ".tgz", ".tar"))

    def classes(self) -> tuple[str, ...] | None:
        files = dict(self._files(NAME_FILES))
        for name in NAME_FILES:
            if name in files:
                found = tuple(map(printable, _names(files[name], name)))
                if twice := next((one for one, count in Counter(found).items() if count > 1), None):
                    raise UndiffuseError(f"{self.path}: {name} names two classes '{twice}'; give each its own name")
                return found or None
        return None

    def stamp(self) -> str:
        return stamp_of(sorted(self.path.iterdir()) if self.path.is_dir() else [self.path])

    def items(self) -> Iterator[Item]:
        names = self.classes()
        wanted = {name: rest for name, *rest in CIFAR_PARTS}
        for name, data in self._files(tuple(wanted)):
            held_out, label_bytes = wanted[name]
            pictures, labels = _binary(data, label_bytes, name) if label_bytes else _pickled(data, name)
            for row, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
                content = np.ascontiguousarray(picture.reshape(3, SIDE, SIDE).transpose(1, 2, 0))
                yield Item(f"{name}#{row}", content, _class(names, int(label), name, row), bool(held_out))

    def _files(self, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
        """The files that are there, in the order of `names` for a folder, as they lie for an archive."""
        if self.path.is_dir():
            for name in names:
                path = self.path / name
                if path.is_file():
                    if path.stat().st_size > MAX_FILE:
                        raise UndiffuseError(f"{path}: too large for a file of CIFAR")
                    yield name, path.read_bytes()
            return
        try:
            budget = Budget(self.path, self.budget)
            with open_tar(budget) as archive:
                for info in tar_headers(archive, budget):
                    name = Path(info.name).name
                    if name in names and info.isreg() and info.size <= MAX_FILE and not info.issparse():
                        file = archive.extractfile(info)
                        yield name, b"" if file is None else file.read()
        except UndiffuseError:
            raise
        except Exception as error:
            raise UndiffuseError(f"{self.path}: not a readable tar file ({in_a_line(error)})") from error


def _class(names: tuple[str, ...] | None, label: int, file: str, row: int) -> str:
    if names is None:
        return str(label)
    if not 0 <= label < len(names):
        raise UndiffuseError(f"{file}: picture {row} has label {label}, and there are {len(names)} classes")
    return names[label]


def _binary(data: bytes, label_bytes: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    record = label_bytes + PIXELS
    if not data or len(data) % record:
        raise UndiffuseError(f"{name}: {len(data)} bytes are not a whole number of records of {record}; it is damaged")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    return rows[:, label_bytes:], rows[:, label_bytes - 1]


def _pickled(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickle(data, name)
    pixels = batch.get(b"data", batch.get("data"))
    keys = (b"labels", "labels", b"fine_labels", "fine_labels")
    labels = next((batch[key] for key in keys if isinstance(batch.get(key), list)), None)
    if isinstance(pixels, _Array):
        pixels = pixels.as_bytes(name)
    if not isinstance(pixels, np.ndarray) or labels is None or pixels.size != len(labels) * PIXELS:
        raise UndiffuseError(f"{name}: not a batch of CIFAR: 'data' [n, {PIXELS}] and n labels are wanted")
    if not all(isinstance(label, int) for label in labels):
        raise UndiffuseError(f"{name}: labels must be integers")
    return pixels.reshape(-1, PIXELS), np.array(labels, object)


def _names(data: bytes, file: str) -> tuple[str, ...]:
    if file.endswith(".txt"):
        return tuple(line.strip() for line in _text(data, file).split("\n") if line.strip())
    meta = _unpickle(data, file)
    for key in ("label_names", "fine_label_names"):
        found = meta.get(key.encode(), meta.get(key))
        if isinstance(found, list):
            return tuple(_text(name, file) for name in found)
    return ()


def _text(name: Any, file: str) -> str:
    try:
        return name if isinstance(name, str) else name.decode()
    except (AttributeError, ValueError) as error:
        raise UndiffuseError(f"{file}: the names of classes are not text in UTF-8") from error


# -- pickles, of which only the data are wanted ------------------------------------------------------------------------


@dataclass
class _Array:
    """A stand-in for numpy's arrays and types: it keeps what the pickle says of them, and runs nothing."""

    state: Any = None
    made_of: tuple[Any, ...] = field(default=())

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def as_bytes(self, name: str) -> np.ndarray:
        """The state of an array is (version, shape, type, Fortran order, bytes)."""
        match self.state:
            case (_, tuple(), _Array(made_of=(kind, *_)), False, bytes() as raw) if kind in ("u1", b"u1"):
                return np.frombuffer(raw, np.uint8)
        raise UndiffuseError(f"{name}: 'data' is not an array of bytes")


def _stand_in(*parts: Any) -> _Array:
    return _Array(made_of=parts)


KNOWN_GLOBALS = {(f"numpy{core}.multiarray", "_reconstruct") for core in (".core", "._core")} | {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
}


MOST_BOXES = 1000
BOXES = {  # operations of a pickle that put something into something
    *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "FROZENSET"),
    *("REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in KNOWN_GLOBALS:
            return _stand_in
        if (module, name) == ("_codecs", "encode"):
            return lambda text, _: text.encode("latin-1")
        raise UndiffuseError(f"it asks for {module}.{name}, which data do not need")


def _unpickle(data: bytes, name: str) -> dict[Any, Any]:
    try:
        boxes = 0
        for operation, argument, _ in pickletools.genops(data):
            if "PUT" in operation.name and isinstance(argument, int) and argument > len(data):
                raise UndiffuseError("its memo is larger than the file")  # or the reader would make room for it
            boxes += operation.name in BOXES
            if boxes > MOST_BOXES:  # within each other they would take all of the interpreter's stack
                raise UndiffuseError(f"more than {MOST_BOXES:,} lists, tuples and objects, and a batch has ten")
        found = _Reader(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:
        raise UndiffuseError(f"{name}: not a pickle of data: {in_a_line(error)}") from error
    if not isinstance(found, dict):
        raise UndiffuseError(f"{name}: a dictionary is wanted, this is {type(found).__name__}")
    return found
