"""The first look at a source: what its pictures are, mostly by their headers, and a key of all that they hold."""

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from undiffuse.data.decode import Facts, deepest_level, examine
from undiffuse.data.fit import Size
from undiffuse.data.sources.base import Item, Source
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.shapes import Watch, unwatched, watch_items

PICTURES_READ = "picture read"


@dataclass(frozen=True)
class Finding:
    """A picture that cannot be used, and why."""

    name: str
    kind: str
    why: str


@dataclass
class Survey:
    """Counts of what was found. sizes: of usable pictures, (h, w); channels: of arrays, without
    transparency; deepest: the largest level of pictures of 16 bits."""

    count: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    sizes: Counter[Size] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    labels: Counter[str | None] = field(default_factory=Counter)
    bad: list[Finding] = field(default_factory=list)
    content: str = ""
    deepest: int = 0

    def add(self, item: Item) -> None:
        self.count += 1
        self.labels[item.label] += 1
        try:
            if isinstance(item.content, BadPicture):
                raise item.content
            facts = examine(item.content)
        except BadPicture as problem:
            self.bad.append(Finding(item.name, problem.kind, str(problem)))
            return
        self._add(facts, item.content)

    def _add(self, facts: Facts, content: bytes | np.ndarray) -> None:
        self.formats[facts.format] += 1
        self.sizes[facts.size] += 1
        self.odd.update(facts.odd)
        if "16-bit" in facts.odd and isinstance(content, bytes):
            self.deepest = max(self.deepest, deepest_level(content))
        of_array = content.shape[2] - facts.transparent if isinstance(content, np.ndarray) else 0
        self.channels[of_array or (1 if facts.gray else 3)] += 1

    @property
    def labelled(self) -> bool:
        return any(label is not None for label in self.labels)


def survey_pictures(source: Source, watch: Watch = unwatched) -> Survey:
    survey, digest = Survey(), blake2b(digest_size=16)
    for item in watch_items(watch, source.items(), None, PICTURES_READ):
        survey.add(item)
        digest.update(repr((item.name, item.label, item.held_out)).encode())
        if isinstance(item.content, np.ndarray):
            digest.update(repr(item.content.shape).encode() + item.content.tobytes())
        else:
            digest.update(item.content if isinstance(item.content, bytes) else item.content.kind.encode())
    if not survey.sizes:
        first = f": {survey.bad[0].name}: {survey.bad[0].why}" if survey.bad else ""
        raise UndiffuseError(f"{source.name}: no usable picture{first}")
    survey.content = digest.hexdigest()
    return survey


def bits_of(survey: Survey, spec: DataSpec) -> int:
    """The bits that pictures of 16 bits use: as asked, or the fewest of 8, 10, 12, 14 and 16 that hold all levels.

    Scanners and microscopes put 12 bits into files of 16; read as 16 bits such pictures are nearly black.
    """
    if spec.bits is not None:
        return spec.bits
    return next((bits for bits in (8, 10, 12, 14) if 0 < survey.deepest < 2**bits), 16)


def shape_of(survey: Survey, source: Source, spec: DataSpec) -> tuple[Size, int]:
    """(h, w) and the number of channels that all pictures will have."""
    return _size_of(survey, source, spec), _channels_of(survey, source, spec)


def _size_of(survey: Survey, source: Source, spec: DataSpec) -> Size:
    size = spec.size
    if size is None and len(survey.sizes) == 1:
        return next(iter(survey.sizes))
    if size is None:
        (common, times), smallest, largest = survey.sizes.most_common(1)[0], min(survey.sizes), max(survey.sizes)
        raise UsageError(
            f"{source.name}: the pictures have {len(survey.sizes)} sizes, from {times_sign(smallest)} to "
            f"{times_sign(largest)} (height x width), most often {times_sign(common)}, {times} times; say which they "
            "shall have, for example: --set data.size=32"
        )
    if source.levels != 256 and (spec.fit != "pad" or spec.channels not in (None, 1)) and set(survey.sizes) != {size}:
        raise UsageError(
            f"{source.name} has {source.levels} levels of grey, which resizing would leave; take data.fit=pad"
        )
    return size


def _channels_of(survey: Survey, source: Source, spec: DataSpec) -> int:
    if spec.channels is not None:
        return spec.channels
    if "array" in survey.formats and len(survey.channels) > 1:
        raise UndiffuseError(f"{source.name}: pictures of {sorted(survey.channels)} channels; they must be alike")
    return max(survey.channels)


def times_sign(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
