"""Zip and tar files (also webdataset's shards), read without unpacking them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from undiffuse.data.budget import Budget
from undiffuse.data.sources.base import Item, opened_lines, printable, stamp_of
from undiffuse.data.sources.contents import Contents, contents_of, keys_of, notes_beside
from undiffuse.data.sources.labelling import (
    Labelled,
    Place,
    Places,
    check_same_classes,
    listed_some,
    passed_over,
    pictures_of,
    pictures_or_links,
    placed,
    told_by,
)
from undiffuse.data.sources.members import member_content, members_of
from undiffuse.data.sources.parts import sides_among, sides_told
from undiffuse.data.sources.rows import LabelFile
from undiffuse.data.sources.tables import PUBLISHED, TABLES, read_labels, tables_among
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError
from undiffuse.shapes import Watch, unwatched


@dataclass(frozen=True)
class Archive:
    """One archive, or several that together are one set. Classes come from folders, from label files inside, beside or
    elsewhere, or, as webdataset has it, from NAME.cls or NAME.json beside NAME.png.

    folder: that was given as the source, whose label files are then those of the archives in it.
    """

    paths: tuple[Path, ...]
    spec: DataSpec
    levels: int = 256
    folder: Path | None = None
    watch: Watch = unwatched

    @property
    def name(self) -> str:
        return self.paths[0].name + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")

    def classes(self) -> None:
        return None

    def stamp(self) -> str:
        return stamp_of([*self.paths, *self._places_of_tables()])

    def items(self) -> Iterator[Item]:
        places, before = self._places, keys_of(self.paths, self._contents.alike)
        for path in self.paths:
            for member in members_of(Budget(path, self.spec.budget)):
                key = before[path] + member.name
                links = self._contents.links.get(key, [])
                if not (member.why or member.link) and any(name in places.of for name in (key, *links)):
                    content = member_content(member.size, member.read)
                    yield from (places.item(name, content) for name in (key, *links) if name in places.of)

    def remarks(self) -> tuple[str, ...]:
        """How classes and parts were found."""
        return self._places.notes

    def passed_over(self) -> str:
        """Pictures that are not read, counted."""
        odd = {why: pictures_or_links(names, why) for why, names in self._contents.unread.items()}
        told = [f"{len(names):,} {why} ({printable(names[0])})" for why, names in odd.items() if names]
        if self.spec.select is None:  # or it is a choice
            names, unnamed = self._contents.names, self._contents.unnamed
            beside = [] if self.folder is None else [file.name for file in self.folder.iterdir()]
            own = {path.name for path in self.paths}
            every = [*names, *(name for name in beside if name not in own)]
            told.append(passed_over(every, pictures_of(names, None), lambda key: key in unnamed))
        return ", ".join(filter(None, told))

    @cached_property
    def _contents(self) -> Contents:
        return contents_of(self.paths, self.spec, self.watch)

    @cached_property
    def _places(self) -> Places:
        wanted = pictures_of(self._contents.names, self.spec.select)
        if not wanted:
            pattern = f" that match {self.spec.select}" if self.spec.select else ""
            raise UndiffuseError(f"{self.name}: no pictures in it{pattern}")
        said = self._labelled(wanted)
        return told_by(_placed(wanted, self._contents, self.spec, said), said)

    # -- label files --------------------------------------------------------------------------------------------------

    def _labelled(self, wanted: Sequence[str]) -> Labelled:
        """What label files say: those in the archives, else one beside them or elsewhere, else each picture's."""
        inside, outside = self._tables_inside(), [path for path in self._places_of_tables() if path.is_file()]
        asked = self.spec.labels
        if inside:
            said = read_labels(inside, wanted, self.spec)
            if asked is None:
                said.notes += [f"{path}: not read, for there are label files in the archives" for path in outside]
            return said
        if outside or asked is not None:
            path = outside[0] if outside else Path(str(asked))
            known = self._contents.as_folders(wanted)
            table = LabelFile("", opened_lines(path), str(path), asked is not None)
            with self._told_of_loose():
                return read_labels([table], list(known), self.spec).renamed(known)
        if damaged := next((key for key in self._contents.faults if key.endswith(".cls")), None):
            self._contents.text(damaged)
        return notes_beside(wanted, self._contents.notes, self.spec)

    @contextmanager
    def _told_of_loose(self) -> Iterator[None]:
        """A label file beside archives that is not of them may be of the pictures beside them."""
        try:
            yield
        except UndiffuseError as error:
            beside = [] if self.folder is None else [file.name for file in self.folder.iterdir()]
            if not (loose := pictures_of(beside, None)):
                raise
            how = f"data.select='*{Path(loose[0]).suffix}' reads the {len(loose):,} pictures beside them"
            raise type(error)(f"{error}; the archives here are read ({self.name}); {how}") from error

    def _tables_inside(self) -> list[LabelFile]:
        """The label files in the archives: that which was asked for, else those that are known."""
        asked, contents = self.spec.labels, self._contents
        if asked is None:
            keys = tables_among(contents.names)
        else:
            keys = [key for key in contents.names if asked in (key, contents.inner(key))]
        found = [key for key in keys if key in contents.notes or key in contents.faults]
        return [LabelFile(key.rpartition("/")[0], contents.text(key), key, asked is not None) for key in found]

    def _places_of_tables(self) -> list[Path]:
        """Where a label file outside of the archives may lie: that which was asked for, beside them first; else those
        that are known, in the folder that is the source."""
        if self.spec.labels is not None:
            asked = Path(self.spec.labels)
            return [(self.folder or self.paths[0].parent) / asked, asked]
        return [] if self.folder is None else [self.folder / name for name in (*TABLES, *PUBLISHED)]


