"""Data sets of the Hugging Face hub, and parquet files, through `datasets`; read as a stream, not unpacked first."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undiffuse.data.sources.base import Item, stamp_of
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError, UsageError

HELD_OUT = ("test", "validation", "valid", "val")
LABEL_KEYS = ("label", "labels", "fine_label", "class", "category", "target")


@dataclass(frozen=True)
class Hub:
    """`path`: a name such as ylecun/mnist (name:configuration for one of several), a folder in a hub data set's layout,
    or parquet files. The column of pictures is the one of type Image; that of classes data.label_key or the usual one.
    """

    path: str
    spec: DataSpec
    levels: int = 256

    @property
    def name(self) -> str:
        return self.path

    def classes(self) -> tuple[str, ...] | None:
        streams = self._streams()
        features = next(iter(streams.values())).features or {}
        key = self._label_key(features)
        return tuple(features[key].names) if key and hasattr(features[key], "names") else None

    def stamp(self) -> str:
        builder = self._builder()
        files = builder.config.data_files or {}
        local = [Path(str(name)) for names in files.values() for name in names if "://" not in str(name)]
        remote = [str(name) for names in files.values() for name in names if "://" in str(name)]
        return f"{builder.hash} {sorted(remote)} {stamp_of(sorted(local))}"

    def items(self) -> Iterator[Item]:
        streams = self._streams()
        names = self.classes()
        held = next((part for part in HELD_OUT if part in streams), None)
        train = "train" if "train" in streams else next(iter(streams))
        for part in dict.fromkeys([train, *([held] if held else [])]):
            yield from self._part(streams[part], part, None if held is None else part == held, names)

    def _part(self, stream: Any, part: str, held_out: bool | None, names: tuple[str, ...] | None) -> Iterator[Item]:
        from datasets import Image as ImageFeature

        features = stream.features or {}
        column = next((key for key, kind in features.items() if isinstance(kind, ImageFeature)), None)
        if column is None:
            raise UndiffuseError(f"{self.path}: no column of pictures; columns: {', '.join(features)}")
        label_key = self._label_key(features)
        stream = stream.cast_column(column, ImageFeature(decode=False))
        for row, record in enumerate(stream):
            label = record[label_key] if label_key else None
            if label is not None:
                label = names[label] if names and isinstance(label, int) and 0 <= label < len(names) else str(label)
            yield Item(f"{part}#{row}", _content(record[column]), label, held_out)

    def _label_key(self, features: Any) -> str | None:
        if self.spec.label_key is not None:
            if self.spec.label_key not in features:
                raise UsageError(f"data.label_key: no column '{self.spec.label_key}'; columns: {', '.join(features)}")
            return self.spec.label_key
        return next((key for key in LABEL_KEYS if key in features), None)

    def _builder(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise UndiffuseError("hub data sets and parquet files need: pip install 'undiffuse[hub]'") from error
        datasets.disable_progress_bars()
        try:
            if self.path.endswith(".parquet"):
                return datasets.load_dataset_builder("parquet", data_files=_parquet_files(self.path))
            name, _, configuration = self.path.partition(":")
            return datasets.load_dataset_builder(name, configuration or None)
        except Exception as error:  # of every kind: connections, missing files, unknown layouts
            reason = " ".join(str(error).split())[:160]
            raise UndiffuseError(f"hub:{self.path}: cannot be opened ({type(error).__name__}: {reason})") from error

    def _streams(self) -> dict[str, Any]:
        streams = self._builder().as_streaming_dataset()
        return dict(streams)


def _parquet_files(path: str) -> dict[str, list[str]]:
    """By their names, as the hub has them: train-00000-of-00001.parquet, test-...; all are train if none says test."""
    found = sorted(Path(path).parent.glob(Path(path).name)) or [Path(path)]
    held_out = [str(file) for file in found if file.name.startswith(HELD_OUT)]
    train = [str(file) for file in found if str(file) not in held_out]
    return {"train": train, **({"test": held_out} if held_out else {})} if train else {"train": held_out}


def _content(value: Any) -> bytes | BadPicture:
    match value:
        case {"bytes": bytes() as content}:
            return content
        case {"path": str() as path}:
            try:
                return Path(path).read_bytes()
            except OSError as error:
                return BadPicture("unreadable", f"{path}: {error.strerror}")
        case None:
            return BadPicture("empty", "the row has no picture")
    from PIL import Image

    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return buffer.getvalue()
    return BadPicture("not a picture", f"the row holds {type(value).__name__}")
