"""Blocks of drawn images as files: whole under their names, or not there."""

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from undiffuse import images
from undiffuse.files.writing import sync, whole

PNG_END = b"\0\0\0\0IEND\xaeB\x60\x82"  # length, name and check sum of the last chunk (PNG specification, 11.2.5)
SYNCS_AT_ONCE = 8  # a file system commits them together, which takes a tenth of the time


@dataclass(frozen=True)
class Format:
    """names: of the files of a block; write: its pictures uint8 [b, h, w, c] and labels; holds: whether it is there,
    whole as far as a quick look can tell. Each takes the folder first, where it needs one, and the block's indices."""

    names: Callable[[range], list[str]]
    write: Callable[[Path, range, np.ndarray, np.ndarray], None]
    holds: Callable[[Path, range], bool]


def _png_names(rows: range) -> list[str]:
    return [f"{row:06d}.png" for row in rows]


def _write_pngs(folder: Path, rows: range, pictures: np.ndarray, labels: np.ndarray) -> None:
    """Write pictures aside, sync all, then move them one by one to their places: what has its name is whole."""
    aside = folder / f".{_span(rows)}.writing"
    aside.mkdir(exist_ok=True)
    try:
        files = [aside / name for name in _png_names(rows)]
        for file, picture in zip(files, pictures, strict=True):
            images.write_png(file, picture)
        with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:
            list(pool.map(sync, files))
        for file in files:
            file.replace(folder / file.name)
        sync(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _holds_pngs(folder: Path, rows: range) -> bool:
    return all(_is_png(folder / name) for name in _png_names(rows))


def _is_png(path: Path) -> bool:
    """Whether a file is a whole PNG, by its end, which a file cut short has lost."""
    try:
        with path.open("rb") as file:
            file.seek(-len(PNG_END), io.SEEK_END)
            return file.read() == PNG_END
    except OSError:
        return False


def _npz_names(rows: range) -> list[str]:
    return [f"{_span(rows)}.npz"]


def _write_npz(folder: Path, rows: range, pictures: np.ndarray, labels: np.ndarray) -> None:
    with whole(folder / _npz_names(rows)[0]) as aside:
        images.write_npz(aside, pictures, labels)


def _holds_npz(folder: Path, rows: range) -> bool:
    """Whether the block's file is whole, by the zip directory, which stands at the end."""
    try:
        with zipfile.ZipFile(folder / _npz_names(rows)[0]) as archive:
            return set(archive.namelist()) == {"images.npy", "labels.npy"}
    except Exception:  # what damaged archives make their readers raise has no end
        return False


def _tar_names(rows: range) -> list[str]:
    return [f"{_span(rows)}.tar"]


def _write_tar(folder: Path, rows: range, pictures: np.ndarray, labels: np.ndarray) -> None:
    """Write a tar as webdataset has it: 000000.png and its class index in 000000.cls, sample after sample."""
    with whole(folder / _tar_names(rows)[0]) as aside, tarfile.open(aside, "w") as archive:
        for row, picture, label in zip(rows, pictures, labels, strict=True):
            content = io.BytesIO()
            images.write_png(content, picture)
            _add(archive, f"{row:06d}.png", content.getvalue())
            if label >= 0:
                _add(archive, f"{row:06d}.cls", b"%d" % label)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _holds_tar(folder: Path, rows: range) -> bool:
    """Whether the block's file is whole, by its members' headers and its length, a whole number of records."""
    path = folder / _tar_names(rows)[0]
    try:
        with tarfile.open(path) as archive:
            found = [name for name in archive.getnames() if name.endswith(".png")]
        return found == _png_names(rows) and path.stat().st_size % tarfile.RECORDSIZE == 0
    except Exception:  # likewise
        return False


def _span(rows: range) -> str:
    return f"{rows[0]:06d}-{rows[-1]:06d}"


BLOCK_FORMATS: dict[str, Format] = {
    "png": Format(_png_names, _write_pngs, _holds_pngs),
    "npz": Format(_npz_names, _write_npz, _holds_npz),
    "tar": Format(_tar_names, _write_tar, _holds_tar),
}
