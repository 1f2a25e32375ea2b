"""Pictures decoded once, by one policy, into a file that training maps into memory.

The file lies in the user's cache under a key of every picture's bytes, name, label and part, of the policy, and of this
code's version; a second key, of the files' names, sizes and times, finds it without reading the pictures again.
Deleting the cache is always safe.
"""

import errno
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse.data.decode import decode_picture
from undiffuse.data.fit import Size, shaped
from undiffuse.data.sources.base import Item, Source, Telling, natural
from undiffuse.data.sources.hub import Hub
from undiffuse.data.sources.spool import read_once
from undiffuse.data.spec import BadPicture, DataSpec, DataWarning
from undiffuse.data.survey import PICTURES_READ, Finding, Survey, bits_of, shape_of, survey_pictures, times_sign
from undiffuse.errors import UndiffuseError
from undiffuse.files import cache
from undiffuse.files.reading import check_regular, read_json
from undiffuse.files.writing import put_text, whole
from undiffuse.processes import machine
from undiffuse.shapes import Tensor, Watch, unwatched, watch_items

VERSION = 4
DECODE_CHUNK = 256
PIXELS_AT_ONCE = 64_000_000  # being decoded, a few bytes each
THREADS = min(8, os.cpu_count() or 1)


@dataclass
class Prepared:
    """Everything but the pixels: what is kept as JSON beside them. digests: of each picture, to tell equal ones.

    remarks, passed_over: as the source tells, see sources.base.Telling; of the source rather than the pictures, so they
    are kept with the pointer.
    """

    shape: tuple[int, int, int]
    levels: int
    class_names: tuple[str, ...]
    content: str
    labels: list[int] = field(default_factory=list)
    held_out: list[bool | None] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    bad: list[Finding] = field(default_factory=list)
    survey: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    passed_over: str = ""
    bits: int | None = None


def load_or_prepare(source: Source, spec: DataSpec, watch: Watch = unwatched) -> tuple[Tensor, Prepared]:
    """uint8 [n, c, h, w] and the facts, from the cache if it has them."""
    stamp = source.stamp()
    if stamp is None:
        return _read(source, spec, survey_pictures(source, watch), None, watch)
    pointer = cache.folder("data") / f"{_key('stamp', stamp, _policy(spec))}.json"
    known = _read_pointer(pointer)
    if known is not None:
        pictures, facts = _open_folder(known[0])
        return pictures, replace(facts, **known[1])
    with read_once(source, isinstance(source, Hub) and source.is_far()) as source:
        survey = survey_pictures(source, watch)
        names = repr(_class_names(source, survey))
        folder = cache.folder("data") / _key("content", survey.content, names, _policy(spec))
        if not (folder / "facts.json").is_file():
            pictures, facts = _prepare(source, spec, survey, folder, pointer, watch=watch)
        else:
            _point(pointer, folder, source)
            pictures, facts = _open_folder(folder)
        return pictures, replace(facts, **_told(source))


def _policy(spec: DataSpec) -> str:
    """What changes the prepared pictures, or which of them are bad; the rest of the specification only chooses."""
    alike = replace(spec, source="", bad="skip", duplicates="keep", held_out=0.1, limit=None)
    return repr(asdict(alike)) + (f" {spec.limit}" if spec.source.startswith("hub:") else "")


def _key(*parts: str) -> str:
    return blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def _told(source: Source) -> dict[str, Any]:
    if not isinstance(source, Telling):
        return {"remarks": (), "passed_over": ""}
    return {"remarks": source.remarks(), "passed_over": source.passed_over()}


def _read_pointer(pointer: Path) -> tuple[Path, dict[str, Any]] | None:
    """The folder of prepared pictures, and what their source told."""
    try:
        raw = read_json(pointer)
        known = cache.folder("data") / str(raw["folder"])
        told = {"remarks": tuple(map(str, raw["remarks"])), "passed_over": str(raw["passed_over"])}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return (known, told) if (known / "facts.json").is_file() else None


def _point(pointer: Path, known: Path, source: Source) -> None:
    with whole(pointer, lasting=False) as aside:
        put_text(aside, json.dumps({"folder": known.name, **_told(source)}))


def _open_folder(folder: Path) -> tuple[Tensor, Prepared]:
    path = folder / "pictures.bin"
    try:
        check_regular(folder / "facts.json")
        facts = _facts(
            json.loads((folder / "facts.json").read_text("utf-8"))
        )  # our own, a line a picture: nothing more to check
        n, size = len(facts.labels), int(np.prod(facts.shape))
        sound = path.stat().st_size == n * size
        sound = sound and len(facts.held_out) == len(facts.digests) == len(facts.names) == n
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise UndiffuseError(f"{folder}: the prepared pictures are damaged; delete this folder, it will be made again")
    flat = torch.from_file(str(path), shared=False, size=n * size, dtype=torch.uint8)
    return flat.view(n, *facts.shape), facts


def _facts(raw: dict[str, Any]) -> Prepared:
    made = {
        "shape": tuple(raw["shape"]),
        "class_names": tuple(raw["class_names"]),
        "remarks": tuple(raw["remarks"]),
        "bad": [Finding(**finding) for finding in raw["bad"]],
    }
    return Prepared(**(raw | made))


