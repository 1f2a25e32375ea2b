"""Files of strangers: valid ones of every kind, damaged by a seeded generator, and the commands that read them."""

import contextlib
import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import yaml

import tiny
from made import files, npz, shards, tarred, written, zipped

SECONDS, MEMORY = 10, 2 << 30
UNREAD = (".png", ".html", ".gif")  # what no command reads, or test_mutations.py damages
STOP = 60  # seconds after which a hang is a hang
RAW = "raw:"  # of a value that JSON cannot say: the text itself
NASTY = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 0.0, -0.0, 0.5, -1.5, 1e308, -1e308, 1e-308, 1e19, 255, 65_537),
    *(16, 100, 1000, 4096, 10_000, 65_536, 1_000_000, [4096, 4096], [1, 64, 1], [1, 2, 4, 8, 16, 32, 64, 128, 256]),
    *(2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, "", "x", "0", "1", "nan", "last", "../..", "/", "\0"),
    *("x" * 10_000, "é\u202e", "betas", "digits", "hub:", "a,b", [], {}, [0], [1, 1], [[]], [None], ["x"], [[1] * 3]),
    *([0.5] * 10_000, [1] * 100_000, {"x": {}}, {"": 1}, f"{RAW}NaN", f"{RAW}Infinity", f"{RAW}-Infinity"),
    *(RAW + "9" * 5000, f"{RAW}1e999", RAW + "[" * 500 + "]" * 500, RAW + '{"a":' * 500 + "1" + "}" * 500, RAW + "["),
]


SIZES = [0, 1, 2, 3, 8, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10**9, 10**12, 10**20]
VALUES = [
    *SIZES,
    *(f"[{', '.join([str(size)] * count)}]" for size in (1, 2, 8, 100, 4096, 65_536) for count in (1, 2, 3, 8, 12, 40)),
    *("[1, 2, 4, 8, 16, 32]", "0.5", "0.999", "1e-9", "1e9", "-1", "true", "false", "null", "''", "linear", "digits"),
    *("v", "x0", "score", "laplace", "gamma", "learned", "hybrid", "betas", "muon", "bf16", "fp16", "convnext"),
]
SECTIONS = {name: part for name, part in tiny.config().model_dump().items() if isinstance(part, dict)}
KEYS = [f"{name}.{key}" for name, part in SECTIONS.items() for key in part if key != "compile"]  # which takes a minute


def some_sets(dice: random.Random) -> list[str]:
    """One to four changes that the schema takes."""
    from undiffuse import config
    from undiffuse.errors import UndiffuseError

    taken: list[str] = []
    for _ in range(60):
        try:
            config.changed(tiny.config(), [*taken, new := f"{dice.choice(KEYS)}={dice.choice(VALUES)}"])
            taken.append(new)
        except UndiffuseError:
            continue
    return taken[: dice.choice([1, 2, 3, 4])]


def places(value, path=()):
    """Every place within lists and mappings."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*path, key))


def changed(value, dice: random.Random):
    """One to three places: another value, removed, doubled, wrapped, or renamed."""
    box = [json.loads(json.dumps(value))]
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        path = dice.choice([*places(box)][1:] or [()])
        if not path:
            break
        holder = box
        for key in path[:-1]:
            holder = holder[key]
        last = path[-1]
        match dice.randrange(8):
            case 0 if len(path) > 1:
                del holder[last]
            case 1 if isinstance(holder, list):
                holder[last:last] = [copy.deepcopy(holder[last]) for _ in range(dice.choice([1, 3, 100]))]
            case 2:
                holder[last] = [holder[last]]
            case 3 if isinstance(holder, dict) and isinstance(last, str):
                holder[last + dice.choice(["x", " ", "_", "."])] = holder.pop(last)
            case _:
                holder[last] = copy.deepcopy(dice.choice(NASTY))
    return box[0]


def as_json(value) -> bytes:
    text = json.dumps(value)
    for nasty in NASTY:
        if isinstance(nasty, str) and nasty.startswith(RAW):
            text = text.replace(json.dumps(nasty), nasty.removeprefix(RAW))
    return text.encode()


def as_yaml(value, dice: random.Random) -> bytes:
    """JSON is YAML, mostly; now and then what only YAML has."""
    if dice.random() < 0.7:
        return as_json(value)
    text = yaml.safe_dump(value)
    bombs = ["a: &a [x]\nb: *a\n", "<<: {a: 1}\n", "? [1]\n: 2\n", "!!python/object:os.system x\n", "--- a\n--- b\n"]
    bombs.append(
        "a: &a [1,1]\n" + "".join(f"{k}: &{k} [*{j},*{j}]\n" for j, k in zip("abcdefghi", "bcdefghij", strict=True))
    )
    bombs.append("".join(f"k{i}: 1\n" for i in range(20_000)))
    return (dice.choice([text, dice.choice(bombs), text + dice.choice(bombs)])).encode()


def bent(data: bytes, dice: random.Random) -> bytes:
    """A few of: flipped bits, large numbers, pieces cut out, doubled, moved or cut off; mostly near the start."""
    out = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4, 12])):
        if not out:
            break
        at, piece = dice.randrange(min(dice.choice([32, 256, len(out)]), len(out))), dice.randrange(1, 40)
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


def replaced(path: Path, dice: random.Random) -> None:
    """Something else in the file's place: nothing, a folder, a pipe, a link in a circle, an enormous hole, noise."""
    path.unlink()
    match dice.randrange(7):
        case 0:
            path.touch()
        case 1:
            path.mkdir()
        case 2:
            os.mkfifo(path)
        case 3:
            path.symlink_to(path.name)
        case 4:
            with path.open("wb") as file:
                file.truncate(3 << 30)
        case 5:
            os.mkfifo(pipe := path.with_suffix(".pipe"))
            path.symlink_to(pipe.name)
        case _:
            path.write_bytes(dice.randbytes(dice.choice([1, 100, 100_000])))


