"""Training as a whole job on a run folder, started or resumed. A face drives it; nothing is printed here."""

import json
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from undiffuse import __version__, build, images
from undiffuse.config import Config, read
from undiffuse.data.survey import Watch
from undiffuse.errors import Interrupted, UsageError
from undiffuse.interop.folder import is_diffusers
from undiffuse.nn.compiling import compiled
from undiffuse.pipeline import Pipeline
from undiffuse.runs import RunFolder, write_text
from undiffuse.train import checkpoint
from undiffuse.train.trainer import Report, Trainer

GRID = 20


@dataclass
class Training:
    """A run in progress: iterate to train; each item is a Report of the steps since the last."""

    run: RunFolder
    config: Config
    trainer: Trainer
    notes: tuple[str, ...] = ()

    @classmethod
    def start(
        cls, config: Config, out: Path | None, name: str, start: Pipeline | None = None, watch: Watch = iter
    ) -> "Training":
        """A new run, from a model's weights if one is given. Everything is built, and so checked, before the folder is
        made. `watch` sees every picture that is read."""
        if out is not None and out.exists():
            RunFolder.create(out, name)  # refuses, before pictures are read
        data = build.dataset(config, watch)
        config = build.resolved(config, data)
        trainer = _trainer(config, data, start)
        training = cls(_created(trainer.accelerator, config, out, name), config, trainer, data.notes)
        if start is not None:
            training._save()  # a run killed before its first checkpoint starts from these weights again
        return training

    @classmethod
    def resume(cls, out: Path) -> "Training":
        """Go on with a run exactly where its last checkpoint stands."""
        run = RunFolder.open(out)
        if is_diffusers(out):
            raise UsageError(f"{out}: a diffusers folder has no training to resume; start a run with: undiffuse train")
        config = read(run.config)
        data = build.dataset(config)
        build.same_data(config, data)
        trainer = _trainer(config, data)
        run.samples.mkdir(exist_ok=True)
        if checkpoint.steps(run.checkpoints):
            trainer.restore(checkpoint.find(run.checkpoints))
        if trainer.accelerator.is_main_process:
            run.cut_metrics(trainer.step)
        return cls(run, config, trainer)

    def __iter__(self) -> Iterator[Report]:
        train, began, logged = self.config.train, time.time(), self.trainer.step
        with _stop_signals() as stopping:
            for step in self.trainer.run():
                last = step == train.steps or stopping.is_set()
                if step % train.log_every == 0 or last:
                    report, logged = self.trainer.report(), step
                    self._log(report)
                    yield report
                if last or _due(step, train.checkpoint_every):
                    self._save()
                if not last and _due(step, train.sample_every):
                    self._draw_grid(step)
                if stopping.is_set() and step < train.steps:
                    self._write_environment(time.time() - began)
                    go_on = f"go on with: undiffuse train --resume --out {self.run.path}"
                    raise Interrupted(f"stopped at step {step} of {train.steps}, saved; {go_on}")
        if logged == train.steps:
            self._write_environment(time.time() - began)

    def pipeline(self) -> Pipeline:
        """The model as it is now, with averaged weights."""
        denoiser = replace(self.trainer.denoiser, backbone=self.trainer.ema.backbone)
        return Pipeline.of(self.config, denoiser, str(self.trainer.accelerator.device))

    @property
    def _writes(self) -> bool:
        return bool(self.trainer.accelerator.is_main_process)

    def _log(self, report: Report) -> None:
        if self._writes:
            self.run.log(report.as_record())

    def _save(self) -> None:
        if self._writes:
            checkpoint.save(self.run.checkpoints, self.trainer.snapshot())

    def _draw_grid(self, step: int) -> None:
        if self._writes:
            drawn = images.to_hwc(self.pipeline().sample(n=GRID))
            images.write_png(self.run.samples / f"step_{step:08d}.png", images.grid(drawn, columns=GRID // 2))

    def _write_environment(self, seconds: float) -> None:
        if self._writes:
            write_text(self.run.environment, json.dumps(_environment(self.run, self.config, seconds), indent=1))


def _created(accelerator: Accelerator, config: Config, out: Path | None, name: str) -> RunFolder:
    """The run folder, made by one process and known to all."""
    made: list[RunFolder | None] = [None]
    if accelerator.is_main_process:
        run = RunFolder.create(out, name)
        write_text(run.config, config.as_yaml())
        made = [run]
    shared = broadcast_object_list(made)[0]
    assert isinstance(shared, RunFolder)
    return shared


def tuned(config: Config) -> Config:
    """A model's configuration for training it further on other data or some of its classes, which are yet to be named:
    a tenth of its steps at a tenth of its learning rate."""
    if config.data.source == "imported":
        raise UsageError("an imported model does not know its data; name a recipe, or a .yaml file, beside --from")
    train = config.train
    short = {"train.steps": max(1, train.steps // 10), "train.lr": train.lr / 10, "train.warmup": train.warmup // 10}
    return config.replaced({f"data.{key}": None for key in ("levels", "shape", "classes", "content")} | short)


def _trainer(config: Config, data: Any, start: Pipeline | None = None) -> Trainer:
    precision = "bf16" if config.train.precision == "bf16" else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    denoiser = build.denoiser(config)
    if start is not None:
        build.carry_over(start.config, start.denoiser, config, denoiser)
    Pipeline(config, denoiser).check()
    parts = (build.loss(config), build.batches(config, data), build.plan(config))
    trainer = Trainer(denoiser, *parts, accelerator, build.times(config))
    if config.train.compile:
        share = (config.train.batch_size // accelerator.num_processes, *(config.data.shape or ()))
        x = torch.zeros(share, device=accelerator.device).contiguous(memory_format=torch.channels_last)
        t = torch.ones(len(x), device=accelerator.device)
        compiled(trainer.network.train(), x, t, t.long() * 0 if build.num_classes(config) else None)
    return trainer


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _environment(run: RunFolder, config: Config, seconds: float) -> dict[str, Any]:
    """What the run ran on; seconds of earlier parts of a resumed run are added."""
    return {
        "undiffuse": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "seed": config.seed,
        "training_seconds": round(_seconds_before(run) + seconds, 1),
    }


def _seconds_before(run: RunFolder) -> float:
    """What earlier parts of the run took; 0 if nobody can say."""
    try:
        return float(json.loads(run.environment.read_text())["training_seconds"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0.0


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM asks to stop after the step; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
