"""Training as a whole job on a run folder, started or resumed. A face drives it; nothing is printed here."""

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from undiffuse import images
from undiffuse.config import Config, of_run
from undiffuse.errors import Interrupted, UndiffuseError, UsageError
from undiffuse.files import checkpoint
from undiffuse.files.run import RunFolder, resuming
from undiffuse.files.writing import remedy, whole, write_text
from undiffuse.pipeline import Pipeline, build
from undiffuse.pipeline.diffusers.folder import is_diffusers
from undiffuse.processes.lock import alone
from undiffuse.processes.ranks import from_first
from undiffuse.processes.signals import stop_signals
from undiffuse.shapes import Watch, unwatched
from undiffuse.train import environment, starting, tracking
from undiffuse.train.quality import Judge, Quality, stop_reason
from undiffuse.train.sharding import full
from undiffuse.train.team import Team, reporting_lost_peers
from undiffuse.train.trainer import Trainer
from undiffuse.train.window import Report

GRID = 20
SPOILT = 1e15  # weights that large overflow as soon as two of them meet


@dataclass
class Training:
    """A run in progress: iterate to train; items are a Report of the steps since the last, or a Quality."""

    run: RunFolder
    config: Config
    trainer: Trainer
    judge: Judge | None
    notes: tuple[str, ...] = ()
    _unpruned: bool = field(default=True, init=False)

    @classmethod
    def start(
        cls, config: Config, out: Path | None, name: str, start: Pipeline | None = None, watch: Watch = unwatched
    ) -> "Training":
        """A new run, from a model's weights if one is given. Everything is built, and so checked, before the folder is
        made. `watch` sees every picture that is read."""
        team = Team()
        with reporting_lost_peers():
            data = starting.prepare_data(config, out, name, watch)
            config = build.resolved(config, data)
            if config.train.minutes is not None:
                timed = starting.trainer(config.replaced({"train.steps": starting.ENDLESS}), data, team, start)
                config = config.replaced({"train.steps": starting.steps_within(timed, config.train.minutes)})
                del timed  # its memory is the other's
            trainer = starting.trainer(config, data, team, start)
            judge = starting.judge(config, data)
            training = cls(from_first(lambda: RunFolder.create(out, name)), config, trainer, judge)
            training.notes = starting.opening_notes(config, data, start)
            if start is not None:
                training._save()  # before there is a config.yaml to resume with: nothing else may stand for it
            from_first(lambda: write_text(training.run.config, config.as_yaml()))
        return training

    @classmethod
    def resume(cls, out: Path) -> "Training":
        """Go on with a run exactly where its last good checkpoint stands."""
        team, run = Team(), RunFolder.open(out)
        if is_diffusers(out):
            raise UsageError(f"{out}: a diffusers folder has no training to resume; start one: undiffuse train")
        with reporting_lost_peers(out), alone(out) as claim:
            from_first(claim)
            config = of_run(run.config)
            data = starting.prepare_data(config)
            build.check_same_data(config, data)
            trainer = starting.trainer(config, data, team)
            starting.restore(trainer, run, config)
            return cls(run, config, trainer, starting.judge(config, data))

    def __iter__(self) -> Iterator[Report | Quality]:
        began, names = time.monotonic(), self.config.train.trackers if self._writes else []
        with reporting_lost_peers(self.run.path), alone(self.run.path) as claim, stop_signals() as stopping:
            self.trainer.team.any(False)  # all have come this far
            from_first(lambda: self._begin(claim))
            if not self._writes:
                claim()
            with tracking.open_trackers(names, self.run.path, self.config.model_dump(), self.trainer.step) as tell:
                yield from self._steps(tell, stopping, began)
            self._write_environment(time.monotonic() - began)

    def _begin(self, claim: Callable[[], None]) -> None:
        claim()
        newer = [step for step in checkpoint.steps(self.run.checkpoints) if step > self.trainer.step]
        if newer:
            raise UsageError(f"{self.run.path}: another command has just trained it to step {newer[-1]}; resume again")
        with self._on_disk():
            self.run.samples.mkdir(exist_ok=True)
            self.run.cut_logs(self.trainer.step)

    def _steps(self, tell: tracking.Trackers, stopping: threading.Event, began: float) -> Iterator[Report | Quality]:
        train, any_wants = self.config.train, self.trainer.team.any
        if any_wants(self._owes_a_measure()):
            best, idle = yield from self._measured(self.trainer.step, tell)
            if best or idle:
                self._save()
        if any_wants(self._writes and bool(self.ended)):
            self._prune()
            return
        for step in self.trainer.run():
            leaving = any_wants(stopping.is_set()) and step < train.steps
            last = step == train.steps or leaving
            sound = self.trainer.streak == 0  # or the weights may be what makes the losses NaN
            if sound:
                self._prune()
            if step % train.log_every == 0 or last:
                report = self.trainer.report()
                self._log(report.as_record(), self.run.metrics, tell)
                yield report
            best = idle = False
            if sound and not leaving and self._measures(step):
                best, idle = yield from self._measured(step, tell)
            if last or idle or (sound and (best or _due(step, train.checkpoint_every))):
                self._save()
            if not last and _due(step, train.sample_every):
                self._draw_grid(step)
            if leaving:
                self._write_environment(time.monotonic() - began)
                go_on = resuming(self.run.path)
                raise Interrupted(f"stopped at step {step} of {train.steps}, saved; go on with: {go_on}")
            if sound and (last or idle):
                self._prune()
            if idle:
                return

    @property
    def ended(self) -> str:
        """Why training is over before its last step, if it is: told by what was measured, so after a resume too."""
        return stop_reason(self.run.quality_records(), self.trainer.step, self.config.train)

    def pipeline(self) -> Pipeline:
        """The model as it is now, with averaged weights. Sharded processes must ask together."""
        return self._with(self.trainer.ema.backbone)

    @property
    def _writes(self) -> bool:
        return self.trainer.team.writes

    def _with(self, network: nn.Module) -> Pipeline:
        """A pipeline of these weights: of a whole copy, if they are the ones in training or are cut over processes.

        Cut weights come together where they are drawn with; other processes have a pipeline of none.
        """
        device, (micro, rows) = self.trainer.team.device, (self.trainer.micro, len(self.trainer.rows))
        if network is self.trainer.network or self.config.train.shard:
            weights = {name: full(value, self._writes) for name, value in network.state_dict().items()}
            network = build.backbone(self.config)
            if self._writes:
                network.load_state_dict(weights)
            elif self.config.train.shard:
                device = torch.device("cpu")
        pipe = Pipeline.of(self.config, replace(self.trainer.denoiser, backbone=network), str(device))
        return replace(pipe, block=min(pipe.block, micro)) if micro < rows else pipe  # memory is short

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
            quality = self.judge.measure(step, *pipes, self.run.quality_records())
            self._log(quality.as_record(), self.run.quality, tell)
            best, idle = self.run.best_step() == step, bool(self.ended)
            yield quality
        return self.trainer.team.any(best), self.trainer.team.any(idle)

    def _measures(self, step: int) -> bool:
        every = self.config.train.quality_every
        return _due(step, every) or (every > 0 and step == self.config.train.steps)

    def _owes_a_measure(self) -> bool:
        """Training was told to leave where a measure was due, and did so at once."""
        step = self.trainer.step
        if not self._writes or step == 0 or self.trainer.streak or not self._measures(step):
            return False
        return step not in {record["step"] for record in self.run.quality_records()}

    def _save(self) -> None:
        snapshot = self.trainer.snapshot()  # sharded weights are gathered from all
        snapshot.state["diffusion"] = starting.meaning(self.config)
        if self._writes:
            with self._on_disk():
                checkpoint.save(self.run.checkpoints, snapshot)
        weights = snapshot.tensors["backbone"].values() if self._writes else ()
        self._unpruned = all(float(value.abs().max()) < SPOILT for value in weights)
        self.trainer.team.any(False)  # nobody leaves before it is written: a launcher would then stop the writer

    def _prune(self) -> None:
        """Delete old checkpoints, only after a finite loss: it shows that the last one saved is sound."""
        if self._writes and self._unpruned:
            best = [self.run.best_step()] if self.run.quality_records() else []
            with self._on_disk():
                checkpoint.prune(self.run.checkpoints, self.config.train.keep, best)
        self._unpruned = False

    def _draw_grid(self, step: int) -> None:
        pipe = self.pipeline()
        if self._writes:
            drawn = images.to_hwc(pipe.sample(n=GRID))
            with self._on_disk(), whole(self.run.samples / f"step_{step:08d}.png") as path:
                images.write_png(path, images.grid(drawn, columns=GRID // 2))

    def _write_environment(self, seconds: float) -> None:
        if self._writes:
            recorded = environment.describe(self.run.environment, self.config.seed, seconds)
            with self._on_disk():
                write_text(self.run.environment, json.dumps(recorded, indent=1))

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
                f"{where}: cannot be written ({reason}); {saved}: {remedy(error)}, then go on with: "
                f"{resuming(self.run.path)}"
            ) from error


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
