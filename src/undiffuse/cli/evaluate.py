"""evaluate: numbers with an error."""

import functools
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from undiffuse import config
from undiffuse.cli.options import EvaluateOptions, listed
from undiffuse.cli.progress import draw_job, table, track
from undiffuse.cli.train import _keep
from undiffuse.data.dataset import Dataset
from undiffuse.data.prepare import load_data
from undiffuse.diffusion import ode
from undiffuse.diffusion.bound import BOUND_BLOCK
from undiffuse.errors import UsageError, nearest
from undiffuse.evaluation.choice import LIKELIHOODS, choose_metrics
from undiffuse.evaluation.drawing import drawn_samples
from undiffuse.evaluation.likelihood import ODE_STEPS, measure_bound, measure_flow
from undiffuse.evaluation.real import RealImages, reference_data
from undiffuse.evaluation.run import Neighbours, default_count, measure, model_protocol, neighbours
from undiffuse.evaluation.samples import Samples, samples_of_files
from undiffuse.files.run import RunFolder
from undiffuse.files.writing import check_file, write_text
from undiffuse.metrics.base import Estimate
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.bundled import bundled_names, is_bundled, locate_model
from undiffuse.pipeline.diffusers.folder import is_diffusers
from undiffuse.processes import ranks
from undiffuse.sampling.job import Job


def evaluate(given: EvaluateOptions) -> None:
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
    print("\n".join([table(result["metrics"]), *places]), flush=True)


def _located(what: str) -> Path:
    """A model's folder, or pictures."""
    if what in bundled_names():
        return locate_model(what)
    if not what.strip() or not Path(what).exists():
        raise UsageError(f"{what or 'an empty name'}: no such model or pictures; {nearest(what, bundled_names())}")
    return Path(what)


def _evaluate_model(pipe: Pipeline, given: EvaluateOptions) -> tuple[dict[str, Any], Neighbours | None]:
    everything = ranks.one_first(lambda: reference_data(pipe, given.data))
    indices = _classes(given.label, pipe, everything)
    label = None if indices is None else [everything.class_names[index] for index in indices]
    data = everything if label is None else everything.restricted(label)
    scored = everything if label is None else everything.scored(label)
    said = pipe.config.evaluate
    n = (said.n or default_count(data)) if given.n is None else given.n
    names = choose_metrics(given.metrics, len(data.class_names) if pipe.class_names else 0, True, data, n)
    of_samples = [name for name in names if name not in LIKELIHOODS]
    _check_likelihood(given, names, pipe.process.T)
    if given.n is not None and not of_samples:
        raise UsageError("-n counts samples, and these metrics need none: all held-out images are scored; leave it out")
    if given.mix is not None and given.mix not in config.MIXES:
        raise UsageError(f"--mix {given.mix}: {nearest(given.mix, [*config.MIXES])}")
    repeats = said.repeats if given.repeats is None else given.repeats
    if n < 2 or repeats < 1:
        raise UsageError(f"-n must be at least 2 and --repeats at least 1, got {n} and {repeats}")
    real = RealImages.of(data, said.features if given.features is None else given.features)
    first = given.seed or 0
    seeds = range(first, first + repeats)
    samples: AbstractContextManager[list[Samples]] = nullcontext([])
    mix = data.shares(given.mix or said.mix) if pipe.class_names else None
    if indices is None and 0 < len(data.class_names) < len(pipe.class_names):  # of an imported model, by number
        indices = [*range(len(data.class_names))]
    classes = None if indices is None else [pipe.class_names[index] for index in indices]
    if of_samples:
        samples = drawn_samples(pipe, n, seeds, data.levels, classes, _of_seed, mix)
    with samples as sets:
        if ranks.rank():  # process 0 measures what all have drawn
            raise SystemExit
        protocol = model_protocol(pipe, seeds, given.weights or "ema", given.checkpoint or "last", mix)
        protocol |= {} if label is None else {"classes": list(data.class_names)}
        result = measure(sets, real, of_samples, protocol)
        for name in names:
            if name in LIKELIHOODS:
                estimate, parts = _likelihood(name, pipe, scored, given)
                result["metrics"][name], result["protocol"][name] = estimate.as_dict(), parts
        return result, neighbours(sets, real, result)


def _of_seed(job: Job) -> None:
    draw_job(job, f"seed {job.request.seed}: image")


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


def _check_likelihood(given: EvaluateOptions, names: list[str], T: int | None) -> None:
    """Options of likelihoods make sense, and are for what was asked: before the work, not after."""
    if given.times is not None and "bpd" not in names:
        raise UsageError("--times is for bpd: add --metrics bpd, or leave it out")
    if given.times is not None and T is not None and not 1 <= given.times <= T:
        raise UsageError(f"--times must lie between 1 and T = {T}, got {given.times}")
    if given.dequantise is not None and "bpd_ode" not in names:
        raise UsageError("--dequantise is for bpd_ode: add --metrics bpd_ode, or leave it out")
    if given.dequantise is not None:
        ode.check_dequantisation(given.dequantise)


def _likelihood(name: str, pipe: Pipeline, data: Dataset, given: EvaluateOptions) -> tuple[Estimate, dict[str, Any]]:
    count = len(data.held_out)
    if name == "bpd":
        watch = functools.partial(
            track, "term of the bound", total=-(-count // BOUND_BLOCK) * (given.times or pipe.process.T)
        )
        return measure_bound(pipe, data, given.times, given.seed or 0, watch)
    total = -(-count // ode.FLOW_BLOCK) * ODE_STEPS
    passes = iter((("step of the ODE", total), ("half as many steps, to compare:", total // 2)))

    def each(items: Iterable[Any]) -> Iterable[Any]:
        what, steps = next(passes)
        return track(what, items, steps)

    return measure_flow(pipe, data, "noise" if given.dequantise is None else given.dequantise, given.seed or 0, each)


def _evaluate_files(path: Path, given: EvaluateOptions) -> dict[str, Any]:
    if not path.is_dir() and path.suffix.lower() != ".npz":
        raise UsageError(f"{path}: cannot read pictures from this; give a model, an .npz or a folder of PNG files")
    if given.data is None:
        raise UsageError("say which real images to compare with, for example: --data digits")
    sampling = ("n", "repeats", "label", "mix", "guidance", "sampler", "steps", "seed")
    for name in (*sampling, "weights", "checkpoint", "device"):
        if getattr(given, name) is not None:
            raise UsageError(f"{'-' * (1 + (name != 'n'))}{name} is for a model, these are pictures; leave it out")
    data = load_data(given.data)
    samples = samples_of_files(path, data)
    classes = 0 if samples.labels is None else len(set(samples.labels.tolist()))
    names = choose_metrics(given.metrics, classes, False, data, len(samples.images))
    _check_likelihood(given, names, None)
    real = RealImages.of(data, "pixels" if given.features is None else given.features)
    return measure([samples], real, names, {"images": path.name})
