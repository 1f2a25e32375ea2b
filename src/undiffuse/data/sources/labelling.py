"""Which class a picture file belongs to, and which part: from folders' names and label files."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TypeVar

from undiffuse.data.sources.base import Item, natural, printable
from undiffuse.data.sources.finding import composed
from undiffuse.data.sources.parts import sides_among
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError

PICTURE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".tga", ".apng"),
}
UNREAD_SUFFIXES = {  # pictures, or arrays of them, that are not read from among files
    *(".heic", ".heif", ".svg", ".jxl", ".jp2", ".psd", ".dng", ".cr2", ".nef", ".arw", ".raw", ".exr", ".hdr", ".dds"),
    *(".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar", ".parquet", ".arrow"),
    *(".ico", ".eps", ".pdf", ".dcm", ".nii", ".npy", ".npz", ".mat", ".h5", ".mp4", ".avi", ".mov"),
}
EXAMPLES = 3  # names that a message tells
Said = TypeVar("Said")
Folders = tuple[str, ...]  # of a path, from the top


@dataclass(frozen=True)
class Place:
    """What a file's place says of it: its class's name and whether it is held out; None where nobody says."""

    label: str | None = None
    held_out: bool | None = None


@dataclass(frozen=True)
class Places:
    """The places of all files, and lines that tell how they were found. unclear: files whose class is not to be told,
    and why."""

    of: dict[str, Place]
    notes: tuple[str, ...] = ()
    unclear: Mapping[str, str] = field(default_factory=dict)

    def item(self, name: str, content: bytes | BadPicture) -> Item:
        place = self.of.get(name, Place())
        label = None if place.label is None else printable(place.label)
        if name in self.unclear:
            content = BadPicture("unclear label", printable(self.unclear[name]))
        return Item(printable(name), content, label, place.held_out)


@dataclass
class Labelled:
    """What label files say of pictures. of: the class of each that lies beside or below one, None if it is not named;
    held_out: of those whose part they say; unclear: pictures whose class is not to be told, and why; notes: to be said.
    """

    of: dict[str, str | None] = field(default_factory=dict)
    held_out: dict[str, bool] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, label: str | None, held_out: bool | None, origin: str) -> None:
        """Raises UndiffuseError for a picture of which another file says something else."""
        if self.of.setdefault(name, label) != label:
            raise UndiffuseError(
                f"{origin}: {name} is of class '{label}', and of class '{self.of[name]}' by another label file; one is "
                "wanted"
            )
        if held_out is not None:
            self.held_out[name] = held_out

    def renamed(self, to: Mapping[str, str]) -> "Labelled":
        """The same of pictures called otherwise."""
        return Labelled(_renamed(self.of, to), _renamed(self.held_out, to), _renamed(self.unclear, to), self.notes)


def _renamed(old: Mapping[str, Said], to: Mapping[str, str]) -> dict[str, Said]:
    return {to[key]: said for key, said in old.items() if key in to}


# -- which files ------------------------------------------------------------------------------------------------------


def pictures_of(names: Sequence[str], select: str | None) -> list[str]:
    """The names that look like pictures by their suffix, or match the pattern, in natural order; not hidden files."""

    def wanted(name: str) -> bool:
        path = PurePosixPath(name)
        if is_hidden(name):
            return False
        if select is not None:
            return path.match(select) or fnmatchcase(name, select)
        return path.suffix.lower() in PICTURE_SUFFIXES

    return sorted(filter(wanted, names), key=natural)


def pictures_or_links(names: Iterable[str], why: str) -> list[str]:
    """Of files that an archive holds and that are not read, those that may be missed: pictures, links that may lead to
    folders of them, and what has no name to tell."""
    if why == "without a name":
        return list(names)
    may_lead = why == "by symbolic links"
    known = [name for name in names if not is_hidden(name)]
    return [name for name in known if _suffix(name) in PICTURE_SUFFIXES or (may_lead and not _suffix(name))]


def _suffix(name: str) -> str:
    """The end of a file's name that says its kind, in small letters; of a packed tar file both its ends."""
    suffixes = PurePosixPath(name.lower()).suffixes
    return "".join(suffixes[-2:] if suffixes[-2:-1] == [".tar"] else suffixes[-1:])


