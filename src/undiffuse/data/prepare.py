"""A data set ready for training: which of the prepared pictures are trained on, and which are held out."""

from collections import Counter
from collections.abc import Sized

import numpy as np
import torch

from undiffuse.data.cache import Prepared, load_or_prepare
from undiffuse.data.dataset import Dataset, Part
from undiffuse.data.sources import find_source
from undiffuse.data.spec import DataSpec
from undiffuse.data.survey import Finding
from undiffuse.errors import UndiffuseError
from undiffuse.shapes import Watch, unwatched


def dataset(spec: DataSpec, watch: Watch = unwatched) -> Dataset:
    """The data set, ready for training. Raises UsageError or UndiffuseError in one line."""
    source = find_source(spec, watch)
    pictures, facts = load_or_prepare(source, spec, watch)
    if facts.bad and spec.bad == "refuse":
        raise UndiffuseError(
            f"{source.name}: {len(facts.bad):,} of {len(facts.labels) + len(facts.bad):,} pictures cannot be used "
            f"({counted_bad(facts.bad)}), first {facts.bad[0].name}: {facts.bad[0].why}. To see all: undiffuse check "
            f"{spec.source}; to train without them: --set data.bad=skip"
        )
    train, held_out = split(facts, spec)
    if lack := lacking(source.name, train, held_out, spec.held_out):
        raise UndiffuseError(lack)
    labels = torch.tensor(facts.labels, dtype=torch.int64)
    parts = [Part(pictures, labels, facts.levels).chosen(torch.from_numpy(rows)) for rows in (train, held_out)]
    notes = dataset_notes(facts, spec, train, held_out)
    return Dataset(
        source.name, parts[0], parts[1], facts.class_names, facts.content, notes, facts.bits, any(facts.held_out)
    )


def lacking(name: str, train: Sized, held_out: Sized, share: float) -> str:
    """What keeps this split from training; nothing if nothing does. With data.held_out=0 none need be held out."""
    if len(train) and (len(held_out) or share == 0):
        return ""
    return (
        f"{name}: pictures to train on: {len(train)}, to hold out: {len(held_out)}; both are needed: give it more "
        "pictures, or another data.limit; data.held_out=0 trains on all and leaves nothing to measure by"
    )


def load_data(source: str) -> Dataset:
    """A data set by name or path, as it is."""
    return dataset(DataSpec(source))


def load_reference(source: str) -> Dataset:
    """A data set to compare pictures with: its held-out part, or all of one that has no parts."""
    data = load_data(source)
    return data if data.own_parts else dataset(DataSpec(source, held_out=0.0)).as_reference()


def digits() -> Dataset:
    """scikit-learn's handwritten digits: 1x8x8, 17 levels, 10 classes; 1,347 to train, 450 held out, stratified."""
    return load_data("digits")


def dataset_notes(facts: Prepared, spec: DataSpec, train: Sized, held_out: Sized) -> tuple[str, ...]:
    """Lines that training should say about its data."""
    lines = [*facts.remarks, f"training sees {sides(facts, spec, train, held_out)}"]
    if deep := depth_told(facts):
        lines.append(deep)
    if clear := transparency_told(facts):
        lines.append(clear)
    if facts.passed_over:
        lines.append(f"not read: {facts.passed_over}")
    if facts.bad:
        lines.append(f"skipped {counted_bad(facts.bad)} (undiffuse check {spec.source} lists them)")
    if frames := facts.survey["odd"].get("animated"):
        lines.append(f"{frames} animated: the first frame is taken")
    if dropped := dropped_copies(facts, spec):
        lines.append(f"{dropped} copies dropped")
    return tuple(lines)


def sides(facts: Prepared, spec: DataSpec, train: Sized, held_out: Sized) -> str:
    """How many pictures are trained on and how many are held out, and who says so."""
    why = "as the source says" if any(facts.held_out) else f"data.held_out={spec.held_out:g}"
    return f"{len(train):,} pictures, {len(held_out):,} held out ({why})"


def depth_told(facts: Prepared) -> str:
    """That files of 16 bits are read as of fewer, if they are."""
    if facts.bits is None or facts.bits == 16:
        return ""
    return f"16-bit files use {facts.bits} bits: read as 0 to {2**facts.bits - 1:,}; data.bits says otherwise"


def transparency_told(facts: Prepared) -> str:
    """That the last of four channels of an array is laid on a background, if it is."""
    if facts.shape[0] == 4 or not (facts.survey["formats"].get("array") and facts.survey["odd"].get("transparent")):
        return ""
    return "arrays of 4 channels: the last is transparency, laid on the background; data.channels=4 keeps it"


def counted_bad(bad: list[Finding]) -> str:
    kinds = Counter(finding.kind for finding in bad)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


# -- which rows are for what -------------------------------------------------------------------------------------------


def split(facts: Prepared, spec: DataSpec) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out: as the source says, else the share data.held_out of every class.

    Chosen by the pictures' own contents, so equal pictures fall on the same side and new ones move no others.
    """
    rows = np.array(kept_rows(facts, spec))
    outside = np.array([bool(facts.held_out[row]) for row in rows], bool)
    if not outside.any():
        outside = _chosen(facts, rows, spec.held_out)
    sides = [rows[~outside], rows[outside]]
    return _limited(facts, sides[0], spec.limit), _limited(facts, sides[1], spec.limit)


def kept_rows(facts: Prepared, spec: DataSpec) -> list[int]:
    """All, or only the first of equal pictures of one class."""
    if spec.duplicates == "keep":
        return list(range(len(facts.labels)))
    first: dict[tuple[str, int], int] = {}
    for row, key in enumerate(zip(facts.digests, facts.labels, strict=True)):
        first.setdefault(key, row)
    return sorted(first.values())


def dropped_copies(facts: Prepared, spec: DataSpec) -> int:
    return len(facts.labels) - len(kept_rows(facts, spec))


def _chosen(facts: Prepared, rows: np.ndarray, share: float) -> np.ndarray:
    """The rows that are held out: of each class, the pictures whose digests come first; at least one of five or
    more."""
    labels, digests = np.array(facts.labels)[rows], np.array(facts.digests)[rows]
    chosen = np.zeros(len(rows), bool)
    for label in np.unique(labels):
        inside = np.flatnonzero(labels == label)
        known = np.unique(digests[inside])
        least = 1 if share > 0 and len(known) >= 5 else 0
        taken = known[: max(round(share * len(known)), least)]
        chosen[inside] = np.isin(digests[inside], taken)
    if share > 0 and not chosen.any() and len(np.unique(digests)) > 1:
        chosen = digests == np.unique(digests)[0]
    return chosen


def _limited(facts: Prepared, rows: np.ndarray, limit: int | None) -> np.ndarray:
    """At most so many of the rows, a random choice that depends on the pictures alone."""
    if limit is None or len(rows) <= limit:
        return rows
    order = np.argsort(np.array(facts.digests)[rows], kind="stable")
    return np.sort(rows[order[:limit]])
