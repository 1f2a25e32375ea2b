"""A folder of pictures."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from undiffuse.data.sources.base import Item, opened_lines, read_bytes, stamp_of
from undiffuse.data.sources.labelling import by_folders, by_table, pictures_of, table_beside
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError


@dataclass(frozen=True)
class Folder:
    """Every picture below a folder; classes from sub-folders or from a label file."""

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
        table = self._table(listed)
        return stamp_of([self.folder / name for name in listed] + ([table] if table else []))

    def items(self) -> Iterator[Item]:
        names = pictures_of(self._list(), self.spec.select)
        if not names:
            pattern = f" that match {self.spec.select}" if self.spec.select else ""
            raise UndiffuseError(f"{self.folder}: no pictures here{pattern}")
        table = self._table(self._list())
        if table is None:
            places = by_folders(names)
        else:
            places = by_table(names, opened_lines(table), str(table), self.spec.label_key)
        for name in names:
            yield places.item(name, read_bytes(self.folder / name))

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

    def _table(self, listed: list[str]) -> Path | None:
        if self.spec.labels is not None:
            return (self.folder if self.spec.labels in listed else Path()) / self.spec.labels
        beside = table_beside(listed)
        return None if beside is None else self.folder / beside
