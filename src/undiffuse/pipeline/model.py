"""A configuration and a denoiser: what can be asked of a trained model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from undiffuse import rng
from undiffuse.config import Config
from undiffuse.diffusion.bound import Bits, Slice, estimate_bound
from undiffuse.diffusion.denoiser import Denoise, Denoiser, bind
from undiffuse.diffusion.guidance import clipped, guided, thresholded
from undiffuse.diffusion.ode import Flow, State, integrate_flow
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers.fitted import FEW, Fitted
from undiffuse.diffusion.samplers.spacing import times
from undiffuse.diffusion.split import Split
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.nn.layers import frozen
from undiffuse.pipeline import build, labels
from undiffuse.pipeline.labels import Label

_Made = TypeVar("_Made", bound="Model")


@dataclass(frozen=True)
class Model:
    """A configuration, a denoiser with trained weights, and times fitted to it, if any were."""

    config: Config
    denoiser: Denoiser
    device: str = "cpu"
    fitted: Fitted | None = None

    @property
    def process(self) -> Process:
        return self.denoiser.process

    @property
    def class_names(self) -> tuple[str, ...]:
        """Empty for an unconditional model."""
        return tuple(self.config.data.classes or ()) if build.num_classes(self.config) else ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w) of an image."""
        return tuple(self.config.data.shape or ())

    def configured(self: _Made, **changes: Any) -> _Made:
        """With other defaults: sampler, steps, spacing, guidance, eta, clip ... None keeps the present one.

        eta goes with the sampler: another than ddim puts it at 0, unless it is given too.
        """
        if changes.get("sampler") not in (None, "ddim") and changes.get("eta") is None:
            changes["eta"] = 0.0
        wanted = {f"sample.{key}": value for key, value in changes.items() if value is not None}
        return replace(self, config=self.config.replaced(wanted)) if wanted else self

    def times(self) -> list[float]:
        """The times that sampling as configured visits, from T to 0.

        The spacing "auto" is "fitted" for at most 10 steps of a sampler that uses one guess a step, where the model
        has such times, else "uniform": those that use more were no better for it (docs/samplers.md).
        """
        settings = self.config.sample
        guesses = build.guesses(self.config)
        spacing = settings.spacing
        if spacing == "auto":
            known = self.fitted is not None and settings.steps <= min(FEW, self.fitted.most)
            spacing = "fitted" if known and guesses == 1 else "uniform"
        if spacing != "fitted":
            return times(self.process.schedule, settings.steps, spacing)
        if self.fitted is None:
            raise UsageError("no times were fitted for this model; do so with: undiffuse fit MODEL")
        return self.fitted.times(settings.steps, guesses or 1)

    def labels(self, rows: Sequence[int], label: Label = None) -> Tensor | None:
        """int64 class index of each image, as `labels.of_rows` reads `label`; None for an unconditional model."""
        return labels.labels_of_rows(self.class_names, rows, label)

    def denoise(self, y: Tensor | None = None) -> Denoise:
        """(x_t, t) -> Split as sampling uses it: guided and clipped as configured, for rows of these classes."""
        settings = self.config.sample
        if settings.guidance != 1 and self.class_names and self.config.train.label_dropout == 0:
            raise UsageError(
                "guidance needs a model trained with train.label_dropout above 0; leave it at 1 for this one"
            )
        bound = bind(self.denoiser, None if y is None else y.to(self.device))
        between = (settings.guidance_from, settings.guidance_to)
        denoise = guided(bound, settings.guidance, len(self.class_names), between, settings.guidance_rescale)
        if settings.threshold < 1:
            return thresholded(denoise, settings.threshold)
        return clipped(denoise) if settings.clip else denoise

    # -- likelihood -----------------------------------------------------------------------------------------------

    def bits_per_dim(self, images: Tensor, label: Tensor | None = None, times: int | None = None) -> Tensor:
        """The variational bound on -log2 p(x_0) per dimension of each image, [n]; see `bound` for its terms and error.

        images: float32 [n, c, h, w] in [-1, 1] on the data's own grid of levels; others are refused. times: of the T
        terms, how many to draw for each image (unbiased); all by default. label: int64 [n], class of each; None scores
        a conditional model as an unconditional one.
        """
        return self.bound(images, label, times).total

    def bound(
        self,
        images: Tensor,
        label: Tensor | None = None,
        times: int | None = None,
        seed: int = 0,
        watch: Callable[[Iterator[Slice]], Iterable[Slice]] = iter,
    ) -> Bits:
        """The bound's terms by t and the mean squared errors behind them. `watch` sees each network call's slice."""
        label, x0 = self.scored(images, label), images.float().to(self.device)

        def denoise(rows: slice) -> Denoise:
            return self.denoise(None if label is None else label[rows])

        levels = self.config.data.levels or 256
        count = self.process.T if times is None else times
        return _sound(estimate_bound(self.process, denoise, x0, levels, count, seed, watch))

    def ode_likelihood(
        self,
        images: Tensor,
        label: Tensor | None = None,
        steps: int = 50,
        dequantise: str = "noise",
        seed: int = 0,
        watch: Callable[[Iterator[State]], Iterable[State]] = iter,
    ) -> Flow:
        """The same bits per dimension by the probability-flow ODE: see diffusion.ode.integrated.

        x0 is clipped as in sampling; not for dequantise="uniform", whose data reach half a bin beyond [-1, 1].
        """
        label, x0 = self.scored(images, label), images.float().to(self.device)
        pipe = self if dequantise == "noise" else self.configured(clip=False)

        def denoise(rows: slice) -> Denoise:
            return pipe.denoise(None if label is None else label[rows])

        levels = self.config.data.levels or 256
        with frozen(self.denoiser.backbone):
            return _sound(integrate_flow(self.process, denoise, x0, levels, steps, dequantise, seed, watch))

    @torch.no_grad()
    def guess(self, images: Tensor, t: float | int, label: Tensor | None = None, seed: int = 0) -> Split:
        """What the model makes of these images at time t: corrupted with noise (seed, index), then denoised."""
        label = self.scored(images, label)
        draws = rng.per_row(seed, "guess", rows=range(len(images)))
        truth = self.process.corrupt(images.to(self.device), t, draws)
        return self.denoise(label)(truth.x_t, t)

    def scored(self, images: Tensor, label: Tensor | None) -> Tensor | None:
        """The labels of given images (the null label for none), after checking both."""
        sound = isinstance(images, Tensor) and images.dtype in (torch.float32, torch.float64)
        if not sound or tuple(images.shape[1:]) != self.shape or not len(images):
            what = f"{getattr(images, 'dtype', type(images).__name__)} {list(getattr(images, 'shape', ()))}"
            raise UsageError(f"give at least one image, a float32 tensor [n, {str(list(self.shape))[1:]}; got {what}")
        return labels.checked_labels(self.class_names, len(images), label)


Likelihood = TypeVar("Likelihood", Bits, Flow)


def _sound(likelihood: Likelihood) -> Likelihood:
    if not bool(likelihood.total.isfinite().all()):
        raise UndiffuseError("the likelihood came out NaN or infinite: the weights hold some, or guidance is too large")
    return likelihood
