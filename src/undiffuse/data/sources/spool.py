"""A source that is far away is fetched once, though it is read twice."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from undiffuse.data.sources.base import Item, Source, Telling
from undiffuse.data.spec import BadPicture


class Spooled:
    """A source's items, kept on disk for a second reading; the first reading, if it is complete, is written down for
    the next. Files, no arrays."""

    def __init__(self, source: Source, path: Path) -> None:
        self.source, self.path, self.complete = source, path, False
        self.name, self.levels = source.name, source.levels

    def classes(self) -> tuple[str, ...] | None:
        return self.source.classes()

    def stamp(self) -> str | None:
        return self.source.stamp()

    def remarks(self) -> tuple[str, ...]:
        return self.source.remarks() if isinstance(self.source, Telling) else ()

    def passed_over(self) -> str:
        return self.source.passed_over() if isinstance(self.source, Telling) else ""

    def items(self) -> Iterator[Item]:
        yield from self._again() if self.complete else self._first()

    def _first(self) -> Iterator[Item]:
        with self.path.open("wb") as file:
            for item in self.source.items():
                bad = [item.content.kind, str(item.content)] if isinstance(item.content, BadPicture) else None
                content = item.content if isinstance(item.content, bytes) else b""
                head = json.dumps([item.name, item.label, item.held_out, bad, len(content)]).encode()
                file.write(len(head).to_bytes(4, "big") + head + content)
                assert not isinstance(item.content, np.ndarray)
                yield item
        self.complete = True

    def _again(self) -> Iterator[Item]:
        with self.path.open("rb") as file:
            while size := file.read(4):
                name, label, held_out, bad, length = json.loads(file.read(int.from_bytes(size, "big")))
                content = file.read(length)
                yield Item(name, BadPicture(*bad) if bad else content, label, held_out)


@contextmanager
def read_once(source: Source, far: bool) -> Iterator[Source]:
    """The source itself if it is near."""
    if not far:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="undiffuse-") as folder:
        yield Spooled(source, Path(folder) / "items")
