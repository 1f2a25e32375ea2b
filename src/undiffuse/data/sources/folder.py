"""A folder of pictures."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from undiffuse.data.budget import Budget
from undiffuse.data.sources.base import Item, begins_as_a_picture, check_depth, opened_lines, read_bytes, stamp_of
from undiffuse.data.sources.contents import notes_beside
from undiffuse.data.sources.labelling import Places, passed_over, pictures_of, placed, told_by
from undiffuse.data.sources.rows import LabelFile
from undiffuse.data.sources.tables import read_labels, tables_among
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError
from undiffuse.shapes import Watch, unwatched, watch_items


@dataclass(frozen=True)
class Folder:
    """Every picture below a folder; classes from sub-folders, from label files, or from NAME.cls beside NAME.png."""

    folder: Path
    spec: DataSpec
    levels: int = 256
    watch: Watch = unwatched

    @property
    def name(self) -> str:
        return self.folder.name or str(self.folder)

    def classes(self) -> None:
        return None

    def stamp(self) -> str:
        listed = self._listed
        outside = [table for table, _ in self._tables(listed) if self.folder not in table.parents]
        return stamp_of([self.folder / name for name in listed] + outside)

    def items(self) -> Iterator[Item]:
        places = self._places
        for name in places.of:
            yield places.item(name, read_bytes(self.folder / name))

    def remarks(self) -> tuple[str, ...]:
        """How classes and parts were found."""
        return self._places.notes

    def passed_over(self) -> str:
        """Pictures that are not read, counted."""
        if self.spec.select is not None:
            return ""  # a choice
        listed = self._listed
        return passed_over(listed, pictures_of(listed, None), lambda name: begins_as_a_picture(self.folder / name))

    @cached_property
    def _places(self) -> Places:
        listed = self._listed
        names = pictures_of(listed, self.spec.select)
        if not names:
            pattern = f" that match {self.spec.select}" if self.spec.select else ""
            raise UndiffuseError(f"{self.folder}: no pictures here{pattern}")
        found = self._tables(listed)
        if not found:
            labels = notes_beside(names, self._notes(listed), self.spec)
            return told_by(placed(names, self.spec, labels), labels)
        asked = self.spec.labels is not None
        tables = [LabelFile(inside, opened_lines(path), str(path), asked) for path, inside in found]
        labels = read_labels(tables, names, self.spec)
        return told_by(placed(names, self.spec, labels), labels)

    def _notes(self, listed: list[str]) -> dict[str, bytes]:
        """The .cls files, as webdataset's archives have them when they are unpacked."""
        read = {name: read_bytes(self.folder / name) for name in listed if name.endswith(".cls")}
        return {name: content for name, content in read.items() if isinstance(content, bytes)}

    @cached_property
    def _listed(self) -> list[str]:
        """The files below the folder, by their paths from it with forward slashes."""
        found: list[str] = []
        budget = Budget(self.folder, self.spec.budget)
        for here, files in watch_items(self.watch, _walk(self.folder), None, "folder looked through"):
            found += [f"{here}{file}" for file in files]
            budget.check_members(len(found))
        return sorted(found)

    def _tables(self, listed: list[str]) -> list[tuple[Path, str]]:
        """Label files, each with the folder among the pictures that it lies in."""
        asked = self.spec.labels
        if asked is None:
            return [(self.folder / name, name.rpartition("/")[0]) for name in tables_among(listed)]
        return [(self.folder / asked, asked.rpartition("/")[0]) if asked in listed else (Path(asked), "")]


def _walk(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder below, as the beginning of its files' paths from the top, and their names. No link is followed to a
    folder already seen, for it may lead round in a circle."""
    seen: set[str] = set()
    for name, folders, files in os.walk(top, followlinks=True):
        seen.add(os.path.realpath(name))
        here = Path(name).relative_to(top).as_posix()
        check_depth(here, top)
        yield "" if here == "." else f"{here}/", files
        inside = [folder for folder in sorted(folders) if not folder.startswith(".")]
        folders[:] = [folder for folder in inside if not _was_seen(Path(name, folder), seen)]


def _was_seen(folder: Path, seen: set[str]) -> bool:
    return folder.is_symlink() and os.path.realpath(folder) in seen
