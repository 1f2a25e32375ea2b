"""The variational bound of a whole model, estimated: every term by its time, with the errors that make it up."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.likelihood import bound_term, check_gaussian, check_grid, prior_term
from undiffuse.diffusion.process import Process
from undiffuse.errors import UsageError
from undiffuse.rng import Generator, per_row
from undiffuse.shapes import Data, Tensor, Watch, unwatched, watch_items

BOUND_BLOCK = 450  # images to a network call


@dataclass(frozen=True)
class Slice:
    """One draw of one term for each datum, all [n]: t, the term in bits per dimension, mean squares of x0 and eps."""

    t: Tensor
    term: Tensor
    mse_x0: Tensor
    mse_eps: Tensor


@dataclass(frozen=True)
class Bits:
    """The bound on -log2 p(x_0) per dimension, from K times for each of n data.

    prior: L_T [n]. t, terms, mse_x0, mse_eps: [n, K]. For K = T column k holds t = k + 1 (column 0 is L_0). For K < T
    each time was drawn from its own part of 1..T (see parts), whose size its term is weighted by: unbiased.
    """

    T: int
    prior: Tensor
    t: Tensor
    terms: Tensor
    mse_x0: Tensor
    mse_eps: Tensor

    @property
    def total(self) -> Tensor:
        """[n]: L_T and the sum of the terms, each weighted by the number of times that it stands for."""
        sizes = np.diff(parts(self.T, self.terms.shape[1]))
        return self.prior + self.terms @ torch.from_numpy(sizes).to(self.terms)

    def mean(self) -> tuple[float, float]:
        """Over the data: (bits per dimension, its standard error, which holds the noise of the draws as well)."""
        return mean_and_error(self.total)


def parts(T: int, count: int) -> np.ndarray:
    """Ends of `count` parts of 1..T, [count + 1] from 0 to T: part k is ends[k] + 1..ends[k + 1].

    They grow by a constant factor, about T^(1 / count), from single times on: most of the bound, and of what differs
    from time to time, lies at the first. Drawing one time from each part then errs less than from equal parts.
    """
    ends = [0]
    for k in range(1, count + 1):
        ends.append(min(max(ends[-1] + 1, round(T ** (k / count))), T - count + k))
    return np.array(ends)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of [n] and its standard error; NaN for the error of a single value."""
    x = values.double()
    return float(x.mean()), float(x.std() / len(x) ** 0.5) if len(x) > 1 else float("nan")


def estimate_bound(
    process: Process,
    denoise: Callable[[slice], Denoise],
    x0: Data,
    levels: int | None,
    count: int,
    *,
    seed: int = 0,
    watch: Watch = unwatched,
) -> Bits:
    """`count` draws of terms for each datum; denoise gives the denoiser of some rows, which knows their labels.

    Draws of datum i come from (seed, i) alone. Raises UsageError for noise that is not Gaussian or a count beyond 1..T,
    UndiffuseError for data off the grid of levels (None: data that are not quantised).
    """
    check_gaussian(process)
    if levels is not None:
        check_grid(x0, levels)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= process.T:
        raise UsageError(f"the bound takes between 1 and T = {process.T} times for each image, not {count}")
    blocks = [slice(first, min(first + BOUND_BLOCK, len(x0))) for first in range(0, len(x0), BOUND_BLOCK)]
    pieces = (piece for rows in blocks for piece in _slices(process, denoise, x0, levels, count, seed=seed, rows=rows))
    drawn = list(watch_items(watch, pieces, len(blocks) * count, "term of the bound"))
    columns = []
    for name in ("t", "term", "mse_x0", "mse_eps"):
        values = [getattr(piece, name) for piece in drawn]
        columns.append(torch.cat([torch.stack(values[k * count : (k + 1) * count], 1) for k in range(len(blocks))]))
    return Bits(process.T, prior_term(process, x0).cpu(), *columns)


def _slices(
    process: Process,
    denoise: Callable[[slice], Denoise],
    x0: Data,
    levels: int | None,
    count: int,
    *,
    seed: int,
    rows: slice,
) -> Iterator[Slice]:
    """`count` draws of terms of some rows, times rising. count = T takes every time once."""
    some, guessing = x0[rows], denoise(rows)
    draws = per_row(seed, "bound", rows=range(rows.start, rows.stop))
    for k in range(count):
        yield _one(process, guessing, some, levels, _times(process.T, k, count, draws), draws=draws)


def _times(T: int, k: int, count: int, draws: Generator) -> np.ndarray:
    """One t for each datum, uniform on the k-th of `count` parts of 1..T."""
    if count == T:
        return np.full(len(draws.streams), k + 1.0)
    before, last = parts(T, count)[k : k + 2]
    u = draws.uniform((len(draws.streams),)).numpy()
    return np.minimum(before + np.floor(u * (last - before)), last - 1.0) + 1


@torch.no_grad()
def _one(process: Process, denoise: Denoise, x0: Data, levels: int | None, t: np.ndarray, *, draws: Generator) -> Slice:
    truth = process.corrupt(x0, t, draws)
    guess = denoise(truth.x_t, t)
    term = bound_term(process, truth, guess, t, levels)
    errors = (((a - b) ** 2).flatten(1).mean(1) for a, b in ((guess.x0, truth.x0), (guess.eps, truth.eps)))
    return Slice(torch.from_numpy(t), *(value.cpu() for value in (term, *errors)))
