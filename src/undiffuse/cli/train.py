"""demo, train and evaluate: what is called and what is printed. Results on stdout, progress on stderr."""

import functools
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from undiffuse import config
from undiffuse.cli import progress, say
from undiffuse.cli.options import Convert, Demo, Evaluate, Train, listed
from undiffuse.data.dataset import Dataset
from undiffuse.data.prepare import load_data
from undiffuse.diffusion import ode
from undiffuse.diffusion.bound import BOUND_BLOCK
from undiffuse.errors import Interrupted, UndiffuseError, UsageError, nearest
from undiffuse.evaluation import drawing
from undiffuse.evaluation import run as evaluation
from undiffuse.evaluation.real import Real, Samples
from undiffuse.files.run import RunFolder, resuming
from undiffuse.files.writing import check_file, check_writable, remedy, write_text
from undiffuse.metrics.base import Estimate
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.bundled import bundled_names, is_bundled, locate_model
from undiffuse.pipeline.diffusers.convert import save_diffusers
from undiffuse.pipeline.diffusers.folder import is_diffusers
from undiffuse.processes import ranks
from undiffuse.report.page import write_report
from undiffuse.sampling.job import Job
from undiffuse.train.job import Training
from undiffuse.train.quality import Quality
from undiffuse.train.starting import finetuned_config
from undiffuse.train.window import Report
from undiffuse.viz.of_model import write_neighbours, write_views


def demo(given: Demo) -> None:
    training = _started(config.load("digits"), given.out, "demo")
    run = training.run
    try:
        _train(training)
    except Interrupted as stop:
        raise Interrupted(f"{stop}, then: undiffuse evaluate {run.path}") from None
    print("measuring, on new samples", flush=True)
    result, closest = _evaluate_model(training.pipeline(), Evaluate(str(run.path)))
    print("\n".join([progress.table(result["metrics"]), *_keep(run, result, closest)]), flush=True)
    print(f"\nopen {run.path / 'report.html'} in a browser, or look at {run.samples / 'samples.png'}")


def train(given: Train) -> None:
    if given.resume and given.out is not None:
        training = Training.resume(given.out)
        step, more = training.trainer.step, f"undiffuse train --from {given.out} --set train.steps=N"
        is_over = bool(training.ended) or step >= training.config.train.steps
        if not is_over or not (given.out / "report.html").exists():
            _train(training)
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
    _train(_started(chosen, given.out, name, start))


def _started(chosen: config.Config, out: Path | None, name: str, start: Pipeline | None = None) -> Training:
    if chosen.train.minutes is not None and not ranks.rank():
        print(f"measuring how many steps fit into {chosen.train.minutes:g} minutes", flush=True)
    training = Training.start(chosen, out, name, start, functools.partial(progress.counted, "pictures read"))
    for note in training.notes if training.trainer.team.writes else ():
        print(note, flush=True)
    return training


def _train(training: Training) -> None:
    done, total, speaks = training.trainer.step, training.config.train.steps, training.trainer.team.writes
    if speaks:
        print(f"training into {training.run.path}" + (f", from step {done} of {total}" if done else ""), flush=True)
    with progress.progress("step", total, done) if speaks else nullcontext(None) as tell:
        for item in training:
            if tell is not None and isinstance(item, Report):
                tell(item.step, _of_report(item))
            elif tell is not None and isinstance(item, Quality):
                tell.note(f"step {item.step}/{total}  {item.said()}")
    pipe = training.pipeline()
    if speaks:
        report_path = _pictured(training, pipe)
        print("".join(f"{line}\n" for line in (training.ended, *_best(training)) if line), end="")
        print(f"pictures: {training.run.samples}\nreport: {report_path}", flush=True)


def _pictured(training: Training, pipe: Pipeline) -> Path:
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
    """Which checkpoint measured best, if that is not the last."""
    if not training.run.measured() or (best := training.run.best_step()) == training.trainer.step:
        return []
    return [f"best samples: step {best}; take them with --checkpoint best"]


