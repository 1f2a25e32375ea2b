"""A model or pictures in, an Evaluation out: what `undiffuse evaluate` and `undiffuse.evaluate` do."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse import __version__
from undiffuse.config import MIXES
from undiffuse.data.dataset import Dataset
from undiffuse.data.prepare import load_reference
from undiffuse.errors import UsageError, nearest, whole_number
from undiffuse.evaluation import measures
from undiffuse.evaluation.choice import LIKELIHOODS, choose_metrics
from undiffuse.evaluation.drawing import drawn_samples
from undiffuse.evaluation.likelihood import check_likelihood, measure_model
from undiffuse.evaluation.measures import MEASURES
from undiffuse.evaluation.real import MOST_SAMPLES, MeasureWarning, RealImages, reference_data
from undiffuse.evaluation.result import Evaluation, Neighbours
from undiffuse.evaluation.samples import Samples, check_alike, samples_of_files, samples_of_tensor, to_grid
from undiffuse.images import to_hwc
from undiffuse.metrics.base import Estimate
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.labels import listed_labels
from undiffuse.processes import ranks
from undiffuse.sampling.request import MOST_IMAGES
from undiffuse.shapes import Tensor, Watch, unwatched


def evaluate(  # noqa: PLR0913  (a keyword for each option of the command)
    pipe: Pipeline,
    *,
    data: Dataset | str | None = None,
    metrics: Sequence[str] | str | None = None,
    n: int | None = None,
    seeds: Sequence[int] | None = None,
    classes: Sequence[str | int] | None = None,
    mix: str | None = None,
    features: str | None = None,
    times: int | None = None,
    dequantise: str | None = None,
    watch: Watch = unwatched,
) -> Evaluation:
    """Draw samples from a model and measure them beside held-out images, as `undiffuse evaluate` does.

    data: the real images, a Dataset or the name of one; the model's own by default. metrics: names, or several in one
    string with commas; "all" is every measure of samples; "bpd" and "bpd_ode" score the model itself. n: samples for
    each of `seeds`. classes: only these. mix: how often each class is drawn, "auto", "even" or "train"
    (Dataset.shares). features: of the Frechet distance and its like. times: for bpd, how many of the T terms to draw
    for each image. dequantise: for bpd_ode, "noise" or "uniform". What is None is the model's own setting, or the
    default of docs/evaluation.md. watch: is told of the images and network calls to come.

    Processes that a launcher started share the drawing, and each gets the result. Raises UsageError for what makes no
    sense, before anything is drawn where it can be told by then.
    """
    _check_kinds(pipe, data, watch, mix=mix, features=features, dequantise=dequantise)
    n, times = (None if value is None else whole_number(what, value) for what, value in (("n", n), ("times", times)))
    settings = pipe.config.evaluate
    scope = _Scope.of(pipe, ranks.one_first(lambda: reference_data(pipe, data)), classes)
    count = (settings.n or default_count(scope.compared)) if n is None else n
    seeds = range(settings.repeats) if seeds is None else _seeds(seeds)
    names = choose_metrics(metrics, scope.class_count, True, scope.compared, count)
    check_likelihood(names, pipe.process.T, times, dequantise)
    of_samples = [name for name in names if name not in LIKELIHOODS]
    _check_drawing(n, count, seeds, mix, of_samples)
    real = RealImages.of(scope.compared, settings.features if features is None else features)
    shares = scope.compared.shares(mix or settings.mix) if pipe.class_names else None
    protocol = model_protocol(pipe, seeds, shares) | scope.protocol()

    def measured(sets: list[Samples]) -> Evaluation:
        of_model = measure_model(pipe, scope.scored, names, times, dequantise, seed=seeds[0], watch=watch)
        return measure(sets, real, of_samples, protocol, of_model)

    if not of_samples:
        return ranks.from_first(lambda: measured([]))
    drawn, levels = scope.drawn, scope.compared.levels
    with drawn_samples(pipe, count, seeds=seeds, levels=levels, classes=drawn, shares=shares, watch=watch) as sets:
        return ranks.from_first(lambda: measured(sets))


def evaluate_images(
    images: Samples | Tensor | np.ndarray | str | Path,
    data: Dataset | str,
    *,
    labels: Tensor | Sequence[int] | None = None,
    metrics: Sequence[str] | str | None = None,
    features: str = "pixels",
) -> Evaluation:
    """Measure pictures beside held-out images of a data set, as `undiffuse evaluate IMAGES --data NAME` does.

    images: a tensor or array float32 [n, c, h, w] in [-1, 1], with `labels` (class indices) if it has them; an .npz or
    a folder of PNG files, which bring their own; or Samples. metrics, features: as of `evaluate`, without bpd and
    bpd_ode.
    Raises UsageError and UndiffuseError for pictures that cannot be compared with these.
    """
    if isinstance(data, str):
        data = load_reference(data)
    if not isinstance(data, Dataset):
        raise UsageError(f"data is a Dataset or the name of one, not {repr(data)[:40]}")
    if not isinstance(features, str):
        raise UsageError(f"features is a name, not {repr(features)[:40]}")
    if labels is not None and not isinstance(images, Tensor | np.ndarray):
        raise UsageError("labels go with a tensor of images; files and Samples have their own, so leave them out")
    protocol, samples = _given_samples(images, labels, data)
    classes = 0 if samples.labels is None else len(set(samples.labels.tolist()))
    names = choose_metrics(metrics, classes, False, data, len(samples.images))
    return measure([samples], RealImages.of(data, features), names, protocol)


def _given_samples(images: Any, labels: Any, data: Dataset) -> tuple[dict[str, Any], Samples]:
    """What evaluate_images was given, and how the protocol calls it."""
    if isinstance(images, str | Path) and str(images).strip():
        return {"images": Path(images).name}, samples_of_files(Path(images), data)
    if isinstance(images, Samples):
        check_alike(images, data)
        return {"images": "Samples"}, images
    if isinstance(images, Tensor | np.ndarray):
        return {"images": "a tensor"}, samples_of_tensor(images, labels, data)
    kinds = "a tensor or array [n, c, h, w], a file, a folder, or Samples"
    raise UsageError(f"images are {kinds}, not {repr(images)[:40]}")


@dataclass(frozen=True)
class _Scope:
    """What a model is compared with: the images of all its classes, or of some.

    compared: real images beside which samples are measured, their classes re-indexed. scored: those that the model's
    own likelihood is of, under the indices it knows. drawn: the classes of the samples, None for all of the model's.
    """

    compared: Dataset
    scored: Dataset
    drawn: list[str] | None
    chosen: bool
    class_count: int

    @classmethod
    def of(cls, pipe: Pipeline, data: Dataset, classes: Sequence[str | int] | None) -> "_Scope":
        indices, compared, scored = _class_indices(classes, pipe, data), data, data
        if indices is not None:
            names = [data.class_names[index] for index in indices]
            compared, scored = data.restricted(names), data.scored(names)
        elif 0 < len(data.class_names) < len(pipe.class_names):  # of an imported model, by number
            indices = [*range(len(data.class_names))]
        drawn = None if indices is None else [pipe.class_names[index] for index in indices]
        count = len(compared.class_names) if pipe.class_names else 0
        return cls(compared, scored, drawn, classes is not None, count)

    def protocol(self) -> dict[str, Any]:
        return {"classes": list(self.compared.class_names)} if self.chosen else {}


def _class_indices(classes: Sequence[str | int] | None, pipe: Pipeline, data: Dataset) -> list[int] | None:
    """The classes asked for, in the data's order."""
    if classes is None:
        return None
    wanted = listed_labels(classes)
    indices = pipe.labels(range(max(1, len(wanted))), wanted)
    assert indices is not None  # or labels_of_rows has refused
    found = sorted(set(indices.tolist()))
    if found[-1] >= len(data.class_names):
        raise UsageError(f"{data.name} has no class {found[-1]} to compare with; ask for others")
    return found


