"""Samples in, numbers out: what `undiffuse evaluate` measures, with its protocol."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse import __version__, build, images, rng
from undiffuse.data.dataset import Dataset
from undiffuse.data.prepare import load
from undiffuse.diffusion.bound import Bits, mean_and_error
from undiffuse.errors import UndiffuseError, UsageError, nearest
from undiffuse.metrics.base import Estimate
from undiffuse.metrics.classifier import shipped_for
from undiffuse.metrics.features import About, Features, extractor
from undiffuse.metrics.frechet import FeatureSums, frechet_with_error
from undiffuse.metrics.reference import kept
from undiffuse.metrics.transfer import binomial_stderr, svc_accuracy
from undiffuse.pipeline import Pipeline
from undiffuse.shapes import Images, Labels, Tensor

ODE_STEPS = 50
MOST = 5000  # images, of a seed by default
CHUNK = 10_000  # images whose features are held at once
Watch = Callable[[Iterator[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Samples:
    """One set of generated images, with labels if they were asked for by class."""

    images: Images
    labels: Labels | None


@dataclass(frozen=True)
class Real:
    """Real images, and the features that they are compared by."""

    data: Dataset
    features: Features

    @classmethod
    def of(cls, data: Dataset, features: str) -> "Real":
        return cls(
            data, extractor(features, About(data.shape, data.class_names, lambda: data.train.images(_some(data, MOST))))
        )

    def held_out(self) -> FeatureSums:
        """Of all held-out images, from the cache if they are there."""
        part, data = self.data.held_out, self.data
        chosen = sha256(b"" if part.rows is None else part.rows.numpy().tobytes()).hexdigest()
        key = repr((data.content, "held out", len(part), chosen, data.levels, self.features.says))
        return kept(key, lambda: self.sums(lambda rows: part.images(rows), len(part)))

    def floor(self, n: int) -> FeatureSums:
        """Of as many train images: the distance depends on how many there are, so like is compared with like."""
        rows = _some(self.data, n)
        return self.sums(lambda some: self.data.train.images(rows[some]), len(rows))

    def of_samples(self, x: Images) -> FeatureSums:
        return self.sums(lambda rows: _on_grid(x[rows], self.data), len(x))

    def sums(self, images: Callable[[slice], Images], n: int) -> FeatureSums:
        parts = (FeatureSums.of(self.features(images(slice(i, min(i + CHUNK, n))))) for i in range(0, n, CHUNK))
        return functools.reduce(FeatureSums.merge, parts)


def frechet(sets: Sequence[Samples], real: Real) -> Estimate:
    """Frechet distance, samples against held-out images; floor: as many train images in their place."""
    held_out = real.held_out()
    measured = [frechet_with_error(real.of_samples(s.images), held_out) for s in sets]
    floor, _ = frechet_with_error(real.floor(len(sets[0].images)), held_out)
    values = np.array([value for value, _ in measured])
    return Estimate(
        float(values.mean()), _combined([stderr for _, stderr in measured]), floor, real.features.unit, _n(sets)
    )


def train_on_generated(sets: Sequence[Samples], real: Real) -> Estimate:
    """Accuracy on held-out images of an SVC trained on samples; floor: of one trained on as many train images."""
    data = real.data
    test = (data.held_out.images(), data.held_out.labels)
    scores = [svc_accuracy((s.images, _labels(s, "train_on_generated")), test, data.levels) for s in sets]
    rows = _some(data, len(sets[0].images))
    trained = svc_accuracy((data.train.images(rows), data.train.labels[rows]), test, data.levels)
    return Estimate(*_share(scores, len(data.held_out)), trained, "accuracy", _n(sets))


def label_accuracy(sets: Sequence[Samples], real: Real) -> Estimate:
    """How many samples a classifier of real images takes for the class that they were asked for.

    floor: how many held-out images it takes for theirs.
    """
    data = real.data
    shipped = shipped_for(data.shape, data.class_names)
    if shipped is None:
        raise UndiffuseError(
            f"label_accuracy needs a classifier, and none comes with undiffuse for {data.name}; leave it out"
        )
    index = torch.tensor([shipped.class_names.index(name) for name in data.class_names])

    def accuracy(images: Images, labels: Labels) -> float:
        return float((shipped.classes(_on_grid(images, data)) == index[labels]).float().mean())

    scores = [accuracy(s.images, _labels(s, "label_accuracy")) for s in sets]
    held_out = accuracy(data.held_out.images(), data.held_out.labels)
    return Estimate(*_share(scores, len(sets[0].images)), held_out, "accuracy", _n(sets))


def _labels(s: Samples, metric: str) -> Labels:
    if s.labels is None:
        raise UndiffuseError(f"{metric} needs labelled samples; these have no labels, leave it out")
    return s.labels


def _share(scores: Sequence[float], n: int) -> tuple[float, float]:
    """Mean of shares among n each, and its standard error: binomial, and the spread over sampling seeds."""
    value = float(np.mean(scores))
    spread = _spread(np.array(scores)) if len(scores) > 1 else 0.0
    return value, float(np.hypot(binomial_stderr(value, n), spread))


def _some(data: Dataset, n: int) -> np.ndarray:
    """n train images at random, or all, in order: a source may hold one class after the other."""
    total = len(data.train)
    return np.arange(total) if n >= total else np.sort(rng.permutation(total, 0, "floor")[:n])


METRICS: dict[str, Callable[[Sequence[Samples], Real], Estimate]] = {
    "frechet": frechet,
    "train_on_generated": train_on_generated,
    "label_accuracy": label_accuracy,
}
NEED_LABELS = ("train_on_generated", "label_accuracy")


LIKELIHOODS = ("bpd", "bpd_ode")  # measures of the model itself, not of its samples


def chosen(names: str | None, labelled: bool, model: bool, data: Dataset) -> list[str]:
    """The measures asked for (comma-separated), or all of the samples that these allow; `model`: there is one."""
    if names is None:
        judged = shipped_for(data.shape, data.class_names) is not None
        known = [name for name in METRICS if judged or name != "label_accuracy"]
        return [name for name in known if labelled or name not in NEED_LABELS]
    known = [*METRICS, *LIKELIHOODS]
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in wanted:
        if name not in known:
            raise UsageError(f"unknown metric '{name}'; {nearest(name, known)}")
    if not wanted:
        raise UsageError(f"an empty list of metrics; known: {', '.join(known)}")
    for name in LIKELIHOODS:
        if name in wanted and not model:
            raise UsageError(f"{name} is a property of a model, not of its pictures; give the model's folder")
    return wanted


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
    data = build.dataset(pipe.config) if source is None else load(source)
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


def on_its_grid(pipe: Pipeline, data: Dataset) -> Pipeline:
    """An imported model does not know what grid its data had: that of the images it is scored on."""
    if not _is_imported(pipe):
        return pipe
    return replace(pipe, config=pipe.config.replaced({"data.levels": data.levels}))


def _is_imported(pipe: Pipeline) -> bool:
    return pipe.config.data.source == "imported"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" ... ({len(names)})" if len(names) > 4 else "")


def default_count(data: Dataset) -> int:
    """As many as there are train images, at most 5,000, rounded up so that every class gets the same number."""
    classes = max(len(data.class_names), 1)
    return -(-min(len(data.train), MOST) // classes) * classes


def of_model(
    pipe: Pipeline, n: int, seeds: Sequence[int], watch: Watch = iter, classes: Sequence[str] | None = None
) -> list[Samples]:
    """Draw n images for each seed, of all classes in turn or of these, in the order of the data restricted to them.

    `watch` sees every frame pass, for a progress bar.
    """
    label = None if classes is None else list(classes)
    frames = watch((seed, frame) for seed in seeds for _, frame in pipe.stream(n, seed, label=label))
    done: dict[int, list[Tensor]] = {seed: [] for seed in seeds}
    for seed, frame in frames:
        if frame.t == 0:
            done[seed].append(frame.x.float().cpu())
    drawn = pipe.labels(range(n)) if classes is None else torch.arange(n) % len(classes)
    return [Samples(torch.cat(parts), drawn) for parts in done.values()]


def of_files(path: Path, data: Dataset) -> Samples:
    """Pictures that someone wrote, as `undiffuse sample` does; they must be of the data's shape."""
    pictures, labels = images.read_images(path)
    shape = (pictures.shape[3], *pictures.shape[1:3])
    if shape != data.shape:
        raise UndiffuseError(f"{path}: pictures are {_size(shape)} but {data.name} is {_size(data.shape)}")
    x = images.from_levels(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    known = torch.from_numpy(labels)
    if ((known < -1) | (known >= len(data.class_names))).any():
        raise UndiffuseError(f"{path}: a label lies outside the {len(data.class_names)} classes of {data.name}")
    return Samples(x, known if len(known) and (known >= 0).all() else None)


def measure(sets: Sequence[Samples], real: Real, names: Iterable[str], protocol: dict[str, Any]) -> dict[str, Any]:
    """{"metrics": {name: {value, stderr, floor, unit, n}}, "protocol": {...}}: what is written as JSON."""
    metrics, data = {name: METRICS[name](sets, real).as_dict() for name in names}, real.data
    ours = {
        "data": data.name,
        "reference": "held-out images",
        "real_train": len(data.train),
        "real_held_out": len(data.held_out),
        "generated": [len(s.images) for s in sets],
        "rounding": f"to the data's own {data.levels} levels",
        **real.features.says,
        "classifier": "SVC(gamma=0.064 / number of pixels) on pixels scaled to 0..16",
        "undiffuse": __version__,
    }
    return {"metrics": metrics, "protocol": ours | protocol}


def model_protocol(pipe: Pipeline, seeds: Sequence[int], weights: str, checkpoint: str) -> dict[str, Any]:
    """How a model's samples were drawn."""
    sampling = pipe.config.sample.model_dump()
    return {"seeds": list(seeds), "weights": weights, "checkpoint": checkpoint, **sampling}


def _on_grid(x: Images, data: Dataset) -> Tensor:
    """Rounded to the data's own levels, as a written picture is."""
    return images.from_levels(images.to_levels(x, data.levels), data.levels)


def _combined(stderrs: Sequence[float | None]) -> float | None:
    """Of the mean of independent estimates; steadier than the spread of a few of them."""
    known = [stderr for stderr in stderrs if stderr is not None]
    return float(np.sqrt(np.square(known).sum()) / len(known)) if len(known) == len(stderrs) else None


def _spread(values: np.ndarray) -> float:
    """Standard error of the mean over sampling seeds."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _n(sets: Sequence[Samples]) -> int:
    return sum(len(s.images) for s in sets)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
