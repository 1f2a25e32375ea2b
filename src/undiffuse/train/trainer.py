"""Training: Ho et al. 2020, Algorithm 1. Every draw is a function of (seed, step, position in the global batch)."""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from undiffuse import rng
from undiffuse.config import Train
from undiffuse.data.loader import Batches
from undiffuse.diffusion.denoiser import Denoiser
from undiffuse.diffusion.losses import Loss
from undiffuse.errors import UndiffuseError
from undiffuse.files import checkpoint
from undiffuse.nn.layers import may_draw
from undiffuse.pipeline.build import average_name
from undiffuse.shapes import Tensor
from undiffuse.train import loss_scale
from undiffuse.train.ema import EMA
from undiffuse.train.learning_rate import learning_rate
from undiffuse.train.memory import fitting
from undiffuse.train.optimizers import OPTIMIZERS
from undiffuse.train.sharding import full, shard_module
from undiffuse.train.state import fill_optimizer, optimizer_tensors
from undiffuse.train.team import Team
from undiffuse.train.time_sampling import TimeSampling, UniformTimes
from undiffuse.train.window import Report, Window

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NotFinite(UndiffuseError):
    """Losses or gradients are NaN or infinite, and stay so."""


class Trainer:
    """x0, y = data[step] -> t ~ p -> truth -> guess -> weighted loss -> backward, clip, step, averages."""

    def __init__(
        self,
        denoiser: Denoiser,
        loss: Loss,
        batches: Batches,
        settings: Train,
        num_classes: int = 0,
        *,
        team: Team | None = None,
        times: TimeSampling | None = None,
    ) -> None:
        self.team = team or Team()
        self.denoiser, self.loss, self.batches, self.seed = denoiser, loss, batches, batches.seed
        self.settings, self.num_classes = settings, num_classes
        self.times = times or UniformTimes(denoiser.process.T)
        if not isinstance(denoiser.backbone, nn.Module):
            raise UndiffuseError("only a torch.nn.Module can be trained")
        cut = settings.shard and self.team.count > 1
        self.network: nn.Module = denoiser.backbone if cut else denoiser.backbone.to(self.team.device)
        self._draws = may_draw(denoiser.backbone)
        self.rows = self.team.share(batches.batch_size)
        self.micro = min(settings.micro_batch or len(self.rows), len(self.rows))
        copies = [copy.deepcopy(self.network) for _ in settings.decays]
        for module in [self.network, *copies] if cut else []:
            shard_module(module)  # which takes it to the device block by block: no device need hold all of it
        self.averages = [EMA(kept, self.network, decay) for kept, decay in zip(copies, settings.decays, strict=True)]
        self.parameters = list(self.network.parameters())
        self.optimizer = OPTIMIZERS[settings.optimizer](self.network, settings.lr)
        self.scale = loss_scale.for_precision(settings.precision)
        self.step = self.skipped = self.streak = self._restored = 0
        self._window = Window(self.denoiser.process.T)

    @property
    def ema(self) -> EMA:
        """The average to sample from."""
        return self.averages[0]

    def run(self) -> Iterator[int]:
        """Train to train.steps; yields the number of steps done after each."""
        self.network.train()
        while self.step < self.settings.steps:
            began = time.perf_counter()
            self._one_step()
            self._window.seconds += time.perf_counter() - began
            yield self.step

    def _one_step(self) -> None:
        for settings in self.optimizer.param_groups:
            settings["lr"] = learning_rate(self.settings, self.step)
        losses, t, weight = self._gradients()
        everyone = self.team.gather(np.stack([t, losses], 1)).T
        norm = self._combined_norm()
        self._window.steps += 1
        if np.isfinite(everyone).all() and np.isfinite(norm):
            self._update()
            self.times.learn(*everyone)
            self._window.add(losses, weight, t / self.denoiser.process.T, norm)
        elif np.isfinite(everyone).all() and self.settings.precision == "fp16":
            self.scale.overflowed(self.step)
        else:
            self._skip()
        self.optimizer.zero_grad()
        self.step += 1

    def _update(self) -> None:
        done = self.step - self.skipped - self.scale.overflows
        self.optimizer.step()
        for average in self.averages:
            average.update(done)
        self.scale.succeeded()
        self.streak = 0

    # -- gradients ------------------------------------------------------------------------------------------------

    def _gradients(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute the gradients of the mean over this process's rows, left in the parameters; with the rows' losses,
        times and weights.

        If memory runs out, the whole is done again in smaller parts: the draws are the same.
        """
        if self.settings.shard:  # the others wait for every part of this one
            parts = self._in_parts(self.micro)
        else:
            parts, self.micro = fitting(self._in_parts, self.micro, self.network)
        losses, t, weight = (torch.cat(columns).double().cpu().numpy() for columns in zip(*parts, strict=True))
        return losses, t, weight

    def _in_parts(self, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        parts = []
        for first in range(self.rows.start, self.rows.stop, size):
            rows = range(first, min(first + size, self.rows.stop))
            losses, t, weight = self._losses(rows)
            mean = (losses * weight.to(losses)).mean() * (len(rows) / len(self.rows))
            torch.autograd.backward(mean * self.scale.value)
            parts.append((losses.detach(), t, weight))
        return parts

    def _losses(self, rows: range) -> tuple[Tensor, Tensor, Tensor]:
        """Algorithm 1, lines 2 to 5, for these rows of the global batch: losses, times, weights."""
        x0, y = self.batches.batch(self.step, slice(rows.start, rows.stop))
        draws = rng.per_row(self.seed, "train", self.step, rows=rows)
        kept = self._drop_labels(y, draws)
        t, weight = self.times.draw(rows, draws, rng.fold(self.seed, "times", self.step))
        truth = self.denoiser.process.corrupt(x0.to(self.team.device), t, draws)
        if self._draws:  # else the user's own draws go on as they would have
            rng.seed_torch(self.seed, "dropout", self.step, rows.start)
        half = HALVES.get(self.settings.precision)
        with torch.autocast(self.team.device.type, half, enabled=half is not None):
            guess = self.denoiser(truth.x_t, t, None if kept is None else kept.to(self.team.device))
        return self.loss(self.denoiser.process, truth, guess, t), t, weight

    def _drop_labels(self, y: Tensor, draws: rng.Generator) -> Tensor | None:
        """Replace some labels by the null label, for classifier-free guidance (Ho & Salimans 2022, Algorithm 1)."""
        if not self.num_classes:
            return None
        drop = draws.uniform(y.shape) < self.settings.label_dropout
        return torch.where(drop, self.num_classes, y)

    def _combined_norm(self) -> float:
        """The norm of the gradient of the whole batch, which is then unscaled, the same everywhere, and clipped."""
        self.team.average_gradients(self.parameters)
        if self.scale.value != 1:
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], 1 / self.scale.value)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip or float("inf"))
        return float(full(norm))

    def _skip(self) -> None:
        """A loss or gradient that is not finite changes nothing; too many in a row end the run."""
        self.skipped += 1
        self.streak += 1
        if self.streak >= self.settings.max_skips:
            spoilt = f"; or the checkpoint of step {self._restored} is spoilt: remove it to go on from the one before"
            from_the_start = 0 < self._restored == self.step + 1 - self.streak
            raise NotFinite(
                f"loss or gradient was not finite {self.streak} times in a row, up to step {self.step + 1}; nothing "
                "was saved since the first: lower train.lr in config.yaml and go on with --resume, or check the data"
                + (spoilt if from_the_start else "")
            )

    def report(self) -> Report:
        """Means since the last report, over all processes; starts a new window."""
        window, self._window = self._window, Window(self.denoiser.process.T)
        loss, *quarters = window.means(self.team.total(window.sums))
        norm = window.norm / window.updates if window.updates else None
        rate = window.steps * self.batches.batch_size / max(window.seconds, 1e-9)
        extra: dict[str, float | int] = {"micro_batch": self.micro} if self.micro < len(self.rows) else {}
        if self.settings.precision == "fp16":
            extra |= {"scale": self.scale.value, "overflows": self.scale.overflows}
        lr = learning_rate(self.settings, self.step - 1)
        return Report(self.step, loss, tuple(quarters), norm, lr, rate, self.skipped, extra)

    # -- state ----------------------------------------------------------------------------------------------------

    def snapshot(self) -> checkpoint.Snapshot:
        """All of training as a snapshot, whole; sharded processes must ask together."""
        modules = {"backbone": self.network} | self._averages()
        tensors = {name: module.state_dict() for name, module in modules.items()}
        tensors["optimizer"] = optimizer_tensors(self.optimizer)
        keep = self.team.writes
        tensors = {name: {key: full(value, keep) for key, value in part.items()} for name, part in tensors.items()}
        if memory := self.times.tensors():
            tensors["times"] = memory
        state: dict[str, Any] = {"step": self.step, "skipped": self.skipped, "streak": self.streak}
        state["noise"] = str(self.denoiser.process.noise)
        if self.settings.precision == "fp16":
            state["scale"] = self.scale.as_state()
        sizes = self.team.gather(np.array([[self.micro]])).ravel().tolist()
        if min(sizes) < len(self.rows):
            state |= {"micro_batch": min(sizes), "micro_batches": sizes}  # of each process
        return checkpoint.Snapshot(tensors, state)

    def restore(self, path: Path) -> None:
        """Continue exactly where the checkpoint was written."""
        state = checkpoint.load_state(path)
        checkpoint.check_same_noise(state, self.denoiser.process.noise, path)
        for name, module in ({"backbone": self.network} | self._averages()).items():
            checkpoint.fill(module, checkpoint.load_tensors(path, name), path)
        fill_optimizer(self.optimizer, checkpoint.load_tensors(path, "optimizer"), path)
        if self.times.tensors():
            self.times.fill(checkpoint.load_tensors(path, "times"), path)
        self.step, self.skipped, self.streak = (state[name] for name in ("step", "skipped", "streak"))
        self._restored = self.step
        self.scale = loss_scale.for_precision(self.settings.precision, state.get("scale"))
        sizes = state.get("micro_batches", [])
        as_many = len(sizes) == self.team.count
        self.micro = min(self.micro, sizes[self.team.index] if as_many else state.get("micro_batch", self.micro))

    def _averages(self) -> dict[str, nn.Module]:
        return {
            average_name(self.settings.decays, index): average.backbone for index, average in enumerate(self.averages)
        }