def is_hidden(name: str) -> bool:
    """Whether a file or a folder above it is hidden, or a Mac's copy of attributes."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def passed_over(names: Iterable[str], wanted: Iterable[str], is_picture: Callable[[str], bool]) -> str:
    """Files that are pictures, or hold some, and are not read, by suffix, with an example. "" if there are none.

    is_picture: whether a file without a suffix begins as a picture does.
    """
    kept = set(wanted)
    found: dict[str, list[str]] = {}
    for name in sorted(names, key=natural):
        suffix = _suffix(name)
        unread = suffix in UNREAD_SUFFIXES or (suffix in ("", ".") and is_picture(name))
        if name not in kept and not is_hidden(name) and (unread or suffix in PICTURE_SUFFIXES):
            found.setdefault(suffix or "without a suffix", []).append(name)
    return ", ".join(f"{len(files):,} {suffix} ({printable(files[0])})" for suffix, files in found.items())


# -- which part and class ---------------------------------------------------------------------------------------------


def placed(names: Sequence[str], spec: DataSpec, said: Labelled | None = None, above: str = "") -> Places:
    """Part and class of each picture by its folders. Part: a folder called train, test, val and so on, where there are
    both kinds; class: the first folder below those that all share.

    said: what label files say: of those pictures folders need tell no class, or no part. above: what comes before these
    names in a pattern of the user's. Raises UndiffuseError where parts are to be seen and cannot be used.
    """
    said = said or Labelled()
    paths = {name: PurePosixPath(name).parts[:-1] for name in names}
    level = None if spec.split == "none" else _level_of_parts(list(paths.values()))
    held_out: dict[str, bool | None] = dict.fromkeys(names)
    notes: list[str] = []
    advice = ""
    if level is not None:
        held_out = {name: level.side(path) for name, path in paths.items()}
        notes.append(_told(held_out))
        held_out = _without_strays(held_out, said, spec, notes)
        advice = level.pattern([paths[name] for name, side in held_out.items() if side is False], above)
        paths = {name: level.below(paths[name]) for name in held_out}
    depth = _shared(list(paths.values()))
    by_folder = {name: composed(path[depth]) if len(path) > depth else None for name, path in paths.items()}
    if level is not None:
        open_sides = {name: side for name, side in held_out.items() if name not in said.of}
        check_same_classes(by_folder, open_sides, f"take one part with data.select='{printable(advice)}'")
    return Places({name: Place(by_folder[name], side) for name, side in held_out.items()}, tuple(notes))


def told_by(places: Places, said: Labelled) -> Places:
    """The places, and what label files say of them."""
    of = {}
    for name, place in places.of.items():
        label, side = said.of.get(name, place.label), said.held_out.get(name)
        if side is not None and place.held_out not in (None, side):
            ways = ("held out", "to train on") if side else ("to train on", "held out")
            raise UndiffuseError(
                f"{name} is {ways[0]} by its label file and {ways[1]} by its place: mend one of them, or take no "
                "parts from either with data.split=none"
            )
        of[name] = Place(None if label is None else composed(label), place.held_out if side is None else side)
    if said.held_out:
        _check_all_have_parts({name: place for name, place in of.items() if name not in said.unclear})
    return Places(of, (*said.notes, *places.notes), said.unclear)


@dataclass(frozen=True)
class _Level:
    """The folders that are parts: how deep they lie, which of them are held out, and those that hold nothing but a
    folder of their own name, as archives unpacked into a folder do."""

    depth: int
    sides: Mapping[str, bool]
    doubled: frozenset[str]

    def side(self, path: Folders) -> bool | None:
        return self.sides.get(path[self.depth]) if len(path) > self.depth else None

    def below(self, path: Folders) -> Folders:
        """The path without the part."""
        if self.side(path) is None:
            return path
        twice = path[self.depth] in self.doubled
        return path[: self.depth] + path[self.depth + 1 + twice :]

    def pattern(self, paths: Sequence[Folders], above: str) -> str:
        """A pattern for data.select that the files of these folders match, and no other part's."""
        if not paths:
            return f"{above}*"
        steps: list[str] = []
        for step in zip(*(path[: self.depth + 1] for path in paths), strict=True):
            alike = len({*step}) == 1 or len(steps) == self.depth
            steps.append(re.sub(r"([*?[])", r"[\1]", step[0]) if alike else "*")
        return above + "/".join([*steps, "*"])


