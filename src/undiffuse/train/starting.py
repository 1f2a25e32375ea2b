"""What training starts with: settings, data, a trainer, and the checkpoint that it goes on from."""

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from undiffuse.config import Config
from undiffuse.data.dataset import Dataset
from undiffuse.data.loader import Batches
from undiffuse.diffusion.denoiser import Denoiser
from undiffuse.diffusion.likelihood import check_gaussian
from undiffuse.diffusion.losses import LOSSES, WEIGHTINGS, Choice, Loss, check_score
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files import checkpoint
from undiffuse.files.checkpoint import fill
from undiffuse.files.run import RunFolder
from undiffuse.nn.compiling import compile_network
from undiffuse.pipeline import Pipeline, build
from undiffuse.pipeline.build import look_up, num_classes, process
from undiffuse.processes.ranks import from_first, one_first
from undiffuse.shapes import Watch, unwatched
from undiffuse.train import tracking
from undiffuse.train.memory import pictures_at_once
from undiffuse.train.quality import Judge
from undiffuse.train.team import Team
from undiffuse.train.time_sampling import TIME_SAMPLINGS, TimeSampling
from undiffuse.train.trainer import NotFinite, Trainer

LABEL_ROWS = "conditioning.label.weight"
BOUNDS = ("vlb", "hybrid")  # the losses that hold the variational bound


def meaning(config: Config) -> dict[str, Any]:
    """The settings of the process and the prediction that weights have their meaning by."""
    keys = ("schedule", "T", "betas", "zero_terminal_snr", "prediction", "noise", "theta")
    return {key: getattr(config.diffusion, key) for key in keys}


def carry_over(trained_config: Config, trained: Denoiser, config: Config, denoiser: Denoiser) -> None:
    """Weights of a trained model into a new one of the same network; class rows go by their names.

    A class that the trained model does not know starts as its "no label". Raises UsageError where the process or the
    prediction differs, for then the weights mean something else, and UndiffuseError where the network does.
    """
    trained_for = meaning(trained_config)
    for key, new in meaning(config).items():
        if trained_for[key] != new:
            raise UsageError(
                f"diffusion.{key}: the model to start from has {trained_for[key]}, not {new}; its weights would not fit"
            )
    assert isinstance(trained.backbone, nn.Module) and isinstance(denoiser.backbone, nn.Module)
    weights = dict(trained.backbone.state_dict())
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise UndiffuseError("the model to start from has weights that are not finite; take another checkpoint of it")
    known, names = trained_config.data.classes or [], config.data.classes or []
    if num_classes(trained_config) and num_classes(config):
        rows = [known.index(name) if name in known else len(known) for name in [*names, None]]
        weights[LABEL_ROWS] = weights[LABEL_ROWS][rows]
    fill(denoiser.backbone, weights, Path("--from"))


def loss(config: Config) -> Loss:
    """The loss that is minimised. A learned variance and a loss that does not teach it, or the reverse, are refused."""
    settings = config.diffusion
    chosen = look_up(LOSSES, settings.loss, "diffusion.loss")
    learned = settings.variance == "learned"
    if learned and settings.loss not in BOUNDS:
        raise UsageError(f"diffusion.loss: '{settings.loss}' does not teach a learned variance; take 'hybrid' or 'vlb'")
    if settings.loss == "hybrid" and not learned:
        raise UsageError("diffusion.loss: 'hybrid' is for diffusion.variance=learned; with a fixed one take 'l2'")
    if settings.weighting != "none" and settings.loss in ("vlb", "score_matching"):
        raise UsageError(f"diffusion.weighting: '{settings.loss}' has its own weights; leave it at 'none'")
    if settings.loss in BOUNDS:
        check_gaussian(process(config))
    if settings.loss == "score_matching":
        check_score(process(config))
    if settings.prediction == "score":
        check_score(process(config), "prediction 'score'")
    look_up(WEIGHTINGS, settings.weighting, "diffusion.weighting")
    return chosen(Choice(settings.prediction, settings.weighting, config.data.levels or 256))


def time_sampling(config: Config) -> TimeSampling:
    """The law by which training draws t."""
    chosen = look_up(TIME_SAMPLINGS, config.train.time_sampling, "train.time_sampling")
    return chosen(config.diffusion.T, config.train.batch_size)


def batches(config: Config, data: Dataset) -> Batches:
    return Batches(data.train, config.train.batch_size, config.seed, config.data.flip)


ENDLESS = 1_000_000_000  # steps: a time budget's number is not known yet
TIMED, WARM = 15.0, 3  # seconds and steps that a time budget is measured by, and steps before that
SPARE = 0.97  # of a time budget is for steps, the rest for checkpoints and pictures


class CheckpointWarning(UserWarning):
    """A checkpoint that cannot be used."""


