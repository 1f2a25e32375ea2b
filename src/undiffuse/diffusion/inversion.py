"""From a picture to its noise, and ways between two noises: Song, Meng & Ermon 2021, sections 4.3, 5.3 and 5.4."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers import Frame
from undiffuse.diffusion.split import Split, expand
from undiffuse.errors import UsageError
from undiffuse.shapes import Data, Float, Float64Array, Tensor

FIRST = 1.0  # a picture itself, t = 0, is asked about as if it stood at the first time the network knows


def inverted(
    process: Process, denoise: Denoise, x0: Data, times: Sequence[float], refinements: int = 0
) -> Iterator[Frame]:
    """DDIM(0) run upwards over `times` (rising from 0): x_t = signal_t x0 + sigma_t eps, both guessed at x_s (eq. 13).

    Yields a Frame after each step; the last x, at T, is what DDIM(0) over the same times takes back to x0, up to the
    error of guessing at x_s what DDIM will guess at x_t. refinements: of each step from s > 0 so many fixed-point
    iterations that solve x_s = DDIM(x_t) for x_t, one network call each. At s = 0 that has no solution for pictures
    that the model would not draw.
    """
    if refinements < 0:
        raise UsageError(f"refinements must be at least 0, got {refinements}")
    x = x0
    for s, t in pairwise([float(t) for t in times]):
        with torch.no_grad():
            guess = denoise(x, max(s, FIRST))
            to = process.carried(Split.from_eps(x, guess.eps, *process.scales(s)), t)
            for _ in range(refinements if s > 0 else 0):
                to = _solved(process, x, denoise(to, t), s, t)
        x = to
        yield Frame(t, x, guess.x0)


def _solved(process: Process, x_s: Data, guess: Split, s: float, t: float) -> Data:
    """x_t with x_s = cos(phi_t - phi_s) x_t - sin(phi_t - phi_s) v, v guessed at x_t (signal, sigma = cos, sin of phi).

    DDIM's step in terms of v: stable from the data to the noise, as those by x0 or eps alone are not.
    """
    (signal_s, sigma_s), (signal_t, sigma_t) = process.scales(s), process.scales(t)
    cos, sin = signal_t * signal_s + sigma_t * sigma_s, sigma_t * signal_s - signal_t * sigma_s
    return (x_s + expand(sin, x_s) * guess.v) / expand(cos, x_s)


def slerp(one: Data, other: Data, share: Float64Array) -> Float[Tensor, "k *d"]:
    """sin((1 - a) theta) / sin theta one + sin(a theta) / sin theta other (their section 5.3 and appendix D): [k, *d].

    one, other: [1, *d], theta the angle between them; share: a [k]. Straight where the two are nearly parallel.
    """
    a, b = one.double(), other.double()
    cos = float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-300))
    theta = float(np.arccos(np.clip(cos, -1.0, 1.0)))
    if np.sin(theta) < 1e-6:
        weights = 1 - share, share
    else:
        weights = np.sin((1 - share) * theta) / np.sin(theta), np.sin(share * theta) / np.sin(theta)
    return (expand(weights[0], a) * a + expand(weights[1], a) * b).to(one)
