"""evaluate: numbers with an error."""

import json
from pathlib import Path

from undiffuse.cli.options import EvaluateOptions
from undiffuse.cli.progress import show, table
from undiffuse.errors import UsageError, nearest
from undiffuse.evaluation import run as evaluation
from undiffuse.evaluation.result import Evaluation
from undiffuse.files.run import RunFolder
from undiffuse.files.writing import check_file, write_text
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.bundled import bundled_names, is_bundled, locate_model
from undiffuse.pipeline.diffusers.folder import is_diffusers
from undiffuse.pipeline.labels import named_labels
from undiffuse.processes import ranks
from undiffuse.report.page import write_report
from undiffuse.report.pictures import write_neighbours

OF_MODELS = ("n", "repeats", "label", "mix", "guidance", "sampler", "steps", "seed", "times", "dequantise")
OF_LOADING = ("weights", "checkpoint", "device")


def evaluate(given: EvaluateOptions) -> None:
    if given.out is not None and given.out.suffix != ".json":
        raise UsageError(f"{given.out}: evaluate writes .json")
    what = _locate(given.what)
    is_model = (what / "config.yaml").is_file() or is_diffusers(what)
    into_run = given.out is None and is_model and not is_bundled(what)
    if given.out is not None or into_run:
        check_file(given.out or RunFolder(what).evaluation)
    found = _of_model(what, given) if is_model else _of_images(what, given)
    if ranks.rank():
        return
    places = keep_evaluation(RunFolder(what), found) if into_run else []
    if given.out is not None:
        write_text(given.out, json.dumps(found.as_dict(), indent=1))
        places = [f"numbers: {given.out}"]
    print("\n".join([table(found.metrics), *places]), flush=True)


def keep_evaluation(run: RunFolder, found: Evaluation) -> list[str]:
    """Write the run's own numbers into its folder and its report. Where they are, in words."""
    before = run.keep_evaluation(json.dumps(found.as_dict(), indent=1))
    lines = [f"numbers: {run.evaluation}"] + ([] if before is None else [f"numbers before: {before}"])
    if is_diffusers(run.path):
        return lines
    write_neighbours(run, found.neighbours)
    return [*lines, f"report: {write_report(run.path)}"]


def _locate(what: str) -> Path:
    """A model's folder, or pictures."""
    if what in bundled_names():
        return locate_model(what)
    if not what.strip() or not Path(what).exists():
        raise UsageError(f"{what or 'an empty name'}: no such model or pictures; {nearest(what, bundled_names())}")
    return Path(what)


def _of_model(path: Path, given: EvaluateOptions) -> Evaluation:
    ranks.warn_if_alone()
    device = given.device or ranks.own_device()
    weights = "ema" if given.weights is None else given.weights
    checkpoint = "last" if given.checkpoint is None else given.checkpoint
    pipe = Pipeline.load(path, weights, checkpoint, device)
    pipe = pipe.configured(guidance=given.guidance, sampler=given.sampler, steps=given.steps)
    first, repeats = given.seed or 0, given.repeats or pipe.config.evaluate.repeats
    return evaluation.evaluate(
        pipe,
        data=given.data,
        metrics=given.metrics,
        n=given.n,
        seeds=range(first, first + repeats),
        classes=named_labels(given.label, pipe.class_names),
        mix=given.mix,
        features=given.features,
        times=given.times,
        dequantise=given.dequantise,
        watch=show,
    )


def _of_images(path: Path, given: EvaluateOptions) -> Evaluation:
    if not path.is_dir() and path.suffix.lower() != ".npz":
        raise UsageError(f"{path}: cannot read pictures from this; give a model, an .npz or a folder of PNG files")
    if given.data is None:
        raise UsageError("say which real images to compare with, for example: --data digits")
    for name in (*OF_MODELS, *OF_LOADING):
        if getattr(given, name) is not None:
            raise UsageError(f"{'-' * (1 + (name != 'n'))}{name} is for a model, these are pictures; leave it out")
    features = "pixels" if given.features is None else given.features
    return evaluation.evaluate_images(path, given.data, metrics=given.metrics, features=features)
