"""What multistep solvers share: every one of them is a DDIM step at a better guess.

The probability-flow ODE between t and s is solved exactly by a DDIM step whose x0 (or eps) is the mean of x0 (or eps)
along the way, under the weight exp(lambda) (or exp(-lambda)) with lambda = log(signal / sigma) (Lu et al. 2022,
DPM-Solver++, proposition 4.1; DPM-Solver, eq. 3.4). The solvers differ in the polynomial that stands in for what is
not known.
"""

from dataclasses import dataclass
from math import isfinite, prod

import numpy as np

from undiffuse.diffusion.process import Process
from undiffuse.diffusion.split import Split
from undiffuse.shapes import Data

SHARE_NODES, SHARE_WEIGHTS = np.polynomial.legendre.leggauss(24)
SOLVABLE = -5.1  # of lambda; below it solving x_t for x0 multiplies errors (Lu et al. clip here)
FAR = 2.0  # steps of the step before: where extrapolation ends


@dataclass(frozen=True)
class Past:
    """Earlier guesses (x0 or eps) and their lambdas, newest first."""

    at: tuple[float, ...] = ()
    values: tuple[Data, ...] = ()

    def seen(self, at: float, value: Data, most: int) -> "Past":
        """The same memory with one more guess, of which the newest `most` are kept. A guess at lambda = -inf cannot be
        interpolated: it goes."""
        kept = [(at, value), *((a, v) for a, v in zip(self.at, self.values, strict=True) if isfinite(a))][:most]
        return Past(*zip(*kept, strict=True))

    def within(self, h: float) -> "Past":
        """The guesses that a step of h may extrapolate: all, or the newest two where h is over twice the step before.

        A parabola that far out says less than a line. Uniform times end in such a step, the one to t = 1.
        """
        far = len(self.at) > 2 and h > FAR * (self.at[0] - self.at[1])
        return Past(self.at[:2], self.values[:2]) if far else self

    def mean(self, h: float, sign: int = 1) -> Data:
        """The mean of the polynomial through the guesses from here to lambda + h, under the weight exp(sign lambda)."""
        if len(self.at) == 1 or not isfinite(h):
            return self.values[0]
        return self.combined(shares(h, [a - self.at[0] for a in self.at], sign))

    def ahead(self, h: float) -> Data:
        """x0 for a step of h: the mean of the polynomial through what is `within` reach.

        With two guesses it is their line at half the step (Lu et al. 2022, DPM-Solver++, algorithm 2), and for a step
        over twice as long as the one before as far ahead as the older guess is back.
        """
        past = self.within(h)
        if len(past.at) != 2 or not isfinite(h):
            return past.mean(h)
        share = min(h / (past.at[0] - past.at[1]), FAR) / 2
        return past.combined([1 + share, -share])

    def combined(self, weights: list[float]) -> Data:
        terms = [w * value for w, value in zip(weights, self.values, strict=True)]
        return sum(terms[1:], terms[0])


def shares(h: float, at: list[float], sign: int) -> list[float]:
    """int_0^h exp(sign u) L_j(u) du / int_0^h exp(sign u) du, L_j Lagrange's polynomials of the nodes `at`.

    By Gauss-Legendre quadrature of 24 points, which unlike the closed form loses no digits for small h.
    """
    u = (SHARE_NODES + 1) * h / 2
    density = SHARE_WEIGHTS * np.exp(sign * (u - (h if sign > 0 else 0.0)))
    density /= density.sum()
    basis = [prod((u - b) / (a - b) for b in at if b != a) * np.ones_like(u) for a in at]
    return [float(density @ polynomial) for polynomial in basis]


def log_snr(process: Process, t: float) -> float:
    """lambda at t: -inf for zero terminal SNR, inf at 0."""
    return float(process.schedule.half_log_snr(t))


def with_x0(x_t: Data, x0: Data, guess: Split) -> Split:
    """x_t split anew by another x0."""
    return guess if x0 is guess.x0 else Split.from_x0(x_t, x0, guess.signal, guess.sigma)


def with_eps(x_t: Data, eps: Data, guess: Split) -> Split:
    """x_t split anew by another eps."""
    return guess if eps is guess.eps else Split.from_eps(x_t, eps, guess.signal, guess.sigma)
