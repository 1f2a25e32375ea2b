"""One command a folder."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from undiffuse.errors import UsageError
from undiffuse.processes import ranks


@contextmanager
def alone(folder: Path) -> Iterator[Callable[[], None]]:
    """A function that claims the folder for this command, making it if need be. The claim ends with the last of the
    command's processes, however it ends. Raises UsageError if another command has it."""
    handles: list[int] = []

    def claim() -> None:
        folder.mkdir(exist_ok=True)
        if sys.platform == "win32":  # has no such locks
            return
        handles.append(os.open(folder, os.O_RDONLY))
        _lock(handles[0], folder)

    try:
        yield claim
    finally:
        for handle in handles:
            os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    """Process 0 sees that nobody is there, then all share the lock."""
    import fcntl

    try:
        if ranks.rank() == 0:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{folder}: another command is writing into it; wait for it, or stop it") from None
    except OSError:
        return  # a file system without locks
