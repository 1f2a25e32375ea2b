"""Checkpoints, whole or absent, never a pickle: `00001000/{backbone,ema,optimizer}.safetensors` and `state.json`."""

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from annotated_types import Ge, Gt, Le, Len
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from typing_extensions import TypedDict

from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import check_regular, checked_record, read_json
from undiffuse.files.writing import put_text, sync
from undiffuse.shapes import Tensor

Tensors = dict[str, torch.Tensor]
STATE_VERSION = 1
MOST_STATE = 4 << 20  # bytes
Count = Annotated[int, Ge(0), Le(2**53)]


class ScaleRecord(TypedDict):
    """The loss scale of fp16, see train.loss_scale."""

    value: Annotated[float, Gt(0), Le(2.0**100)]
    good: Count
    overflows: Count


class StateRecord(TypedDict):
    """state.json: what need not be there may be missing, what is not named here may be there."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]

    format_version: Count
    step: NotRequired[Count]
    skipped: NotRequired[Count]
    streak: NotRequired[Count]
    micro_batch: NotRequired[Annotated[int, Ge(1), Le(2**53)]]
    micro_batches: NotRequired[Annotated[list[Annotated[int, Ge(1), Le(2**53)]], Len(0, 1 << 16)]]
    digests: NotRequired[dict[str, str]]
    scale: NotRequired[ScaleRecord]
    diffusion: NotRequired[dict[str, Any]]


class Damaged(UndiffuseError):
    """A checkpoint that is not as it was written."""


@dataclass(frozen=True)
class Snapshot:
    """All of training at a step: named groups of tensors (one file each) and a small JSON-able state with `step`."""

    tensors: dict[str, Tensors]
    state: dict[str, Any]


def save(folder: Path, snapshot: Snapshot) -> Path:
    """Write `folder/<step>/` aside, sync, rename: a kill leaves the old or the new, never half."""
    final = folder / f"{snapshot.state['step']:08d}"
    aside = folder / f".{final.name}.writing"
    _put_back(folder)
    for left in folder.glob(".*") if folder.is_dir() else ():
        shutil.rmtree(left, ignore_errors=True)  # of a save or a deletion that was killed
    try:
        _write(aside, snapshot)
    except (OSError, SafetensorError):
        shutil.rmtree(aside, ignore_errors=True)  # a full disk has no room for half a checkpoint
        raise
    replaced = aside.with_suffix(".replaced")
    if final.exists():
        final.rename(replaced)  # never half a checkpoint under a valid name, as deleting it in place would leave
    aside.rename(final)
    sync(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def _put_back(folder: Path) -> None:
    """Put back what a kill between the two renames of `save` left aside: it is the only one of its step."""
    for replaced in folder.glob(".*.replaced"):
        if not (final := folder / replaced.stem.removeprefix(".")).exists():
            replaced.rename(final)


def _write(aside: Path, snapshot: Snapshot) -> None:
    aside.mkdir(parents=True)
    mode = aside.stat().st_mode & 0o666
    for name, tensors in snapshot.tensors.items():
        plain = {key: value.detach().contiguous().cpu() for key, value in tensors.items()}
        save_file(plain, aside / f"{name}.safetensors")
        (aside / f"{name}.safetensors").chmod(mode)  # safetensors writes for the owner alone
    digests = {path.name: digest_of(path) for path in sorted(aside.iterdir())}
    state = {"format_version": STATE_VERSION, **snapshot.state, "digests": digests}
    put_text(aside / "state.json", json.dumps(state, indent=1))
    for path in [*aside.iterdir(), aside]:
        sync(path)


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, rising."""
    if not folder.is_dir():
        return []
    whole = (path.name for path in folder.iterdir() if (path / "state.json").exists())
    return sorted(int(name) for name in whole if _is_number(name) and name == f"{int(name):08d}")


def headless(folder: Path, after: int) -> list[Path]:
    """Checkpoints of later steps that have lost their state.json: no save leaves such."""
    found = (path for path in folder.glob("*") if _is_number(path.name) and not (path / "state.json").exists())
    return sorted(path for path in found if int(path.name) > after)


def find(folder: Path, which: str = "last") -> Path:
    """The checkpoint of a step, or the last."""
    known = steps(folder)
    if not known:
        raise UndiffuseError(f"{folder.parent}: no checkpoint here yet")
    if which == "last":
        return folder / f"{known[-1]:08d}"
    if not _is_number(which) or int(which) not in known:
        raise UndiffuseError(f"{folder.parent}: no checkpoint '{which}'; there are {', '.join(map(str, known))}")
    return folder / f"{int(which):08d}"


def prune(folder: Path, keep: int, also: Iterable[int] = ()) -> None:
    """Delete all but the last `keep` and those of these steps; keep = 0 keeps all."""
    for step in {*steps(folder)[:-keep]} - {*also} if keep else ():
        doomed = folder / f".{step:08d}.deleted"
        (folder / f"{step:08d}").rename(doomed)  # never half a checkpoint under a valid name
        shutil.rmtree(doomed, ignore_errors=True)


