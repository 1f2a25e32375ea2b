"""The processes of one command, as `accelerate launch --multi_gpu` and `torchrun` start them: agree, meet, stop.

Only what is agreed upon goes through gloo; images never do, so this is the same on CPUs and GPUs.
"""

import atexit
import os
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from undiffuse.errors import UndiffuseError, UsageError

_Made = TypeVar("_Made")
FOR_EVER = timedelta(days=365)  # a block of a slow model may take hours
SECONDS_BETWEEN_LOOKS = 0.2


class ProcessWarning(UserWarning):
    """Fewer processes than were meant."""


def count() -> int:
    return _number("WORLD_SIZE", 1) if "RANK" in os.environ else 1


def rank() -> int:
    return _number("RANK", 0)


def _number(name: str, least: int) -> int:
    text = os.environ.get(name, str(least))
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise UsageError(f"the environment says {name}={text}: launchers set it, to a number; unset {name}")
    return int(text)


def check_launcher() -> None:
    """Refuse variables of a launcher that are there in part: nobody could find the others."""
    count(), rank()
    lacking = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if "RANK" in os.environ and lacking:
        raise UsageError(
            f"the environment has RANK and no {' and no '.join(lacking)}: start with torchrun or accelerate launch, "
            "or unset RANK for one process"
        )


def own_device() -> str | None:
    """The GPU that is this process's alone; None to leave the choice to the default."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if count() > 1 and torch.cuda.is_available() else None


def warn_if_alone() -> None:
    """Warn that one process was started where several were meant: without a GPU `accelerate launch --num_processes 2`
    does so."""
    launched = {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys()
    if launched and "RANK" not in os.environ:
        message = "accelerate started one process; for several on CPUs add --multi_gpu, which means them too"
        warnings.warn(message, ProcessWarning, stacklevel=2)


def from_first(make: Callable[[], _Made]) -> _Made:
    """Have process 0 make something, and tell all. If it cannot, it says why, and the others leave quietly with its
    status."""
    if count() == 1:
        return make()
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=FOR_EVER)
        atexit.register(_part)
    shared: list[tuple[_Made | None, int]] = [(None, 1)]
    try:
        if rank() == 0:
            shared = [(make(), 0)]
    except UndiffuseError as error:
        shared = [(None, error.exit_code)]
        raise
    finally:
        dist.broadcast_object_list(shared)
    made, status = shared[0]
    if status:
        raise SystemExit(status)
    return made  # type: ignore[return-value]


def _part() -> None:
    """Leave the group before Python itself ends: a thread of gloo that sees another process leave then would abort this
    one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def one_first(make: Callable[[], _Made]) -> _Made:
    """Made by process 0, then by the others, who find what it left in the caches."""
    if count() > 1:
        from_first(lambda: make() and None)
    return make()


def meeting() -> Iterator[None]:
    """Ends when every process is here; what it yields between is time to look about.

    Raises UndiffuseError if one has died: its connection closes, so nobody waits in vain.
    """
    if count() == 1:
        return
    try:
        barrier = dist.barrier(async_op=True)
        while not barrier.is_completed():
            yield
            time.sleep(SECONDS_BETWEEN_LOOKS)
        barrier.wait()
        yield
    except RuntimeError as error:
        raise UndiffuseError("another process of this command has stopped; go on with the same command") from error
