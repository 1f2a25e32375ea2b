"""A folder of drawn images: what its files are called, and whether all of them are there."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import read_json
from undiffuse.files.writing import put_text
from undiffuse.images import write_png

LABELS = "labels.json"  # beside the pictures of a folder: file name -> class index
JOB = "job.json"  # in a folder that `undiffuse sample` fills: what was asked for, and whether all of it is there


def write_folder(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """A new folder with 000000.png, 000001.png ... and labels.json."""
    path.mkdir()
    names = [f"{i:06d}.png" for i in range(len(images))]
    for name, picture in zip(names, images, strict=True):
        write_png(path / name, picture)
    put_text(path / LABELS, json.dumps(dict(zip(names, labels.tolist(), strict=True)), indent=0))


def check_finished(folder: Path) -> None:
    """Raise UndiffuseError for a folder that `undiffuse sample` has yet to fill: a part of a set looks like a set."""
    try:
        job = read_json(folder / JOB)
        unfinished = job["finished"] is False or len(list(folder.glob(f"*.{_ending(job)}"))) < _file_count(job)
    except (OSError, ValueError, LookupError, TypeError, OverflowError, ZeroDivisionError):
        return  # another's file of this name, or none
    if unfinished:
        raise UndiffuseError(f"{folder}: not all of its images are there; run the command that draws them again")


def _ending(job: dict[str, Any]) -> str:
    return str(job["request"]["format"])


def _file_count(job: dict[str, Any]) -> int:
    """A file for each picture, or for each block of indices that are alike once divided by its size."""
    asked = job["request"]
    first, last = int(asked["start"]), int(asked["start"]) + int(asked["n"]) - 1
    size = 1 if _ending(job) == "png" else int(asked["batch_size"])
    return last // size - first // size + 1
