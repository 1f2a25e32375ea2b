"""edit: pictures in, changed pictures out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse import images
from undiffuse.cli.options import EditOptions
from undiffuse.cli.progress import show
from undiffuse.errors import UsageError, nearest
from undiffuse.files.drawn import write_folder
from undiffuse.files.writing import check_file, check_name, file_kind, whole
from undiffuse.pipeline import Pipeline, build, editing
from undiffuse.pipeline.labels import named_labels
from undiffuse.pipeline.pictures import read_mask, read_pictures, size_of
from undiffuse.shapes import Images, Tensor

ROWS, RESULTS, ON_THE_WAY, REPEATS = (0, 1, 2, 3), 4, 8, 5
MOST_RESULTS = 10_000  # of a picture, which are in memory together
SIDES = ("left", "right", "top", "bottom", "center")


@dataclass(frozen=True)
class Edited:
    """Results, the class of each (-1: none), and the sheet that shows them beside what they come from."""

    results: Tensor
    labels: Tensor
    sheet: Tensor
    columns: int


def edit(given: EditOptions) -> None:
    if given.kind not in KINDS:
        if given.model in KINDS:
            raise UsageError(f"the model comes first: undiffuse edit {given.kind} {given.model}")
        raise UsageError(f"unknown kind of edit '{given.kind}'; {nearest(given.kind, list(KINDS))}")
    make, own = KINDS[given.kind]
    _refuse_others(given, own)
    _check_guided(given)
    _check_out(given)
    changes = {name: getattr(given, name) for name in ("guidance", "sampler", "steps", "eta", "spacing")}
    pipe = Pipeline.load(given.model, given.weights, given.checkpoint, given.device).configured(**changes)
    pipe.check()
    _write(given.out, make(given, pipe))
    print(given.out)


def _inpaint(given: EditOptions, pipe: Pipeline) -> Edited:
    if given.mask is None:
        raise UsageError(f"inpaint needs --mask: a picture, white where to paint, or one of {', '.join(SIDES)}")
    _, h, w = pipe.shape
    known = ~_painted(given.mask, pipe, [(h, w)] if given.image is None else list(map(size_of, given.image)))
    x, n = _pictures(given, pipe), _count(given, RESULTS)
    label = _each(_label(given, pipe, x), n)
    repeats = _or(given.repeats, REPEATS if "chain" in pipe.process.noise.exact else 1)
    made = editing.inpaint(pipe, x.repeat_interleave(n, 0), known, label, given.seed, repeats=repeats, watch=show)
    return _beside([x, torch.where(known, x, 0.0)], made, label)


def _variation(given: EditOptions, pipe: Pipeline) -> Edited:
    x, n = _pictures(given, pipe), _count(given, RESULTS)
    label = _each(_label(given, pipe, x), n)
    made = editing.variations(pipe, x.repeat_interleave(n, 0), _or(given.strength, 0.5), label, given.seed, watch=show)
    return _beside([x], made, label)


def _reconstruct(given: EditOptions, pipe: Pipeline) -> Edited:
    x = _pictures(given, pipe)
    label = _label(given, pipe, x)
    made = editing.reconstruct(pipe, x, label, _or(given.refine, 0), show)
    print(f"error per dimension of pictures in [0, 1]: {editing.error(x, made):.2e}")
    return Edited(made, _known(label, len(x)), torch.cat([x, made]), len(x))


def _interpolate(given: EditOptions, pipe: Pipeline) -> Edited:
    pictures = given.image is not None or given.rows is not None
    if pictures and given.between is not None:
        raise UsageError("--between takes images of the seed; give it, or two pictures, not both")
    if pictures:
        x = _pictures(given, pipe)
        if len(x) != 2:
            raise UsageError(f"interpolate goes from one picture to another: give two, not {len(x)}")
        label = _label(given, pipe, x)
        x_T = editing.invert(pipe, x, label, _or(given.refine, 0), show)
        pipe = pipe.configured(clip=False, threshold=1.0)  # as it went up
    else:
        ends = _numbers(given.between or "0,1", "--between")
        if len(ends) != 2:
            raise UsageError(f"--between takes two numbers of images, as in 0,1; got {given.between}")
        x_T = torch.cat([pipe.noise(1, given.seed, row) for row in ends])
        label = pipe.labels(ends, named_labels(given.label, pipe.class_names))
    made = editing.interpolate(pipe, x_T, _count(given, ON_THE_WAY), label, show)
    return Edited(made, torch.full((len(made),), -1), made, len(made))


KINDS: dict[str, tuple[Callable[[EditOptions, Pipeline], Edited], set[str]]] = {  # and the options that it alone takes
    "inpaint": (_inpaint, {"mask", "repeats", "n"}),
    "variation": (_variation, {"strength", "n"}),
    "interpolate": (_interpolate, {"between", "refine", "n"}),
    "reconstruct": (_reconstruct, {"refine"}),
}
FIXED: dict[str, dict[str, Any]] = {"reconstruct": {"sampler": "ddim", "eta": 0.0}, "interpolate": {"eta": 0.0}}


# -- what is given ----------------------------------------------------------------------------------------------------


def _refuse_others(given: EditOptions, own: set[str]) -> None:
    for name in sorted(set().union(*(options for _, options in KINDS.values())) - own):
        if getattr(given, name) is not None:
            flag = "-n" if name == "n" else f"--{name}"
            takers = [kind for kind, (_, options) in KINDS.items() if name in options]
            raise UsageError(f"{flag} is for {' and '.join(takers)}, not for {given.kind}")
    for name, fixed in FIXED.get(given.kind, {}).items():
        if getattr(given, name) not in (None, fixed):
            raise UsageError(f"{given.kind} has {name} {fixed}: leave --{name} out")


def _check_guided(given: EditOptions) -> None:
    of_noise = given.kind == "interpolate" and given.image is None and given.rows is None  # whose images have classes
    if given.guidance not in (None, 1) and given.label is None and not of_noise:
        raise UsageError("--guidance leads towards a class: say which, with --label")


def _check_out(given: EditOptions) -> None:
    suffix, out = file_kind(given.out), given.out
    known = [".png", ".npz", *([".gif"] if given.kind == "interpolate" else [])]
    if suffix not in ("", *known):
        raise UsageError(f"{out}: unknown file extension '{suffix}'; known: {', '.join(known)}, or a new folder")
    for path in (*(given.image or ()), *([] if given.mask is None else [Path(given.mask)])):
        if out.exists() and path.exists() and out.samefile(path):
            raise UsageError(f"{out}: is what is to be changed; give --out another name")
    if suffix:
        return check_file(out)
    if out.exists():
        raise UsageError(f"{out}: exists already; choose another folder")
    return check_name(out)


def _pictures(given: EditOptions, pipe: Pipeline) -> Images:
    """The pictures to edit: those of --image, else held-out ones."""
    if given.image is not None and given.rows is not None:
        raise UsageError("--rows takes held-out pictures; give it, or --image, not both")
    if given.image is not None:
        return torch.cat([read_pictures(pipe, path) for path in given.image])
    rows = ROWS if given.rows is None else _numbers(given.rows, "--rows")
    if pipe.config.data.source == "imported":
        raise UsageError("an imported model does not know its data; give pictures with --image")
    held_out = build.dataset(pipe.config).held_out
    if max(rows) >= len(held_out):
        raise UsageError(
            f"--rows: there are {len(held_out)} held-out pictures, 0 to {len(held_out) - 1}, not {max(rows)}"
        )
    return held_out.images(np.array(rows))


def _painted(mask: str, pipe: Pipeline, sizes: list[tuple[int, int]]) -> Tensor:
    """bool [1, h, w], True where to paint in pictures that had these sizes."""
    _, h, w = pipe.shape
    if mask not in SIDES:
        if not Path(mask).is_file():
            raise UsageError(f"--mask {mask}: no such picture, and no side; {nearest(mask, list(SIDES))}")
        return read_mask(pipe, Path(mask), sizes)
    painted = torch.zeros(1, h, w, dtype=torch.bool)
    rows, columns = {
        "left": (slice(None), slice(0, w // 2)),
        "right": (slice(None), slice(w // 2, None)),
        "top": (slice(0, h // 2), slice(None)),
        "bottom": (slice(h // 2, None), slice(None)),
        "center": (slice(h // 4, h - h // 4), slice(w // 4, w - w // 4)),
    }[mask]
    painted[:, rows, columns] = True
    return painted


def _numbers(text: str, flag: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{flag} takes whole numbers with commas between them, as in 0,1; got '{text}'") from error
    if min(numbers) < 0:
        raise UsageError(f"{flag}: images are counted from 0, got {min(numbers)}")
    return numbers


def _label(given: EditOptions, pipe: Pipeline, x: Images) -> Tensor | None:
    """The pictures' labels: as asked, one after the other; else none."""
    return None if given.label is None else pipe.labels(range(len(x)), named_labels(given.label, pipe.class_names))


