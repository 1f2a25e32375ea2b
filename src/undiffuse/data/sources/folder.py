"""A folder of pictures."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from undiffuse.data.sources.base import Item, begins_as_a_picture, opened_lines, read_bytes, stamp_of
from undiffuse.data.sources.labelling import Places, passed_over, pictures_of, placed
from undiffuse.data.sources.rows import LabelFile
from undiffuse.data.sources.tables import read_labels, tables_among
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError


@dataclass(frozen=True)
class Folder:
    """Every picture below a folder; classes from sub-folders or from label files."""

    folder: Path
    spec: DataSpec
    levels: int = 256

    @property
    def name(self) -> str:
        return self.folder.name or str(self.folder)

    def classes(self) -> None:
        return None

    def stamp(self) -> str:
        listed = self._list()
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
        listed = self._list()
        return passed_over(listed, pictures_of(listed, None), lambda name: begins_as_a_picture(self.folder / name))

    @cached_property
    def _places(self) -> Places:
        listed = self._list()
        names = pictures_of(listed, self.spec.select)
        if not names:
            pattern = f" that match {self.spec.select}" if self.spec.select else ""
            raise UndiffuseError(f"{self.folder}: no pictures here{pattern}")
        found = self._tables(listed)
        if not found:
            return placed(names, self.spec)
        asked = self.spec.labels is not None
        tables = [LabelFile(inside, opened_lines(path), str(path), asked) for path, inside in found]
        labels = read_labels(tables, names, self.spec.label_key, self.spec.file_key)
        places = placed(names, self.spec, labels.of)
        return Places(places.of, (*labels.notes, *places.notes))

    def _list(self) -> list[str]:
        """The files below the folder, by their paths from it with forward slashes; no link is followed to a folder
        already seen, for it may lead round in a circle."""
        found: list[str] = []
        seen: set[Path] = set()
        for top, folders, files in os.walk(self.folder, followlinks=True):
            here = Path(top)
            seen.add(here.resolve())
            found += [(here.relative_to(self.folder) / file).as_posix() for file in files]
            inside = [here / name for name in sorted(folders) if not name.startswith(".")]
            folders[:] = [path.name for path in inside if not path.is_symlink() or path.resolve() not in seen]
        return sorted(found)

    def _tables(self, listed: list[str]) -> list[tuple[Path, str]]:
        """Label files, each with the folder among the pictures that it lies in."""
        asked = self.spec.labels
        if asked is None:
            return [(self.folder / name, name.rpartition("/")[0]) for name in tables_among(listed)]
        return [(self.folder / asked, asked.rpartition("/")[0]) if asked in listed else (Path(asked), "")]
