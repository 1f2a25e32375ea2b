"""Which pictures a cell of a label file names."""

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

from undiffuse.data.sources.base import DEEPEST_FOLDER
from undiffuse.data.sources.parts import kinds_in
from undiffuse.errors import UndiffuseError

WHOLE = DEEPEST_FOLDER + 2  # agrees in more than the end of any path does
MOST_ENDS = 1 << 30  # letters of all ends of all paths
NEAR = 2  # folders; what lies above them is somebody's machine
WORKSHOP = "dev"  # where people keep what they work on: of a path, it need not be a part
Known = dict[str, list[str]]


class Found(NamedTuple):
    """The pictures that a cell names, and how many names of their paths, from the end, agree with it."""

    names: list[str]
    agreeing: int


NOTHING = Found([], 0)


class Finder:
    """Finds the pictures that a cell of a label file names, those below its own folder first. A letter with an accent
    is the same as one sign and as two."""

    def __init__(self, names: Sequence[str], folder: str) -> None:
        base = composed(f"{folder}/") if folder else ""
        every = [(composed(name), name) for name in names]
        below = [(path.removeprefix(base), name) for path, name in every if path.startswith(base)]
        self._below = below or every  # a folder of label files alone is not theirs
        self._whole = _gathered(every) | _gathered(self._below)
        self._ends = _ends(self._below, lambda path: path)
        self._stems: Known | None = None
        self._lower: tuple[Known, Known] | None = None

    def by_path(self, cell: str) -> Found:
        """By whole path, else by its end, as far as both go: paths of another machine end like ours. Case matters only
        where it must."""
        path = re.sub(r"^(?:[A-Za-z]:)?[/\\]+|^(?:\.[/\\])+", "", composed(cell.strip())).replace("\\", "/")
        if "." not in path.rpartition("/")[2] and path not in self._whole:
            return NOTHING  # it may be a stem
        if self._lower is None:
            self._lower = _lowered(self._whole), _lowered(self._ends)
        for whole, ends, asked in ((self._whole, self._ends, path), (*self._lower, path.lower())):
            if asked in whole:
                return Found(whole[asked], WHOLE)
            parts = asked.split("/")[-DEEPEST_FOLDER:]
            for start in range(len(parts)):
                if names := ends.get("/".join(parts[start:])):
                    agreeing = len(parts) - start
                    return Found(_of_its_part(parts[:start], names, agreeing), agreeing)
        return NOTHING

    def by_stem(self, cell: str) -> Found:
        """By a path or its end without the suffix."""
        if self._stems is None:
            self._stems = _ends(self._below, lambda path: path.with_suffix(""))
        asked = composed(cell.strip()).removeprefix("./").replace("\\", "/")
        return Found(self._stems.get(asked, []), asked.count("/") + 1)


def composed(text: str) -> str:
    """The text with every letter and its accent as one sign, where there is one: file systems differ in this."""
    return normalize("NFC", text)


def _of_its_part(before: Sequence[str], names: list[str], agreeing: int) -> list[str]:
    """Those of the pictures whose folders, before what agrees, are not of another part than these folders of the cell:
    test/0.png is not train/0.png."""
    if not (asked := _kinds_near(before)):
        return names
    kinds = {name: _kinds_near(name.split("/")[:-agreeing]) for name in names}
    return [name for name in names if not kinds[name] or kinds[name] & asked]


def _kinds_near(folders: Sequence[str]) -> set[str]:
    return kinds_in([folder for folder in folders[-NEAR:] if folder.lower() != WORKSHOP])


def _gathered(pairs: Sequence[tuple[str, str]]) -> Known:
    gathered: Known = {}
    for path, name in pairs:
        gathered.setdefault(path, []).append(name)
    return gathered


def _ends(below: Sequence[tuple[str, str]], cut: Callable[[PurePosixPath], PurePosixPath]) -> Known:
    """Every end of every path -> the pictures whose paths end so. Raises UndiffuseError for names whose ends no memory
    holds."""
    if sum(len(inner) * (inner.count("/") + 1) for inner, _ in below) // 2 > MOST_ENDS:
        raise UndiffuseError("the pictures' names are too long, and too deep in folders, to find them by a label file")
    ends: Known = {}
    for inner, name in below:
        parts = cut(PurePosixPath(inner)).parts
        for start in range(len(parts)):
            ends.setdefault("/".join(parts[start:]), []).append(name)
    return ends


def _lowered(known: Known) -> Known:
    """The same whatever the case."""
    lower: Known = {}
    for key, names in known.items():
        lower.setdefault(key.lower(), []).extend(names)
    return lower