def damaged(path: Path, dice: random.Random) -> None:
    """One file, in one way."""
    data, way = path.read_bytes(), dice.random()
    if way < 0.06:
        replaced(path, dice)
    elif path.suffix in (".json", ".yaml") and way < 0.8:
        value = yaml.safe_load(data)
        new = changed(value, dice)
        path.write_bytes(as_json(new) if path.suffix == ".json" else as_yaml(new, dice))
    elif path.suffix == ".jsonl" and way < 0.8:
        lines = data.splitlines() or [b"{}"]
        row = dice.randrange(len(lines))
        lines[row] = as_json(changed(json.loads(lines[row]), dice))
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        path.write_bytes(bent(data, dice))


# -- what is damaged, and what then reads it ---------------------------------------------------------------------------


def originals(home: Path) -> dict[str, Path]:
    """A valid one of every kind: made once, copied for each case."""
    from undiffuse.pipeline import Pipeline
    from undiffuse.pipeline.diffusers.convert import save_diffusers

    run = tiny.trained(home / "run", train__quality_every=3, train__quality_n=20, train__quality_steps=2)
    pipe = Pipeline.load(run)
    fitted = pipe.fit(8)
    (run / "times.json").write_text(fitted.fitted.write())
    (run / "evaluation.json").write_text(
        json.dumps(
            {
                "metrics": {"frechet": {"value": 1.0, "stderr": 0.1, "floor": 0.2, "unit": "pixels", "n": 20}},
                "per_class": {"frechet": {"3": {"value": 1.0, "n": 20}}},
                "protocol": {"seeds": [0], "features": "pixels"},
            }
        )
    )
    save_diffusers(pipe.config, pipe.denoiser, home / "diffusers")
    (home / "diffusers" / "config.yaml").unlink()
    (home / "job").mkdir()
    quiet(["sample", str(run), "--out", str(home / "job" / "pictures"), "-n", "4", "--steps", "2"])
    for name in ("recipe", "settings"):
        written(home / name, {"some.yaml": tiny.config().as_yaml().encode()})
    folder = written(home / "folder", files(6))
    (folder / "labels.json").write_text(json.dumps({f"{i}.png": "ab"[i % 2] for i in range(6)}))
    listed = written(home / "listed", {f"{i}.png": data for i, data in enumerate(files(6).values())})
    (listed / "metadata.jsonl").write_text("".join(f'{{"file_name": "{i}.png", "label": {i % 2}}}\n' for i in range(6)))
    table = written(home / "table", {f"{i}.png": data for i, data in enumerate(files(6).values())})
    (table / "labels.csv").write_text("file,label,note\n" + "".join(f"{i}.png,{'ab'[i % 2]},x\n" for i in range(6)))
    coco = written(home / "coco", {f"{i}.png": data for i, data in enumerate(files(6).values())})
    (coco / "labels.json").write_text(
        json.dumps(
            {
                "images": [{"id": i, "file_name": f"{i}.png"} for i in range(6)],
                "annotations": [{"image_id": i, "category_id": i % 2} for i in range(6)],
                "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
            }
        )
    )
    for kind, name, data in (
        ("drawn", "x.npz", npz(images=np.zeros((2, 8, 8, 1), np.uint8), labels=np.arange(2))),
        ("zip", "x.zip", zipped(files(6) | {"labels.csv": b"file,label\n0.png,a\n1.png,b\n"})),
        ("tar", "x.tar", tarred(files(6))),
        ("tgz", "x.tar.gz", tarred(files(6), "w:gz")),
        ("npz", "x.npz", npz(images=np.zeros((6, 8, 8, 1), np.uint8), labels=np.arange(6))),
    ):
        written(home / kind, {name: data})
    (home / "shards").mkdir()
    shards(home / "shards" / "shards")
    return {path.name: path for path in home.iterdir()}


