"""A data set read as training would read it, and all that there is to say about it."""

from collections import Counter
from collections.abc import Iterator, Sized
from dataclasses import dataclass, replace

import numpy as np

from undiffuse.data.cache import Prepared, load_or_prepare
from undiffuse.data.prepare import counted_bad, depth_told, kept_rows, lacking, sides, split, transparency_told
from undiffuse.data.sources import find_source
from undiffuse.data.sources.base import Source
from undiffuse.data.spec import DataSpec
from undiffuse.data.survey import Survey, shape_of, survey_pictures, times_sign
from undiffuse.errors import UndiffuseError
from undiffuse.shapes import Watch, unwatched

MOST_LISTED = 20
SUGGESTED = 32


@dataclass(frozen=True)
class Checked:
    """rows: (what, in words). trouble: what stops training, or would be left out unasked; nothing if all is well.
    readable: whether the pictures that can be used make a data set. left_out: what is left out as asked, counted."""

    rows: list[tuple[str, str]]
    trouble: list[str]
    readable: bool
    left_out: str = ""


def check_data(spec: DataSpec, watch: Watch = unwatched) -> Checked:
    """Decode every picture by the policy of `spec`; unusable ones are listed, not refused."""
    source = find_source(spec, watch)
    survey = survey_pictures(source, watch)
    trouble, sees, left_out = [], True, ""
    try:
        shape_of(survey, source, spec)
        usable = replace(spec, bad="skip")
    except UndiffuseError as error:
        trouble.append(str(error))
        sees = False
        usable = replace(spec, bad="skip", size=(SUGGESTED, SUGGESTED), channels=spec.channels or 3)
    _, facts = load_or_prepare(source, usable, watch)
    rows = [*_found(source, survey), *_classes(facts), *_unusable(facts), *_copies(facts)]
    rows += [("read as" if i == 0 else "", remark) for i, remark in enumerate(facts.remarks)]
    if deep := depth_told(facts):
        rows.append(("levels", deep))
    if clear := transparency_told(facts):
        rows.append(("transparency", clear))
    if facts.passed_over:
        trouble.append(f"not read: {facts.passed_over}; data.select takes files by a pattern, under any name")
    if facts.bad and spec.bad == "refuse":
        stops = "training would stop; with data.bad=skip, as the recipe folder has it, it leaves them out"
        trouble.append(f"{counted_bad(facts.bad)}: {stops}")
        sees = False
    elif facts.bad:
        left_out = f"{counted_bad(facts.bad)}, as data.bad=skip has it"
    readable = usable.size == spec.size
    if sees:
        train, held_out = split(facts, usable)
        rows += _seen(facts, usable, train, held_out)
        lack = lacking(source.name, train, held_out, spec.held_out)
        trouble, readable = trouble + ([lack] if lack else []), readable and not lack
    return Checked(rows, trouble, readable, left_out)


def _found(source: Source, survey: Survey) -> Iterator[tuple[str, str]]:
    yield "pictures", f"{survey.count:,} in {source.name}"
    yield "formats", _counts(survey.formats)
    yield "sizes (h x w)", _counts(Counter({times_sign(size): count for size, count in survey.sizes.items()}), 6)
    if survey.odd:
        yield "of these", _counts(survey.odd)


def _classes(facts: Prepared) -> Iterator[tuple[str, str]]:
    if facts.class_names:
        sizes = np.bincount(facts.labels, minlength=len(facts.class_names))
        counts = Counter(dict(zip(facts.class_names, sizes.tolist(), strict=True)))
        yield "classes", f"{len(facts.class_names)}: {_counts(counts, 12)}"
    else:
        yield "classes", "none: no sub-folders, label file or labels"


def _unusable(facts: Prepared) -> Iterator[tuple[str, str]]:
    if not facts.bad:
        return
    yield "unusable", counted_bad(facts.bad)
    for finding in facts.bad[:MOST_LISTED]:
        yield "", f"{finding.name}: {finding.why}"
    if len(facts.bad) > MOST_LISTED:
        yield "", f"... and {len(facts.bad) - MOST_LISTED} more"


def _copies(facts: Prepared) -> Iterator[tuple[str, str]]:
    """Pictures that equal an earlier one once prepared."""
    first: dict[str, int] = {}
    pairs = [(first[digest], row) for row, digest in enumerate(facts.digests) if first.setdefault(digest, row) != row]
    if pairs:
        yield (
            "copies",
            f"{len(pairs):,}, each the same as an earlier picture; first {facts.names[pairs[0][1]]} = "
            f"{facts.names[pairs[0][0]]}",
        )
        crossed = sum(facts.labels[a] != facts.labels[b] for a, b in pairs)
        if crossed:
            yield "", f"{crossed:,} of them in another class"


def _seen(facts: Prepared, spec: DataSpec, train: Sized, held_out: Sized) -> Iterator[tuple[str, str]]:
    channels, height, width = facts.shape
    left = len(facts.labels) - len(kept_rows(facts, spec))
    yield "training sees", f"{channels}x{height}x{width}: {sides(facts, spec, train, held_out)}"
    if left:
        yield "", f"{left} copies dropped (data.duplicates=drop)"


def _counts(counts: "Counter[str]", most: int = 8) -> str:
    shown = [f"{name} {count:,}" for name, count in counts.most_common(most)]
    return ", ".join(shown) + (f", {len(counts) - most} more" if len(counts) > most else "")