def _check_kinds(pipe: Any, data: Any, watch: Any, **names: Any) -> None:
    """Refuse things of another kind, each by its name."""
    if not isinstance(pipe, Pipeline):
        raise UsageError(f"evaluate takes a Pipeline, such as Pipeline.load('digits'), not {repr(pipe)[:40]}")
    if not isinstance(data, Dataset | str | None):
        raise UsageError(f"data is a Dataset or the name of one, not {repr(data)[:40]}")
    if not callable(watch):
        raise UsageError(f"watch is a function of (items, total, what), not {repr(watch)[:40]}; leave it out for none")
    for name, value in names.items():
        if not isinstance(value, str | None):
            raise UsageError(f"{name} is a name, not {repr(value)[:40]}")


def _seeds(seeds: Iterable[Any]) -> list[int]:
    """Whole numbers, each once: a seed that stands twice draws the same images."""
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Iterable):
        raise UsageError(f"seeds are several whole numbers, as in [0, 1], not {repr(seeds)[:40]}")
    found = [whole_number("a seed", seed) for seed in seeds]
    if twice := sorted({seed for seed in found if found.count(seed) > 1}):
        raise UsageError(f"seeds: {twice[0]} stands twice, and draws the same images; leave it out once")
    return found


def _check_drawing(n: int | None, count: int, seeds: Sequence[int], mix: str | None, of_samples: Sequence[str]) -> None:
    """Refuse counts and a mix that make no sense: before the work, not after."""
    if n is not None and not of_samples:
        raise UsageError("n counts samples, and these metrics need none: all held-out images are scored; leave it out")
    if count > MOST_IMAGES:
        raise UsageError(f"n is at most {MOST_IMAGES:,}, not {count:,}")
    if mix is not None and mix not in MIXES:
        raise UsageError(f"mix {mix}: {nearest(mix, [*MIXES])}")
    if count < 2 or not seeds:
        raise UsageError(f"n must be at least 2 and seeds at least 1, got {count} and {len(seeds)}")


