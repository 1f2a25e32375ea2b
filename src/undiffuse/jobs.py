"""Training as a whole job on a run folder, started or resumed. A face drives it; nothing is printed here."""

import json
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from undiffuse import build, images
from undiffuse.config import Config, read
from undiffuse.data.dataset import Dataset
from undiffuse.data.survey import Watch
from undiffuse.errors import Interrupted, UndiffuseError, UsageError
from undiffuse.interop.folder import is_diffusers
from undiffuse.nn.compiling import compiled
from undiffuse.pipeline import Pipeline
from undiffuse.processes import agreed, one_first, stop_signals
from undiffuse.quality import Judge, Quality
from undiffuse.runs import RunFolder, write_text
from undiffuse.train import checkpoint, environment, tracking
from undiffuse.train.report import Report
from undiffuse.train.sharding import whole
from undiffuse.train.team import Team, hearing
from undiffuse.train.trainer import Trainer

GRID = 20
TIMED, WARM = 15.0, 3  # seconds and steps that a time budget is measured by, and steps before that
SPARE = 0.97  # of a time budget is for steps, the rest for checkpoints and pictures


class CheckpointWarning(UserWarning):
    """A checkpoint that cannot be used."""


@dataclass
class Training:
    """A run in progress: iterate to train; items are a Report of the steps since the last, or a Quality."""

    run: RunFolder
    config: Config
    trainer: Trainer
    judge: Judge | None
    notes: tuple[str, ...] = ()
    ended: str = ""  # why training stopped before its last step, if it did of itself

    @classmethod
    def start(
        cls, config: Config, out: Path | None, name: str, start: Pipeline | None = None, watch: Watch = iter
    ) -> "Training":
        """A new run, from a model's weights if one is given. Everything is built, and so checked, before the folder is
        made. `watch` sees every picture that is read."""
        team = Team()
        data = _prepared(config, team, out, name, watch)
        config = build.resolved(config, data)
        trainer = _trainer(config, data, team, start)
        if config.train.minutes is not None:
            config = config.replaced({"train.steps": _steps_within(trainer, config.train.minutes)})
            trainer = _trainer(config, data, team, start)
        judge = _judge(config, data)
        training = cls(agreed(lambda: RunFolder.create(out, name)), config, trainer, judge, data.notes)
        if start is not None:
            training._save()  # before there is a config.yaml to resume with: nothing else may stand for these weights
        agreed(lambda: write_text(training.run.config, config.as_yaml()))
        return training

    @classmethod
    def resume(cls, out: Path) -> "Training":
        """Go on with a run exactly where its last good checkpoint stands."""
        run = RunFolder.open(out)
        if is_diffusers(out):
            raise UsageError(f"{out}: a diffusers folder has no training to resume; start a run with: undiffuse train")
        config, team = read(run.config), Team()
        data = _prepared(config, team)
        build.same_data(config, data)
        trainer = _trainer(config, data, team)
        _restore(trainer, run)
        if team.writes:
            run.samples.mkdir(exist_ok=True)
            run.cut_logs(trainer.step)
        return cls(run, config, trainer, _judge(config, data))

    def __iter__(self) -> Iterator[Report | Quality]:
        train, began, logged = self.config.train, time.time(), self.trainer.step
        names = train.trackers if self._writes else []
        trackers = tracking.tracked(names, self.run.path, self.config.model_dump())
        with hearing(), stop_signals() as stopping, trackers as tell:
            for step in self.trainer.run():
                asked = self.trainer.team.agreed(stopping.is_set())
                last = step == train.steps or asked
                if step % train.log_every == 0 or last:
                    report, logged = self.trainer.report(), step
                    self._log(report.as_record(), self.run.metrics, tell)
                    yield report
                if _due(step, train.quality_every) or (train.quality_every and step == train.steps):
                    best, idle = yield from self._measured(step, tell)
                else:
                    best = idle = False
                sound = self.trainer.streak == 0  # or the weights may be what makes the losses NaN
                if last or idle or (sound and (best or _due(step, train.checkpoint_every))):
                    self._save()
                if not last and _due(step, train.sample_every):
                    self._draw_grid(step)
                if asked and step < train.steps:
                    self._write_environment(time.time() - began)
                    go_on = f"go on with: undiffuse train --resume --out {self.run.path}"
                    raise Interrupted(f"stopped at step {step} of {train.steps}, saved; {go_on}")
                if idle:
                    self.ended = f"stopped at step {step}: no better for {train.patience} measures"
                    break
        if logged == train.steps or self.ended:
            self._write_environment(time.time() - began)

    def pipeline(self) -> Pipeline:
        """The model as it is now, with averaged weights. Sharded processes must ask together."""
        return self._with(self.trainer.ema.backbone)

    @property
    def _writes(self) -> bool:
        return self.trainer.team.writes

    def _with(self, network: nn.Module) -> Pipeline:
        """A pipeline of these weights: of a whole copy, if they are the ones in training or are cut over processes."""
        if network is self.trainer.network or self.config.train.shard:
            weights = {name: whole(value) for name, value in network.state_dict().items()}
            network = build.backbone(self.config)
            network.load_state_dict(weights)
        return Pipeline.of(self.config, replace(self.trainer.denoiser, backbone=network), str(self.trainer.team.device))

    def _log(self, record: dict[str, Any], log: Path, tell: tracking.Trackers) -> None:
        if self._writes:
            with self._on_disk():
                self.run.log(record, log)
            tell.log(record)

    def _measured(self, step: int, tell: tracking.Trackers) -> Generator[Quality, None, tuple[bool, bool]]:
        """Measured by the process that writes, while the others wait. Returns what all agree upon: whether it is the
        best so far, and whether it has been long since one was better."""
        pipes = self.pipeline(), self._with(self.trainer.network)
        best = idle = False
        if self.judge is not None and self._writes:
            quality = self.judge.measure(step, *pipes, self.run.measured())
            self._log(quality.as_record(), self.run.quality, tell)
            best = self.run.best_step() == step
            idle = 0 < self.config.train.patience <= quality.idle
            yield quality
        return self.trainer.team.agreed(best), self.trainer.team.agreed(idle)

    def _save(self) -> None:
        snapshot = self.trainer.snapshot()  # sharded weights are gathered from all
        if self._writes:
            best = [self.run.best_step()] if self.run.measured() else []
            with self._on_disk():
                checkpoint.save(self.run.checkpoints, snapshot)
                if self.trainer.streak == 0:
                    checkpoint.prune(self.run.checkpoints, self.config.train.keep, best)

    def _draw_grid(self, step: int) -> None:
        pipe = self.pipeline()
        if self._writes:
            drawn = images.to_hwc(pipe.sample(n=GRID))
            with self._on_disk():
                images.write_png(self.run.samples / f"step_{step:08d}.png", images.grid(drawn, columns=GRID // 2))

    def _write_environment(self, seconds: float) -> None:
        if self._writes:
            said = environment.described(self.run.environment, self.config.seed, seconds)
            with self._on_disk():
                write_text(self.run.environment, json.dumps(said, indent=1))

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """A disk that takes no more ends the run in one line; what it holds is whole."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            known = checkpoint.steps(self.run.checkpoints)
            saved = f"step {known[-1]} is saved" if known else "nothing is saved yet"
            where = getattr(error, "filename", None) or self.run.path
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise UndiffuseError(
                f"{where}: cannot be written ({reason}); {saved}: make room, then go on with: "
                f"undiffuse train --resume --out {self.run.path}"
            ) from error


def tuned(config: Config) -> Config:
    """A model's configuration for training it further on other data or some of its classes, which are yet to be named:
    a tenth of its steps at a tenth of its learning rate."""
    if config.data.source == "imported":
        raise UsageError("an imported model does not know its data; name a recipe, or a .yaml file, beside --from")
    train = config.train
    short = {"train.steps": max(1, train.steps // 10), "train.lr": train.lr / 10, "train.warmup": train.warmup // 10}
    anew = ("data.levels", "data.shape", "data.classes", "data.content", "train.minutes")
    return config.replaced(dict.fromkeys(anew) | short)


# -- what a run is made of ---------------------------------------------------------------------------------------------


def _prepared(config: Config, team: Team, out: Path | None = None, name: str = "", watch: Watch = iter) -> Dataset:
    """The data, prepared by one process and then opened by all."""
    if out is not None and out.exists():
        RunFolder.create(out, name)  # refuses, before pictures are read
    if team.writes:
        tracking.check(config.train.trackers)
    return one_first(lambda: build.dataset(config, watch))


def _judge(config: Config, data: Dataset) -> Judge | None:
    if config.train.patience and not config.train.quality_every:
        raise UsageError("train.patience counts measures: say how often to measure, with train.quality_every")
    return Judge(config, data) if config.train.quality_every else None


def _trainer(config: Config, data: Dataset, team: Team, start: Pipeline | None = None) -> Trainer:
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


def _restore(trainer: Trainer, run: RunFolder) -> None:
    """From the newest checkpoint that is whole; says so if that is not the newest."""
    known = checkpoint.steps(run.checkpoints)
    for step in reversed(known):
        path = checkpoint.find(run.checkpoints, str(step))
        try:
            checkpoint.check_whole(path)
        except checkpoint.Damaged as error:
            if step == known[0]:
                raise
            if trainer.team.writes:
                warnings.warn(f"{error}; going on from the checkpoint before it", CheckpointWarning, stacklevel=2)
        else:
            trainer.restore(path)
            break
    if not trainer.team.writes:
        return
    for path in checkpoint.headless(run.checkpoints, trainer.step):
        warnings.warn(f"{path}: has no state.json; going on from step {trainer.step}", CheckpointWarning, stacklevel=2)
    if not known and run.metrics.exists():
        said = "has no checkpoint, though it was trained before; training starts again at step 0"
        warnings.warn(f"{run.path}: {said}", CheckpointWarning, stacklevel=2)


def _steps_within(trainer: Trainer, minutes: float) -> int:
    """How many steps fit, by the speed of the first ones; the trainer is of no further use."""
    run, taken, enough = trainer.run(), [0.0] * 0, min(TIMED, 6 * minutes)
    while not trainer.team.agreed(sum(taken[WARM:]) >= enough or len(taken) == trainer.plan.steps):
        began = time.perf_counter()
        next(run)
        taken.append(time.perf_counter() - began)
    slowest = trainer.team.gathered(np.array([[np.mean(taken[WARM:] or taken)]])).max()
    return max(1, int(SPARE * 60 * minutes / slowest))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
