"""Several .npz files that together are one set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from undiffuse.data.sources.arrays import Arrays
from undiffuse.data.sources.base import Item, stamp_of
from undiffuse.data.sources.labelling import listed_some
from undiffuse.data.sources.parts import sides_among, sides_told
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError


@dataclass(frozen=True)
class ArrayFiles:
    """Several .npz files that together are one set, as `undiffuse sample --format npz` writes them; those called
    train.npz, test.npz and so on are its parts."""

    paths: tuple[Path, ...]
    spec: DataSpec
    levels: int = 256

    @property
    def name(self) -> str:
        return self.paths[0].name + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")

    def classes(self) -> None:
        return None

    def stamp(self) -> str:
        return stamp_of(self.paths)

    def items(self) -> Iterator[Item]:
        for path in self.paths:
            if self._sides and path.stem not in self._sides:
                continue
            arrays, side = self._arrays(path), self._sides.get(path.stem)
            if range_taken := arrays.range_taken():
                raise UndiffuseError(
                    f"{path}: {range_taken}; of several files each must hold uint8, or ranges may differ"
                )
            for item in arrays.items():
                if side is not None and item.held_out not in (None, side):
                    raise UndiffuseError(f"{path}: holds {item.name}, which is of another part than the file is called")
                held_out = item.held_out if side is None else side
                yield replace(item, name=f"{path.name}/{item.name}", held_out=held_out)

    def remarks(self) -> tuple[str, ...]:
        """How parts were found, and what is not read."""
        told = [f"{path.name}: {line}" for path in self.paths for line in self._arrays(path).unread()]
        if self._sides:
            told.append(f"parts by files: {sides_told(self._sides)}")
        if self._sides and (others := [path.name for path in self.paths if path.stem not in self._sides]):
            told.append(f"left out, outside of the parts: {listed_some(others)}")
        return tuple(told)

    def passed_over(self) -> str:
        return ""

    def _arrays(self, path: Path) -> Arrays:
        return Arrays(path, self.levels, self.spec.budget)

    @cached_property
    def _sides(self) -> Mapping[str, bool]:
        """The files that are parts. Raises UndiffuseError where there are others besides."""
        if self.spec.split == "none":
            return {}
        sides = sides_among([path.stem for path in self.paths], alone=False)
        others = [path.name for path in self.paths if path.stem not in sides]
        if sides and others and self.spec.split != "folders":
            raise UndiffuseError(
                f"there are files to train on and to hold out, and others ({listed_some(others)}); move these, leave "
                "them out with data.split=folders, or take no file for a part with data.split=none"
            )
        return sides
