"""How likely images are to a model: the variational bound, the probability-flow ODE, and the guess behind both."""

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from undiffuse import rng
from undiffuse.diffusion.bound import Bits, estimate_bound
from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.ode import Flow, integrate_flow
from undiffuse.diffusion.split import Split
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.nn.layers import frozen
from undiffuse.pipeline.labels import checked_labels
from undiffuse.shapes import Watch, unwatched

if TYPE_CHECKING:
    from undiffuse.pipeline.pipeline import Pipeline

_Likelihood = TypeVar("_Likelihood", Bits, Flow)


def bound(
    pipe: "Pipeline",
    images: Tensor,
    label: Tensor | None = None,
    *,
    times: int | None = None,
    seed: int = 0,
    watch: Watch = unwatched,
) -> Bits:
    """Estimate the variational bound on -log2 p(x_0) per dimension of images: see Pipeline.bound."""
    label, x0 = check_scored(pipe, images, label), images.float().to(pipe.device)

    def denoise(rows: slice) -> Denoise:
        return pipe.denoise(None if label is None else label[rows])

    levels = pipe.config.data.levels or 256
    count = pipe.process.T if times is None else times
    return _sound(estimate_bound(pipe.process, denoise, x0, levels, count, seed=seed, watch=watch))


def ode_likelihood(
    pipe: "Pipeline",
    images: Tensor,
    label: Tensor | None = None,
    *,
    steps: int = 50,
    dequantise: str = "noise",
    seed: int = 0,
    watch: Watch = unwatched,
) -> Flow:
    """Integrate the probability-flow ODE for the bits per dimension of images: see Pipeline.ode_likelihood."""
    label, x0 = check_scored(pipe, images, label), images.float().to(pipe.device)
    flowing = pipe if dequantise == "noise" else pipe.configured(clip=False)

    def denoise(rows: slice) -> Denoise:
        return flowing.denoise(None if label is None else label[rows])

    levels = pipe.config.data.levels or 256
    with frozen(pipe.denoiser.backbone):
        return _sound(
            integrate_flow(
                pipe.process, denoise, x0, levels, steps=steps, dequantise=dequantise, seed=seed, watch=watch
            )
        )


@torch.no_grad()
def guess(pipe: "Pipeline", images: Tensor, t: float | int, label: Tensor | None = None, *, seed: int = 0) -> Split:
    """Corrupt images to time t with noise (seed, index), then denoise them: see Pipeline.guess."""
    label = check_scored(pipe, images, label)
    draws = rng.per_row(seed, "guess", rows=range(len(images)))
    truth = pipe.process.corrupt(images.to(pipe.device), t, draws)
    return pipe.denoise(label)(truth.x_t, t)


def check_scored(pipe: "Pipeline", images: Tensor, label: Tensor | None) -> Tensor | None:
    """The labels of given images (the null label for none), after checking both."""
    sound = isinstance(images, Tensor) and images.dtype in (torch.float32, torch.float64)
    if not sound or tuple(images.shape[1:]) != pipe.shape or not len(images):
        what = f"{getattr(images, 'dtype', type(images).__name__)} {list(getattr(images, 'shape', ()))}"
        raise UsageError(f"give at least one image, a float32 tensor [n, {str(list(pipe.shape))[1:]}; got {what}")
    return checked_labels(pipe.class_names, len(images), label)


def _sound(likelihood: _Likelihood) -> _Likelihood:
    if not bool(likelihood.total.isfinite().all()):
        raise UndiffuseError("the likelihood came out NaN or infinite: the weights hold some, or guidance is too large")
    return likelihood