def evaluate(given: Evaluate) -> None:
    if given.out is not None and given.out.suffix != ".json":
        raise UsageError(f"{given.out}: evaluate writes .json")
    what = _located(given.what)
    is_model = (what / "config.yaml").is_file() or is_diffusers(what)
    into_run = given.out is None and is_model and not is_bundled(what)
    if given.out is not None or into_run:
        check_file(given.out or RunFolder(what).evaluation)
    if is_model:
        ranks.warn_if_alone()
        device = given.device or ranks.own_device()
        pipe = Pipeline.load(what, given.weights or "ema", given.checkpoint or "last", device)
        pipe = pipe.configured(guidance=given.guidance, sampler=given.sampler, steps=given.steps)
        result, closest = _evaluate_model(pipe, given)
    else:
        result, closest = _evaluate_files(what, given), None
    places = _keep(RunFolder(what), result, closest) if into_run else []
    if given.out is not None:
        write_text(given.out, json.dumps(result, indent=1))
        places = [f"numbers: {given.out}"]
    print("\n".join([progress.table(result["metrics"]), *places]), flush=True)


def _located(what: str) -> Path:
    """A model's folder, or pictures."""
    if what in bundled_names():
        return locate_model(what)
    if not what.strip() or not Path(what).exists():
        raise UsageError(f"{what or 'an empty name'}: no such model or pictures; {nearest(what, bundled_names())}")
    return Path(what)


def convert(given: Convert) -> None:
    check_writable(given.out.parent)
    pipe = Pipeline.load(given.model, given.weights, given.checkpoint, "cpu")
    save_diffusers(pipe.config, pipe.denoiser, given.out)
    print(given.out)


def _keep(run: RunFolder, result: dict[str, Any], closest: evaluation.Neighbours | None) -> list[str]:
    """The run's own numbers: in its folder and in its report. Where they are, in words."""
    before = run.keep_evaluation(json.dumps(result, indent=1))
    said = [f"numbers: {run.evaluation}"] + ([] if before is None else [f"numbers before: {before}"])
    if is_diffusers(run.path):
        return said
    write_neighbours(run, closest)
    return [*said, f"report: {write_report(run.path)}"]


def _evaluate_model(pipe: Pipeline, given: Evaluate) -> tuple[dict[str, Any], evaluation.Neighbours | None]:
    everything = ranks.one_first(lambda: evaluation.real_images(pipe, given.data))
    indices = _classes(given.label, pipe, everything)
    label = None if indices is None else [everything.class_names[index] for index in indices]
    data = everything if label is None else everything.restricted(label)
    scored = everything if label is None else everything.scored(label)
    said = pipe.config.evaluate
    n = (said.n or evaluation.default_count(data)) if given.n is None else given.n
    names = evaluation.chosen(given.metrics, len(data.class_names) if pipe.class_names else 0, True, data, n)
    of_samples = [name for name in names if name not in evaluation.LIKELIHOODS]
    _check_likelihood(given, names, pipe.process.T)
    if given.n is not None and not of_samples:
        raise UsageError("-n counts samples, and these metrics need none: all held-out images are scored; leave it out")
    if given.mix is not None and given.mix not in config.MIXES:
        raise UsageError(f"--mix {given.mix}: {nearest(given.mix, [*config.MIXES])}")
    repeats = said.repeats if given.repeats is None else given.repeats
    if n < 2 or repeats < 1:
        raise UsageError(f"-n must be at least 2 and --repeats at least 1, got {n} and {repeats}")
    real = Real.of(data, said.features if given.features is None else given.features)
    first = given.seed or 0
    seeds = range(first, first + repeats)
    samples: AbstractContextManager[list[Samples]] = nullcontext([])
    mix = data.shares(given.mix or said.mix) if pipe.class_names else None
    if indices is None and 0 < len(data.class_names) < len(pipe.class_names):  # of an imported model, by number
        indices = [*range(len(data.class_names))]
    classes = None if indices is None else [pipe.class_names[index] for index in indices]
    if of_samples:
        samples = drawing.of_model(pipe, n, seeds, data.levels, classes, _of_seed, mix)
    with samples as sets:
        if ranks.rank():  # process 0 measures what all have drawn
            raise SystemExit
        protocol = evaluation.model_protocol(pipe, seeds, given.weights or "ema", given.checkpoint or "last", mix)
        protocol |= {} if label is None else {"classes": list(data.class_names)}
        result = evaluation.measure(sets, real, of_samples, protocol)
        for name in names:
            if name in evaluation.LIKELIHOODS:
                estimate, parts = _likelihood(name, pipe, scored, given)
                result["metrics"][name], result["protocol"][name] = estimate.as_dict(), parts
        return result, evaluation.neighbours(sets, real, result)


