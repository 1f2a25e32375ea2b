"""train: a recipe or a file in, a run folder out."""

from contextlib import nullcontext
from pathlib import Path

from undiffuse import config
from undiffuse.cli import say, tell
from undiffuse.cli.options import TrainOptions
from undiffuse.cli.progress import progress, show
from undiffuse.errors import Interrupted, UndiffuseError
from undiffuse.files.run import resuming
from undiffuse.files.writing import remedy
from undiffuse.pipeline import Pipeline
from undiffuse.processes import ranks
from undiffuse.report.pictures import write_views
from undiffuse.train.job import Training
from undiffuse.train.quality import Quality
from undiffuse.train.starting import finetuned_config
from undiffuse.train.window import Report


def train(given: TrainOptions) -> None:
    if given.resume and given.out is not None:
        training = Training.resume(given.out)
        step, more = training.trainer.step, f"undiffuse train --from {given.out} --set train.steps=N"
        is_over = bool(training.ended) or step >= training.config.train.steps
        if not is_over or not (given.out / "report.html").exists():
            run_training(training)
        elif training.trainer.team.writes:
            where = f"has {training.ended}" if training.ended else f"is at the last of its {step} steps"
            print(f"{given.out} {where}; to train its model further: {more}")
        return
    start = None if given.model is None else Pipeline.load(given.model, device="cpu")
    if given.recipe is not None:
        chosen, name = config.load(given.recipe, given.sets or ()), Path(given.recipe).stem
    else:
        assert start is not None
        chosen, name = (
            config.changed(finetuned_config(start.config), given.sets or ()),
            Path(str(given.model)).resolve().name,
        )
    run_training(start_training(chosen, given.out, name, start))


def start_training(chosen: config.Config, out: Path | None, name: str, start: Pipeline | None = None) -> Training:
    """Begin a run, saying what it starts with."""
    if chosen.train.minutes is not None and not ranks.rank():
        print(f"measuring how many steps fit into {chosen.train.minutes:g} minutes", flush=True)
    training = Training.start(chosen, out, name, start, show)
    for note in training.notes if training.trainer.team.writes else ():
        tell(note)
    return training


def run_training(training: Training) -> None:
    """Train to the end, telling how it goes; then draw the pictures and the report."""
    done, total, speaks = training.trainer.step, training.config.train.steps, training.trainer.team.writes
    if speaks:
        print(f"training into {training.run.path}" + (f", from step {done} of {total}" if done else ""), flush=True)
    with progress("step", total, done) if speaks else nullcontext(None) as tell:
        for item in training:
            if tell is not None and isinstance(item, Report):
                tell(item.step, _of_report(item))
            elif tell is not None and isinstance(item, Quality):
                tell.note(f"step {item.step}/{total}  {item.line()}")
    pipe = training.pipeline()
    if speaks:
        report_path = _write_views(training, pipe)
        print("".join(f"{line}\n" for line in (training.ended, *_best(training)) if line), end="")
        print(f"pictures: {training.run.samples}\nreport: {report_path}", flush=True)


def _write_views(training: Training, pipe: Pipeline) -> Path:
    """The pictures and the report; their absence is no reason to train again."""
    say("trained and saved; drawing samples and the report")
    again = resuming(training.run.path)
    try:
        return write_views(training.run, pipe)
    except KeyboardInterrupt:
        raise Interrupted(f"trained and saved, but not all is drawn; for the rest: {again}") from None
    except OSError as error:
        where = f"{error.filename or training.run.path}: cannot be written ({error.strerror or error})"
        raise UndiffuseError(f"{where}; trained and saved: {remedy(error)}, then for the report: {again}") from error


def _of_report(report: Report) -> str:
    loss = "not finite" if report.loss is None else f"{report.loss:.4f}"
    extra = "".join(f"  {name} {value:g}" for name, value in report.extra.items())
    skipped = f"  {report.skipped} skipped" if report.skipped else ""
    return f"loss {loss}  lr {report.lr:.1e}  {report.images_per_s:.0f} images/s{skipped}{extra}"


def _best(training: Training) -> list[str]:
    """A line that says which checkpoint measured best, if that is not the last."""
    if not training.run.quality_records() or (best := training.run.best_step()) == training.trainer.step:
        return []
    return [f"best samples: step {best}; take them with --checkpoint best"]
