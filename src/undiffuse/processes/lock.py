"""One command a folder."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from undiffuse.errors import UsageError
from undiffuse.processes import ranks


@contextmanager
def alone(folder: Path) -> Iterator[Callable[[], None]]:
    """A function that claims the folder for this command, making it if need be. The claim ends with the last of the
    command's processes, however it ends. Raises UsageError if another command has it."""

    def claim() -> None:
        folder.mkdir(exist_ok=True)
        if sys.platform == "win32":
            stack.enter_context(_lock_file(folder))
            return
        handle = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, handle)
        _lock(handle, folder)

    with ExitStack() as stack:
        yield claim


def _lock(handle: int, folder: Path) -> None:
    """Process 0 sees that nobody is there, then all share the lock."""
    import fcntl

    try:
        if ranks.rank() == 0:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(folder) from None
    except OSError:
        return  # a file system without locks


@contextmanager
def _lock_file(folder: Path) -> Iterator[None]:
    """Windows locks no folders, so process 0 holds a file in it."""
    from filelock import FileLock, Timeout

    if ranks.rank():
        yield
        return
    lock = FileLock(folder / ".undiffuse.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise _taken(folder) from None
    try:
        yield
    finally:
        lock.release()


def _taken(folder: Path) -> UsageError:
    return UsageError(f"{folder}: another command is writing into it; wait for it, or stop it")
