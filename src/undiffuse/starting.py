"""What training starts with: settings, data, a trainer, and the checkpoint that it goes on from."""

import time
import warnings
from pathlib import Path

import numpy as np
import torch

from undiffuse import build
from undiffuse.config import Config
from undiffuse.data.dataset import Dataset
from undiffuse.data.survey import Watch
from undiffuse.errors import UsageError
from undiffuse.nn.compiling import compiled
from undiffuse.pipeline import Pipeline
from undiffuse.processes import agreed, one_first
from undiffuse.quality import Judge
from undiffuse.runs import RunFolder
from undiffuse.train import checkpoint, tracking
from undiffuse.train.team import Team
from undiffuse.train.trainer import Trainer

TIMED, WARM = 15.0, 3  # seconds and steps that a time budget is measured by, and steps before that
SPARE = 0.97  # of a time budget is for steps, the rest for checkpoints and pictures


class CheckpointWarning(UserWarning):
    """A checkpoint that cannot be used."""


def tuned(config: Config) -> Config:
    """A model's configuration for training it further on other data or some of its classes, which are yet to be named:
    a tenth of its steps at a tenth of its learning rate."""
    if config.data.source == "imported":
        raise UsageError("an imported model does not know its data; name a recipe, or a .yaml file, beside --from")
    train = config.train
    short = {"train.steps": max(1, train.steps // 10), "train.lr": train.lr / 10, "train.warmup": train.warmup // 10}
    anew = ("data.levels", "data.shape", "data.classes", "data.content", "train.minutes")
    return config.replaced(dict.fromkeys(anew) | short)


def prepared(config: Config, out: Path | None = None, name: str = "", watch: Watch = iter) -> Dataset:
    """The data, prepared by one process and then opened by all."""
    if out is not None and out.exists():
        RunFolder.create(out, name)  # refuses, before pictures are read
    agreed(lambda: tracking.check(config.train.trackers))
    return one_first(lambda: build.dataset(config, watch))


def judge(config: Config, data: Dataset) -> Judge | None:
    if config.train.patience and not config.train.quality_every:
        raise UsageError("train.patience counts measures: say how often to measure, with train.quality_every")
    return Judge(config, data) if config.train.quality_every else None


def trainer(config: Config, data: Dataset, team: Team, start: Pipeline | None = None) -> Trainer:
    denoiser = build.denoiser(config)
    if start is not None:
        build.carry_over(start.config, start.denoiser, config, denoiser)
    Pipeline(config, denoiser).check()
    parts = (build.loss(config), build.batches(config, data), build.plan(config))
    trainer = Trainer(denoiser, *parts, team, build.times(config))
    if config.train.compile:
        x = torch.zeros((trainer.micro, *data.shape), device=team.device).contiguous(memory_format=torch.channels_last)
        t = torch.ones(len(x), device=team.device)
        compiled(trainer.network.train(), x, t, t.long() * 0 if build.num_classes(config) else None)
    return trainer


def restore(trainer: Trainer, run: RunFolder) -> None:
    """From the newest checkpoint that is whole, which process 0 looks for; says so if that is not the newest."""
    step = agreed(lambda: _newest(run))
    if step is not None:
        trainer.restore(checkpoint.find(run.checkpoints, str(step)))


def _newest(run: RunFolder) -> int | None:
    step, damaged = checkpoint.newest_whole(run.checkpoints)
    for error in damaged:
        warnings.warn(f"{error}; going on from the checkpoint before it", CheckpointWarning, stacklevel=2)
    for path in checkpoint.headless(run.checkpoints, step or 0):
        warnings.warn(f"{path}: has no state.json; going on from step {step or 0}", CheckpointWarning, stacklevel=2)
    if step is None and run.metrics.exists():
        said = "has no checkpoint, though it was trained before; training starts again at step 0"
        warnings.warn(f"{run.path}: {said}", CheckpointWarning, stacklevel=2)
    return step


def steps_within(trainer: Trainer, minutes: float) -> int:
    """How many steps fit, by the speed of the first ones; the trainer is of no further use."""
    run, taken, enough = trainer.run(), [0.0] * 0, min(TIMED, 6 * minutes)
    while not trainer.team.agreed(sum(taken[WARM:]) >= enough or len(taken) == trainer.plan.steps):
        began = time.perf_counter()
        next(run)
        taken.append(time.perf_counter() - began)
    slowest = trainer.team.gathered(np.array([[np.mean(taken[WARM:] or taken)]])).max()
    return max(1, int(SPARE * 60 * minutes / slowest))