def _count(given: EditOptions, otherwise: int) -> int:
    n = _or(given.n, otherwise)
    if not 1 <= n <= MOST_RESULTS:
        raise UsageError(f"-n must lie in 1..{MOST_RESULTS:,}, got {n}; draw more with other seeds: --seed")
    return n


def _or(value: int | float | None, otherwise: int | float) -> Any:
    return otherwise if value is None else value


def _each(rows: Tensor | None, n: int) -> Tensor | None:
    return None if rows is None else rows.repeat_interleave(n, 0)


# -- what is made -----------------------------------------------------------------------------------------------------


def _beside(first: list[Tensor], made: Tensor, label: Tensor | None) -> Edited:
    """A row for each picture: it, and what was made of it."""
    n = len(made) // len(first[0])
    rows = [column[:, None] for column in first] + [made.reshape(-1, n, *made.shape[1:])]
    return Edited(made, _known(label, len(made)), torch.cat(rows, 1).flatten(0, 1), len(first) + n)


def _known(label: Tensor | None, count: int) -> Tensor:
    return torch.full((count,), -1) if label is None else label


def _write(out: Path, made: Edited) -> None:
    pictures, labels = images.to_hwc(made.results), made.labels.numpy()
    with whole(out) as aside:
        if not file_kind(out):
            write_folder(aside, pictures, labels)
        elif out.suffix.lower() == ".npz":
            images.write_npz(aside, pictures, labels)
        elif out.suffix.lower() == ".gif":
            images.write_gif(aside, [images.grid(picture[None]) for picture in pictures])
        else:
            images.write_png(aside, images.grid(images.to_hwc(made.sheet), made.columns))
