"""Times chosen for one model from its own trajectories: the path of least local error, by dynamic programming."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers.base import trajectory
from undiffuse.diffusion.samplers.dpmpp import DPMpp
from undiffuse.diffusion.samplers.multistep import FAR
from undiffuse.diffusion.samplers.spacing import times
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files.reading import parse_json
from undiffuse.rng import Generator
from undiffuse.shapes import Data, Watch, unwatched, watch_items

CANDIDATES = 120  # times on the reference, before those that fall together are dropped
MOST_STEPS = 50  # steps; beyond them all spacings are alike
FEW = 10  # steps to which `auto` takes them: beyond, the solver's error is less than the model's (docs/samplers.md)


@dataclass(frozen=True)
class Fitted:
    """Times for 1 to 50 steps, for solvers that use one guess a step and for those that use two."""

    one: tuple[tuple[float, ...], ...]
    two: tuple[tuple[float, ...], ...]

    @classmethod
    def read(cls, text: str, T: int) -> "Fitted":
        """Read what `write` wrote as JSON. Raises UndiffuseError for anything else."""
        try:
            rows = parse_json(text)
            made = cls(*(tuple(tuple(map(float, row)) for row in rows[name]) for name in ("one guess", "two guesses")))
        except (ValueError, KeyError, TypeError) as error:
            raise UndiffuseError("not fitted times, as `undiffuse fit` writes them") from error
        for part in (made.one, made.two):
            for steps, row in enumerate(part, 1):
                if len(row) != steps + 1 or (row[0], row[-1]) != (T, 0) or any(s >= t for t, s in pairwise(row)):
                    raise UndiffuseError(f"the fitted times for {steps} steps do not fall from T = {T} to 0")
        return made

    def write(self) -> str:
        return json.dumps({"one guess": self.one, "two guesses": self.two}) + "\n"

    @property
    def most(self) -> int:
        return len(self.one)

    def times(self, steps: int, guesses: int) -> list[float]:
        """T = t_0 > ... > t_steps = 0. Raises UsageError for more steps than were fitted."""
        rows = self.one if guesses == 1 else self.two
        if not 1 <= steps <= len(rows):
            raise UsageError(f"times were fitted for 1 to {len(rows)} steps, not {steps}; take another spacing")
        return list(rows[steps - 1])


def fit_times(process: Process, denoise: Denoise, x_T: Data, rng: Generator, watch: Watch = unwatched) -> Fitted:
    """One reference run, DPM-Solver++(2M) over about a hundred times, gives x_t and the guess D_t at each of them.

    A step from t to s is then judged by how far its x_s, made from the reference's x_t and D's, lies from the
    reference's x_s, in units of the spread of x_s over images; times are the path of least sum (all of them at once:
    Bellman). Network calls: about a hundred for each image of x_T. Raises UndiffuseError where the run is not finite.
    """
    visited = times(process.schedule, min(CANDIDATES, process.T), "log-snr")
    states, guesses = [x_T], []
    run = trajectory(process, denoise, DPMpp(2), x_T, visited, rng)
    for frame in watch_items(watch, run, len(visited) - 1, "network call"):
        states.append(frame.x)
        guesses.append(frame.x0)
    alone, paired = _costs(process, visited, states, guesses)
    most = min(MOST_STEPS, len(visited) - 1)
    return Fitted(
        *(
            tuple(tuple(visited[i] for i in path) for path in paths)
            for paths in (_paths(alone, most), _paired_paths(alone, paired, most))
        )
    )


def _costs(
    process: Process, visited: Sequence[float], states: Sequence[Data], guesses: Sequence[Data]
) -> tuple[np.ndarray, np.ndarray]:
    """[i, j] of a step from i to j by the guess at i, [k, i, j] by the guesses at k and i: rms error over rms spread.

    All are lengths of combinations of the states and guesses, so products between these are all that is needed.
    """
    n = len(visited)
    rows = torch.stack([*states, *guesses]).flatten(1).double().cpu().numpy()
    if not np.isfinite(rows).all():
        raise UndiffuseError("the reference run gave NaN or infinity: the weights hold some, or guidance is too large")
    products = rows @ rows.T / rows.shape[1]
    spread = np.array([max(float((x.double() - x.double().mean(0)).square().mean()), 1e-12) for x in states]) ** 0.5
    signal, sigma = (np.asarray(scale) for scale in process.scales(np.array(visited)))
    at = np.asarray(process.schedule.half_log_snr(np.array(visited)))
    alone, paired = np.full((n, n), np.inf), np.full((n, n, n), np.inf)
    for i in range(n - 1):
        j = np.arange(i + 1, n)
        of_x = sigma[j] / sigma[i]
        of_guess = signal[j] - signal[i] * of_x
        k = np.arange(i)
        with np.errstate(invalid="ignore"):
            share = (at[j] - at[i]) / (2 * (at[i] - at[k][:, None]))
        share = np.where(np.isfinite(share), share.clip(max=FAR / 2), 0.0)  # as Past.ahead; at both ends one guess
        kept = np.zeros((len(k) + 1, len(j), len(rows)))
        kept[..., np.arange(len(j)), j] = 1
        kept[..., i] -= of_x
        kept[..., n + i] -= of_guess
        kept[:-1, :, n + i] -= of_guess * share
        kept[k, :, n + k] += of_guess * share
        error = np.einsum("...a,ab,...b->...", kept, products, kept, optimize=True).clip(min=0) ** 0.5 / spread[j]
        alone[i, j], paired[:i, i, i + 1 :] = error[-1], error[:-1]
    return alone, paired


def _paths(cost: np.ndarray, most: int) -> list[list[int]]:
    """The cheapest path from the first time to the last, for each of 1..most steps."""
    best, come = [cost[0]], []
    for _ in range(most - 1):
        total = best[-1][:, None] + cost
        come.append(total.argmin(0))
        best.append(total.min(0))
    return [_back(come[:steps], len(cost) - 1) for steps in range(most)]


def _back(come: Sequence[np.ndarray], last: int) -> list[int]:
    path = [last]
    for table in reversed(come):
        path.append(int(table[path[-1]]))
    return [0, *path[::-1]]


def _paired_paths(alone: np.ndarray, paired: np.ndarray, most: int) -> list[list[int]]:
    """The cheapest paths where a step's cost depends on the step before: paths over pairs of times."""
    n = len(alone)
    best = np.full((n, n), np.inf)
    best[0] = alone[0]
    paths, come = [[0, n - 1]], []
    for _ in range(most - 1):
        total = best[:, :, None] + paired
        come.append(total.argmin(0))
        best = total.min(0)
        i = int(best[:, -1].argmin())
        path = [n - 1, i]
        for table in reversed(come):
            path.append(int(table[path[-1], path[-2]]))
        paths.append(path[::-1])
    return paths
