"""A model's own bits per dimension of held-out images, by the bound and by the probability-flow ODE."""

from typing import Any

from undiffuse.data.dataset import Dataset
from undiffuse.diffusion.bound import Bits, mean_and_error
from undiffuse.evaluation.real import on_its_grid
from undiffuse.evaluation.run import Watch
from undiffuse.metrics.base import Estimate
from undiffuse.pipeline import Pipeline
from undiffuse.shapes import Images, Labels

ODE_STEPS = 50


def measure_bound(
    pipe: Pipeline, data: Dataset, times: int | None, seed: int, watch: Watch = iter
) -> tuple[Estimate, dict[str, Any]]:
    """Bits per dimension of the held-out images, and what it is made of, each with its standard error."""
    images, label = _scored(pipe, data)
    bits = on_its_grid(pipe, data).bound(images, label, times, seed, watch)
    value, stderr = bits.mean()
    return Estimate(value, stderr, None, "bits per dimension", len(images)), _parts(bits) | {
        "labels": "given" if label is not None else "none",
        "times_per_image": bits.terms.shape[1],
        "T": bits.T,
        "grid": f"{data.levels} levels",
        "variance": pipe.process.variance,
    }


def measure_flow(
    pipe: Pipeline, data: Dataset, dequantise: str, seed: int, watch: Watch = iter
) -> tuple[Estimate, dict[str, Any]]:
    """The same by the probability-flow ODE."""
    images, label = _scored(pipe, data)
    flow, coarse = (
        on_its_grid(pipe, data).ode_likelihood(images, label, steps, dequantise, seed, watch)
        for steps in (ODE_STEPS, ODE_STEPS // 2)
    )
    value, stderr = flow.mean()
    return Estimate(value, stderr, None, "bits per dimension", len(images)), {
        "labels": "given" if label is not None else "none",
        "solver": f"Runge-Kutta of order 4, {flow.steps} steps uniform in half_log_snr from t = 1 to {pipe.process.T}",
        "with half the steps": coarse.mean()[0],
        "trace": "one vector of random signs for each image (Hutchinson)",
        "dequantisation": dequantise,
        "clip": pipe.config.sample.clip and dequantise == "noise",
        "grid": f"{data.levels} levels",
    }


def _scored(pipe: Pipeline, data: Dataset) -> tuple[Images, Labels | None]:
    return data.held_out.images(), data.held_out.labels if pipe.class_names else None


def _parts(bits: Bits) -> dict[str, Any]:
    """L_T, and L_0 apart from the rest where every time was taken."""
    parts = {"L_T": bits.prior}
    if bits.terms.shape[1] == bits.T:
        parts |= {"L_0": bits.terms[:, 0], "L_1..L_T-1": bits.terms[:, 1:].sum(1)}
    return {name: dict(zip(("value", "stderr"), mean_and_error(x), strict=True)) for name, x in parts.items()}
