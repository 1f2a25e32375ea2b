"""The report's numbers: each beside what real pictures score, of all pictures and class by class."""

import math
from collections.abc import Mapping
from html import escape

from undiffuse.viz.folder import Measure
from undiffuse.viz.values import missing, quantity
from undiffuse.viz.words import METRICS


def tiles_of(measures: Mapping[str, Measure]) -> str:
    if not measures:
        tiles = missing("Not evaluated yet, so there are no numbers to show: undiffuse evaluate makes them.")
    else:
        tiles = "".join(_tile(name, measure) for name, measure in measures.items())
    return f'<div class="tiles">{tiles}</div>'


def _tile(name: str, measure: Measure) -> str:
    """A metric's value beside its reference, and what it means."""
    known = METRICS.get(name)
    title = known.title if known else name.replace("_", " ").capitalize()
    better = f"<span>{known.better} is better</span>" if known else ""
    value, spread = quantity(measure.value, measure.stderr)
    unit = " ".join(part for part in (f"± {spread}" if spread else "", measure.unit) if part)
    reference = ""
    if measure.floor is not None:
        what = known.reference if known else "the same for real data"
        level = quantity(measure.floor, measure.stderr)[0]
        level = f"{level} {measure.unit}".strip()
        reference = f'<p class="reference">Reference {escape(level)}: {escape(what)}</p>'
    notes = [known.meaning] if known else []
    notes += [f"From {measure.n:,} pictures."] if measure.n is not None else []
    return (
        f'<article class="card tile"><h3>{escape(title)}{better}</h3>'
        f'<p class="value">{value} <small>{escape(unit)}</small></p>'
        f"{_meter(measure)}{reference}"
        f'<p class="note">{escape(" ".join(notes))}</p></article>'
    )


def _meter(measure: Measure) -> str:
    """The value as a bar from 0, its reference as a mark across."""
    if measure.floor is None or math.isnan(measure.value):
        return ""
    top = max(measure.value, measure.floor, 0.0) * 1.12 or 1.0
    bar, mark = (100 * max(x, 0.0) / top for x in (measure.value, measure.floor))
    return (
        f'<div class="meter" aria-hidden="true"><i style="width:{bar:.1f}%"></i><b style="left:{mark:.1f}%"></b></div>'
    )
