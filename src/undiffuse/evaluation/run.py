"""Samples in, numbers out: what `undiffuse evaluate` measures, with its protocol."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse import __version__, images
from undiffuse.data.dataset import Dataset
from undiffuse.data.generated import in_channels, read_images
from undiffuse.data.prepare import load_data
from undiffuse.diffusion.bound import Bits, mean_and_error
from undiffuse.errors import UndiffuseError, UsageError, nearest
from undiffuse.evaluation import measures
from undiffuse.evaluation.measures import (
    METRICS,
    NEED_CLASSES,
    NEED_CLASSIFIER,
    NEED_EITHER,
    NEED_LABELS,
    NEED_NEIGHBOURS,
)
from undiffuse.evaluation.real import MOST, OfLevels, Real, Samples, on_grid
from undiffuse.metrics.base import Estimate
from undiffuse.metrics.classifier import shipped_for
from undiffuse.metrics.manifold import K_DENSITY
from undiffuse.pipeline import Pipeline, build
from undiffuse.shapes import Images, Labels

ODE_STEPS = 50
Watch = Callable[[Iterator[Any]], Iterable[Any]]


DEFAULT = tuple(name for name in METRICS if name != "inception_score")  # which label_accuracy says better
LIKELIHOODS = ("bpd", "bpd_ode")  # measures of the model itself, not of its samples
ALIASES = {
    "fid": "FID is frechet with --features inception",
    "fd": "the Frechet distance is frechet",
    "is": "the Inception Score is inception_score",
    "nll": "bits per dimension are bpd and bpd_ode",
}


def chosen(names: str | None, classes: int, model: bool, data: Dataset, n: int = MOST) -> list[str]:
    """The measures asked for, comma-separated, where `all` is all of samples; by default those of DEFAULT.

    What nobody named is left out where n samples of so many classes (0: no labels) do not allow it. model: there is
    one.
    """
    allowed = [name for name in METRICS if name not in _not_allowed(classes, data, n)]
    if names is None:
        return [name for name in DEFAULT if name in allowed]
    known = [*METRICS, *LIKELIHOODS, "all"]
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in wanted:
        if name not in known:
            raise UsageError(f"unknown metric '{name}'; {ALIASES.get(name.lower()) or nearest(name, known)}")
    if not wanted:
        raise UsageError(f"an empty list of metrics; known: {', '.join(known)}")
    for name in LIKELIHOODS:
        if name in wanted and not model:
            raise UsageError(f"{name} is a property of a model, not of its pictures; give the model's folder")
    return list(dict.fromkeys(each for name in wanted for each in (allowed if name == "all" else [name])))


def _not_allowed(classes: int, data: Dataset, n: int) -> set[str]:
    judged = shipped_for(data.shape, data.class_names) is not None
    enough = min(n, len(data.train), len(data.held_out)) > K_DENSITY
    rules = (
        (classes > 0, NEED_LABELS),
        (classes > 1, NEED_CLASSES),
        (judged, NEED_CLASSIFIER),
        (judged or classes > 1, NEED_EITHER),
        (enough, NEED_NEIGHBOURS),
    )
    return {name for holds, names in rules if not holds for name in names}


def likelihood(
    pipe: Pipeline, data: Dataset, times: int | None, seed: int, watch: Watch = iter
) -> tuple[Estimate, dict[str, Any]]:
    """Bits per dimension of the held-out images, and what it is made of, each with its standard error."""
    images, label = _scored(pipe, data)
    bits = on_its_grid(pipe, data).bound(images, label, times, seed, watch)
    value, stderr = bits.mean()
    return Estimate(value, stderr, None, "bits per dimension", len(images)), _parts(bits) | {
        "labels": "given" if label is not None else "none",
        "times_per_image": bits.terms.shape[1],
        "T": bits.T,
        "grid": f"{data.levels} levels",
        "variance": pipe.process.variance,
    }


def ode_likelihood(
    pipe: Pipeline, data: Dataset, dequantise: str, seed: int, watch: Watch = iter
) -> tuple[Estimate, dict[str, Any]]:
    """The same by the probability-flow ODE."""
    images, label = _scored(pipe, data)
    flow, coarse = (
        on_its_grid(pipe, data).ode_likelihood(images, label, steps, dequantise, seed, watch)
        for steps in (ODE_STEPS, ODE_STEPS // 2)
    )
    value, stderr = flow.mean()
    return Estimate(value, stderr, None, "bits per dimension", len(images)), {
        "labels": "given" if label is not None else "none",
        "solver": f"Runge-Kutta of order 4, {flow.steps} steps uniform in half_log_snr from t = 1 to {pipe.process.T}",
        "with half the steps": coarse.mean()[0],
        "trace": "one vector of random signs for each image (Hutchinson)",
        "dequantisation": dequantise,
        "clip": pipe.config.sample.clip and dequantise == "noise",
        "grid": f"{data.levels} levels",
    }


def _scored(pipe: Pipeline, data: Dataset) -> tuple[Images, Labels | None]:
    return data.held_out.images(), data.held_out.labels if pipe.class_names else None


def _parts(bits: Bits) -> dict[str, Any]:
    """L_T, and L_0 apart from the rest where every time was taken."""
    parts = {"L_T": bits.prior}
    if bits.terms.shape[1] == bits.T:
        parts |= {"L_0": bits.terms[:, 0], "L_1..L_T-1": bits.terms[:, 1:].sum(1)}
    return {name: dict(zip(("value", "stderr"), mean_and_error(x), strict=True)) for name, x in parts.items()}


def real_images(pipe: Pipeline, source: str | None) -> Dataset:
    """The model's own data set, or another of the same shape."""
    if source is None and _is_imported(pipe):
        raise UsageError("say which real images to compare this model with, for example: --data digits")
    try:
        data = build.dataset(pipe.config) if source is None else _prepared_alike(pipe, source)
    except UsageError as error:
        raise UsageError(f"{error}" + ("" if source else "; or say where its pictures are with --data")) from None
    if source is None and not build.is_same_data(pipe.config, data):
        warnings.warn(
            f"the pictures of {data.name} are not those that this model was trained on: 'held out' and memorisation "
            "may mean something else",
            measures.MeasureWarning,
            stacklevel=2,
        )
    if data.shape != pipe.shape:
        raise UsageError(f"--data {source}: images of {list(data.shape)}, but the model draws {list(pipe.shape)}")
    known = pipe.class_names
    alike = len(data.class_names) <= len(known) if _is_imported(pipe) else data.class_names == known
    if known and not alike:  # an imported model's classes have numbers, not names
        raise UsageError(
            f"--data {source}: its classes are {_first(data.class_names)}, the model's are {_first(known)}, so labels "
            "mean something else; leave --data out"
        )
    return data


