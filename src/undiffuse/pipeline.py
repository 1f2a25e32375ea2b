"""A trained model, ready to use: load, sample, watch, save."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from undiffuse import build, labels, rng
from undiffuse.blocks import aligned, check_blocks, counted
from undiffuse.config import Config, read
from undiffuse.diffusion.bound import Bits, Slice, estimated
from undiffuse.diffusion.denoiser import Denoise, Denoiser, bind
from undiffuse.diffusion.guidance import clipped, guided
from undiffuse.diffusion.ode import Flow, State, integrated
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers import Frame, trajectory
from undiffuse.diffusion.samplers.spacing import times
from undiffuse.diffusion.split import Split
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.foreign import load_diffusers
from undiffuse.interop.folder import is_diffusers
from undiffuse.labels import Label
from undiffuse.nn.compiling import compiled
from undiffuse.nn.layers import frozen
from undiffuse.runs import RunFolder
from undiffuse.shapes import Images, Tensor
from undiffuse.train import checkpoint

BLOCK = 128
WEIGHTS = {"ema": "ema", "raw": "backbone"}


@dataclass(frozen=True)
class Pipeline:
    """A configuration and a denoiser with trained weights.

    Image i of seed S draws its noise from (S, i) alone, whatever n, the batch size, the device and the labels. So it
    is the same image up to float rounding, which differs between batch sizes and devices; equal blocks are equal.
    """

    config: Config
    denoiser: Denoiser
    device: str = "cpu"

    # -- in and out -----------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        model: str | Path,
        weights: str = "ema",
        checkpoint: str = "last",
        device: str | None = None,
    ) -> "Pipeline":
        """MODEL: a run folder, or a diffusers folder with a UNet2DModel (which has one set of weights).

        weights: "ema" (the moving average) or "raw"; checkpoint: a step or "last".
        """
        if weights not in WEIGHTS:
            raise UsageError(f"weights are 'ema' or 'raw', not '{weights}'")
        path = _located(model)
        if is_diffusers(path):
            return cls.of(*load_diffusers(path), device)
        run = RunFolder.open(path)
        config = read(run.config)
        denoiser = build.denoiser(config)
        _load_weights(denoiser, run, WEIGHTS[weights], str(checkpoint))
        return cls.of(config, denoiser, device)

    @classmethod
    def of(cls, config: Config, denoiser: Denoiser, device: str | None = None) -> "Pipeline":
        """From parts, in evaluation mode, on the device (default: a GPU if there is one)."""
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
        run = RunFolder.create(Path(folder), "model")
        run.config.write_text(self.config.as_yaml())
        weights = {"ema": self._network().state_dict()}
        state = {"step": self.config.train.steps, "noise": str(self.process.noise)}
        checkpoint.save(run.checkpoints, checkpoint.Snapshot(weights, state))
        return run.path

    # -- what it is -----------------------------------------------------------------------------------------------

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

    # -- sampling -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise now what sampling as configured would raise later."""
        build.sampler(self.config)
        self.frame_count(1)
        self.denoise(self.labels([0]))

    def configured(self, **changes: Any) -> "Pipeline":
        """With other defaults: sampler, steps, spacing, guidance, eta, clip. None keeps the present one."""
        wanted = {f"sample.{key}": value for key, value in changes.items() if value is not None}
        return replace(self, config=self.config.replaced(wanted)) if wanted else self

    def compiled(self) -> "Pipeline":
        """With its network compiled by torch.compile (see nn.compiling), for blocks of 128 images; pays on GPUs."""
        x = self.noise(BLOCK).to(self.device).contiguous(memory_format=torch.channels_last)
        y = self.labels(range(BLOCK))
        with torch.no_grad():
            compiled(self._network(), x, x.new_ones(BLOCK), None if y is None else y.to(self.device))
        return self

    def sample(
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
        """
        pipe = self.configured(guidance=guidance, sampler=sampler, steps=steps)
        done = [frame.x.float().cpu() for _, frame in pipe.stream(n, seed, start, label, batch_size) if frame.t == 0]
        return torch.cat(done)

    def stream(
        self, n: int = 64, seed: int = 0, start: int = 0, label: Label = None, batch_size: int | None = None
    ) -> Iterator[tuple[range, Frame]]:
        """The same images block by block: (the block's indices, Frame) for every step; the frame at t = 0 is last."""
        for rows in aligned(start, n, BLOCK if batch_size is None else batch_size):
            for frame in self._frames(rows, seed, label):
                yield rows, frame

    def frame_count(self, n: int, start: int = 0, batch_size: int | None = None) -> int:
        """How many frames `stream` will yield."""
        visited = times(self.process.schedule, self.config.sample.steps, self.config.sample.spacing)
        size = BLOCK if batch_size is None else batch_size
        check_blocks(start, n, size)
        return (len(visited) - 1) * ((start + n - 1) // size - start // size + 1)

    def frames(self, n: int = 4, seed: int = 0, start: int = 0, label: Label = None, **changes: Any) -> Iterator[Frame]:
        """The way there, one Frame(t, x, x0) a step, for n images in one batch. `changes` as in `configured`."""
        yield from self.configured(**changes)._frames(range(start, start + counted(n)), seed, label)

    def noise(self, n: int = 4, seed: int = 0, start: int = 0) -> Images:
        """x_T of these images: where `sample` and `frames` start from. float32 [n, c, h, w] on the CPU."""
        return self._prior(rng.per_row(seed, "sample", rows=range(start, start + counted(n))))

    def labels(self, rows: Sequence[int], label: Label = None) -> Tensor | None:
        """int64 class index of each image, as `labels.of_rows` reads `label`; None for an unconditional model."""
        return labels.of_rows(self.class_names, rows, label)

    def denoise(self, y: Tensor | None = None) -> Denoise:
        """(x_t, t) -> Split as sampling uses it: guided and clipped as configured, for rows of these classes."""
        settings = self.config.sample
        if settings.guidance != 1 and self.class_names and self.config.train.label_dropout == 0:
            raise UsageError(
                "guidance needs a model trained with train.label_dropout above 0; leave it at 1 for this one"
            )
        bound = bind(self.denoiser, None if y is None else y.to(self.device))
        denoise = guided(bound, settings.guidance, len(self.class_names))
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
        label, x0 = self._scored(images, label), images.float().to(self.device)

        def denoise(rows: slice) -> Denoise:
            return self.denoise(None if label is None else label[rows])

        levels = self.config.data.levels or 256
        count = self.process.T if times is None else times
        return _sound(estimated(self.process, denoise, x0, levels, count, seed, watch))

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
        label, x0 = self._scored(images, label), images.float().to(self.device)
        pipe = self if dequantise == "noise" else self.configured(clip=False)

        def denoise(rows: slice) -> Denoise:
            return pipe.denoise(None if label is None else label[rows])

        levels = self.config.data.levels or 256
        with frozen(self.denoiser.backbone):
            return _sound(integrated(self.process, denoise, x0, levels, steps, dequantise, seed, watch))

    @torch.no_grad()
    def guess(self, images: Tensor, t: float | int, label: Tensor | None = None, seed: int = 0) -> Split:
        """What the model makes of these images at time t: corrupted with noise (seed, index), then denoised."""
        label = self._scored(images, label)
        draws = rng.per_row(seed, "guess", rows=range(len(images)))
        truth = self.process.corrupt(images.to(self.device), t, draws)
        return self.denoise(label)(truth.x_t, t)

    def _scored(self, images: Tensor, label: Tensor | None) -> Tensor | None:
        """The labels of images to be scored (the null label for none), after checking both."""
        sound = isinstance(images, Tensor) and images.dtype in (torch.float32, torch.float64)
        if not sound or tuple(images.shape[1:]) != self.shape or not len(images):
            what = f"{getattr(images, 'dtype', type(images).__name__)} {list(getattr(images, 'shape', ()))}"
            raise UsageError(f"give at least one image, a float32 tensor [n, {str(list(self.shape))[1:]}; got {what}")
        return labels.of_scored(self.class_names, len(images), label)

    def _frames(self, rows: Sequence[int], seed: int, label: Label) -> Iterator[Frame]:
        visited = times(self.process.schedule, self.config.sample.steps, self.config.sample.spacing)
        sampler = build.sampler(self.config)
        denoise = self.denoise(self.labels(rows, label))
        draws = rng.per_row(seed, "sample", rows=rows)
        x_T = self._prior(draws).to(self.device).contiguous(memory_format=torch.channels_last)
        for frame in trajectory(self.process, denoise, sampler, x_T, visited, draws):
            if frame.t == 0 and not bool(frame.x.isfinite().all()):
                raise UndiffuseError("sampling gave NaN or infinity: the weights hold some, or guidance is too large")
            yield frame

    def _prior(self, draws: rng.Generator) -> Images:
        return self.process.prior((len(draws.streams), *self.shape), draws)

    def _network(self) -> nn.Module:
        if not isinstance(self.denoiser.backbone, nn.Module):
            raise UndiffuseError("this pipeline's backbone is not a torch.nn.Module, so it has no weights to save")
        return self.denoiser.backbone


Likelihood = TypeVar("Likelihood", Bits, Flow)


def _sound(likelihood: Likelihood) -> Likelihood:
    if not bool(likelihood.total.isfinite().all()):
        raise UndiffuseError("the likelihood came out NaN or infinite: the weights hold some, or guidance is too large")
    return likelihood


def _located(model: str | Path) -> Path:
    path = Path(model)
    if not path.is_dir():
        raise UsageError(
            f"no model '{model}': give a run folder, as written by `undiffuse train`, or a diffusers folder"
        )
    return path


def _load_weights(denoiser: Denoiser, run: RunFolder, group: str, which: str) -> None:
    found = checkpoint.find(run.checkpoints, which)
    checkpoint.check_noise(checkpoint.load_state(found), denoiser.process.noise, found)
    if isinstance(denoiser.backbone, nn.Module):
        checkpoint.fill(denoiser.backbone, checkpoint.load_tensors(found, group), found)
