"""Files and folders that are whole or not there, and names that cannot be written, told before the work."""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

from undiffuse.errors import UndiffuseError, UsageError

LONGEST = 200  # bytes of a file's name; systems allow 255, and it is written aside first


def remedy(error: Exception) -> str:
    """Advice about a file that could not be written."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "space" in str(error)
    return "make room" if full else "mend that"


def check_writable(folder: Path, advice: str = "choose another --out") -> None:
    """Refuse a folder in which nothing can be created: before the work, not after."""
    probe = folder / ".undiffuse-probe"
    try:
        probe.touch()
        probe.unlink(missing_ok=True)  # another process of this command may have been faster
    except OSError as error:
        raise UndiffuseError(f"{folder}: cannot be written ({error.strerror}); {advice}") from error


def check_file(path: Path) -> None:
    """Refuse a name that no file can be written under: before the work, not after."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give a file's name")
    _check_replaceable(path)
    check_name(path)


def check_name(path: Path) -> None:
    """Refuse a name that nothing new can be made under."""
    if len(os.fsencode(path.name)) > LONGEST:
        raise UsageError(f"{path.name[:40]}...: the name is too long; take at most {LONGEST} bytes")
    check_writable(link_target(path).parent)


def link_target(path: Path) -> Path:
    """The path that a link leads to; a path that is none, or goes in circles, stays as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _check_replaceable(path: Path) -> Path:
    """What the path leads to, unless that is a device or a pipe: a file in its place would break the system."""
    target = link_target(path)
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = target.lstat().st_mode
        if not (S_ISREG(mode) or S_ISDIR(mode) or S_ISLNK(mode)):
            raise UsageError(f"{path}: is a device or a pipe, which no file replaces; give another name")
    return target


def file_kind(out: Path) -> str:
    """The type that a file's name asks for, such as ".png"; "" for a folder: one that is there, or no type said.

    A number is none: runs/eta0.5 is a folder.
    """
    suffix = out.suffix.lower()
    return "" if out.is_dir() or suffix[1:].isdigit() else suffix


@contextmanager
def whole(path: Path, lasting: bool = True) -> Iterator[Path]:
    """A file or folder to write aside: it becomes `path` when all is written, and vanishes if anything fails.

    Of a link, what it leads to. An OSError names `path`. lasting: it is on the disk when this returns. False is for
    what can be made again and several processes may write at once: each has its own aside, and the last one stays.
    """
    target = _check_replaceable(path)
    own = "" if lasting else f"-{os.getpid()}"
    aside = target.with_name(f".{target.stem}.writing{own}{target.suffix}")
    try:
        _remove(aside)  # what a kill left
        yield aside
        if lasting:
            sync(aside)
        aside.replace(target)
        if lasting:
            sync(target.parent)
    except OSError as error:
        if error.filename in (None, str(aside)):  # a full disk says none
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            _remove(aside)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    with whole(path) as aside:
        put_text(aside, text)


def put_text(path: Path, text: str) -> None:
    """The same bytes on every system: UTF-8, lines that end in \\n."""
    path.write_bytes(text.encode())


def sync(path: Path) -> None:
    """A file's contents, or a folder's list of names, are on the disk when this returns. Windows opens no folders, and
    syncs only what was opened for writing."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
