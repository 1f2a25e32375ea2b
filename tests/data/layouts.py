"""Small copies of the layouts in which data is handed out. The pixels of each picture tell its class and its part."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "owl")
Files = dict[str, bytes]


def told(i: int, label: int | None, held_out: bool = False, kind: str = "PNG") -> bytes:
    """A picture of 8x8: red tells the class (255: none), green the part, blue is the picture's own."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = 255 if label is None else 20 * label + 5, 200 * held_out
    pixels[..., 2] = i % 251
    pixels[i // 251 % 8, :, 2] = 251
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def what_pixels_say(part: Any) -> list[tuple[int | None, bool]]:
    """Class and part of each picture by its pixels."""
    pixels = part.pictures[part.rows].float()
    red, green = pixels[:, 0].amin((1, 2)).tolist(), pixels[:, 1].amin((1, 2)).tolist()
    return [(None if r > 250 else round((r - 5) / 20), g > 100) for r, g in zip(red, green, strict=True)]


def mistakes(data: Any, names: tuple[str, ...] = CLASSES, split: bool = True) -> list[str]:
    """Pictures whose label or part is not what their pixels say."""
    found = []
    for part, side in ((data.train, False), (data.held_out, True)):
        for (label, held_out), index in zip(what_pixels_say(part), part.labels.tolist(), strict=True):
            given = data.class_names[index] if data.class_names and index >= 0 else None
            if given != (None if label is None else names[label]):
                found.append(f"class {label} is called {given}")
            if split and held_out != side:
                found.append(f"a picture of {'the held-out' if held_out else 'the train'} part is on the other side")
    return found


@dataclass(frozen=True)
class Layout:
    """name: as in the table of docs/data.md. split: parts are told. archive: may lie in a zip or tar as well."""

    name: str
    make: Callable[[], Files]
    split: bool = False
    names: tuple[str, ...] = CLASSES
    asked: dict[str, Any] = field(default_factory=dict)
    archive: bool = True


def rows(count: int, held_out: bool = False, start: int = 0) -> Iterable[tuple[int, int, bytes]]:
    """Number, class and picture."""
    return ((i, i % 3, told(i, i % 3, held_out)) for i in range(start, start + count))


def numbered(count: int, held_out: bool = False, start: int = 0) -> Iterable[tuple[int, int, bytes]]:
    """The same, numbered from 0 in every part."""
    return ((i - start, c, x) for i, c, x in rows(count, held_out, start))


BOTH = (("train", 18, False, 0), ("test", 6, True, 100))


def image_folder() -> Files:
    return {f"{CLASSES[c]}/{i}.png": x for i, c, x in rows(18)}


def image_folder_split() -> Files:
    return {f"{part}/{CLASSES[c]}/{i}.png": x for part, n, out, start in BOTH for i, c, x in rows(n, out, start)}


def class_then_split() -> Files:
    return {f"{CLASSES[c]}/{part}/{i}.png": x for part, n, out, start in BOTH for i, c, x in rows(n, out, start)}


def one_folder_and_csv() -> Files:
    files = {f"{i}.png": x for i, _, x in rows(18)}
    return files | {
        "labels.csv": "".join(["file,label\n", *(f"{i}.png,{CLASSES[i % 3]}\n" for i in range(18))]).encode()
    }


def csv_of_a_data_frame() -> Files:
    """As pandas writes it with its index, rows in another order: the index looks like names too."""
    order = np.random.default_rng(0).permutation(18).tolist()
    lines = [f"{j},{k}.png,{CLASSES[k % 3]}\n" for j, k in enumerate(order)]
    return {f"{i}.png": x for i, _, x in rows(18)} | {"labels.csv": "".join([",filename,label\n", *lines]).encode()}


def class_column_first() -> Files:
    lines = [f"{i % 3},{i}.png\n" for i in range(18)]
    return {f"{i}.png": x for i, _, x in rows(18)} | {"labels.csv": "".join(["label,file_name\n", *lines]).encode()}


def index_and_name() -> Files:
    """The same classes twice, as numbers and in words: words are the names."""
    lines = [f"{i}.png,{i % 3},{CLASSES[i % 3]}\n" for i in range(18)]
    return {f"{i}.png": x for i, _, x in rows(18)} | {
        "labels.csv": "".join(["file,label,class_name\n", *lines]).encode()
    }


def paths_of_another_machine(before: str) -> Callable[[], Files]:
    def make() -> Files:
        lines = [f"{before}p{i}.png,{CLASSES[i % 3]}\n" for i in range(18)]
        files = {f"images/p{i}.png": x for i, _, x in rows(18)}
        return files | {"labels.csv": "".join(["file,label\n", *lines]).encode()}

    return make


def names_in_another_case() -> Files:
    lines = [f"IMAGES/P{i}.PNG,{CLASSES[i % 3]}\n" for i in range(18)]
    files = {f"images/p{i}.png": x for i, _, x in rows(18)}
    return files | {"labels.csv": "".join(["file,label\n", *lines]).encode()}


def kaggle() -> Files:
    """id,breed: names without a suffix, and a column that nobody can guess."""
    lines = [f"p{i},{CLASSES[i % 3]}\n" for i in range(18)]
    files = {f"train/p{i}.jpg": told(i, i % 3, kind="PNG") for i in range(18)}
    return files | {"labels.csv": "".join(["id,breed\n", *lines]).encode()}


def hugging_face() -> Files:
    """imagefolder with a metadata.csv in each part."""
    files: Files = {}
    for part, n, out, start in BOTH:
        some = list(rows(n, out, start))
        files |= {f"{part}/{i}.png": x for i, _, x in some}
        lines = [f"{i}.png,{CLASSES[c]}\n" for i, c, _ in some]
        files[f"{part}/metadata.csv"] = "".join(["file_name,label\n", *lines]).encode()
    return files


def metadata_above_the_parts() -> Files:
    files = {f"{part}/{i}.png": x for part, n, out, start in BOTH for i, _, x in rows(n, out, start)}
    lines = [f"{name},{CLASSES[int(name.split('/')[1][:-4]) % 3]}\n" for name in files]
    return files | {"metadata.csv": "".join(["file_name,label\n", *lines]).encode()}


def in_one_folder_of_a_zip() -> Files:
    return {f"pets/{name}": content for name, content in one_folder_and_csv().items()}


def nvlabs() -> Files:
    """dataset_tool's: folders are storage, classes are in dataset.json."""
    files = {f"{i // 6:05d}/img{i:08d}.png": x for i, _, x in rows(18)}
    pairs = [[name, i % 3] for i, name in enumerate(files)]
    return files | {"dataset.json": json.dumps({"labels": pairs}).encode()}


def nvlabs_without_labels() -> Files:
    files = {f"{i // 6:05d}/img{i:08d}.png": told(i, None) for i in range(18)}
    return files | {"dataset.json": json.dumps({"labels": None}).encode()}


def parts_by_a_column() -> Files:
    """As Kaggle's sets of birds and the like: paths, classes and parts in one table, pictures in one folder."""
    files: Files = {}
    lines = ["class id,filepaths,labels,data set\n"]
    for part, n, out, start in (("train", 18, False, 0), ("valid", 3, True, 100), ("test", 3, True, 200)):
        for i, c, x in rows(n, out, start):
            files[f"images/{i}.png"] = x
            lines.append(f"{c},images/{i}.png,{CLASSES[c]},{part}\n")
    return files | {"all.csv": "".join(lines).encode()}


def parts_by_a_column_and_bare_names() -> Files:
    files = {f"{part}/{i}.png": x for part, n, out, start in BOTH for i, _, x in numbered(n, out, start)}
    lines = [f"{i}.png,{CLASSES[(i + start) % 3]},{part}\n" for part, n, _, start in BOTH for i in range(n)]
    return files | {"labels.csv": "".join(["file,label,split\n", *lines]).encode()}


def parts_called(train: str, test: str) -> Callable[[], Files]:
    def make() -> Files:
        both = ((train, 18, False, 0), (test, 6, True, 100))
        return {f"{part}/{CLASSES[c]}/{i}.png": x for part, n, out, start in both for i, c, x in rows(n, out, start)}

    return make


def accents_put_together_otherwise() -> Files:
    """Files as a Mac names them, the table as anybody writes it."""
    files = {normalize("NFD", f"bücher/é{i}.png"): x for i, _, x in rows(18)}
    lines = [normalize("NFC", f"bücher/é{i}.png,{CLASSES[i % 3]}\n") for i in range(18)]
    return files | {"labels.csv": "".join(["file,label\n", *lines]).encode()}


def tiny_imagenet() -> Files:
    files = {f"train/{CLASSES[c]}/images/{CLASSES[c]}_{i}.JPEG": x for i, c, x in rows(18)}
    lines = []
    for i, c, x in rows(6, True, 100):
        files[f"val/images/val_{i}.JPEG"] = x
        lines.append(f"val_{i}.JPEG\t{CLASSES[c]}\t0\t0\t7\t7\n")
    return files | {"val/val_annotations.txt": "".join(lines).encode()}


def celeba() -> Files:
    lines = ["18", "Bald Male Young"] + [f"{i:06d}.jpg {'-1 ' * (i % 2)}{'1 ' * (1 - i % 2)}1 -1" for i in range(18)]
    files = {f"img_align_celeba/{i:06d}.jpg": told(i, i % 2, kind="PNG") for i in range(18)}
    return files | {"list_attr_celeba.txt": "\n".join(lines).encode()}


def coco() -> Files:
    told_of = {
        "categories": [{"id": 7 + c, "name": name} for c, name in enumerate(CLASSES)],
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(18)],
        "annotations": [{"id": i, "image_id": i % 18, "category_id": 7 + i % 3} for i in range(36)],
    }
    return {f"{i}.jpg": x for i, _, x in rows(18)} | {"_annotations.coco.json": json.dumps(told_of).encode()}