def newest_whole(folder: Path) -> tuple[int | None, list[Damaged]]:
    """The step of the newest whole checkpoint, and what was wrong with those after it, which are then set aside as
    `<step>.damaged`: they would stand for the last, and be counted among those to keep. Raises Damaged, nothing
    changed, if none is whole."""
    _put_back(folder)
    wrong: dict[Path, Damaged] = {}
    step = None
    for step in reversed(steps(folder)):
        path = find(folder, str(step))
        try:
            check_whole(path)
            break
        except Damaged as error:
            wrong[path] = error
    else:
        if wrong:
            raise list(wrong.values())[-1]
    for path in wrong:
        shutil.rmtree(aside := path.with_name(f"{path.name}.damaged"), ignore_errors=True)
        with suppress(FileNotFoundError):  # deleted meanwhile, by who trains this run
            path.rename(aside)
    return step, list(wrong.values())


def digest_of(path: Path) -> str:
    """BLAKE2b of a file."""
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def check_whole(checkpoint: Path) -> None:
    """Raises Damaged if a file is not as it was written. Older checkpoints have no digests: only its length."""
    digests = load_state(checkpoint).get("digests", {})
    for path in sorted({*checkpoint.glob("*.safetensors"), *(checkpoint / name for name in digests)}):
        try:
            check_regular(path)
            with safe_open(path, "pt"):
                pass
            check_unchanged(path, digests)
        except Damaged:
            raise
        except (OSError, ValueError, SafetensorError) as error:
            raise Damaged(f"{path}: missing or truncated ({_line(error)})") from error


def check_unchanged(path: Path, digests: dict[str, str]) -> None:
    """Raises Damaged if a file is not what its digest is of, if there is one."""
    if path.name in digests and digest_of(path) != digests[path.name]:
        raise Damaged(f"{path}: not as it was written; copy it again, or take another checkpoint")


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The small state: `step`, `skipped` and `streak` are whole numbers, 0 if they are not there."""
    path = checkpoint / "state.json"
    try:
        state: dict[str, Any] = {**checked_record(StateRecord, read_json(path, MOST_STATE))}
        counts: dict[str, int] = {name: state.get(name, 0) for name in ("step", "skipped", "streak")}
        if counts["skipped"] > counts["step"]:
            raise ValueError(f"{counts['skipped']} of {counts['step']} steps skipped")
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: not a checkpoint's state ({_line(error)})") from error
    if (version := state["format_version"]) > STATE_VERSION:
        raise UndiffuseError(f"{path}: format_version {version} is newer than this undiffuse reads; please upgrade")
    if counts["step"] != int(checkpoint.name):
        raise Damaged(f"{path}: is of step {counts['step']}, its folder is not; copy the checkpoint again")
    return {**state, **counts}


def check_same_noise(state: dict[str, Any], noise: object, origin: Path) -> None:
    """Raise UndiffuseError unless these weights were trained with this noise family; older checkpoints do not say."""
    trained = state.get("noise", str(noise))
    if trained != str(noise):
        raise UndiffuseError(
            f"{origin}: these weights were trained with the noise '{trained}', config.yaml says '{noise}'; the family "
            "belongs to the model: put it back, or train another model"
        )


def load_tensors(checkpoint: Path, name: str) -> Tensors:
    """One group of tensors, on the CPU."""
    path = checkpoint / f"{name}.safetensors"
    if not path.exists():
        there = ", ".join(sorted(other.stem for other in checkpoint.glob("*.safetensors"))) or "no weights"
        raise UndiffuseError(f"{checkpoint}: has no {path.name}, but {there}; take those, or copy the folder again")
    try:
        check_regular(path)
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise UndiffuseError(f"{path}: truncated or not a safetensors file ({_line(error)})") from error


def fill(backbone: nn.Module, tensors: Tensors, origin: Path) -> None:
    """Copy weights in, after checking that they are this network's: every name, every shape."""
    own = backbone.state_dict()
    for name in own:
        if name not in tensors:
            raise UndiffuseError(f"{origin}: weights of another network: '{name}' is missing")
        if own[name].shape != tensors[name].shape:
            shapes = f"{list(tensors[name].shape)} in place of {list(own[name].shape)}"
            raise UndiffuseError(f"{origin}: weights of another network: '{name}' is {shapes}")
    if extra := [name for name in tensors if name not in own]:
        raise UndiffuseError(f"{origin}: weights of another network: '{extra[0]}' is not in this one")
    backbone.load_state_dict({name: laid_like(value, own[name]) for name, value in tensors.items()})


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def laid_like(value: Tensor, tensor: Tensor) -> Tensor:
    """A tensor with another's cut and strides: a fused Adam reads moments in memory order, whatever theirs are."""
    if is_cut(tensor):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
        return distribute_tensor(value.to(tensor.device), mesh, placements)
    return torch.empty_like(tensor).copy_(value)


def is_cut(tensor: Tensor) -> bool:
    """A DTensor, told without importing what only sharded training needs."""
    return hasattr(tensor, "full_tensor")
