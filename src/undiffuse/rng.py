"""Randomness by position: a draw depends on where it stands (seed, image, step), never on what was drawn before it.

A stream's key is a 128-bit hash of its position and drives a counter-based Philox generator, so streams neither
collide (32-bit seeds would, at 50,000 images, with probability 1/4) nor overlap. Draws are made on the CPU in float32
(uniforms and integers in float64/int64) and moved by whoever needs them elsewhere.
"""

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from operator import index

import numpy as np
import torch
from torch import Tensor

from undiffuse.native.library import kernels

Position = int | str
MANY = 1 << 14  # numbers; a draw of fewer is over before other threads have begun

# The address of a stream's bitgen_t, whose capsule NumPy calls "BitGenerator"; a prototype that is nobody else's.
_address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def key(seed: int, *position: Position) -> int:
    """A 128-bit number that depends on every part of the position and on their order."""
    parts = tuple(part if isinstance(part, str) else index(part) for part in (seed, *position))
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=16).digest(), "little")


@dataclass(frozen=True)
class Generator:
    """k independent streams. A draw of n rows is cut into k equal runs of rows; run j comes from stream j.

    With one stream this is an ordinary generator; with one stream per image, image i's numbers are the same in a batch
    of any size.
    """

    streams: tuple[np.random.Generator, ...]

    def draw(self, fill: Callable[[np.random.Generator, np.ndarray], object], out: np.ndarray) -> Tensor:
        """Fill `out` (rows first, C order) run by run; `fill(stream, run)` writes in place."""
        count = len(self.streams)
        if not count or out.shape[0] % count:
            raise ValueError(f"a draw of {out.shape[0]} rows cannot be shared by {count} streams")
        runs = out.reshape(count, -1)
        for stream, run in zip(self.streams, runs, strict=True):
            fill(stream, run)
        return torch.from_numpy(out)

    def normal(self, shape: Iterable[int]) -> Tensor:
        """Standard normal, float32."""
        out = np.empty(tuple(shape), np.float32)
        if self._at_once(out):
            return torch.from_numpy(out)
        return self.draw(lambda stream, run: stream.standard_normal(out=run, dtype=np.float32), out)

    def _at_once(self, out: np.ndarray) -> bool:
        """Whether standard normals were drawn by several threads, by NumPy's own function: the same numbers."""
        count, threads = len(self.streams), torch.get_num_threads()
        if min(count, threads) < 2 or out.size < MANY or out.shape[0] % count or (library := kernels()) is None:
            return False
        addresses = [_address(stream.bit_generator.capsule, b"BitGenerator") for stream in self.streams]
        pointers = (ctypes.c_void_p * count)(*addresses)
        return bool(library.normals(pointers, count, out.size // count, out.ctypes.data, threads))

    def uniform(self, shape: Iterable[int]) -> Tensor:
        """Uniform on [0, 1), float64."""
        return self.draw(lambda stream, run: stream.random(out=run), np.empty(tuple(shape), np.float64))

    def laplace(self, shape: Iterable[int]) -> Tensor:
        """Density exp(-|x|) / 2, float64: variance 2."""

        def fill(stream: np.random.Generator, run: np.ndarray) -> None:
            run[:] = stream.laplace(size=run.shape)

        return self.draw(fill, np.empty(tuple(shape), np.float64))

    def gamma(self, k: np.ndarray) -> Tensor:
        """Gamma of these shapes k and scale 1, one number each, float64."""

        def fill(stream: np.random.Generator, run: np.ndarray) -> None:
            run[:] = stream.standard_gamma(run)

        return self.draw(fill, np.array(k, np.float64))

    def beta(self, a: np.ndarray, b: np.ndarray) -> Tensor:
        """Beta(a, b), one number for each pair, float64."""

        def fill(stream: np.random.Generator, run: np.ndarray) -> None:
            pairs = run.reshape(-1, 2)
            pairs[:, 0] = stream.beta(pairs[:, 0], pairs[:, 1])

        return self.draw(fill, np.stack([a, b], -1, dtype=np.float64))[..., 0]

    def integers(self, low: int, high: int, shape: Iterable[int]) -> Tensor:
        """Uniform on {low, ..., high}, both ends included, int64."""

        def fill(stream: np.random.Generator, run: np.ndarray) -> None:
            run[:] = stream.integers(low, high, size=run.shape, endpoint=True)

        return self.draw(fill, np.empty(tuple(shape), np.int64))


def fold(seed: int, *position: Position) -> Generator:
    """The one stream at a position."""
    return Generator((_stream(key(seed, *position)),))


def per_row(seed: int, *position: Position, rows: Iterable[int]) -> Generator:
    """One stream per row: row r's stream stands at (seed, *position, r)."""
    return Generator(tuple(_stream(key(seed, *position, row)) for row in rows))


def permutation(n: int, seed: int, *position: Position) -> np.ndarray:
    """A random order of 0..n-1."""
    return _stream(key(seed, *position)).permutation(n)


def seed_torch(seed: int, *position: Position) -> None:
    """Set torch's global generators, which only dropout inside a network draws from."""
    torch.manual_seed(key(seed, *position) % 2**63)


def _stream(key128: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key128))
