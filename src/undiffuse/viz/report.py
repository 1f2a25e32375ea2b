"""The report: one self-contained page about a run, made of what lies in its folder."""

import math
import os
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from undiffuse.errors import UndiffuseError
from undiffuse.viz.embed import inline_svg, picture_uri
from undiffuse.viz.folder import Measure, RunFolder, read_run
from undiffuse.viz.plots import to_columns, training_panels
from undiffuse.viz.words import METRICS, PICTURES, PREDICTIONS, UNITS

MOST_STEPS = 8


def write_report(run: Path) -> Path:
    """Write RUN/report.html, whole or not at all, and return its path.

    Raises UndiffuseError, naming the file, where something in the folder is broken; what is missing, the page says.
    """
    page = render(read_run(run))
    target, aside = run / "report.html", run / f".report.{os.getpid()}.tmp"
    try:
        aside.write_text(page, "utf-8")
        aside.replace(target)
    except OSError as error:
        raise UndiffuseError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
    return target


def render(folder: RunFolder) -> str:
    """The page. Every value from the folder goes through `escape`."""
    template = Template(files("undiffuse.viz").joinpath("report.html.template").read_text("utf-8"))
    return template.substitute(
        title=escape(f"{folder.name}: undiffuse report"),
        name=escape(folder.name),
        lede=escape(_lede(folder.config)),
        facts=_facts(folder),
        numbers=_numbers(folder.measures),
        samples=_samples(folder),
        growth=_growth(folder.progress),
        trajectories="".join(_figure(folder, name) for name in ("reverse.png", "forward.png"))
        or _missing("No trajectories were drawn for this run."),
        curves=_curves(folder),
        protocol=_tables({"": folder.protocol}) or _missing("The run has not been evaluated, so there is no protocol."),
        configuration=_tables(_by_room(folder.config)) or _missing("The configuration is empty."),
        environment=_tables(_by_room(folder.environment)) or _missing("The environment was not recorded."),
    )


# -- headline -----------------------------------------------------------------------------------------------------


def _lede(config: Mapping[str, Any]) -> str:
    """What was trained and how it samples, in two sentences made of what the configuration says."""
    prediction = config.get("diffusion.prediction")
    known = {**config, "diffusion.prediction": PREDICTIONS.get(str(prediction), prediction)}
    what = _say(
        known,
        ("a diffusion model of {}", "data.source"),
        ("{} noise schedule", "diffusion.schedule"),
        ("T = {} time steps", "diffusion.T"),
        ("the network predicts {}", "diffusion.prediction"),
    )
    how = _say(
        known,
        ("pictures drawn by {}", "sample.sampler"),
        ("{} sampling steps", "sample.steps"),
        ("guidance {}", "sample.guidance"),
    )
    return f"{what or 'A diffusion model.'} {how}".strip()


def _say(values: Mapping[str, Any], *parts: tuple[str, str]) -> str:
    said = ", ".join(words.format(plain(values[key])) for words, key in parts if values.get(key) is not None)
    return f"{said[0].upper()}{said[1:]}." if said else ""


