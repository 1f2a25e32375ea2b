"""A model's own bits per dimension of held-out images, by the bound and by the probability-flow ODE."""

from collections.abc import Sequence
from typing import Any

from undiffuse.data.dataset import Dataset
from undiffuse.diffusion.bound import Bits, mean_and_error
from undiffuse.diffusion.ode import check_dequantisation
from undiffuse.errors import UsageError
from undiffuse.evaluation.real import on_its_grid
from undiffuse.metrics.base import Estimate
from undiffuse.pipeline import Pipeline
from undiffuse.shapes import Images, Labels, Watch, unwatched

ODE_STEPS = 50


def measure_model(
    pipe: Pipeline,
    data: Dataset,
    names: Sequence[str],
    times: int | None = None,
    dequantise: str | None = None,
    *,
    seed: int = 0,
    watch: Watch = unwatched,
) -> dict[str, Estimate]:
    """Take those of `names` that are measures of a model itself, in that order."""
    make = {
        "bpd": lambda: measure_bound(pipe, data, times, seed, watch),
        "bpd_ode": lambda: measure_flow(pipe, data, "noise" if dequantise is None else dequantise, seed, watch),
    }
    return {name: make[name]() for name in names if name in make}


def check_likelihood(names: Sequence[str], T: int, times: int | None, dequantise: str | None) -> None:
    """Refuse settings of a likelihood that make no sense or are for one that was not asked for: before the work."""
    if times is not None and "bpd" not in names:
        raise UsageError("times is for bpd: add bpd to the metrics, or leave it out")
    if times is not None and not 1 <= times <= T:
        raise UsageError(f"times must lie between 1 and T = {T}, got {times}")
    if dequantise is not None and "bpd_ode" not in names:
        raise UsageError("dequantise is for bpd_ode: add bpd_ode to the metrics, or leave it out")
    if dequantise is not None:
        check_dequantisation(dequantise)


def measure_bound(
    pipe: Pipeline, data: Dataset, times: int | None = None, seed: int = 0, watch: Watch = unwatched
) -> Estimate:
    """Bits per dimension of the held-out images by the variational bound.

    times: of its T terms, how many to draw for each image; all by default. What it says: the parts of the bound, each
    with its standard error.
    """
    images, label = _scored(pipe, data)
    bits = on_its_grid(pipe, data).bound(images, label, times, seed, watch)
    value, stderr = bits.mean()
    says = _parts(bits) | {
        "labels": "given" if label is not None else "none",
        "times_per_image": bits.terms.shape[1],
        "T": bits.T,
        "grid": f"{data.levels} levels",
        "variance": pipe.process.variance,
    }
    return Estimate(value, stderr, None, "bits per dimension", len(images), says)


def measure_flow(
    pipe: Pipeline, data: Dataset, dequantise: str = "noise", seed: int = 0, watch: Watch = unwatched
) -> Estimate:
    """Bits per dimension of the held-out images by the probability-flow ODE, integrated twice: in half as many steps to
    see the solver's error. dequantise: see diffusion.ode.integrate_flow."""
    images, label = _scored(pipe, data)
    flow, coarse = (
        on_its_grid(pipe, data).ode_likelihood(images, label, steps, dequantise, seed, watch=watch)
        for steps in (ODE_STEPS, ODE_STEPS // 2)
    )
    value, stderr = flow.mean()
    says = {
        "labels": "given" if label is not None else "none",
        "solver": f"Runge-Kutta of order 4, {flow.steps} steps uniform in half_log_snr from t = 1 to {pipe.process.T}",
        "with half the steps": coarse.mean()[0],
        "trace": "one vector of random signs for each image (Hutchinson)",
        "dequantisation": dequantise,
        "clip": pipe.config.sample.clip and dequantise == "noise",
        "grid": f"{data.levels} levels",
    }
    return Estimate(value, stderr, None, "bits per dimension", len(images), says)


def _scored(pipe: Pipeline, data: Dataset) -> tuple[Images, Labels | None]:
    return data.held_out.images(), data.held_out.labels if pipe.class_names else None


def _parts(bits: Bits) -> dict[str, Any]:
    """L_T, and L_0 apart from the rest where every time was taken."""
    parts = {"L_T": bits.prior}
    if bits.terms.shape[1] == bits.T:
        parts |= {"L_0": bits.terms[:, 0], "L_1..L_T-1": bits.terms[:, 1:].sum(1)}
    return {name: dict(zip(("value", "stderr"), mean_and_error(x), strict=True)) for name, x in parts.items()}