def default_count(data: Dataset) -> int:
    """The default number of samples: as many as there are train images, at most 5,000, rounded up so that every class
    gets the same number."""
    classes = max(len(data.class_names), 1)
    return -(-min(len(data.train) or len(data.held_out), MOST_SAMPLES) // classes) * classes


def measure(
    sets: Sequence[Samples],
    real: RealImages,
    names: Sequence[str],
    protocol: Mapping[str, Any],
    of_model: Mapping[str, Estimate] = {},
) -> Evaluation:
    """Take these measures of sets of samples. protocol: how they were drawn; of_model: measures of the model itself."""
    _warn_of_few_to_train_on(len(sets[0].images) if sets else 0, real.data, names)
    found, data = {name: MEASURES[name](sets, real) for name in names} | dict(of_model), real.data
    ours = {
        "data": data.name,
        "reference": "held-out images" if len(data.train) else "all images",
        "real_train": len(data.train),
        "real_held_out": len(data.held_out),
        "generated": [len(s.images) for s in sets],
        "real_in_their_place": min(len(sets[0].images), len(data.train)) if sets else 0,
        "rounding": f"to the data's own {data.levels} levels",
        **real.features.says,
        "classifier": "SVC(gamma=0.064 / number of pixels) on pixels scaled to 0..16",
        "undiffuse": __version__,
    }
    says = {name: estimate.says for name, estimate in found.items() if estimate.says}
    by_class = measures.per_class(sets, real, names)
    return Evaluation(found, by_class, ours | dict(protocol) | says, _neighbours(sets, real, says.get("memorisation")))


def _warn_of_few_to_train_on(n: int, data: Dataset, names: Sequence[str]) -> None:
    """Warn where there are more samples than train images: like is then not compared with like."""
    spoilt = [name for name in ("frechet", "train_on_generated") if name in names]
    rounded_up = len(data.train) + len(data.class_names)  # as the default is, to equal numbers of each class
    if n > rounded_up and len(data.train) and spoilt:
        warnings.warn(
            f"{n:,} samples beside {len(data.train):,} real images, all there are to train on: {' and '.join(spoilt)} "
            f"depend on how many there are, so for the column of real images take -n {len(data.train)}",
            MeasureWarning,
            stacklevel=3,
        )


def _neighbours(sets: Sequence[Samples], real: RealImages, recorded: dict[str, Any] | None) -> Neighbours | None:
    """The pairs that memorisation tells in the protocol, as pictures; None if it was not measured."""
    if recorded is None:
        return None
    closest, data = recorded["closest"], real.data
    drawn = torch.cat([sets[i].images[[j]] for i, j in zip(closest["set"], closest["sample"], strict=True)])
    return Neighbours(
        to_hwc(to_grid(drawn, data)),
        to_hwc(data.train.images(np.array(closest["train image"]))),
        to_hwc(data.held_out.images(np.array(closest["held-out image"]))),
        closest["distance"],
        closest["held-out distance"],
    )


def model_protocol(pipe: Pipeline, seeds: Sequence[int], shares: list[int] | None = None) -> dict[str, Any]:
    """The part of a protocol that says how a model's samples are drawn."""
    mix = {} if shares is None else {"class_mix": "as among the train images"}
    of_pipe = {"seeds": list(seeds), "weights": pipe.weights, "checkpoint": pipe.checkpoint}
    return of_pipe | mix | pipe.config.sample.model_dump()
