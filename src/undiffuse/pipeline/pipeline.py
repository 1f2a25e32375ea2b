"""A trained model, ready to use: load, sample, watch, save."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from undiffuse import rng
from undiffuse.config import Config
from undiffuse.diffusion.bound import Bits
from undiffuse.diffusion.denoiser import Denoise, Denoiser, bind
from undiffuse.diffusion.guidance import clipped, guided, thresholded
from undiffuse.diffusion.ode import Flow
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers import Frame, Sampler, trajectory
from undiffuse.diffusion.samplers.fitted import Fitted, fit_times
from undiffuse.diffusion.split import Split
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.nn.compiling import compile_network
from undiffuse.pipeline import build, labels, likelihood
from undiffuse.pipeline.bundled import locate_model
from undiffuse.pipeline.diffusers.convert import load_diffusers
from undiffuse.pipeline.diffusers.folder import is_diffusers
from undiffuse.pipeline.labels import Label
from undiffuse.pipeline.ranges import aligned, check_blocks, check_count
from undiffuse.pipeline.storage import load_run, save_run
from undiffuse.shapes import Data, Images, Watch, unwatched, watch_items

BLOCK, FIT_MOST = 128, 4096
FIT_START = 1 << 40  # the first index of the images that times are fitted on, far from any that is asked for


@dataclass(frozen=True)
class Pipeline:
    """A trained model, ready to make images: a configuration, a denoiser, and times fitted to it, if any were.

    Image i of seed S draws its noise from (S, i) alone, whatever n, the batch size, the device and the labels. So it
    is the same image up to float rounding, which differs between batch sizes and devices; equal blocks are equal.
    block: how many are made at once where nothing else is said. weights, checkpoint: which of a run's these are.
    """

    config: Config
    denoiser: Denoiser
    device: str = "cpu"
    fitted: Fitted | None = None
    block: int = BLOCK
    weights: str = "ema"
    checkpoint: str = "last"

    # -- in and out -----------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        model: str | Path,
        weights: str = "ema",
        checkpoint: str = "last",
        device: str | None = None,
        times: bool = True,
    ) -> "Pipeline":
        """MODEL: a run folder, a diffusers folder with a UNet2DModel (which has one set of weights), or a bundled name.

        weights: "ema" (the moving average), "raw", or a further average as "ema-0.9999"; checkpoint: a step, "last", or
        "best" (of those whose samples were measured during training). times: with those fitted to it, if there are any.
        """
        path = locate_model(model)
        if is_diffusers(path):
            return cls.of(*load_diffusers(path), device)
        config, denoiser, fitted = load_run(path, weights, str(checkpoint), times)
        return replace(cls.of(config, denoiser, device), fitted=fitted, weights=weights, checkpoint=str(checkpoint))

    @classmethod
    def of(cls, config: Config, denoiser: Denoiser, device: str | None = None) -> "Pipeline":
        """A pipeline of these parts, in evaluation mode, on the device (default: a GPU if there is one)."""
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if place.startswith("meta"):
            raise UsageError("device 'meta' holds no numbers; take cpu or cuda")
        if isinstance(denoiser.backbone, nn.Module):
            try:
                denoiser.backbone.eval().to(place)
            except (RuntimeError, AssertionError) as error:
                raise UsageError(f"device '{place}' cannot be used: {str(error).splitlines()[0]}") from error
        return cls(config, denoiser, place)

    def save(self, folder: str | Path) -> Path:
        """Write the configuration and these weights as a run folder that `load` reads. The folder must not exist."""
        return save_run(Path(folder), self.config, self.denoiser, self.fitted)

    # -- what it is ------------------------------------------------------------------------------------------------

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

    def configured(self, **changes: Any) -> "Pipeline":
        """A pipeline with other defaults: sampler, steps, spacing, guidance, eta, clip ... None keeps the present one.

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
        return build.visited_times(self.config, self.process, self.fitted)

    def labels(self, rows: Sequence[int], label: Label = None) -> Tensor | None:
        """int64 class index of each image, as `labels_of_rows` reads `label`; None for an unconditional model."""
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

    # -- sampling -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise now what sampling as configured would raise later."""
        build.sampler(self.config)
        self.frame_count(1)
        self.denoise(self.labels([0]))

    def fit(self, n: int = 64, seed: int = 0, watch: Watch = unwatched) -> "Pipeline":
        """A pipeline with times for few steps, fitted to this model on n images (at most 4,096, which are in memory
        together) of no other use: see `samplers.fitted`."""
        if check_count(n) > FIT_MOST:
            raise UsageError(f"times are fitted on at most {FIT_MOST:,} images, not {n:,}; 64 are enough")
        rows = range(FIT_START, FIT_START + n)
        draws = rng.per_row(seed, "sample", rows=rows)
        x_T = self._prior(draws).to(self.device).contiguous(memory_format=torch.channels_last)
        return replace(self, fitted=fit_times(self.process, self.denoise(self.labels(rows)), x_T, draws, watch))

    def compiled(self) -> "Pipeline":
        """A pipeline with its network compiled (see nn.compiling), for blocks of 128 images; pays on GPUs."""
        x = self.noise(BLOCK).to(self.device).contiguous(memory_format=torch.channels_last)
        y = self.labels(range(BLOCK))
        with torch.no_grad():
            compile_network(self._network(), x, x.new_ones(BLOCK), None if y is None else y.to(self.device))
        return self

    def sample(  # noqa: PLR0917  (public, in this order since 0.1)
        self,
        n: int = 64,
        seed: int = 0,
        start: int = 0,
        label: Label = None,
        guidance: float | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
    ) -> Images:
        """Images start..start+n-1 of this seed: float32 [n, c, h, w] in [-1, 1] on the CPU.

        label: a class name, an index, or a sequence of them (image i gets entry i modulo its length); None gives image
        i the class i mod K. Blocks of `batch_size` are aligned to the index, so equal blocks are equal bit for bit.
        `stream` gives them one after the other, and takes a `watch`.
        """
        pipe = self.configured(guidance=guidance, sampler=sampler, steps=steps)
        done = [frame.x.float().cpu() for _, frame in pipe.stream(n, seed, start, label, batch_size) if frame.t == 0]
        return torch.cat(done)

    def stream(
        self,
        n: int = 64,
        seed: int = 0,
        start: int = 0,
        label: Label = None,
        batch_size: int | None = None,
        *,
        watch: Watch = unwatched,
    ) -> Iterator[tuple[range, Frame]]:
        """Draw images block by block: (the block's indices, Frame) for every step; the frame at t = 0 is last."""
        size = self.block if batch_size is None else batch_size
        label = None if label is None else labels.listed_labels(label)
        blocks = aligned(start, n, size)
        frames = ((rows, frame) for rows in blocks for frame in self._frames(rows, seed, label))
        yield from watch_items(watch, frames, self.frame_count(n, start, size), "step")

    def frame_count(self, n: int, start: int = 0, batch_size: int | None = None) -> int:
        """The number of frames that `stream` will yield."""
        visited = self.times()
        size = self.block if batch_size is None else batch_size
        check_blocks(start, n, size)
        return (len(visited) - 1) * ((start + n - 1) // size - start // size + 1)

    def frames(
        self,
        n: int = 4,
        seed: int = 0,
        start: int = 0,
        label: Label = None,
        *,
        watch: Watch = unwatched,
        **changes: Any,
    ) -> Iterator[Frame]:
        """The way there, one Frame(t, x, x0) a step, for n images in one batch. `changes` as in `configured`."""
        pipe, rows = self.configured(**changes), range(start, start + check_count(n))
        yield from watch_items(watch, pipe._frames(rows, seed, label), len(pipe.times()) - 1, "step")

    def noise(self, n: int = 4, seed: int = 0, start: int = 0) -> Images:
        """x_T of these images: where `sample` and `frames` start from. float32 [n, c, h, w] on the CPU."""
        return self._prior(rng.per_row(seed, "sample", rows=range(start, start + check_count(n))))

    def walk(
        self, x: Data, times: Sequence[float], draws: rng.Generator, denoise: Denoise, sampler: Sampler | None = None
    ) -> Iterator[Frame]:
        """Run the reverse process from x, which stands at times[0], by the configured sampler or another one."""
        x = x.to(self.device).contiguous(memory_format=torch.channels_last)
        clips = self.config.sample.clip or self.config.sample.threshold < 1  # not every solver keeps to x0's range
        for frame in trajectory(self.process, denoise, sampler or build.sampler(self.config), x, times, draws):
            if frame.t == 0 and not bool(frame.x.isfinite().all()):
                raise UndiffuseError("sampling gave NaN or infinity: the weights hold some, or guidance is too large")
            yield replace(frame, x=frame.x.clamp(-1, 1)) if frame.t == 0 and clips else frame

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
        watch: Watch = unwatched,
    ) -> Bits:
        """The bound's terms by t and the mean squared errors behind them. `watch` sees each network call's slice."""
        return likelihood.bound(self, images, label, times=times, seed=seed, watch=watch)

    def ode_likelihood(
        self,
        images: Tensor,
        label: Tensor | None = None,
        steps: int = 50,
        dequantise: str = "noise",
        seed: int = 0,
        *,
        watch: Watch = unwatched,
    ) -> Flow:
        """Bits per dimension of each image by the probability-flow ODE: see diffusion.ode.integrate_flow.

        x0 is clipped as in sampling; not for dequantise="uniform", whose data reach half a bin beyond [-1, 1].
        """
        return likelihood.ode_likelihood(
            self, images, label, steps=steps, dequantise=dequantise, seed=seed, watch=watch
        )

    def guess(self, images: Tensor, t: float | int, label: Tensor | None = None, seed: int = 0) -> Split:
        """The model's guess for these images at time t: corrupted with noise (seed, index), then denoised."""
        return likelihood.guess(self, images, t, label, seed=seed)

    def _frames(self, rows: Sequence[int], seed: int, label: Label) -> Iterator[Frame]:
        draws = rng.per_row(seed, "sample", rows=rows)
        yield from self.walk(self._prior(draws), self.times(), draws, self.denoise(self.labels(rows, label)))

    def _prior(self, draws: rng.Generator) -> Images:
        return self.process.prior((len(draws.streams), *self.shape), draws)

    def _network(self) -> nn.Module:
        if not isinstance(self.denoiser.backbone, nn.Module):
            raise UndiffuseError("this pipeline's backbone is not a torch.nn.Module, so it has no weights to save")
        return self.denoiser.backbone
