"""Conformance checks for what you add yourself: AssertionError, one line, says which law is broken."""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import ks_1samp, ks_2samp, norm

from undiffuse.diffusion.noise import Noise
from undiffuse.errors import UsageError
from undiffuse.rng import Generator, fold, per_row
from undiffuse.shapes import Tensor

SNRS = (100.0, 1.0, 1e-3, 1e-9)
UNLIKELY = 1e-6  # of a sound family to be refused by one of the statistical checks, each


def check_noise(noise: Noise, count: int = 100_000, seed: int = 0) -> None:
    """Hold a noise family to what every family promises and to what it declares in `exact`.

    Shape, float32, the same numbers for the same streams, a datum's numbers from its own stream and SNR alone; zero
    mean and unit variance at SNRs from 100 to 1e-9; finite at SNR 0 and infinity; `density`, if stated, is that of
    the draws; xi of `renewal` has zero mean and unit variance, eps_s of `bridge` covariance `kept` with eps_t and unit
    variance; "chain": a jump and a step have the law of the longer jump; "flow": one law at every SNR, with a density;
    "posterior" and "score": eps ~ N(0, 1). Fails by chance about once in ten thousand calls; `count` numbers are drawn
    a check.
    """
    _declared(noise)
    _forms(noise)
    for snr in SNRS:
        _moments(noise, snr, count, seed)
    for snr in (0.0, 1e9, math.inf):
        _true(bool(_draw(noise, snr, 1000, seed).isfinite().all()), f"draws at SNR {snr:g} are not all finite")
    for snr in (100.0, 1.0, 1e-3):
        _density(noise, snr, count, seed)
    _backwards(noise, count, seed)
    if "chain" in noise.exact:
        for snr_s, snr_t in ((math.inf, 10.0), (10.0, 9.0), (3.0, 0.1), (1e-2, 1e-6)):
            _chain(noise, snr_s, snr_t, count, seed)
    if "flow" in noise.exact:
        early, late = _draw(noise, 100.0, count, seed), _draw(noise, 0.01, count, seed + 1)
        _same(early, late, "it declares 'flow', but eps has another law at SNR 100 than at 0.01")
        _true(
            len(np.unique(early.numpy())) > count / 2,
            "it declares 'flow', which needs a density, but values of eps repeat",
        )
    if noise.exact & {"posterior", "score"}:
        for snr in SNRS:
            likely = ks_1samp(_draw(noise, snr, count, seed).numpy(), norm.cdf).pvalue > UNLIKELY
            _true(bool(likely), f"it declares 'posterior' or 'score', but eps is not N(0, 1) at SNR {snr:g}")


def _declared(noise: Noise) -> None:
    says = "chain" in noise.exact
    try:
        noise.increment((3, 2), np.float64(0.5), np.float64(1.0), fold(0))
    except UsageError:
        _true(not says, "it declares 'chain' but has no increment")
    else:
        _true(says, "it has an increment but does not declare 'chain'")


def _forms(noise: Noise) -> None:
    snr, kept = np.array([40.0, 1.0, 0.01]), np.array([0.1, 0.6, 0.95])
    eps = fold(0).normal((3, 2, 5))
    ways: dict[str, Callable[[list[int], Generator], Tensor]] = {
        "draw": lambda rows, rng: noise.draw((len(rows), 2, 5), snr[rows], rng),
        "renewal": lambda rows, rng: noise.renewal((len(rows), 2, 5), kept[rows], snr[rows], rng),
        "bridge": lambda rows, rng: noise.bridge(eps[rows], kept[rows], snr[rows], rng),
    }
    for name, way in ways.items():
        whole, again = (way([0, 1, 2], per_row(1, rows=range(3))) for _ in range(2))
        _true(
            whole.shape == (3, 2, 5) and whole.dtype == torch.float32,
            f"{name} gives not float32 of the shape asked for",
        )
        _true(torch.equal(whole, again), f"{name} gives other numbers for the same streams: draw from rng alone")
        alone = [way([row], per_row(1, rows=[row])) for row in range(3)]
        _true(torch.equal(torch.cat(alone), whole), f"{name}: a datum's numbers depend on its company")


def _moments(noise: Noise, snr: float, count: int, seed: int) -> None:
    eps = _draw(noise, snr, count, seed).double()
    _mean(eps, 0.0, f"mean of eps at SNR {snr:g}")
    _mean(eps**2, 1.0, f"variance of eps at SNR {snr:g}")


def _mean(values: Tensor, wanted: float, what: str) -> None:
    """Compare a mean with its law, by the standard error of the values themselves."""
    found, error = float(values.mean()), float(values.std()) / len(values) ** 0.5
    _true(abs(found - wanted) < 5.5 * error + 1e-6, f"{what}: {found:.4f}, not {wanted:g}")


def _backwards(noise: Noise, count: int, seed: int) -> None:
    """The moments that a reverse step relies on."""
    snr, kept = np.float64(4.0), np.float64(0.6)
    xi = noise.renewal((count,), kept, snr, fold(seed, "renewal")).double()
    late = _draw(noise, float(snr * kept**2), count, seed)
    early = noise.bridge(late, kept, snr, fold(seed, "bridge")).double()
    for values, wanted, what in (
        (xi, 0.0, "mean of renewal's xi"),
        (xi**2, 1.0, "variance of renewal's xi"),
        (early * late, float(kept), "covariance of eps_t and bridge's eps_s"),
        (early**2, 1.0, "variance of bridge's eps_s"),
    ):
        _mean(values, wanted, what)


def _density(noise: Noise, snr: float, count: int, seed: int) -> None:
    x = np.linspace(-15, 40, 400_001)
    try:
        density = noise.density(x, snr)
    except UsageError:
        return
    eps = _draw(noise, snr, count, seed).numpy()
    heights = np.histogram(eps, np.linspace(-15, 40, 111))[0] / count
    steps = (density[1:] + density[:-1]) / 2 * np.diff(x)
    if heights.max() > 0.5:
        return  # a spike narrower than quadrature by points can see
    _true(abs(steps.sum() - 1) < 1e-3, f"the density at SNR {snr:g} sums to {steps.sum():.4f}")
    below = np.append(0.0, steps.cumsum())
    gap = ks_1samp(eps, lambda value: np.interp(value, x, below)).statistic
    _true(
        bool(gap < 2.7 / count**0.5 + 1e-3), f"draws and density at SNR {snr:g} differ (Kolmogorov distance {gap:.4f})"
    )


def _chain(noise: Noise, snr_s: float, snr_t: float, count: int, seed: int) -> None:
    kept = np.float64((snr_t / snr_s) ** 0.5)
    xi = noise.increment((count,), kept, np.float64(snr_t), fold(seed, "step"))
    walked = float(kept) * _draw(noise, snr_s, count, seed) + (1 - float(kept) ** 2) ** 0.5 * xi
    _same(
        walked,
        _draw(noise, snr_t, count, seed + 1),
        f"a jump to SNR {snr_s:g} and a step to {snr_t:g} is not the jump there",
    )


def _draw(noise: Noise, snr: float, count: int, seed: int) -> Tensor:
    return noise.draw((count,), np.float64(snr), fold(seed, "check"))


def _same(one: Tensor, other: Tensor, claim: str) -> None:
    _true(bool(ks_2samp(one.numpy(), other.numpy()).pvalue > UNLIKELY), claim)


def _true(holds: bool | np.bool, claim: str) -> None:
    if not holds:
        raise AssertionError(claim)
