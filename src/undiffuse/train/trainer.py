"""Training: Ho et al. 2020, Algorithm 1, through accelerate. Every draw is a function of (seed, step, position)."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from undiffuse import rng
from undiffuse.data.loader import Batches
from undiffuse.diffusion.denoiser import Denoiser
from undiffuse.diffusion.losses import Loss
from undiffuse.errors import UndiffuseError
from undiffuse.shapes import Tensor
from undiffuse.train import checkpoint
from undiffuse.train.ema import EMA
from undiffuse.train.times import TimeSampling, Uniform

QUARTERS = 4


@dataclass(frozen=True)
class Plan:
    """How long and how fast: lr rises over `warmup` steps, then falls to 0 at `steps` if lr_decay is linear or cosine.

    num_classes: 0 trains without labels; the null label is num_classes.
    """

    steps: int
    lr: float = 2e-4
    warmup: int = 0
    lr_decay: str = "none"
    ema: float = 0.9999
    grad_clip: float = 1.0
    num_classes: int = 0
    label_dropout: float = 0.0
    max_skips: int = 10

    def lr_at(self, step: int) -> float:
        """The learning rate of the update that follows `step` updates."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        left = 1 - step / self.steps
        fall = {"none": 1.0, "linear": left, "cosine": (1 + np.cos(np.pi * (1 - left))) / 2}[self.lr_decay]
        return float(self.lr * warm * fall)


@dataclass(frozen=True)
class Report:
    """Means over the steps since the last report. loss_q: by quarter of t, None where no t fell. skipped: in all."""

    step: int
    loss: float | None
    loss_q: tuple[float | None, ...]
    grad_norm: float | None
    lr: float
    images_per_s: float
    skipped: int

    def as_record(self) -> dict[str, Any]:
        """The line of metrics.jsonl."""
        quarters = {f"loss_q{i + 1}": value for i, value in enumerate(self.loss_q)}
        numbers = {"grad_norm": self.grad_norm, "lr": self.lr, "images_per_s": self.images_per_s}
        return {"step": self.step, "loss": self.loss, **quarters, **numbers, "skipped": self.skipped}