def _prepared_alike(pipe: Pipeline, source: str) -> Dataset:
    """Another source by the model's own policy: size, channels, background and what to do with bad pictures; a file or
    folder named as the model's own, so the same in another place, also by its choice of pictures and labels.
    """
    if _is_imported(pipe):
        return load_data(source)
    own = Path(source).name == Path(pipe.config.data.source).name
    facts = ("levels", "shape", "classes", "content", *(() if own else ("select", "labels", "label_key", "limit")))
    return build.dataset(pipe.config.replaced({f"data.{key}": None for key in facts} | {"data.source": source}))


def on_its_grid(pipe: Pipeline, data: Dataset) -> Pipeline:
    """An imported model does not know what grid its data had: that of the images it is scored on."""
    if not _is_imported(pipe):
        return pipe
    return replace(pipe, config=pipe.config.replaced({"data.levels": data.levels}))


def _is_imported(pipe: Pipeline) -> bool:
    return pipe.config.data.source == "imported"


def _first(names: Sequence[str]) -> str:
    return (", ".join(names[:4]) or "none") + (f" ... ({len(names)})" if len(names) > 4 else "")


def default_count(data: Dataset) -> int:
    """As many as there are train images, at most 5,000, rounded up so that every class gets the same number."""
    classes = max(len(data.class_names), 1)
    return -(-min(len(data.train), MOST) // classes) * classes


def of_files(path: Path, data: Dataset) -> Samples:
    """Pictures that someone wrote, as `undiffuse sample` does; at least 2, of the data's shape."""
    pictures, labels = read_images(path)
    if len(pictures) < 2:
        raise UndiffuseError(f"{path}: pictures to measure: {len(pictures)}, and at least 2 are needed")
    shape = (pictures.shape[3], *pictures.shape[1:3])
    alike = in_channels(pictures, data.shape[0])
    if alike is None or shape[1:] != data.shape[1:]:
        raise UndiffuseError(
            f"{path}: pictures are {_size(shape)} but {data.name} is {_size(data.shape)}; save them with its size and "
            "colours, without transparency, or give other --data"
        )
    known = torch.from_numpy(labels)
    if ((known < -1) | (known >= len(data.class_names))).any():
        raise UndiffuseError(f"{path}: a label lies outside the {len(data.class_names)} classes of {data.name}")
    if 0 < (without := int((known < 0).sum())) < len(known):
        raise UndiffuseError(
            f"{path}: {without} of {len(known)} pictures have no label (-1); give it to all, or to none"
        )
    return Samples(OfLevels(alike), known if not without else None)


def measure(sets: Sequence[Samples], real: Real, names: Iterable[str], protocol: dict[str, Any]) -> dict[str, Any]:
    """{"metrics": {name: {value, stderr, floor, unit, n}}, "protocol": {...}}: what is written as JSON.

    Between them, where there are several classes, "per_class": {name: {class: {value, stderr, floor, unit, n}}}.
    """
    names = list(names)
    _warn_of_few_to_train_on(len(sets[0].images) if sets else 0, real.data, names)
    found, data = {name: METRICS[name](sets, real) for name in names}, real.data
    ours = {
        "data": data.name,
        "reference": "held-out images",
        "real_train": len(data.train),
        "real_held_out": len(data.held_out),
        "generated": [len(s.images) for s in sets],
        "real_in_their_place": min(len(sets[0].images), len(data.train)) if sets else 0,
        "rounding": f"to the data's own {data.levels} levels",
        **real.features.says,
        "classifier": "SVC(gamma=0.064 / number of pixels) on pixels scaled to 0..16",
        "undiffuse": __version__,
    }
    by_class = {
        name: {known: estimate.as_dict() for known, estimate in classes.items()}
        for name, classes in measures.per_class(sets, real, names).items()
    }
    says = {name: estimate.says for name, estimate in found.items() if estimate.says}
    return {
        "metrics": {name: estimate.as_dict() for name, estimate in found.items()},
        **({"per_class": by_class} if by_class else {}),
        "protocol": ours | protocol | says,
    }


def _warn_of_few_to_train_on(n: int, data: Dataset, names: Sequence[str]) -> None:
    """Where the samples are more, like is not compared with like."""
    spoilt = [name for name in ("frechet", "train_on_generated") if name in names]
    rounded_up = len(data.train) + len(data.class_names)  # as the default is, to equal numbers of each class
    if n > rounded_up and spoilt:
        warnings.warn(
            f"{n:,} samples beside {len(data.train):,} real images, all there are to train on: {' and '.join(spoilt)} "
            f"depend on how many there are, so for the column of real images take -n {len(data.train)}",
            measures.MeasureWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class Neighbours:
    """The samples closest to a train image, and the real images nearest to each: uint8 [k, h, w, c], and the distances
    to those, [k], in grey levels of the data by root mean square."""

    generated: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    to_train: list[float]
    to_held_out: list[float]


def neighbours(sets: Sequence[Samples], real: Real, result: dict[str, Any]) -> Neighbours | None:
    """The pairs that memorisation told in the protocol, as pictures; None if it was not measured."""
    if "memorisation" not in result["metrics"]:
        return None
    said, data = result["protocol"]["memorisation"]["closest"], real.data
    drawn = torch.cat([sets[i].images[[j]] for i, j in zip(said["set"], said["sample"], strict=True)])
    return Neighbours(
        images.to_hwc(on_grid(drawn, data)),
        images.to_hwc(data.train.images(np.array(said["train image"]))),
        images.to_hwc(data.held_out.images(np.array(said["held-out image"]))),
        said["distance"],
        said["held-out distance"],
    )


def model_protocol(
    pipe: Pipeline, seeds: Sequence[int], weights: str, checkpoint: str, shares: list[int] | None = None
) -> dict[str, Any]:
    """How a model's samples were drawn."""
    sampling = pipe.config.sample.model_dump()
    mix = {} if shares is None else {"class_mix": "as among the train images"}
    return {"seeds": list(seeds), "weights": weights, "checkpoint": checkpoint, **mix, **sampling}


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
