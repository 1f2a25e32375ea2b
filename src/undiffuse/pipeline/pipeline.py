"""A trained model, ready to use: load, sample, watch, save."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from undiffuse import rng
from undiffuse.config import Config, read
from undiffuse.diffusion.denoiser import Denoise, Denoiser
from undiffuse.diffusion.samplers import Frame, Sampler, trajectory
from undiffuse.diffusion.samplers.fitted import Fitted, Watch, fit_times
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files import checkpoint
from undiffuse.files.run import RunFolder
from undiffuse.nn.compiling import compile_network
from undiffuse.pipeline import build
from undiffuse.pipeline.build import average_name
from undiffuse.pipeline.bundled import locate_model
from undiffuse.pipeline.diffusers.convert import load_diffusers
from undiffuse.pipeline.diffusers.folder import is_diffusers
from undiffuse.pipeline.labels import Label
from undiffuse.pipeline.model import Model
from undiffuse.pipeline.ranges import aligned, check_blocks, check_count
from undiffuse.shapes import Data, Images

BLOCK = 128
FIT_MOST = 4096
FIT_START = 1 << 40  # the first index of the images that times are fitted on, far from any that is asked for


@dataclass(frozen=True)
class Pipeline(Model):
    """A trained model, ready to make images.

    Image i of seed S draws its noise from (S, i) alone, whatever n, the batch size, the device and the labels. So it
    is the same image up to float rounding, which differs between batch sizes and devices; equal blocks are equal.
    block: how many are made at once where nothing else is said.
    """

    block: int = BLOCK

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
        run = RunFolder.open(path)
        config = read(run.config)
        denoiser = build.denoiser(config)
        _load_weights(denoiser, run, _group(weights, config), str(checkpoint))
        return replace(cls.of(config, denoiser, device), fitted=_fitted(run, denoiser.process.T) if times else None)

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
        if self.fitted is not None:
            run.times.write_text(self.fitted.write())
        return run.path

    # -- sampling -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise now what sampling as configured would raise later."""
        build.sampler(self.config)
        self.frame_count(1)
        self.denoise(self.labels([0]))

    def fit(self, n: int = 64, seed: int = 0, watch: Watch = iter) -> "Pipeline":
        """With times for few steps, fitted to this model on n images (at most 4,096, which are in memory together) of
        no other use: see `samplers.fitted`."""
        if check_count(n) > FIT_MOST:
            raise UsageError(f"times are fitted on at most {FIT_MOST:,} images, not {n:,}; 64 are enough")
        rows = range(FIT_START, FIT_START + n)
        draws = rng.per_row(seed, "sample", rows=rows)
        x_T = self._prior(draws).to(self.device).contiguous(memory_format=torch.channels_last)
        return replace(self, fitted=fit_times(self.process, self.denoise(self.labels(rows)), x_T, draws, watch))

    def compiled(self) -> "Pipeline":
        """With its network compiled by torch.compile (see nn.compiling), for blocks of 128 images; pays on GPUs."""
        x = self.noise(BLOCK).to(self.device).contiguous(memory_format=torch.channels_last)
        y = self.labels(range(BLOCK))
        with torch.no_grad():
            compile_network(self._network(), x, x.new_ones(BLOCK), None if y is None else y.to(self.device))
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
        for rows in aligned(start, n, self.block if batch_size is None else batch_size):
            for frame in self._frames(rows, seed, label):
                yield rows, frame

    def frame_count(self, n: int, start: int = 0, batch_size: int | None = None) -> int:
        """How many frames `stream` will yield."""
        visited = self.times()
        size = self.block if batch_size is None else batch_size
        check_blocks(start, n, size)
        return (len(visited) - 1) * ((start + n - 1) // size - start // size + 1)

    def frames(self, n: int = 4, seed: int = 0, start: int = 0, label: Label = None, **changes: Any) -> Iterator[Frame]:
        """The way there, one Frame(t, x, x0) a step, for n images in one batch. `changes` as in `configured`."""
        yield from self.configured(**changes)._frames(range(start, start + check_count(n)), seed, label)

    def noise(self, n: int = 4, seed: int = 0, start: int = 0) -> Images:
        """x_T of these images: where `sample` and `frames` start from. float32 [n, c, h, w] on the CPU."""
        return self._prior(rng.per_row(seed, "sample", rows=range(start, start + check_count(n))))

    def walk(
        self, x: Data, times: Sequence[float], draws: rng.Generator, denoise: Denoise, sampler: Sampler | None = None
    ) -> Iterator[Frame]:
        """Run the reverse process from x, which stands at times[0], by the configured sampler or another one."""
        x = x.to(self.device).contiguous(memory_format=torch.channels_last)
        for frame in trajectory(self.process, denoise, sampler or build.sampler(self.config), x, times, draws):
            if frame.t == 0 and not bool(frame.x.isfinite().all()):
                raise UndiffuseError("sampling gave NaN or infinity: the weights hold some, or guidance is too large")
            yield frame

    def _frames(self, rows: Sequence[int], seed: int, label: Label) -> Iterator[Frame]:
        draws = rng.per_row(seed, "sample", rows=rows)
        yield from self.walk(self._prior(draws), self.times(), draws, self.denoise(self.labels(rows, label)))

    def _prior(self, draws: rng.Generator) -> Images:
        return self.process.prior((len(draws.streams), *self.shape), draws)

    def _network(self) -> nn.Module:
        if not isinstance(self.denoiser.backbone, nn.Module):
            raise UndiffuseError("this pipeline's backbone is not a torch.nn.Module, so it has no weights to save")
        return self.denoiser.backbone


def _group(weights: str, config: Config) -> str:
    """The file of a checkpoint that holds these weights."""
    decays = build.decays(config)
    known = {"raw": "backbone"} | {average_name(decays, i): average_name(decays, i) for i in range(len(decays))}
    if weights == f"ema-{decays[0]!r}":
        return "ema"
    if weights not in known:
        *names, last = map(repr, ["ema", "raw", *list(known)[2:]])
        raise UsageError(f"this model's weights are {', '.join(names)} or {last}, not '{weights}'")
    return known[weights]


def _fitted(run: RunFolder, T: int) -> Fitted | None:
    if not run.times.is_file():
        return None
    try:
        return Fitted.read(run.times.read_text(errors="replace"), T)
    except UndiffuseError as error:
        raise UndiffuseError(f"{run.times}: {error}; delete it, or make it again with: undiffuse fit") from error


def _load_weights(denoiser: Denoiser, run: RunFolder, group: str, which: str) -> None:
    found = checkpoint.find(run.checkpoints, str(run.best_step()) if which == "best" else which)
    state = checkpoint.load_state(found)
    checkpoint.check_same_noise(state, denoiser.process.noise, found)
    if isinstance(denoiser.backbone, nn.Module):
        tensors = checkpoint.load_tensors(found, group)
        checkpoint.check_unchanged(found / f"{group}.safetensors", state.get("digests", {}))
        checkpoint.fill(denoiser.backbone, tensors, found)
