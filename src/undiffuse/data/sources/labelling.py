"""Which class a picture file belongs to, and which part: from folders' names and label files."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from undiffuse.data.sources.base import Item, natural, printable
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError

PICTURE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".tga", ".apng"),
}
UNREAD_SUFFIXES = {  # pictures, or arrays of them, that are not read from among files
    *(".heic", ".heif", ".svg", ".jxl", ".jp2", ".psd", ".dng", ".cr2", ".nef", ".arw", ".raw", ".exr", ".hdr", ".dds"),
    *(".ico", ".eps", ".pdf", ".dcm", ".nii", ".npy", ".npz", ".mat", ".h5", ".mp4", ".avi", ".mov"),
}
TRAIN_FOLDERS = {"train", "training"}
HELD_OUT_FOLDERS = {"test", "testing", "val", "valid", "validation", "heldout", "held_out", "held-out"}
EXAMPLES = 3  # names that a message tells


@dataclass(frozen=True)
class Place:
    """What a file's place says of it: its class's name and whether it is held out; None where nobody says."""

    label: str | None = None
    held_out: bool | None = None


@dataclass(frozen=True)
class Places:
    """The places of all files, and lines that tell how they were found."""

    of: dict[str, Place]
    notes: tuple[str, ...] = ()

    def item(self, name: str, content: bytes | BadPicture) -> Item:
        place = self.of.get(name, Place())
        label = None if place.label is None else printable(place.label)
        return Item(printable(name), content, label, place.held_out)


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
        suffix = PurePosixPath(name).suffix.lower()
        unread = suffix in UNREAD_SUFFIXES or (suffix in ("", ".") and is_picture(name))
        if name not in kept and not is_hidden(name) and (unread or suffix in PICTURE_SUFFIXES):
            found.setdefault(suffix or "without a suffix", []).append(name)
    return ", ".join(f"{len(files):,} {suffix} ({printable(files[0])})" for suffix, files in found.items())


# -- which part and class ---------------------------------------------------------------------------------------------


def placed(names: Sequence[str], spec: DataSpec, labels: Mapping[str, str | None] | None = None) -> Places:
    """Part and class of each picture. Part: a folder called train, test, val and so on, where there are both kinds;
    class: as `labels` says of it, else the first folder below those that all share.

    Raises UndiffuseError where parts are to be seen and cannot be used.
    """
    parts = {name: PurePosixPath(name).parts[:-1] for name in names}
    level = None if spec.split == "none" else _level_of_parts(parts)
    held_out: dict[str, bool | None] = dict.fromkeys(names)
    notes: list[str] = []
    if level is not None:
        held_out = {name: _is_held_out(folders, level) for name, folders in parts.items()}
        parts = {name: folders[:level] + folders[level + 1 :] for name, folders in parts.items()}
        notes.append(_told(held_out))
        held_out, parts = _without_strays(held_out, parts, spec, notes)
    depth = _shared(list(parts.values()))
    by_folder = {name: folders[depth] if len(folders) > depth else None for name, folders in parts.items()}
    known = by_folder | {name: label for name, label in (labels or {}).items() if name in by_folder}
    if level is not None:
        _check_same_classes(known, {name: side for name, side in held_out.items() if name not in (labels or {})})
    return Places({name: Place(known[name], side) for name, side in held_out.items()}, tuple(notes))


def _level_of_parts(parts: Mapping[str, tuple[str, ...]]) -> int | None:
    """How deep the folders lie that are parts: the first level that has a train and a held-out one, or parts alone."""
    depth = _shared(list(parts.values()))
    for level in range(max(map(len, parts.values()), default=0)):
        kinds = {folders[level].lower() if len(folders) > level else "" for folders in parts.values()}
        train, held_out = kinds & TRAIN_FOLDERS, kinds & HELD_OUT_FOLDERS
        if (train and held_out) or (level >= depth and len(kinds) > 1 and kinds <= TRAIN_FOLDERS | HELD_OUT_FOLDERS):
            return level
    return None


def _is_held_out(folders: tuple[str, ...], level: int) -> bool | None:
    name = folders[level].lower() if len(folders) > level else ""
    return True if name in HELD_OUT_FOLDERS else False if name in TRAIN_FOLDERS else None


def side_of(name: str) -> bool | None:
    """Whether a file's name says that it is held out, as in train-000.tar or test.zip; None if it does not say."""
    first = re.split(r"[-_.]", name.lower())[0]
    return True if first in HELD_OUT_FOLDERS else False if first in TRAIN_FOLDERS else None


def _told(held_out: Mapping[str, bool | None]) -> str:
    sides = Counter(held_out.values())
    return f"parts by folders: {sides[False]:,} to train on, {sides[True]:,} held out"


def _without_strays(
    held_out: dict[str, bool | None], parts: dict[str, tuple[str, ...]], spec: DataSpec, notes: list[str]
) -> tuple[dict[str, bool | None], dict[str, tuple[str, ...]]]:
    """Pictures beside the parts belong to none: they are refused, or left out where data.split=folders says so."""
    strays = [name for name, side in held_out.items() if side is None]
    if not strays:
        return held_out, parts
    some = ", ".join(map(printable, strays[:EXAMPLES])) + (" ..." if len(strays) > EXAMPLES else "")
    if spec.split != "folders":
        raise UndiffuseError(
            f"there are folders to train on and to hold out, and pictures outside of them: {len(strays):,} ({some}); "
            "move these, leave them out with data.split=folders, or take no folder for a part with data.split=none"
        )
    notes.append(f"left out, outside of the parts: {len(strays):,} ({some})")
    inside = [name for name, side in held_out.items() if side is not None]
    return {name: held_out[name] for name in inside}, {name: parts[name] for name in inside}


def _check_same_classes(labels: Mapping[str, str | None], held_out: Mapping[str, bool | None]) -> None:
    """Folders of the held-out part that the train part has not are no classes, but something else."""
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for name, side in held_out.items():
        label = labels[name]
        if side is not None and label is not None:
            sides[side].add(label)
    if sides[False] and (other := sorted(sides[True] - sides[False], key=natural)):
        raise UndiffuseError(
            f"the held-out part has folders that the train part has not ({', '.join(map(printable, other[:EXAMPLES]))})"
            ": are they classes? Put a label file beside them (docs/data.md), take one part with "
            "data.select='train/*', or take no folder for a part with data.split=none"
        )


def _shared(paths: list[tuple[str, ...]]) -> int:
    """The number of leading folders that all paths share."""
    depth = 0
    while paths and all(len(path) > depth and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    return depth
