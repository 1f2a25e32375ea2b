"""The report's numbers: each beside what real pictures score, of all pictures and class by class."""

import math
from collections.abc import Collection, Mapping
from html import escape

from matplotlib.ticker import MaxNLocator

from undiffuse.report.contents import Measure
from undiffuse.report.format import missing, plain, quantity
from undiffuse.report.text import METRIC_TEXTS

MOST_CLASSES = 20  # rows of a table that is still looked at


def tiles_of(measures: Mapping[str, Measure]) -> str:
    if not measures:
        tiles = missing("Not evaluated yet, so there are no numbers to show: undiffuse evaluate makes them.")
    else:
        tiles = "".join(_tile(name, measure) for name, measure in measures.items())
    return f'<div class="tiles">{tiles}</div>'


def _tile(name: str, measure: Measure) -> str:
    """A metric's value beside its reference, and what it means."""
    known = METRIC_TEXTS.get(name)
    title, better, meaning = title_of(name)
    value, spread = quantity(measure.value, measure.stderr)
    unit = " ".join(part for part in (f"± {spread}" if spread else "", measure.unit) if part)
    reference = ""
    if measure.floor is not None:
        what = known.reference if known else "the same for real data"
        level = quantity(measure.floor, measure.stderr)[0]
        level = f"{level} {measure.unit}".strip()
        reference = f'<p class="reference">Reference {escape(level)}: {escape(what)}</p>'
    notes = [meaning] if meaning else []
    notes += [f"From {measure.n:,} pictures."] if measure.n is not None else []
    notes += [f"Measured earlier ({measure.file})."] if measure.file else []
    return (
        f'<article class="card tile"><h3>{escape(title)}{_better(better)}</h3>'
        f'<p class="value">{value} <small>{escape(unit)}</small></p>'
        f"{_meter(measure)}{reference}"
        f'<p class="note">{escape(" ".join(notes))}</p></article>'
    )


def title_of(name: str) -> tuple[str, str, str]:
    """Title, which way is better, meaning; an unknown measure has its own name and no more."""
    known = METRIC_TEXTS.get(name)
    return (known.title, known.better, known.meaning) if known else (name.replace("_", " ").capitalize(), "", "")


def _better(way: str) -> str:
    return f"<span>{way} is better</span>" if way else ""


def _meter(measure: Measure) -> str:
    """The value as a bar from 0, its reference as a mark across; a share's bar ends at 1."""
    if measure.floor is None or math.isnan(measure.value) or min(measure.value, measure.floor) < 0:
        return ""
    share = measure.unit.startswith(("share", "accuracy")) and max(measure.value, measure.floor) <= 1
    top = 1.0 if share else max(measure.value, measure.floor, 0.0) * 1.12 or 1.0
    bar, mark = (100 * max(x, 0.0) / top for x in (measure.value, measure.floor))
    return (
        f'<div class="meter" aria-hidden="true"><i style="width:{bar:.1f}%"></i><b style="left:{mark:.1f}%"></b></div>'
    )


# -- class by class -----------------------------------------------------------------------------------------------


def classes_of(per_class: Mapping[str, Mapping[str, Measure]]) -> str:
    """A section of one dot plot for each measure; nothing if there are none."""
    cards = "".join(_by_class(name, classes) for name, classes in per_class.items() if classes)
    return f'<section><h2>Class by class</h2><div class="pair">{cards}</div></section>' if cards else ""


def _by_class(name: str, classes: Mapping[str, Measure]) -> str:
    """A table with a row for each class: a dot for the value, a line for its error, a mark for real pictures."""
    title, better, meaning = title_of(name)
    shown, note = _worst(classes, better == "higher")
    low, high = _range(shown.values())
    scale = max(measure.stderr or 0.0 for measure in shown.values())
    rows = "".join(
        f'<tr><th scope="row">{escape(known)}</th><td>{_dots(measure, low, high)}</td>{_cells(measure, scale)}</tr>'
        for known, measure in shown.items()
    )
    ends = f"<span>{escape(plain(low))}</span><span>{escape(plain(high))}</span>"
    earlier = next((f"Measured earlier ({measure.file})." for measure in shown.values() if measure.file), "")
    note_text = escape(" ".join(part for part in (meaning, note, earlier) if part))
    return (
        f'<article class="card tile"><h3>{escape(title)}{_better(better)}</h3><p class="note">{note_text}</p>'
        '<table class="classes"><thead><tr><th scope="col">class</th>'
        f'<td class="ends"><div>{ends}</div></td><th scope="col">generated</th><th scope="col" class="real">real</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></article>"
    )


def _worst(classes: Mapping[str, Measure], higher: bool) -> tuple[dict[str, Measure], str]:
    """The classes to show: all in their order, or the worst MOST_CLASSES of more."""
    if len(classes) <= MOST_CLASSES:
        return dict(classes), ""
    known = {name: measure for name, measure in classes.items() if not math.isnan(measure.value)}
    order = sorted(known, key=lambda name: known[name].value, reverse=not higher)[:MOST_CLASSES]
    return {name: known[name] for name in order}, f"The {len(order)} worst of {len(classes):,} classes."


def _range(measures: Collection[Measure]) -> tuple[float, float]:
    """Round ends of an axis that holds every value with its error, and every reference."""
    values = [m.value + side * (m.stderr or 0) for m in measures for side in (-1, 1)]
    values += [m.floor for m in measures if m.floor is not None]
    known = [value for value in values if math.isfinite(value)] or [0.0]
    ticks = MaxNLocator(8, steps=(1, 2, 2.5, 5, 10)).tick_values(min(known), max(known))
    return float(ticks[0]), float(ticks[-1])


def _dots(measure: Measure, low: float, high: float) -> str:
    """A dot at the value, a line through it as long as its error to both sides, a mark across at the reference."""

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    drawn = ""
    if math.isfinite(measure.value):
        error = measure.stderr or 0.0
        left, width = place(measure.value - error), 200 * error / (high - low)
        drawn = f'<u style="left:{left:.1f}%;width:{width:.1f}%"></u><i style="left:{place(measure.value):.1f}%"></i>'
    if measure.floor is not None:
        drawn += f'<b style="left:{place(measure.floor):.1f}%"></b>'
    return f'<div class="dots" aria-hidden="true">{drawn}</div>'


def _cells(measure: Measure, scale: float) -> str:
    value, spread = quantity(measure.value, measure.stderr, scale)
    spread = f" <small>± {spread}</small>" if spread else ""
    level = "" if measure.floor is None else quantity(measure.floor, None, scale)[0]
    return f'<td>{escape(value)}{spread}</td><td class="real">{escape(level)}</td>'
