"""The errors a user can cause. Each message is one line: what is wrong, then what to do."""

import operator
import re
from unicodedata import bidirectional, category

LONGEST_WORD, LONGEST_MESSAGE = 200, 2000  # letters
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # letters by which text runs another way
UNSEEN = {"\u200e", "\u200f", "\u061c", "\ufeff"}  # the same, and a byte order mark: nobody sees them


class UndiffuseError(ValueError):
    """Something about the run or the data is wrong; the command line exits with 1."""

    exit_code = 1


class UsageError(UndiffuseError):
    """The request itself is wrong (unknown name, value out of range); the command line exits with 2."""

    exit_code = 2


class Interrupted(UndiffuseError):
    """Stopped by the user; everything is saved, and the message says how to go on."""

    exit_code = 130


def escaped(text: str) -> str:
    """Text in which control characters, ends of lines, letters that turn its direction, and bytes of a file's name that
    are no text, stand by their codes: no file decides what a terminal does."""
    return text if text.isprintable() else "".join(ascii(sign)[1:-1] if is_control(sign) else sign for sign in text)


def is_control(sign: str) -> bool:
    """Whether a letter is written by its code."""
    if sign.isprintable():
        return False
    return category(sign) in ("Cc", "Cs", "Zl", "Zp") or bidirectional(sign) in TURNING or sign in UNSEEN


def in_a_message(text: str) -> str:
    """One line to print: escaped, with the middle of overlong words, and of the line, left out."""
    line = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: elided(word[0], LONGEST_WORD), text)
    return elided(escaped(elided(line, LONGEST_MESSAGE)), LONGEST_MESSAGE)


def elided(text: str, most: int) -> str:
    """Text of at most so many letters: the middle is left out."""
    kept = most - 3
    return text if len(text) <= most else f"{text[: kept - kept // 4]}...{text[len(text) - kept // 4 :]}"


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
