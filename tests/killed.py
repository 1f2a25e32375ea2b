"""A training run that is killed again and again: `python killed.py RUN KILLS SEED` prints a JSON line for each kill.

torch is imported once, each attempt is a fork of this process, which itself never trains. A third of the attempts are
killed from outside after a random while, a third at a random touch of the checkpoints folder, a third with a file of
the checkpoint half written.
"""

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import safetensors.torch
import torch

import tiny
from undiffuse.files import checkpoint
from undiffuse.train.job import Training

INTERVAL = 4
CHANGES = {
    "model__dropout": 0.1,
    "train__steps": 400,
    "train__checkpoint_every": INTERVAL,
    "train__log_every": 2,
    "train__keep": 3,
    "train__ema": [0.9, 0.99],
    "train__lr_decay": "cosine",
    "train__time_sampling": "second_moment",
}
TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_touch(folder: Path, left: int) -> None:
    """At the left-th time that something under the folder is opened, made, renamed or deleted."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in TOUCHES and str(folder) in str(arguments[0]):
            left -= 1
            if left <= 0:
                die()

    sys.addaudithook(hook)


def die_half_written(left: int) -> None:
    """With the left-th file of tensors half on the disk."""
    real = checkpoint.save_file

    def half(tensors: dict[str, torch.Tensor], path: Path) -> None:
        nonlocal left
        left -= 1
        if left > 0:
            real(tensors, path)
            return
        content = safetensors.torch.save(tensors)
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            os.fsync(file.fileno())
        die()

    checkpoint.save_file = half


def attempt(run: Path, how: str, chance: random.Random, tell: int) -> None:
    """Train, and die on the way; every step is told."""
    training = Training.resume(run) if run.exists() else Training.start(tiny.config(**CHANGES), run, "killed")
    if how == "touch":
        die_at_touch(run / "checkpoints", chance.randint(1, 60))
    elif how == "half":
        die_half_written(chance.randint(1, 8))
    real = training.trainer._one_step

    def telling() -> None:
        real()
        os.write(tell, f"{training.trainer.step}\n".encode())

    training.trainer._one_step = telling
    os.write(tell, f"{training.trainer.step}\n".encode())
    for _ in training:
        pass


def killed(run: Path, how: str, chance: random.Random) -> int:
    """Fork an attempt. Returns the last step that it told, or -1 if it told none."""
    heard, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        attempt(run, how, chance, tell)
        os._exit(0)
    os.close(tell)
    told = b""
    if how == "any":
        while not told and select.select([heard], [], [], 60)[0]:
            told += os.read(heard, 1 << 16) or b"-1\n"
        time.sleep(chance.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
    while more := os.read(heard, 1 << 16):
        told += more
    os.close(heard)
    _, status = os.waitpid(child, 0)
    if how != "end" and os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise SystemExit(f"{how}: ended with {status}, not killed")
    return int(told.decode().split()[-1]) if told else -1


def main() -> None:
    run, kills, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    for i in range(kills):
        how = ("any", "touch", "half")[i % 3]
        chance.seed(chance.random())
        reached = killed(run, how, chance)
        inside = [path.name for path in (run / "checkpoints").glob(".*")]
        newest = (checkpoint.steps(run / "checkpoints") or [0])[-1]
        print(json.dumps({"how": how, "reached": reached, "newest": newest, "unfinished": inside}), flush=True)
    killed(run, "end", chance)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
