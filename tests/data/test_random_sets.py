"""Random data sets whose pixels tell class and part: each is read with all labels and parts right, or refused."""

import csv
import io
from dataclasses import dataclass

import numpy as np
import pytest
from layouts import tar_of
from PIL import Image

from made import written, zipped
from undiffuse.data.prepare import dataset
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UndiffuseError

STEP = 5  # levels of red from class to class: 50 classes
WORDS = ("cat", "dog", "кот", "猫", "é", "a b", "x,y", "Über", "0", "12", "train it", "test-y", "n01443537", "it's")
FORMATS = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".ppm": "PPM", ".PNG": "PNG"}
LAYOUTS = ("folders", "part/class", "class/part", "table", "table over parts", "a table each part", "storage and table")


@dataclass(frozen=True)
class Picture:
    path: str
    label: int
    held_out: bool


def drawn(i: int, label: int, held_out: bool, suffix: str) -> bytes:
    pixels = np.zeros((6, 6, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = STEP * label + 2, 200 * held_out
    pixels[..., 2], pixels[i // 256 % 6, :, 2] = i % 256, 255 - i % 256
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=FORMATS[suffix])
    return buffer.getvalue()


class RandomSet:
    """One of many kinds: classes, names, formats, parts, where labels stand, how paths are written."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.layout = str(self.rng.choice(LAYOUTS))
        self.split = "part" in self.layout
        count = int(self.rng.integers(2, 51 if seed % 5 == 0 else 8))
        self.names = [f"{self.pick(WORDS)}{self.pick(('', ' ', '_'))}{i}" for i in range(count)]
        self.files: dict[str, bytes] = {}
        self.pictures = self._pictures()
        if "table" in self.layout:
            self._write_tables()
        if self.rng.random() < 0.3:
            self.files = {f"top folder/{name}": content for name, content in self.files.items()}
        if self.rng.random() < 0.3:
            self.files |= {"README.md": b"# data", "__MACOSX/._x.png": b"x", ".DS_Store": b"x"}

    def pick(self, of):
        return of[int(self.rng.integers(len(of)))]

    def _pictures(self) -> list[Picture]:
        found, mixed = [], self.rng.random() < 0.3
        own_numbers = self.rng.random() < 0.5  # 0, 1, 2 ... in every folder, as people have them
        parts = (self.pick(("train", "Training")), self.pick(("test", "val", "validation")))
        suffix = self.pick(tuple(FORMATS))
        for label, name in enumerate(self.names):
            for k in range(int(self.rng.integers(3, 6))):
                held_out = self.split and k == 0
                number = k if own_numbers and self.layout in ("folders", "part/class", "class/part") else len(found)
                ending = self.pick(tuple(FORMATS)) if mixed else suffix
                file, part = f"{number}{ending}", parts[held_out]
                path = {
                    "folders": f"{name}/{file}",
                    "part/class": f"{part}/{name}/{file}",
                    "class/part": f"{name}/{part}/{file}",
                    "table": file,
                    "storage and table": f"images/{number % 7:02d}/{file}",
                }.get(self.layout, f"{part}/{file}")
                self.files[path] = drawn(len(found), label, held_out, ending)
                found.append(Picture(path, label, held_out))
        return found

    def _write_tables(self) -> None:
        if self.layout != "a table each part":
            self._write_table("", self.pictures)
            return
        for part in dict.fromkeys(picture.path.split("/")[0] for picture in self.pictures):
            self._write_table(f"{part}/", [p for p in self.pictures if p.path.startswith(f"{part}/")])

    def _write_table(self, folder: str, pictures: list[Picture]) -> None:
        before = self.pick(("", "", "./", "C:\\data\\set\\", "/home/me/set/"))
        mark = "\\" if before.startswith("C:") else "/"
        rows, order = [], self.rng.permutation(len(pictures))
        for k, i in enumerate(order.tolist()):
            path = pictures[i].path.removeprefix(folder).replace("/", mark)
            rows.append({"": k, self.file_column: before + path, self.label_column: self.names[pictures[i].label]})
        columns = [self.file_column, self.label_column]
        columns = columns[:: self.pick((1, -1))]
        columns = ["", *columns] if self.rng.random() < 0.4 else columns
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", delimiter=self.pick((",", ";", "\t")))
        writer.writeheader()
        writer.writerows(rows)
        self.files[folder + self.pick(("labels.csv", "metadata.csv"))] = text.getvalue().encode()

    file_column, label_column = "file_name", "label"

    def lie(self, tmp_path):
        way = self.pick(("folder", "zip", "tar"))
        if way == "folder":
            return written(tmp_path / "x", self.files)
        path = tmp_path / f"x.{way}"
        path.write_bytes(zipped(self.files) if way == "zip" else tar_of(self.files))
        return path


def faults(data, made: RandomSet) -> list[str]:
    found = []
    count = len(data.train) + len(data.held_out)
    if count != len(made.pictures):
        found.append(f"{count} of {len(made.pictures)} pictures")
    for part, side in ((data.train, False), (data.held_out, True)):
        pixels = part.pictures[part.rows].float()
        red, green = pixels[:, 0].amin((1, 2)).tolist(), pixels[:, 1].amin((1, 2)).tolist()
        for r, g, index in zip(red, green, part.labels.tolist(), strict=True):
            wanted, given = made.names[round((r - 2) / STEP)], data.class_names[index] if index >= 0 else None
            if wanted.strip() != str(given).strip():
                found.append(f"{wanted!r} is called {given!r}")
            if made.split and (g > 100) != side:
                found.append(f"a picture of {wanted!r} is on the other side")
    return found


def outcomes(seeds, tmp_path) -> tuple[list[str], int]:
    """Wrong sets, and how many were refused."""
    wrong, refused = [], 0
    for seed in seeds:
        made, place = RandomSet(seed), tmp_path / str(seed)
        place.mkdir()
        try:
            found = faults(dataset(DataSpec(str(made.lie(place)))), made)
        except UndiffuseError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        if found:
            wrong.append(f"{seed} ({made.layout}): {found[0]} and {len(found) - 1} more")
    return wrong, refused


def test_fifty_random_sets_are_read_right_or_refused(tmp_path):
    wrong, refused = outcomes(range(50), tmp_path)
    assert wrong == []
    assert refused <= 5


@pytest.mark.slow
def test_two_thousand_random_sets_are_read_right_or_refused(tmp_path):
    wrong, refused = outcomes(range(2000), tmp_path)
    assert wrong == []
    assert refused <= 200