class Trainer:
    """x0, y = data[step] -> t ~ p -> truth -> guess -> weighted loss -> backward, clip, step, EMA."""

    def __init__(
        self,
        denoiser: Denoiser,
        loss: Loss,
        batches: Batches,
        plan: Plan,
        accelerator: Accelerator | None = None,
        times: TimeSampling | None = None,
    ) -> None:
        self.accelerator = accelerator or Accelerator(cpu=True)
        self.loss, self.batches, self.plan, self.seed = loss, batches, plan, batches.seed
        self.times = times or Uniform(denoiser.process.T)
        if not isinstance(denoiser.backbone, nn.Module):
            raise UndiffuseError("only a torch.nn.Module can be trained")
        self.network: nn.Module = denoiser.backbone
        self.network.to(self.accelerator.device)
        self.ema = EMA(self.network, plan.ema)
        self.parameters = list(self.network.parameters())
        adam = torch.optim.Adam(self.parameters, lr=plan.lr, fused=True)
        wrapped, self.optimizer = self.accelerator.prepare(self.network, adam)
        self.denoiser = replace(denoiser, backbone=wrapped)
        self.step = self.skipped = self.streak = 0
        self._window = _Window()
        if batches.batch_size % self.accelerator.num_processes:
            count = self.accelerator.num_processes
            raise UndiffuseError(f"train.batch_size {batches.batch_size} cannot be shared by {count} processes evenly")

    def run(self) -> Iterator[int]:
        """Train to plan.steps; yields the number of steps done after each."""
        self.network.train()
        while self.step < self.plan.steps:
            began = time.perf_counter()
            self._one_step()
            self._window.seconds += time.perf_counter() - began
            yield self.step

    def _one_step(self) -> None:
        lr = self.plan.lr_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses, t, weight = self._losses()
        self.accelerator.backward((losses * weight.to(losses)).mean())
        everyone = self._gathered(t, losses)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.plan.grad_clip or float("inf"))
        self._window.steps += 1
        if bool(torch.isfinite(norm)) and np.isfinite(everyone).all():
            self.optimizer.step()
            self.ema.update(self.step - self.skipped)
            self.streak = 0
            self.times.learn(*everyone)
            t_over_T = t.numpy() / self.denoiser.process.T
            self._window.add(losses.detach().float().cpu().numpy(), weight.numpy(), t_over_T, float(norm))
        else:
            self._skip()
        self.optimizer.zero_grad()
        self.step += 1

    def _gathered(self, t: Tensor, losses: Tensor) -> np.ndarray:
        """Times and losses of the whole global batch, [2, n], in its order, the same on every process."""
        pairs = torch.stack([t.to(losses.device, torch.float32), losses.detach().float()], 1)  # t is exact below 2^24
        return np.asarray(self.accelerator.gather(pairs).cpu().numpy().T)

    def _losses(self) -> tuple[Tensor, Tensor, Tensor]:
        """Algorithm 1, lines 2 to 5, for this process's share of the global batch: losses, times, weights."""
        share = self.batches.batch_size // self.accelerator.num_processes
        first = share * self.accelerator.process_index
        x0, y = self.batches.batch(self.step, slice(first, first + share))
        rows = range(first, first + share)
        draws = rng.per_row(self.seed, "train", self.step, rows=rows)
        kept = self._drop_labels(y, draws)
        t, weight = self.times.draw(rows, draws, rng.fold(self.seed, "times", self.step))
        truth = self.denoiser.process.corrupt(x0.to(self.accelerator.device), t, draws)
        rng.seed_torch(self.seed, "dropout", self.step, self.accelerator.process_index)
        guess = self.denoiser(truth.x_t, t, None if kept is None else kept.to(self.accelerator.device))
        return self.loss(self.denoiser.process, truth, guess, t), t, weight

    def _drop_labels(self, y: Tensor, draws: rng.Generator) -> Tensor | None:
        """Replace some labels by the null label, for classifier-free guidance (Ho & Salimans 2022, Algorithm 1)."""
        if not self.plan.num_classes:
            return None
        drop = draws.uniform(y.shape) < self.plan.label_dropout
        return torch.where(drop, self.plan.num_classes, y)

    def _skip(self) -> None:
        """A loss or gradient that is not finite changes nothing; too many in a row end the run."""
        self.skipped += 1
        self.streak += 1
        if self.streak >= self.plan.max_skips:
            raise UndiffuseError(
                f"loss or gradient was not finite {self.streak} times in a row, up to step {self.step + 1}; the last "
                "checkpoint is good: lower train.lr in config.yaml and resume, or check the data"
            )

    def report(self) -> Report:
        """Means since the last report, over all processes; starts a new window."""
        window, self._window = self._window, _Window()
        sums = self.accelerator.reduce(torch.from_numpy(window.sums).to(self.accelerator.device), reduction="sum")
        total, counts = sums.cpu().numpy()
        means = [float(a / n) if n else None for a, n in zip(total, counts, strict=True)]
        norm = window.norm / window.updates if window.updates else None
        rate = window.steps * self.batches.batch_size / max(window.seconds, 1e-9)
        return Report(self.step, means[0], tuple(means[1:]), norm, self.plan.lr_at(self.step - 1), rate, self.skipped)

    # -- state ----------------------------------------------------------------------------------------------------

    def snapshot(self) -> checkpoint.Snapshot:
        tensors = {
            "backbone": self.network.state_dict(),
            "ema": self.ema.backbone.state_dict(),
            "optimizer": checkpoint.optimizer_tensors(self.optimizer),
        }
        if memory := self.times.tensors():
            tensors["times"] = memory
        noise = str(self.denoiser.process.noise)
        counts = {"step": self.step, "skipped": self.skipped, "streak": self.streak}
        return checkpoint.Snapshot(tensors, {**counts, "noise": noise})

    def restore(self, path: Path) -> None:
        """Continue exactly where the checkpoint was written."""
        state = checkpoint.load_state(path)
        checkpoint.check_noise(state, self.denoiser.process.noise, path)
        checkpoint.fill(self.network, checkpoint.load_tensors(path, "backbone"), path)
        checkpoint.fill(self.ema.backbone, checkpoint.load_tensors(path, "ema"), path)
        checkpoint.fill_optimizer(self.optimizer, checkpoint.load_tensors(path, "optimizer"), path)
        if self.times.tensors():
            self.times.fill(checkpoint.load_tensors(path, "times"), path)
        self.step, self.skipped, self.streak = (state[name] for name in ("step", "skipped", "streak"))


class _Window:
    """Sums since the last report: of weighted losses (all, then by quarter of t), and of the weights."""

    def __init__(self) -> None:
        self.sums = np.zeros((2, 1 + QUARTERS))
        self.steps, self.updates, self.norm, self.seconds = 0, 0, 0.0, 0.0

    def add(self, losses: np.ndarray, weight: np.ndarray, t_over_T: np.ndarray, norm: float) -> None:
        quarter = np.ceil(t_over_T * QUARTERS).astype(int)  # t in (0, T] -> 1..4
        for place in (np.zeros_like(quarter), quarter):
            self.sums[0] += np.bincount(place, losses * weight, 1 + QUARTERS)
            self.sums[1] += np.bincount(place, weight, 1 + QUARTERS)
        self.updates += 1
        self.norm += norm
