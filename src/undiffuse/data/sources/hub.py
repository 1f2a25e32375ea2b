"""Data sets of the Hugging Face hub, and parquet files, through `datasets`; read as a stream, not unpacked first."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from undiffuse.data.sources.base import Item, in_a_line, printable, stamp_of
from undiffuse.data.sources.fetching import roots_of, row_content
from undiffuse.data.sources.labelling import listed_some
from undiffuse.data.sources.parts import part_word, sides_among, sides_told
from undiffuse.data.sources.tables import PART_KEYS
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError, UsageError

HUB_LABEL_KEYS = ("label", "labels", "fine_label", "class", "category", "target")


@dataclass(frozen=True)
class Hub:
    """`path`: a name such as ylecun/mnist (name:configuration for one of several), a folder in a hub data set's layout,
    or parquet files. The column of pictures is the one of type Image; that of classes data.label_key or the usual one.
    """

    path: str
    spec: DataSpec
    names: tuple[str, ...] | None = None  # in place of the hub's own
    levels: int = 256

    @property
    def name(self) -> str:
        return self.path

    def classes(self) -> tuple[str, ...] | None:
        if self.names is not None:
            return self.names
        features = next(iter(self._streams().values())).features or {}
        key = self._label_key(features)
        return tuple(map(printable, features[key].names)) if key and hasattr(features[key], "names") else None

    def stamp(self) -> str:
        builder = self._builder()
        files = _files(builder)
        remote, local = ([name for name in files if ("://" in name) is far] for far in (True, False))
        return f"{self.names} {builder.hash} {remote} {stamp_of(map(Path, local))}"

    def is_far(self) -> bool:
        """Whether some of the data is not on this machine."""
        return any("://" in name for name in _files(self._builder()))

    def items(self) -> Iterator[Item]:
        streams = self._streams()
        names = self.classes()
        for part, held_out in self._sides.items():
            yield from self._part(streams[part], part, held_out, names)

    def remarks(self) -> tuple[str, ...]:
        """Which parts are read, where there are several."""
        others = [part for part in self._parts if part not in self._sides]
        sides = {part: side for part, side in self._sides.items() if side is not None}
        told = [f"parts by their names: {sides_told(sides)}"] if sides else []
        return (*told, *([f"parts that are not read: {', '.join(others)}"] if others else []))

    def passed_over(self) -> str:
        return ""

    @cached_property
    def _parts(self) -> list[str]:
        return list(self._streams())

    @cached_property
    def _sides(self) -> dict[str, bool | None]:
        """The parts that are read, and which are held out: all of those that are for this, by their names."""
        sides = sides_among(self._parts)
        train = [part for part, held_out in sides.items() if not held_out]
        if not sides:
            return {"train" if "train" in self._parts else self._parts[0]: None}
        chosen = {"train"} if "train" in train else {*train}  # others, such as trainval, are made of the same pictures
        return {part: sides[part] for part in self._parts if part in chosen or sides.get(part)}

    def _part(self, stream: Any, part: str, held_out: bool | None, names: tuple[str, ...] | None) -> Iterator[Item]:
        from datasets import Image as ImageFeature

        features = stream.features or {}
        column = next((key for key, kind in features.items() if isinstance(kind, ImageFeature)), None)
        if column is not None:
            stream = stream.cast_column(column, ImageFeature(decode=False))
        else:
            column = self._encoded(features)
        label_key, part_key = self._label_key(features), self._part_key(features)
        for row, record in enumerate(self._rows(stream)):
            label = _class(record[label_key], names) if label_key else None
            side = self._side(record, part_key, features, held_out) if part_key else held_out
            yield Item(f"{part}#{row}", row_content(record[column], self._roots), label, side)

    @cached_property
    def _roots(self) -> tuple[str, ...]:
        return roots_of(Path(self.path), _files(self._builder()))

    def _part_key(self, features: Any) -> str | None:
        """The column that says which part a row is of."""
        if self.spec.split == "none":
            return None
        return next((key for key in features if key.lower() in PART_KEYS and key != self.spec.label_key), None)

    def _side(self, record: Any, key: str, features: Any, held_out: bool | None) -> bool:
        """Whether a row is held out, as its column of parts says. Raises UsageError where that is no part, or not that
        of its file."""
        value, names = record[key], getattr(features[key], "names", None)
        value = names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value
        part = part_word(str(value))
        if part is None or held_out not in (None, part.held_out):
            why = "which part is that?" if part is None else "which is not the part that its file is of;"
            raise UsageError(
                f"{self.path}: column '{key}' says {str(value)[:40]}, {why} Write train, val or test there, or leave "
                "the column out with data.split=none"
            )
        return part.held_out

    def _encoded(self, features: Any) -> str:
        """The column that holds files' bytes, of a table that nobody told what pictures are."""
        binary = [key for key, kind in features.items() if _holds_bytes(kind)]
        if len(binary) != 1:
            found = f"several of bytes: {', '.join(binary)}" if binary else f"columns: {', '.join(features)}"
            raise UndiffuseError(f"{self.path}: no column of pictures; {found}")
        return binary[0]

    def _rows(self, stream: Any) -> Iterator[dict[str, Any]]:
        """The rows to read, at most data.limit: what is not wanted is not fetched."""
        try:
            with _silent():
                yield from islice(stream, self.spec.limit)
        except Exception as error:  # connections, damaged files
            raise self._failed("read", error) from error

    def _failed(self, verb: str, error: Exception) -> UndiffuseError:
        message = f"hub:{self.path}: cannot be {verb} ({type(error).__name__}: {in_a_line(error)})"
        return UndiffuseError(f"{message}; without the hub, files of it on this machine serve as well: docs/data.md")

    def _label_key(self, features: Any) -> str | None:
        if self.spec.label_key is not None:
            if self.spec.label_key not in features:
                raise UsageError(f"data.label_key: no column '{self.spec.label_key}'; columns: {', '.join(features)}")
            return self.spec.label_key
        return next((key for key in HUB_LABEL_KEYS if key in features), None)

    def _builder(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise UndiffuseError("hub data sets and parquet files need: pip install 'undiffuse[hub]'") from error
        try:
            with _silent():
                if self.path.endswith(".parquet"):
                    return datasets.load_dataset_builder("parquet", data_files=_parquet_files(self.path))
                here = Path(self.path).exists()
                name, _, configuration = (self.path, "", "") if here else self.path.partition(":")
                return datasets.load_dataset_builder(name, configuration or None)
        except Exception as error:  # connections, missing files, unknown layouts
            raise self._failed("opened", error) from error

    def _streams(self) -> dict[str, Any]:
        builder = self._builder()
        try:
            with _silent():
                return dict(builder.as_streaming_dataset())
        except Exception as error:
            raise self._failed("opened", error) from error


@dataclass(frozen=True)
class SavedToDisk(Hub):
    """What `datasets` wrote with save_to_disk: a folder of .arrow files, or one for each part."""

    @staticmethod
    def fits(folder: Path) -> bool:
        alone = all((folder / name).is_file() for name in ("dataset_info.json", "state.json"))
        return alone or (folder / "dataset_dict.json").is_file()

    @property
    def name(self) -> str:
        return Path(self.path).name

    def stamp(self) -> str:
        return stamp_of(sorted(file for file in Path(self.path).rglob("*") if file.is_file()))

    @cached_property
    def _roots(self) -> tuple[str, ...]:
        return roots_of(Path(self.path), [])

    def is_far(self) -> bool:
        return False

    def _streams(self) -> dict[str, Any]:
        try:
            import datasets
        except ImportError as error:
            raise UndiffuseError("folders of save_to_disk need: pip install 'undiffuse[hub]'") from error
        try:
            with _silent():
                found = datasets.load_from_disk(self.path)
        except Exception as error:  # missing files, versions that it does not know
            raise UndiffuseError(f"{self.path}: cannot be read ({type(error).__name__}: {in_a_line(error)})") from error
        return dict(found) if isinstance(found, dict) else {"train": found}


@contextmanager
def _silent() -> Iterator[None]:
    """No progress bars and logs of the libraries meanwhile: what they have to say is in the error."""
    import datasets

    bars = not datasets.are_progress_bars_disabled()
    loggers = [logging.getLogger(library) for library in ("huggingface_hub", "datasets", "httpx")]
    before = [logger.level for logger in loggers]
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _holds_bytes(kind: Any) -> bool:
    """Whether a column's type is bytes, or an object with some: {"bytes": ..., "path": ...}."""
    kind = kind.get("bytes") if isinstance(kind, dict) else kind
    return getattr(kind, "dtype", "") in ("binary", "large_binary")


def _files(builder: Any) -> list[str]:
    """The places of the files; those of the hub carry their commit."""
    return sorted(str(name) for names in (builder.config.data_files or {}).values() for name in names)


def _parquet_files(path: str) -> dict[str, list[str]]:
    """Parquet files of each part, found by their names as the hub has them: train-00000-of-00001.parquet, test-...; all
    are train if none says otherwise."""
    found = sorted(Path(path).parent.glob(Path(path).name)) or [Path(path)]
    sides = sides_among([file.stem for file in found], alone=False)
    if sides and (others := [file.name for file in found if file.stem not in sides]):
        raise UndiffuseError(f"{path}: parts, and {listed_some(others)} besides; give a pattern of the parts alone")
    held_out = [str(file) for file in found if sides.get(file.stem)]
    train = [str(file) for file in found if str(file) not in held_out]
    return {"train": train, **({"test": held_out} if held_out else {})}


def _class(label: Any, names: tuple[str, ...] | None) -> str | None:
    """A class's index or its name; the hub's test sets write -1 for what they do not tell."""
    if label is None or (isinstance(label, int) and label < 0):
        return None
    return names[label] if names and isinstance(label, int) and label < len(names) else printable(str(label))
