"""Small data sets in every format that is read, made by hand."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("cat", "dog", "owl")


def pictures(n=12, shape=(8, 8, 3), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(buffer, format="PNG")
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_folder(folder: Path, zipped=False, n=12, dotted=False) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    every = pictures(n + 4, (28, 28))
    labels = (np.arange(n + 4) % 3).astype(np.uint8)
    for part, rows in (("train", slice(n)), ("t10k", slice(n, None))):
        for what, array, rank in (("images", every[rows], 3), ("labels", labels[rows], 1)):
            name = f"{part}-{what}{'.' if dotted else '-'}idx{rank}-ubyte"
            data = idx(array)
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    return every


def cifar_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return pictures(n, (3072,), seed), (np.arange(n) % 3).astype(np.uint8)


def cifar_binary(folder: Path, n=4) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        pixels, labels = cifar_rows(n, seed)
        (folder / name).write_bytes(np.concatenate([labels[:, None], pixels], 1).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")


def cifar_pickle(n=4, seed=0) -> bytes:
    pixels, labels = cifar_rows(n, seed)
    batch = {b"batch_label": b"batch", b"labels": labels.tolist(), b"data": pixels, b"filenames": [b"x.png"] * n}
    return pickle.dumps(batch, protocol=2)


def cifar_python(folder: Path, n=4) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(cifar_pickle(n, seed))
    meta = {b"label_names": [name.encode() for name in NAMES], b"num_cases_per_batch": n}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def files(n=12) -> dict[str, bytes]:
    """Path -> bytes, in three folders."""
    return {f"{NAMES[i % 3]}/{i}.png": png(picture) for i, picture in enumerate(pictures(n))}


def written(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def zipped(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(content: dict[str, bytes], mode="w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def shards(folder: Path, n=12) -> Path:
    """As webdataset writes them: the files of a sample side by side, under one number."""
    folder.mkdir()
    every = pictures(n)
    for shard in range(2):
        content = {}
        for i in range(shard * n // 2, (shard + 1) * n // 2):
            content[f"{i:05d}.png"] = png(every[i])
            content[f"{i:05d}.cls"] = str(i % 3).encode()
            content[f"{i:05d}.json"] = json.dumps({"caption": "a picture"}).encode()
        (folder / f"{shard:03d}.tar").write_bytes(tarred(content))
    return folder
