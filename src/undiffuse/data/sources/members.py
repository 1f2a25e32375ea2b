"""The files in zip and tar archives, one after the other, read without unpacking them."""

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from undiffuse.data.budget import Budget, open_tar, open_zip
from undiffuse.data.sources.base import MAX_BYTES, in_a_line
from undiffuse.data.spec import BadPicture
from undiffuse.errors import UndiffuseError
from undiffuse.files.reading import check_regular

Member = tuple[str, int, Callable[[], bytes]]  # name, size, read


def member_content(size: int, read: Callable[[], bytes]) -> bytes | BadPicture:
    if size > MAX_BYTES:
        return BadPicture("too large", f"larger than {MAX_BYTES >> 20} MiB")
    try:
        return read()
    except MemoryError:
        return BadPicture("too large", "too large for the memory")
    except Exception as error:  # what damaged archives make their readers raise has no end
        return BadPicture("unreadable", f"cannot be read from the archive ({in_a_line(error)})")


def members_of(budget: Budget) -> Iterator[Member]:
    path = budget.path
    try:
        check_regular(path)
        is_zip = path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)
    except (OSError, ValueError) as error:
        raise UndiffuseError(f"{path}: cannot be read ({in_a_line(error)})") from error
    yield from _zip_members(budget) if is_zip else _tar_members(budget)


def _zip_members(budget: Budget) -> Iterator[Member]:
    try:
        with open_zip(budget) as archive:
            for info in archive.infolist():
                name = info.filename.replace("\\", "/")  # as some programs of Windows write it
                if not name.endswith("/"):
                    yield name, info.file_size, lambda info=info: archive.read(info)  # type: ignore[misc]
    except UndiffuseError:
        raise
    except Exception as error:
        raise UndiffuseError(f"{budget.path}: not a readable zip file ({in_a_line(error)})") from error


def _tar_members(budget: Budget) -> Iterator[Member]:
    try:
        with open_tar(budget) as archive:
            for count, info in enumerate(archive, 1):
                budget.check_members(count)
                if info.isreg() and not info.issparse():
                    yield info.name.removeprefix("./"), info.size, lambda info=info: _extract(archive, info)  # type: ignore[misc]
                archive.members.clear()  # type: ignore[attr-defined]  # or it remembers every file of a shard
            _closed(archive, budget.path)
    except UndiffuseError:
        raise
    except Exception as error:
        raise UndiffuseError(f"{budget.path}: not a readable tar file ({in_a_line(error)})") from error


def _closed(archive: tarfile.TarFile, path: object) -> None:
    """tarfile takes the end of the file for the end of the archive, so that one cut short reads as a smaller set."""
    file: Any = archive.fileobj
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise UndiffuseError(f"{path}: a tar file without its end mark: cut short? Fetch or write it again")


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    data = b"" if file is None else file.read()
    if len(data) < info.size:
        raise EOFError("ends early")
    return data