def _facts(folder: RunFolder) -> str:
    facts: dict[str, str] = {}
    if folder.records:
        columns = to_columns(folder.records)
        facts["Trained for"] = f"{columns['step'][-1]:,.0f} updates"
        facts |= _tail_fact("Final loss", columns["loss"], "", "mean of the last tenth")
        facts |= _tail_fact("Speed", columns["images_per_s"], "images/s", "")
    if isinstance(folder.config.get("train.batch_size"), int):
        facts["Batch"] = f"{folder.config['train.batch_size']:,} images"
    seconds = folder.environment.get("training_seconds")
    if isinstance(seconds, int | float) and math.isfinite(seconds):
        facts["Time"] = duration(seconds)
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _tail_fact(name: str, values: np.ndarray, unit: str, how: str) -> dict[str, str]:
    tail = values[-max(1, len(values) // 10) :]
    tail = tail[np.isfinite(tail)]
    if not len(tail):
        return {}
    return {f"{name} ({how})" if how else name: f"{plain(float(tail.mean()))} {unit}".strip()}


def _numbers(measures: Mapping[str, Measure]) -> str:
    if not measures:
        tiles = _missing("Not evaluated yet, so there are no numbers to show: undiffuse evaluate makes them.")
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


# -- pictures -----------------------------------------------------------------------------------------------------


def _samples(folder: RunFolder) -> str:
    beside = "".join(_figure(folder, name) for name in ("samples.png", "denoising.gif"))
    below = _figure(folder, "classes.png")
    return (f'<div class="pair">{beside}</div>' if beside else "") + below or _missing("No samples were drawn yet.")


def _figure(folder: RunFolder, name: str) -> str:
    path = folder.picture(name)
    if path is None:
        return ""
    picture = PICTURES[name]
    heading, caption = escape(picture.heading), escape(picture.caption)
    image = f'<img src="{picture_uri(path)}" alt="{heading}">'
    if picture.sheet:
        return f'<figure class="card sheet"><figcaption class="note">{caption}</figcaption><div>{image}</div></figure>'
    return f'<figure class="card"><h3>{heading}</h3><figcaption class="note">{caption}</figcaption>{image}</figure>'


def _growth(progress: Mapping[int, Path]) -> str:
    """At most MOST_STEPS grids evenly spaced in order, the first and the last among them."""
    if not progress:
        return _missing("No pictures were drawn during training.")
    steps = list(progress)
    chosen = sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(MOST_STEPS, len(steps)))})
    pictures = "".join(
        f'<figure><img src="{picture_uri(progress[steps[i]])}" alt="Samples after {steps[i]:,} updates">'
        f"<figcaption>after {steps[i]:,} updates</figcaption></figure>"
        for i in chosen
    )
    return f'<div class="card growth">{pictures}</div>'


def _curves(folder: RunFolder) -> str:
    if not folder.records:
        return _missing("No training was recorded in this folder.")
    panels = training_panels(folder.records)
    drawn = "".join(f'<figure class="card">{inline_svg(panel, title)}</figure>' for title, panel in panels.items())
    return f'<div class="curves">{drawn}</div>'


# -- tables and numbers -------------------------------------------------------------------------------------------


def _by_room(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`train.lr` under `train`; names without a dot come first, under no heading."""
    rooms: dict[str, dict[str, Any]] = {"": {}}
    for key, value in values.items():
        rooms.setdefault(key.split(".")[0] if "." in key else "", {})[key] = value
    return rooms


def _tables(rooms: Mapping[str, Mapping[str, Any]]) -> str:
    tables = []
    for room, values in rooms.items():
        caption = f"<caption>{escape(room)}</caption>" if room else ""
        rows = "".join(_row(key.removeprefix(f"{room}."), UNITS.get(key, ""), value) for key, value in values.items())
        tables += [f'<div class="card"><table>{caption}<tbody>{rows}</tbody></table></div>'] if rows else []
    return f'<div class="tables">{"".join(tables)}</div>' if tables else ""


def _row(name: str, unit: str, value: object) -> str:
    unit = f" <small>{escape(unit)}</small>" if unit else ""
    return f'<tr><th scope="row">{escape(name)}</th><td>{escape(plain(value))}{unit}</td></tr>'


def plain(value: object) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value)


def quantity(value: float, stderr: float | None) -> tuple[str, str]:
    """A value and its standard error as text, cut at the error's second digit: (0.91234, 0.0043) -> 0.9123, 0.0043."""
    if not math.isfinite(value):
        return "undefined", ""
    if not stderr:
        return plain(value), ""
    digits = min(max(0, 1 - math.floor(math.log10(abs(stderr)))), 8)
    return f"{value:,.{digits}f}", f"{stderr:,.{digits}f}"


def duration(seconds: float | int) -> str:
    """Seconds as a person would say them: 42 s, 5 min 12 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _missing(said: str) -> str:
    return f'<p class="missing">{escape(said)}</p>'
