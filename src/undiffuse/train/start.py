"""What training starts with: settings, data, a trainer, and the checkpoint that it goes on from."""

import time
import warnings
from pathlib import Path

import numpy as np
import torch

from undiffuse.config import Config
from undiffuse.data.dataset import Dataset
from undiffuse.data.survey import Watch
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files import checkpoint
from undiffuse.files.run import RunFolder
from undiffuse.nn.compiling import compiled
from undiffuse.pipeline import Pipeline, build
from undiffuse.processes.ranks import from_first, one_first
from undiffuse.train import tracking
from undiffuse.train.quality import Judge
from undiffuse.train.team import Team
from undiffuse.train.trainer import NotFinite, Trainer

ENDLESS = 1_000_000_000  # steps: a time budget's number is not known yet
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


def notes(config: Config, data: Dataset, start: Pipeline | None = None) -> tuple[str, ...]:
    """What to know before training begins: of the data, of what it starts from, of the steps that it has."""
    train, said = config.train, [f"{config.data.source}: {note}" for note in data.notes]
    if train.minutes is not None:
        said.append(f"{train.steps} steps fit into {train.minutes:g} minutes")
    if start is not None:
        said.append(f"from trained weights: {train.steps} steps, learning rate {train.lr:g}")
        new = [name for name in config.data.classes or [] if name not in start.class_names]
        if new and start.class_names:
            said.append(f"classes new to the model begin as 'no label': {', '.join(new)}")
    if 4 * train.warmup > train.steps:
        rising = f"the learning rate rises for train.warmup={train.warmup} of the {train.steps} steps"
        said.append(f"{rising}: so short a run learns more with --set train.warmup={train.steps // 20}")
    return tuple(said)


def prepared(config: Config, out: Path | None = None, name: str = "", watch: Watch = iter) -> Dataset:
    """The data, prepared by one process and then opened by all."""
    if out is not None and out.exists():
        RunFolder.create(out, name)  # refuses, before pictures are read
    from_first(lambda: tracking.check(config.train.trackers))
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


def restore(trainer: Trainer, run: RunFolder, config: Config) -> None:
    """From the newest checkpoint that is whole, which process 0 looks for; says so if that is not the newest."""
    step = from_first(lambda: _newest(run))
    if step is None:
        return
    path = checkpoint.find(run.checkpoints, str(step))
    trainer.restore(path)
    trained_for = checkpoint.load_state(path).get("diffusion", {})  # older checkpoints do not say
    for key, said in build.meaning(config).items():
        if (trained := trained_for.get(key, said)) != said:
            raise UsageError(
                f"diffusion.{key}: {path} was trained with {trained}, config.yaml says {said}; put it back"
            )


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
    while not trainer.team.any(sum(taken[WARM:]) >= enough):
        began = time.perf_counter()
        try:
            next(run)
        except NotFinite as error:
            said = "the steps that train.minutes is measured by gave no finite loss or gradient"
            raise UndiffuseError(f"{said}: lower train.lr, or check the data") from error
        taken.append(time.perf_counter() - began)
    slowest = trainer.team.gathered(np.array([[np.mean(taken[WARM:])]])).max()
    return max(1, int(SPARE * 60 * minutes / slowest))
