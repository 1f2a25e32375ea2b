"""Which t training draws. Every way gives the times with weights that make the mean of weight * loss the same.

For t drawn with probability p_t the weight is 1 / (T p_t): E[weight L_t] is the mean of L_t over t = 1..T, whatever p
that is positive wherever L_t is not 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from undiffuse.errors import UndiffuseError
from undiffuse.rng import Generator
from undiffuse.shapes import Tensor

HISTORY = 10  # Nichol & Dhariwal 2021, section 3.3: previous values kept for each t
FLOOR = 0.001  # their code's share of uniform draws, so that a term whose last values were 0 is met again


@runtime_checkable
class TimeSampling(Protocol):
    """t int64 and weight float32, both [b] on the CPU, for rows of the global batch.

    own: one stream a row; common: one stream for the whole step, the same on every process.
    """

    def draw(self, rows: range, own: Generator, common: Generator) -> tuple[Tensor, Tensor]: ...

    def learn(self, t: np.ndarray, losses: np.ndarray) -> None:
        """Learn from the global batch's unweighted losses, in its order."""

    def tensors(self) -> dict[str, Tensor]:
        """The state that a resumed run must know."""

    def fill(self, tensors: dict[str, Tensor], origin: Path) -> None:
        """The inverse of `tensors`. Raises UndiffuseError for another T's or a spoilt memory."""


class _Memoryless:
    def learn(self, t: np.ndarray, losses: np.ndarray) -> None:
        pass

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def fill(self, tensors: dict[str, Tensor], origin: Path) -> None:
        pass


@dataclass(frozen=True)
class UniformTimes(_Memoryless):
    """t ~ U{1..T}, each row on its own (Ho et al. 2020, Algorithm 1)."""

    T: int

    def draw(self, rows: range, own: Generator, common: Generator) -> tuple[Tensor, Tensor]:
        return own.integers(1, self.T, (len(rows),)), torch.ones(len(rows))


@dataclass(frozen=True)
class LowDiscrepancy(_Memoryless):
    """t = 1 + floor(T ((u + i / n) mod 1)) for row i of n, one u ~ U[0, 1) a step (Kingma et al. 2021, appendix I.1).

    Each t is uniform, the batch covers 1..T evenly: the mean loss varies less from step to step.
    """

    T: int
    batch_size: int

    def draw(self, rows: range, own: Generator, common: Generator) -> tuple[Tensor, Tensor]:
        u = (float(common.uniform((1,))) + np.asarray(rows) / self.batch_size) % 1.0
        t = np.minimum(np.floor(self.T * u).astype(np.int64), self.T - 1) + 1
        return torch.from_numpy(t), torch.ones(len(rows))


class SecondMoment:
    """p_t in proportion to sqrt(E[L_t^2]) over the last ten losses at t (Nichol & Dhariwal 2021, eq. 18).

    Of all p this makes the weighted loss vary least, but for the floor. Uniform until every t has ten losses.
    """

    def __init__(self, T: int) -> None:
        self.history = np.zeros((T, HISTORY))  # of t = row + 1: a ring, entry seen % HISTORY is the oldest
        self.seen = np.zeros(T, np.int64)

    @property
    def p(self) -> np.ndarray:
        """float64 [T], of t = 1..T; sums to 1."""
        T = len(self.seen)
        largest = self.history.max()
        if self.seen.min() < HISTORY or not largest > 0:
            return np.full(T, 1 / T)
        root = np.sqrt(((self.history / largest) ** 2).mean(1))
        return np.asarray((1 - FLOOR) * root / root.sum() + FLOOR / T)

    def draw(self, rows: range, own: Generator, common: Generator) -> tuple[Tensor, Tensor]:
        p = self.p
        below = np.cumsum(p)
        row = np.searchsorted(below, own.uniform((len(rows),)).numpy() * below[-1], side="right")  # < T, as u < 1
        return torch.from_numpy(row + 1), torch.from_numpy(1 / (len(p) * p[row])).float()

    def learn(self, t: np.ndarray, losses: np.ndarray) -> None:
        for row, loss in zip(np.asarray(t, np.int64) - 1, losses, strict=True):
            self.history[row, self.seen[row] % HISTORY] = abs(float(loss))
            self.seen[row] += 1

    def tensors(self) -> dict[str, Tensor]:
        return {"history": torch.from_numpy(self.history.copy()), "seen": torch.from_numpy(self.seen.copy())}

    def fill(self, tensors: dict[str, Tensor], origin: Path) -> None:
        own = self.tensors()
        if {name: (x.shape, x.dtype) for name, x in tensors.items()} != {k: (x.shape, x.dtype) for k, x in own.items()}:
            raise UndiffuseError(
                f"{origin}: times.safetensors is not the memory of second_moment for T = {len(self.seen)}"
            )
        history, seen = tensors["history"].numpy().copy(), tensors["seen"].numpy().copy()
        if not np.isfinite(history).all() or history.min() < 0 or not 0 <= seen.min() <= seen.max() < 2**62:
            raise UndiffuseError(
                f"{origin}: times.safetensors holds numbers that no loss can have; copy the checkpoint again"
            )
        self.history, self.seen = history, seen


TIME_SAMPLINGS: dict[str, Callable[[int, int], TimeSampling]] = {
    "uniform": lambda T, batch_size: UniformTimes(T),
    "low_discrepancy": LowDiscrepancy,
    "second_moment": lambda T, batch_size: SecondMoment(T),
}
