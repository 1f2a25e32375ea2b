"""What can be said exactly about a finite set of data: the score that a network would have if it knew them by heart.

For x0 uniform on the points x_1..x_n and Gaussian noise q(x_t) is a mixture of n Gaussians, so

    E[x0 | x_t] = sum_i w_i x_i,  w = softmax_i(-|x_t - signal x_i|^2 / (2 sigma^2)),
    score       = (signal E[x0 | x_t] - x_t) / sigma^2

(Karras et al. 2022, appendix B.3). Sampling with it gives the points back and nothing else; a network that generalises
must differ from it.
"""

from dataclasses import dataclass

import numpy as np
import torch

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.likelihood import check_gaussian
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.split import Split, expand
from undiffuse.errors import UndiffuseError
from undiffuse.rng import per_row
from undiffuse.shapes import Data, Labels, Times


@dataclass(frozen=True)
class Finite:
    """The exact denoiser of data that are equally likely; computed in float64, answered in x_t's dtype.

    points: [n, *d]. classes: int64 [n], or None; then `of(y)` says whose points count for each row.
    """

    process: Process
    points: Data
    classes: Labels | None = None

    def __post_init__(self) -> None:
        check_gaussian(self.process, "the exact score", "it sums Gaussian densities around the points")
        if not len(self.points) or not bool(self.points.isfinite().all()):
            raise UndiffuseError("the exact score needs at least one point, and no NaN or infinity among them")
        if self.classes is not None and self.classes.shape != self.points.shape[:1]:
            raise UndiffuseError(f"give {len(self.points)} classes, one for each point, not {list(self.classes.shape)}")

    def of(self, y: Labels | None = None) -> Denoise:
        """(x_t, t) -> Split among all points, or for row i among those of class y[i]."""
        if y is not None:
            unknown = y if self.classes is None else y[~torch.isin(y, self.classes)]
            if len(unknown):
                raise UndiffuseError(f"no point is of class {int(unknown[0])}, so its score has no meaning")
        flat = self.points.double().flatten(1)
        squares = (flat**2).sum(1)

        def denoise(x_t: Data, t: Times) -> Split:
            signal, sigma = self.process.scales(t)
            if np.any(sigma == 0):
                raise UndiffuseError("the exact score has no value at t = 0, where the density is a row of spikes")
            rows = x_t.double().flatten(1)
            a, b = (expand(scale, rows) for scale in (signal, sigma))
            logits = (a * rows @ flat.T - a**2 * squares / 2) / b**2  # |x_t|^2 is the same for all points
            if y is not None and self.classes is not None:
                logits = logits.masked_fill(y[:, None] != self.classes, -torch.inf)
            x0 = (logits.softmax(1) @ flat).to(x_t.dtype).reshape(x_t.shape)
            return Split.from_x0(x_t, x0, signal, sigma)

        return denoise


@dataclass(frozen=True)
class Comparison:
    """Errors by time, all [k]: how far a model's score is from an exact one, and both errors of x0, on noisy versions
    of data.

    distance: sqrt(E|score - exact|^2 / E|exact|^2). mse, mse_exact: mean squared errors of x0, per dimension.
    """

    t: np.ndarray
    distance: np.ndarray
    mse: np.ndarray
    mse_exact: np.ndarray


@torch.no_grad()
def score_errors(
    process: Process,
    denoise: Denoise,
    exact: Denoise,
    x0: Data,
    times: np.ndarray,
    *,
    seed: int = 0,
) -> Comparison:
    """The model and the exact score on x_t drawn from each x0 at each time; draws of datum i come from (seed, i)."""
    draws = per_row(seed, "score", rows=range(len(x0)))
    rows = []
    for t in times:
        truth = process.corrupt(x0, float(t), draws)
        guess, best = denoise(truth.x_t, float(t)), exact(truth.x_t, float(t))
        gap = (guess.x0.double() - best.x0.double()) ** 2  # scores differ by signal / sigma^2 times this
        signal, sigma = (float(scale) for scale in process.scales(float(t)))
        size = float((best.eps.double() ** 2).mean())
        distance = signal / sigma * float(gap.mean()) ** 0.5 / size**0.5
        errors = (float(((split.x0 - x0).double() ** 2).mean()) for split in (guess, best))
        rows.append((float(t), distance, *errors))
    if not np.isfinite(rows).all():
        raise UndiffuseError("the model's score came out NaN or infinite: its weights hold some")
    return Comparison(*np.array(rows).T)