def case(kind: str, original: Path, place: Path, dice: random.Random) -> list[str]:
    """A damaged copy, and the command that reads it."""
    theirs = Path(shutil.copytree(original, place / kind))
    if kind == "settings":
        asked = [part for text in some_sets(dice) for part in ("--set", text)]
        return ["train", str(theirs / "some.yaml"), "--out", str(place / "new"), *asked]
    every = [
        path for path in sorted(theirs.rglob("*")) if path.is_file() and path.suffix not in (".png", ".html", ".gif")
    ]
    small = [path for path in every if path.suffix != ".safetensors"] or every
    damaged(dice.choice(small if dice.random() < 0.9 else every), dice)
    out = str(place / "out.npz")
    match kind:
        case "run":
            draw = ["sample", str(theirs), "--out", out, "-n", "2", "--weights", dice.choice(["ema", "raw"])]
            best = ["sample", str(theirs), "--out", out, "-n", "2", "--checkpoint", "best"]
            return dice.choice([draw, draw, best, ["train", "--resume", "--out", str(theirs)], ["report", str(theirs)]])
        case "diffusers":
            return ["sample", str(theirs), "--out", out, "-n", "2", "--steps", "2"]
        case "job":
            return [
                "sample",
                str(original.parent / "run"),
                "--out",
                str(theirs / "pictures"),
                "-n",
                "4",
                "--steps",
                "2",
            ]
        case "drawn":
            vary = ["--strength", "0.1", "--steps", "5", "-n", "1"]
            return [
                "edit",
                str(original.parent / "run"),
                "variation",
                "--image",
                str(theirs / "x.npz"),
                "--out",
                out,
                *vary,
            ]
        case "recipe":
            return ["train", str(theirs / "some.yaml"), "--out", str(place / "new")]
        case "zip" | "tar" | "tgz" | "npz":
            return ["check", str(next(theirs.iterdir(), theirs))]
        case "shards":
            return ["check", str(theirs / "shards")]
    return ["check", str(theirs)]


# -- one worker --------------------------------------------------------------------------------------------------------


def quiet(arguments: list[str]) -> tuple[int, str]:
    """The exit status and what was said on stderr."""
    from undiffuse.cli import main
    from undiffuse.errors import UndiffuseError
    from undiffuse.report.page import write_report

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        if arguments[0] != "report":
            return main(arguments), said.getvalue()
        try:
            write_report(Path(arguments[1]))
        except UndiffuseError as error:
            return 1, f"undiffuse: {error}"
    return 0, ""


def work(lane: int, count: int, lanes: int, results) -> None:
    """Cases lane, lane + lanes, ... below count: each in a line or done, within ten seconds and two gigabytes.

    Training ends before its first step: what is tried is what reads. The machine is one of two gigabytes.
    """
    from undiffuse.errors import UndiffuseError
    from undiffuse.files import cache
    from undiffuse.processes import machine
    from undiffuse.train import starting
    from undiffuse.train.job import Training

    def ends(self):
        raise UndiffuseError("begun")
        yield

    def late(number, frame):
        raise TimeoutError("hangs")

    home = Path(tempfile.mkdtemp(prefix="strangers-"))
    cache.folder = lambda kind="": home / "cache" / kind
    try:
        kinds = originals(home / "originals")
        machine.memory, starting.TIMED, Training.__iter__ = lambda: MEMORY - (600 << 20), 0.1, ends
        signal.signal(signal.SIGALRM, late)
        outcomes: dict[str, int] = {}
        for number in range(lane, count, lanes):
            dice, place = random.Random(number), home / "case"
            place.mkdir()
            kind = dice.choice(sorted(kinds))
            arguments = case(kind, kinds[kind], place, dice)
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            signal.alarm(STOP)
            try:
                status, said = quiet(arguments)
            except BaseException:
                status, said = -1, traceback.format_exc()
            signal.alarm(0)
            took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            last = (said.strip().splitlines() or [""])[-1]
            wrong = status not in (0, 1, 2) or "Traceback" in said or (status and not last.startswith("undiffuse: "))
            if wrong or took > SECONDS or (after > before and after * 1024 > MEMORY):
                cost = f"status {status}, {took:.0f} s, {after >> 10} MiB"
                results.put(f"case {number} ({kind}, {arguments}): {cost}\n{said[-3000:]}")
            outcomes[f"{kind} {status}"] = outcomes.get(f"{kind} {status}", 0) + 1
            shutil.rmtree(place)
        results.put(outcomes)
    finally:
        shutil.rmtree(home, ignore_errors=True)
