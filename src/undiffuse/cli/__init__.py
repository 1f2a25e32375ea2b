"""The command line: parse, call, print. Errors that a user can cause are one line on stderr."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from undiffuse.errors import UndiffuseError, in_a_message

INTERRUPTED = 130  # typer makes it of Ctrl-C
OUT_OF_MEMORY = "out of memory; take a smaller batch size, picture or network"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status: 0 success, 1 run time or data, 2 usage, 130 interrupted."""
    with _own_ways():
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    import typer

    from undiffuse.cli.app import app

    try:
        status = int(app(args=arguments, standalone_mode=False) or 0)
        return _fail("interrupted", status) if status == INTERRUPTED else status
    except UndiffuseError as error:
        return _fail(str(error), error.exit_code)
    except _click_exception() as error:
        return _fail(error.format_message() or "name a command", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output left; nothing to add
        return 1
    except MemoryError:
        return _fail(OUT_OF_MEMORY, 1)
    except RuntimeError as error:
        if "memory" not in str(error):  # torch's allocators say "can't allocate memory" and "out of memory"
            raise
        return _fail(OUT_OF_MEMORY, 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)


@contextmanager
def _own_ways() -> Iterator[None]:
    """What a command changes of the process, put back as it was: where warnings go, and how letters are written."""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # None where a shell closed them
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, TextIOWrapper)]
    errors, shown = [stream.errors or "strict" for stream in streams], warnings.showwarning
    warnings.showwarning = _show_warning
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter loses that letter alone
    try:
        yield
    finally:
        warnings.showwarning = shown
        for stream, error in zip(streams, errors, strict=True):
            with suppress(OSError, ValueError):  # whoever read our output left, or it is closed
                stream.reconfigure(errors=error)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


def _click_exception() -> Any:
    """Click's base class of usage errors, wherever this version of typer keeps it."""
    import typer

    return typer.BadParameter.__mro__[2]


def _fail(message: str, status: int) -> int:
    """One line. What all processes of a machine find alike (a mistake in use, an interrupt) its first one says."""
    if status == 1 or os.environ.get("LOCAL_RANK", "0") == "0":
        print("undiffuse: " + in_a_message(" ".join(message.split())), file=sys.stderr)
    return status


def _show_warning(  # noqa: PLR0917  (the signature of warnings.showwarning)
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours as one line; those of libraries are for developers."""
    if category.__module__.startswith("undiffuse"):
        say(f"undiffuse: warning: {message}")


def tell(line: str) -> None:
    """Print a line that may hold names out of files."""
    print(in_a_message(line), flush=True)


def say(line: str) -> None:
    """The same on stderr. If whoever read it has left, or its disk is full, the work goes on in silence."""
    try:
        print(in_a_message(line), file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
