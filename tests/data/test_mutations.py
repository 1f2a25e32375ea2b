"""Random damage to valid files of every kind: one-line errors or fewer pictures, in bounded memory and time."""

import multiprocessing
import random
import resource
import signal
import traceback

import numpy as np
import pytest
from corpus import animation, noisy, plain, saved, turned

from made import cifar_pickle, cifar_rows, files, idx, npz, pictures, tarred, written, zipped
from undiffuse.data.decode import decode_picture, examine
from undiffuse.data.sources import find_source
from undiffuse.data.spec import BadPicture, DataSpec
from undiffuse.errors import UndiffuseError

SECONDS, MEMORY = 20, 768 * 1024 * 1024


def seeds() -> dict[str, bytes]:
    """File name -> valid content."""
    pixels, labels = cifar_rows(3, 0)
    return {
        "rgb.png": saved(noisy((16, 16)), "PNG"),
        "alpha.png": saved(plain("RGBA", (1, 2, 3, 4)), "PNG"),
        "animated.png": animation("PNG"),
        "photo.jpg": saved(noisy((24, 24)), "JPEG"),
        "turned.jpg": turned(6),
        "animated.gif": animation("GIF"),
        "a.webp": saved(noisy((16, 16)), "WEBP"),
        "a.tiff": saved(noisy((16, 16)), "TIFF", compression="tiff_lzw"),
        "a.bmp": saved(noisy((8, 8)), "BMP"),
        "a.ppm": saved(noisy((8, 8)), "PPM"),
        "train-images-idx3-ubyte": idx(pictures(5, (8, 8))),
        "x.npz": npz(images=pictures(4), labels=np.arange(4)),
        "x.npy": npy(pictures(4)),
        "cifar/data_batch_1.bin": np.concatenate([labels[:, None], pixels], 1).tobytes(),
        "cifar/data_batch_1": cifar_pickle(3),
        "x.tar": tarred(files(4)),
        "x.tar.gz": tarred(files(4), "w:gz"),
        "x.zip": zipped(files(4)),
        "labels/labels.json": b'[{"file": "0.png", "label": "cat"}, {"file": "1.png", "label": "dog"}]',
        "labels/labels.csv": b"file,label\n0.png,cat\n1.png,dog\n",
    }


def npy(array) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def mutated(data: bytes, dice: random.Random) -> bytes:
    """A few of: flipped bytes, large numbers, pieces cut out, doubled, swapped or cut off; mostly near the start."""
    out = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4, 12])):
        if not out:
            break
        reach = dice.choice([32, 256, len(out)])
        at = dice.randrange(min(reach, len(out)))
        piece = dice.randrange(1, 40)
        match dice.randrange(6):
            case 0:
                out[at] ^= 1 << dice.randrange(8)
            case 1:
                out[at : at + 4] = dice.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff"])
            case 2:
                del out[at : at + piece]
            case 3:
                out[at:at] = out[at : at + piece] * dice.choice([1, 1, 50])
            case 4:
                other = dice.randrange(len(out))
                out[at : at + piece] = out[other : other + piece]
            case _:
                del out[dice.randrange(len(out)) :]
    return bytes(out)


def tried(name: str, data: bytes, folder) -> str:
    """Read it as training would; whatever is not one line of ours is a defect."""
    if name.endswith((".png", ".jpg", ".gif", ".webp", ".tiff", ".bmp", ".ppm")):
        return one_picture(data)
    place = folder / "place"
    if name.startswith("labels"):
        written(
            place / "labels", files(2) | {"0.png": saved(plain("L", 1), "PNG"), "1.png": saved(plain("L", 2), "PNG")}
        )
    written(place, {name: data})
    target = place / name if name.startswith("x.") else (place / name).parent
    try:
        said = [one_picture(item.content) for item in find_source(DataSpec(str(target), labels=None)).items()]
    except UndiffuseError as error:
        assert "\n" not in str(error), error
        return "refused"
    return max(said, default="nothing")


def one_picture(content) -> str:
    if isinstance(content, BadPicture):
        return "bad"
    try:
        examine(content)
        decode_picture(content, (16, 16))
    except BadPicture as error:
        assert "\n" not in str(error) and error.kind, error
        return "bad"
    return "read"


def work(seed: int, count: int, folder, results) -> None:
    """In a process of its own, with little memory to take and a clock on every file."""
    used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()  # noqa: SIM115, PTH123
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    dice, valid = random.Random(seed), seeds()
    outcomes: dict[str, int] = {}
    for i in range(count):
        name = dice.choice(sorted(valid))
        data = mutated(valid[name], dice)
        signal.alarm(SECONDS)
        try:
            outcome = tried(name, data, folder / f"{seed}-{i}")
        except BaseException:
            results.put((name, data[:400], traceback.format_exc()))
            return
        signal.alarm(0)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    results.put(outcomes)


def run(count: int, folder, seed: int) -> dict[str, int]:
    """Two workers; a crash or a hang is a worker that says nothing."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=work, args=(seed + i, count // 2, folder, results)) for i in range(2)]
    for worker in workers:
        worker.start()
    outcomes = []
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, f"a worker ended with {worker.exitcode}"
        outcomes.append(results.get(timeout=10))
    total: dict[str, int] = {}
    for found_ in outcomes:
        assert isinstance(found_, dict), found_
        for name, times in found_.items():
            total[name] = total.get(name, 0) + times
    return total


def test_the_seeds_are_valid(tmp_path):
    for i, (name, data) in enumerate(seeds().items()):
        assert tried(name, data, tmp_path / str(i)) == "read", name


def test_damage_is_survived(tmp_path):
    outcomes = run(400, tmp_path, 0)
    assert sum(outcomes.values()) == 400 and outcomes["bad"] > 40 and outcomes["refused"] > 40 and outcomes["read"] > 40


@pytest.mark.slow
def test_ten_thousand_kinds_of_damage_are_survived(tmp_path):
    assert sum(run(10_000, tmp_path, 1).values()) == 10_000