def made_on_a_mac() -> Files:
    junk = {
        "__MACOSX/cat/._0.png": b"Mac OS X",
        "cat/.DS_Store": b"x",
        ".DS_Store": b"x",
        "__MACOSX/._labels.csv": b"x",
    }
    return image_folder() | junk


LAYOUTS = [
    Layout("ImageFolder", image_folder),
    Layout("ImageFolder with train/ and test/", image_folder_split, True),
    Layout("a folder of each class, parts below it", class_then_split, True),
    Layout("one folder and labels.csv", one_folder_and_csv),
    Layout("labels.csv written by pandas with its index", csv_of_a_data_frame),
    Layout("labels.csv with the class first", class_column_first, names=("0", "1", "2")),
    Layout("labels.csv with the class's number and name", index_and_name),
    Layout("labels.csv made on Windows", paths_of_another_machine("C:\\Users\\me\\images\\")),
    Layout("labels.csv with relative Windows paths", paths_of_another_machine("images\\")),
    Layout("labels.csv with another machine's paths", paths_of_another_machine("/home/me/data/images/")),
    Layout("labels.csv with names in another case", names_in_another_case),
    Layout("Kaggle's labels.csv (id, breed)", kaggle, asked={"label_key": "breed"}),
    Layout("Hugging Face's imagefolder", hugging_face, True),
    Layout("metadata.csv above train/ and test/", metadata_above_the_parts, True),
    Layout("a table with a column of parts", parts_by_a_column, True, asked={"labels": "all.csv"}),
    Layout("bare names and a column of parts", parts_by_a_column_and_bare_names, True),
    Layout("parts with longer names", parts_called("training_set", "Test_images"), True),
    Layout("parts of COCO's kind", parts_called("train2017", "val2017"), True),
    Layout(
        "parts with a common word, each unpacked into itself",
        parts_called("seg_train/seg_train", "seg_test/seg_test"),
        True,
    ),
    Layout("accents put together otherwise", accents_put_together_otherwise),
    Layout("all of it in one folder", in_one_folder_of_a_zip),
    Layout("NVlabs' dataset_tool", nvlabs, names=("0", "1", "2")),
    Layout("NVlabs' dataset_tool without labels", nvlabs_without_labels),
    Layout("Tiny ImageNet", tiny_imagenet, True),
    Layout(
        "CelebA",
        celeba,
        names=("1", "-1"),
        asked={"labels": "list_attr_celeba.txt", "label_key": "Bald"},
    ),
    Layout("COCO's JSON, a category a picture", coco),
    Layout("made on a Mac", made_on_a_mac),
]


def lines(*columns: Iterable[Any]) -> str:
    """Rows of a CSV file."""
    return "".join(",".join(map(str, row)) + "\n" for row in columns)


def tar_of(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