def _of_seed(job: Job) -> None:
    progress.drawing(job, f"seed {job.request.seed}: image")


def _classes(text: str | None, pipe: Pipeline, data: Dataset) -> list[int] | None:
    """The indices of the classes asked for, in the data's order."""
    if (names := listed(text)) is None:
        return None
    indices = pipe.labels(range(len(names)), names)
    assert indices is not None  # or labels.of_rows has refused
    found = sorted(set(indices.tolist()))
    if found[-1] >= len(data.class_names):
        raise UsageError(f"--label {text}: {data.name} has no class {found[-1]} to compare with")
    return found


def _check_likelihood(given: Evaluate, names: list[str], T: int | None) -> None:
    """Options of likelihoods make sense, and are for what was asked: before the work, not after."""
    if given.times is not None and "bpd" not in names:
        raise UsageError("--times is for bpd: add --metrics bpd, or leave it out")
    if given.times is not None and T is not None and not 1 <= given.times <= T:
        raise UsageError(f"--times must lie between 1 and T = {T}, got {given.times}")
    if given.dequantise is not None and "bpd_ode" not in names:
        raise UsageError("--dequantise is for bpd_ode: add --metrics bpd_ode, or leave it out")
    if given.dequantise is not None:
        ode.check_dequantisation(given.dequantise)


def _likelihood(name: str, pipe: Pipeline, data: Dataset, given: Evaluate) -> tuple[Estimate, dict[str, Any]]:
    count = len(data.held_out)
    if name == "bpd":
        watch = functools.partial(
            progress.track, "term of the bound", total=-(-count // BOUND_BLOCK) * (given.times or pipe.process.T)
        )
        return evaluation.likelihood(pipe, data, given.times, given.seed or 0, watch)
    total = -(-count // ode.FLOW_BLOCK) * evaluation.ODE_STEPS
    passes = iter((("step of the ODE", total), ("half as many steps, to compare:", total // 2)))

    def each(items: Iterable[Any]) -> Iterable[Any]:
        what, steps = next(passes)
        return progress.track(what, items, steps)

    return evaluation.ode_likelihood(
        pipe, data, "noise" if given.dequantise is None else given.dequantise, given.seed or 0, each
    )


def _evaluate_files(path: Path, given: Evaluate) -> dict[str, Any]:
    if not path.is_dir() and path.suffix.lower() != ".npz":
        raise UsageError(f"{path}: cannot read pictures from this; give a model, an .npz or a folder of PNG files")
    if given.data is None:
        raise UsageError("say which real images to compare with, for example: --data digits")
    sampling = ("n", "repeats", "label", "mix", "guidance", "sampler", "steps", "seed")
    for name in (*sampling, "weights", "checkpoint", "device"):
        if getattr(given, name) is not None:
            raise UsageError(f"{'-' * (1 + (name != 'n'))}{name} is for a model, these are pictures; leave it out")
    data = load_data(given.data)
    samples = evaluation.of_files(path, data)
    classes = 0 if samples.labels is None else len(set(samples.labels.tolist()))
    names = evaluation.chosen(given.metrics, classes, False, data, len(samples.images))
    _check_likelihood(given, names, None)
    real = Real.of(data, "pixels" if given.features is None else given.features)
    return evaluation.measure([samples], real, names, {"images": path.name})
