"""Which measures to take: what was asked for, or what the samples and the data allow."""

from collections.abc import Iterable, Sequence

from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError, nearest
from undiffuse.evaluation.measures import (
    MEASURES,
    NEED_CLASSES,
    NEED_CLASSIFIER,
    NEED_EITHER,
    NEED_LABELS,
    NEED_NEIGHBOURS,
    NEED_TRAIN,
)
from undiffuse.evaluation.real import MOST_SAMPLES
from undiffuse.metrics.classifier import shipped_for
from undiffuse.metrics.manifold import K_DENSITY

DEFAULT_METRICS = tuple(name for name in MEASURES if name != "inception_score")  # which label_accuracy says better
LIKELIHOODS = ("bpd", "bpd_ode")  # measures of the model itself, not of its samples
ALIASES = {
    "fid": "FID is frechet with --features inception",
    "fd": "the Frechet distance is frechet",
    "is": "the Inception Score is inception_score",
    "nll": "bits per dimension are bpd and bpd_ode",
}


def choose_metrics(
    names: Sequence[str] | str | None, classes: int, model: bool, data: Dataset, n: int = MOST_SAMPLES
) -> list[str]:
    """The measures asked for, one by one or with commas between, where `all` is all of samples; else DEFAULT_METRICS.

    What nobody named is left out where n samples of so many classes (0: no labels) do not allow it. model: there is
    one.
    """
    allowed = [name for name in MEASURES if name not in _not_allowed(classes, data, n)]
    if names is None:
        return [name for name in DEFAULT_METRICS if name in allowed]
    known = [*MEASURES, *LIKELIHOODS, "all"]
    asked = names.split(",") if isinstance(names, str) else [*names] if isinstance(names, Iterable) else [names]
    if not all(isinstance(name, str) for name in asked):
        raise UsageError(f"metrics are names, as in ['frechet', 'kid'], not {repr(names)[:40]}")
    wanted = list(dict.fromkeys(name.strip() for name in asked if name.strip()))
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
    trained, held_out = len(data.train), len(data.held_out)
    enough = min(n, trained or held_out, held_out) > K_DENSITY
    rules = (
        (classes > 0, NEED_LABELS),
        (classes > 1, NEED_CLASSES),
        (judged, NEED_CLASSIFIER),
        (judged or (classes > 1 and trained > 0), NEED_EITHER),
        (trained > 0, NEED_TRAIN),
        (enough, NEED_NEIGHBOURS),
    )
    return {name for holds, names in rules if not holds for name in names}
