"""The report: one self-contained page about a run, made of what lies in its folder."""

import math
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from undiffuse.errors import UndiffuseError
from undiffuse.files.writing import put_text, whole
from undiffuse.report.contents import RunContents, read_run
from undiffuse.report.format import duration, missing, plain, quantity
from undiffuse.report.numbers import classes_of, tiles_of
from undiffuse.report.svg import inline_svg, picture_uri
from undiffuse.report.text import PICTURES, PREDICTION_TEXTS, QUALITY, UNITS
from undiffuse.viz.curves import QUALITY_COLUMNS, best_row, quality_panel, to_columns, training_panels

MOST_STEP_PICTURES = 8


def write_report(run: Path) -> Path:
    """Write RUN/report.html, whole or not at all, and return its path.

    Raises UndiffuseError, naming the file, where something in the folder is broken; what is missing, the page says.
    """
    page = render(read_run(run))
    target = run / "report.html"
    try:
        with whole(target, lasting=False) as aside:
            put_text(aside, page)
    except OSError as error:
        raise UndiffuseError(f"{target}: cannot be written: {error.strerror}") from error
    return target


def render(folder: RunContents) -> str:
    """The page. Every value from the folder goes through `escape`."""
    template = Template(files("undiffuse.report").joinpath("page.html.template").read_text("utf-8"))
    return template.substitute(
        title=escape(f"{folder.name}: undiffuse report"),
        name=escape(folder.name),
        lede=escape(_lede(folder.config)),
        facts=_facts(folder),
        numbers=tiles_of(folder.measures),
        classes=classes_of(folder.per_class),
        samples=_samples(folder),
        neighbours=_figure(folder, "neighbours.png")
        or missing("Not compared yet: undiffuse evaluate draws the samples that are nearest to training pictures."),
        growth=_growth(folder.progress) + _quality(folder),
        trajectories="".join(_figure(folder, name) for name in ("reverse.png", "forward.png"))
        or missing("No trajectories were drawn for this run."),
        curves=_curves(folder),
        protocol=_tables(_by_room(_told(folder.protocol)))
        or missing("The run has not been evaluated, so there is no protocol."),
        configuration=_tables(_by_room(folder.config)) or missing("The configuration is empty."),
        environment=_tables(_by_room(folder.environment)) or missing("The environment was not recorded."),
    )


# -- headline -----------------------------------------------------------------------------------------------------


def _lede(config: Mapping[str, Any]) -> str:
    """Two sentences of the configuration: what was trained and how it samples."""
    prediction = config.get("diffusion.prediction")
    known = {**config, "diffusion.prediction": PREDICTION_TEXTS.get(str(prediction), prediction)}
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
    sentence = ", ".join(words.format(plain(values[key])) for words, key in parts if values.get(key) is not None)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _facts(folder: RunContents) -> str:
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
    return _listed(facts)


def _listed(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _tail_fact(name: str, values: np.ndarray, unit: str, how: str) -> dict[str, str]:
    tail = values[-max(1, len(values) // 10) :]
    tail = tail[np.isfinite(tail)]
    if not len(tail):
        return {}
    return {f"{name} ({how})" if how else name: f"{plain(float(tail.mean()))} {unit}".strip()}


# -- pictures -----------------------------------------------------------------------------------------------------


def _samples(folder: RunContents) -> str:
    beside = "".join(_figure(folder, name) for name in ("samples.png", "denoising.gif"))
    below = _figure(folder, "classes.png")
    return (f'<div class="pair">{beside}</div>' if beside else "") + below or missing("No samples were drawn yet.")


def _figure(folder: RunContents, name: str) -> str:
    path = folder.picture(name)
    if path is None:
        return ""
    picture = PICTURES[name]
    heading, caption = escape(picture.heading), escape(picture.caption)
    image = f'<img src="{picture_uri(path)}" alt="{heading}">'
    if picture.sheet:
        kind = "sheet narrow" if picture.narrow else "sheet"
        return f'<figure class="card {kind}"><figcaption class="note">{caption}</figcaption><div>{image}</div></figure>'
    return f'<figure class="card"><h3>{heading}</h3><figcaption class="note">{caption}</figcaption>{image}</figure>'


def _growth(progress: Mapping[int, Path]) -> str:
    """Grids of samples on the way: at most MOST_STEP_PICTURES, evenly spaced, the first and the last among them."""
    if not progress:
        return missing("No pictures were drawn during training.")
    steps = list(progress)
    chosen = sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(MOST_STEP_PICTURES, len(steps)))})
    pictures = "".join(
        f'<figure><img src="{picture_uri(progress[steps[i]])}" alt="Samples after {steps[i]:,} updates">'
        f"<figcaption>after {steps[i]:,} updates</figcaption></figure>"
        for i in chosen
    )
    return f'<div class="card growth">{pictures}</div>'


def _quality(folder: RunContents) -> str:
    """The curve of quality.jsonl, and what it says in words."""
    if not folder.quality:
        return missing("Quality was not measured on the way: train.quality_every says how often to do so.")
    columns, told = to_columns(folder.quality, QUALITY_COLUMNS), {}
    best = best_row(columns)
    if best is not None:
        value, spread = quantity(columns["frechet"][best], columns["stderr"][best])
        told["Best step"] = f"{columns['step'][best]:,.0f}"
        told["Distance there"] = f"{value} ± {spread}" if spread else value
        told["Raw weights there"] = quantity(columns["raw"][best], columns["stderr"][best])[0]
        told["Real pictures"] = quantity(columns["floor"][best], columns["stderr"][best])[0]
        told["Verdict at the end"] = str(folder.quality[-1].get("verdict") or "no verdict")
    svg = inline_svg(quality_panel(folder.quality), "Quality over training")
    note = escape(
        QUALITY.format(**{key: plain(folder.config.get(f"train.quality_{key}", "a few")) for key in ("n", "steps")})
    )
    return (
        f'<div class="pair"><figure class="card">{svg}</figure>'
        f'<div class="card"><h3>Quality over training</h3><p class="note">{note}</p>{_listed(told)}</div></div>'
    )


def _curves(folder: RunContents) -> str:
    if not folder.records:
        return missing("No training was recorded in this folder.")
    panels = training_panels(folder.records)
    drawn = "".join(f'<figure class="card">{inline_svg(panel, title)}</figure>' for title, panel in panels.items())
    return f'<div class="curves">{drawn}</div>'


# -- tables and numbers -------------------------------------------------------------------------------------------


def _told(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol but for the closest pairs, which are shown as pictures."""
    return {key: value for key, value in protocol.items() if not key.startswith("memorisation.closest.")}


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