def _prepare(
    source: Source, spec: DataSpec, survey: Survey, folder: Path, pointer: Path, *, watch: Watch
) -> tuple[Tensor, Prepared]:
    """Prepare into the cache, aside first; in memory where the cache cannot be written."""
    size, channels = shape_of(survey, source, spec)
    need = survey.count * size[0] * size[1] * channels
    try:
        cache.folder("data").mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache.folder("data")).free
        if need > free:
            raise OSError(errno.ENOSPC, f"{need >> 20} MiB are needed, {free >> 20} MiB are free")
        with tempfile.TemporaryDirectory(dir=cache.folder("data"), prefix="writing-") as aside:
            _, facts = _read(source, spec, survey, Path(aside) / "pictures.bin", watch)
            put_text(Path(aside) / "facts.json", json.dumps(asdict(facts)))
            if not (folder / "facts.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)  # what is left of one that someone took apart
                Path(aside).rename(folder)
                Path(aside).mkdir()
        _point(pointer, folder, source)
        return _open_folder(folder)
    except OSError as error:
        if need > machine.memory():
            raise UndiffuseError(
                f"{source.name}: {survey.count:,} pictures of {times_sign(size)} take {machine.in_words(need)}, more "
                f"than the cache {cache.folder('data')} has room for ({error.strerror}), or the memory; take a smaller "
                "data.size or data.limit"
            ) from error
        warnings.warn(
            f"the cache {cache.folder('data')} cannot be used ({error.strerror}); the pictures are held in memory, and "
            "decoded again the next time",
            DataWarning,
            stacklevel=2,
        )
        return _read(source, spec, survey, None, watch)


# -- decoding ----------------------------------------------------------------------------------------------------------

Decoded = tuple[Item, np.ndarray | BadPicture]


def _read(source: Source, spec: DataSpec, survey: Survey, path: Path | None, watch: Watch) -> tuple[Tensor, Prepared]:
    """Decode every usable picture, in the source's order, into a file or memory."""
    size, channels = shape_of(survey, source, spec)
    names = _class_names(source, survey)
    facts = Prepared((channels, *size), source.levels, names, survey.content, survey=_summary(survey))
    facts.bits = bits_of(survey, spec) if survey.odd["16-bit"] else None
    index = {name: place for place, name in enumerate(names)}
    held: list[np.ndarray] = []
    with path.open("wb") if path else _nothing() as file:
        for item, picture in _decode_all(source, survey, spec, size, channels, watch=watch):
            if isinstance(picture, BadPicture):
                facts.bad.append(Finding(item.name, picture.kind, str(picture)))
                continue
            raw = np.ascontiguousarray(picture.transpose(2, 0, 1))
            held.append(raw) if file is None else file.write(raw.tobytes())
            facts.labels.append(index[item.label] if item.label is not None else -1)
            facts.held_out.append(item.held_out)
            facts.names.append(item.name)
            facts.digests.append(blake2b(raw.tobytes(), digest_size=8).hexdigest())
    if not facts.labels:
        first = f": {facts.bad[0].name}: {facts.bad[0].why}" if facts.bad else ""
        raise UndiffuseError(f"{source.name}: no usable picture{first}")
    return torch.from_numpy(np.stack(held)) if held else torch.empty(0, *facts.shape, dtype=torch.uint8), facts


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def _summary(survey: Survey) -> dict[str, Any]:
    sizes = [[*size, count] for size, count in survey.sizes.most_common()]
    return {"formats": dict(survey.formats), "odd": dict(survey.odd), "sizes": sizes}


def _class_names(source: Source, survey: Survey) -> tuple[str, ...]:
    if not survey.labelled:
        return ()
    found_labels = sorted((label for label in survey.labels if label is not None), key=natural)
    return source.classes() or tuple(found_labels)


def _decode_all(
    source: Source, survey: Survey, spec: DataSpec, size: Size, channels: int, *, watch: Watch
) -> Iterator[Decoded]:
    as_asked = replace(spec, bits=bits_of(survey, spec))
    one = partial(_one, labelled=survey.labelled, spec=as_asked, size=size, channels=channels)
    items = watch_items(watch, source.items(), None, PICTURES_READ)
    largest = max(height * width for height, width in survey.sizes)
    with ThreadPoolExecutor(max(1, min(THREADS, PIXELS_AT_ONCE // largest))) as pool:
        while chunk := list(islice(items, DECODE_CHUNK)):
            yield from pool.map(one, chunk) if _worth_threads(chunk) else map(one, chunk)


def _worth_threads(chunk: Iterable[Item]) -> bool:
    return any(isinstance(item.content, bytes) for item in chunk)


def _one(item: Item, labelled: bool, spec: DataSpec, size: Size, channels: int) -> Decoded:
    try:
        if isinstance(item.content, BadPicture):
            return item, item.content
        if labelled and item.label is None:
            return item, BadPicture("no label", "others have a class, this one has none")
        picture, transparent = decode_picture(
            item.content, None if spec.fit == "pad" else size, spec.bits or 16, spec.budget
        )
        return item, shaped(picture, transparent, spec, size, channels)
    except BadPicture as problem:
        return item, problem
    except MemoryError:
        return item, BadPicture("too large", "too large for the memory")