def _level_of_parts(paths: Sequence[Folders]) -> _Level | None:
    """The first folders that are parts: those with a train and a held-out one, or parts alone."""
    depth, unclear = _shared(paths), None
    for level in range(max(map(len, paths), default=0)):
        names = {path[level] if len(path) > level else "" for path in paths}
        try:
            sides = sides_among(names, alone=level >= depth)
        except UndiffuseError as error:
            unclear = unclear or error
            continue
        if sides:
            inside: dict[str, set[Folders]] = {}
            for path in paths:
                if len(path) > level:
                    inside.setdefault(path[level], set()).add(path[level + 1 : level + 2])
            return _Level(level, sides, frozenset(name for name in sides if inside[name] == {(name,)}))
    if unclear is not None:
        raise unclear
    return None


def _told(held_out: Mapping[str, bool | None]) -> str:
    sides = Counter(held_out.values())
    return f"parts by folders: {sides[False]:,} to train on, {sides[True]:,} held out"


def listed_some(names: Sequence[str]) -> str:
    """The first of the names, for a message."""
    return ", ".join(map(printable, names[:EXAMPLES])) + (" ..." if len(names) > EXAMPLES else "")


def _without_strays(
    held_out: dict[str, bool | None], said: Labelled, spec: DataSpec, notes: list[str]
) -> dict[str, bool | None]:
    """Pictures beside the parts belong to none: they are refused, or left out where data.split=folders says so."""
    strays = [name for name, side in held_out.items() if side is None and name not in said.held_out]
    if not strays:
        return held_out
    if spec.split != "folders":
        raise UndiffuseError(
            f"there are folders to train on and to hold out, and pictures outside of them: {len(strays):,} "
            f"({listed_some(strays)}); move these, leave them out with data.split=folders, or take no folder for a "
            "part with data.split=none"
        )
    notes.append(f"left out, outside of the parts: {len(strays):,} ({listed_some(strays)})")
    outside = {*strays}
    return {name: side for name, side in held_out.items() if name not in outside}


def _check_all_have_parts(of: Mapping[str, Place]) -> None:
    without = [name for name, place in of.items() if place.held_out is None and place.label is not None]
    if without:
        raise UndiffuseError(
            f"label files say the part of some pictures, and of {len(without):,} others only the class "
            f"({listed_some(without)}); say it of all, or take no parts from them with data.split=none"
        )


def check_same_classes(labels: Mapping[str, str | None], held_out: Mapping[str, bool | None], advice: str) -> None:
    """Folders of the held-out part that the train part has not are no classes, but something else."""
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for name, side in held_out.items():
        label = labels[name]
        if side is not None and label is not None:
            sides[side].add(label)
    if sides[False] and (other := sorted(sides[True] - sides[False], key=natural)):
        raise UndiffuseError(
            f"the held-out part has folders that the train part has not ({', '.join(map(printable, other[:EXAMPLES]))})"
            f": are they classes? Put a label file beside them (docs/data.md), {advice}, or take no folder for a part "
            "with data.split=none"
        )


def _shared(paths: Sequence[Folders]) -> int:
    """The number of leading folders that all paths share."""
    depth = 0
    while paths and all(len(path) > depth and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    return depth
