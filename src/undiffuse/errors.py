"""The errors a user can cause. Each message is one line: what is wrong, then what to do."""

import operator


class UndiffuseError(ValueError):
    """Something about the run or the data is wrong; the command line exits with 1."""

    exit_code = 1


class UsageError(UndiffuseError):
    """The request itself is wrong (unknown name, value out of range); the command line exits with 2."""

    exit_code = 2


class Interrupted(UndiffuseError):
    """Stopped by the user; everything is saved, and the message says how to go on."""

    exit_code = 130


def whole_number(what: str, value: object) -> int:
    """A whole number, of Python, NumPy or torch. Raises UsageError for anything else."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{what} is a whole number, not {repr(value)[:40]}") from None


def nearest(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """A hint for an unknown name: `did you mean 'x'?`, else the known names."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    close = close or [one for one in known if name.strip() and name.lower() in one.lower()][:1]
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