def finetuned_config(config: Config) -> Config:
    """A model's configuration for training it further on other data or some of its classes, which are yet to be named:
    a tenth of its steps at a tenth of its learning rate."""
    if config.data.source == "imported":
        raise UsageError("an imported model does not know its data; name a recipe, or a .yaml file, beside --from")
    train = config.train
    short = {"train.steps": max(1, train.steps // 10), "train.lr": train.lr / 10, "train.warmup": train.warmup // 10}
    anew = ("data.levels", "data.shape", "data.classes", "data.content", "train.minutes")
    return config.replaced(dict.fromkeys(anew) | short)


def opening_notes(config: Config, data: Dataset, start: Pipeline | None = None) -> tuple[str, ...]:
    """Lines to say before training begins: of the data, of what it starts from, of the steps that it has."""
    train, lines = config.train, [f"{config.data.source}: {note}" for note in data.notes]
    if train.minutes is not None:
        lines.append(f"{train.steps} steps fit into {train.minutes:g} minutes")
    if start is not None:
        lines.append(f"from trained weights: {train.steps} steps, learning rate {train.lr:g}")
        new = [name for name in config.data.classes or [] if name not in start.class_names]
        if new and start.class_names:
            lines.append(f"classes new to the model begin as 'no label': {', '.join(new)}")
    if 4 * train.warmup > train.steps:
        rising = f"the learning rate rises for train.warmup={train.warmup} of the {train.steps} steps"
        lines.append(f"{rising}: so short a run learns more with --set train.warmup={train.steps // 20}")
    return tuple(lines)


def prepare_data(config: Config, out: Path | None = None, name: str = "", watch: Watch = unwatched) -> Dataset:
    """The data, prepared by one process and then opened by all."""
    if out is not None and out.exists():
        RunFolder.create(out, name)  # refuses, before pictures are read
    from_first(lambda: tracking.check_trackers(config.train.trackers))
    return one_first(lambda: build.dataset(config, watch))


def judge(config: Config, data: Dataset) -> Judge | None:
    if config.train.patience and not config.train.quality_every:
        raise UsageError("train.patience counts measures: say how often to measure, with train.quality_every")
    return Judge(config, data) if config.train.quality_every else None


def trainer(config: Config, data: Dataset, team: Team, start: Pipeline | None = None) -> Trainer:
    denoiser = build.denoiser(config)
    if start is not None:
        carry_over(start.config, start.denoiser, config, denoiser)
    Pipeline(config, denoiser).check()
    parts = (loss(config), batches(config, data), config.train, num_classes(config))
    trainer = Trainer(denoiser, *parts, team=team, times=time_sampling(config))
    if team.device.type == "cpu" and not config.train.shard:  # a GPU's allocator says when it is full
        trainer.micro = pictures_at_once(denoiser.backbone, config, trainer.micro)
    if config.train.compile:
        x = torch.zeros((trainer.micro, *data.shape), device=team.device).contiguous(memory_format=torch.channels_last)
        t = torch.ones(len(x), device=team.device)
        compile_network(trainer.network.train(), x, t, t.long() * 0 if build.num_classes(config) else None)
    return trainer


def restore(trainer: Trainer, run: RunFolder, config: Config) -> None:
    """Restore a trainer from the newest checkpoint that is whole, which process 0 looks for; says so if that is not the
    newest."""
    step = from_first(lambda: _newest(run))
    if step is None:
        return
    path = checkpoint.find(run.checkpoints, str(step))
    trainer.restore(path)
    trained_for = checkpoint.load_state(path).get("diffusion", {})  # older checkpoints do not say
    for key, wanted in meaning(config).items():
        if (trained := trained_for.get(key, wanted)) != wanted:
            raise UsageError(
                f"diffusion.{key}: {path} was trained with {trained}, config.yaml says {wanted}; put it back"
            )


def _newest(run: RunFolder) -> int | None:
    step, damaged = checkpoint.newest_whole(run.checkpoints)
    for error in damaged:
        warnings.warn(f"{error}; going on from the checkpoint before it", CheckpointWarning, stacklevel=2)
    for path in checkpoint.headless(run.checkpoints, step or 0):
        warnings.warn(f"{path}: has no state.json; going on from step {step or 0}", CheckpointWarning, stacklevel=2)
    if step is None and run.metrics.exists():
        message = "has no checkpoint, though it was trained before; training starts again at step 0"
        warnings.warn(f"{run.path}: {message}", CheckpointWarning, stacklevel=2)
    return step


def steps_within(trainer: Trainer, minutes: float) -> int:
    """The number of steps that fit, by the speed of the first ones; the trainer is of no further use."""
    run, taken, enough = trainer.run(), [0.0] * 0, min(TIMED, 6 * minutes)
    while not trainer.team.any(sum(taken[WARM:]) >= enough):
        began = time.perf_counter()
        try:
            next(run)
        except NotFinite as error:
            message = "the steps that train.minutes is measured by gave no finite loss or gradient"
            raise UndiffuseError(f"{message}: lower train.lr, or check the data") from error
        taken.append(time.perf_counter() - began)
    slowest = trainer.team.gather(np.array([[np.mean(taken[WARM:])]])).max()
    return max(1, int(SPARE * 60 * minutes / slowest))
