"""The smallest run there is, which many tests share: 8 channels, 50 times, six steps of eight images."""

import shutil
from pathlib import Path

from undiffuse.config import Config

CHANGES = {
    "model.channels": 8,
    "model.multipliers": [1],
    "model.blocks": 1,
    "model.attention": [],
    "model.norm_groups": 4,
    "diffusion.T": 50,
    "diffusion.prediction": "v",
    "train.steps": 6,
    "train.batch_size": 8,
    "train.lr": 1e-2,
    "train.warmup": 0,
    "train.ema": 0.9,
    "train.log_every": 2,
    "train.checkpoint_every": 2,
    "train.sample_every": 0,
    "sample.steps": 5,
}


def config(**changes) -> Config:
    """The tiny configuration; `train__steps=3` changes train.steps."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return Config().replaced(CHANGES | dotted)


def trained(out: Path, **changes) -> Path:
    """Train to the end into a new folder."""
    from undiffuse.train.job import Training

    for _ in Training.start(config(**changes), out, "tiny"):
        pass
    return out


def weights(run: Path, step: int) -> dict[str, bytes]:
    """The files of a checkpoint that must not depend on how training got there."""
    folder = run / "checkpoints" / f"{step:08d}"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder with its contents, to see that nothing was created, changed or lost."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def without_later_checkpoints(run: Path, step: int, to: Path) -> Path:
    """A copy of the run as it stood when its checkpoint of `step` was the last."""
    copy = Path(shutil.copytree(run, to))
    for path in (copy / "checkpoints").iterdir():
        if int(path.name) > step:
            shutil.rmtree(path)
    return copy