# -- parts and classes ------------------------------------------------------------------------------------------------


def _placed(wanted: Sequence[str], contents: Contents, spec: DataSpec, said: Labelled) -> Places:
    """Parts by the archives' names, such as train-000.tar and test-000.tar, and by folders within; classes by folders
    within."""
    sides = {} if spec.split == "none" else sides_among(contents.archives, alone=False)
    notes: list[str] = []
    if sides:
        notes.append(f"parts by archives: {sides_told(sides)}")
        wanted = _inside_of_parts(wanted, contents, sides, spec, notes)
    inner = placed(
        [*dict.fromkeys(map(contents.inner, wanted))],
        spec,
        said.renamed({key: contents.inner(key) for key in wanted}),
        above="*/" if contents.alike else "",
    )
    found = {key: inner.of[contents.inner(key)] for key in wanted if contents.inner(key) in inner.of}
    if sides:
        found = {key: _on_side(key, place, sides[contents.archive(key)]) for key, place in found.items()}
        open_sides = {key: place.held_out for key, place in found.items() if key not in said.of}
        labels = {key: place.label for key, place in found.items()}
        check_same_classes(labels, open_sides, "give the archives of one part as data.source")
    return Places(found, (*notes, *inner.notes))


def _inside_of_parts(
    wanted: Sequence[str], contents: Contents, sides: Mapping[str, bool], spec: DataSpec, notes: list[str]
) -> list[str]:
    """The pictures in archives that are parts; others are refused, or left out where data.split=folders says so."""
    strays = [key for key in wanted if contents.archive(key) not in sides]
    if strays and spec.split != "folders":
        raise UndiffuseError(
            f"there are archives to train on and to hold out, and pictures in others: {len(strays):,} "
            f"({listed_some(strays)}); move these, leave them out with data.split=folders, or take no archive for a "
            "part with data.split=none"
        )
    if strays:
        notes.append(f"left out, outside of the parts: {len(strays):,} ({listed_some(strays)})")
    return [key for key in wanted if contents.archive(key) in sides]


def _on_side(key: str, place: Place, held_out: bool) -> Place:
    if place.held_out not in (None, held_out):
        raise UndiffuseError(
            f"{key} is of one part by its archive's name and of another by its folder; rename one of them, or take no "
            "parts from either with data.split=none"
        )
    return Place(place.label, held_out)
