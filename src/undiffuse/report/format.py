"""Values as a person would write them."""

import math
from html import escape


def plain(value: object) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value)


def quantity(value: float, stderr: float | None, scale: float | None = None) -> tuple[str, str]:
    """A value and its standard error as text, cut at the error's second digit: (0.91234, 0.0043) -> 0.9123, 0.0043.

    scale: the error to cut at, if not its own: values in a column are cut alike.
    """
    if not math.isfinite(value):
        return "undefined", ""
    scale = scale or stderr
    if not scale or not math.isfinite(scale):
        return plain(value), ""
    digits = min(max(0, 1 - math.floor(math.log10(abs(scale)))), 8)
    return f"{value:,.{digits}f}", f"{stderr:,.{digits}f}" if stderr else ""


def duration(seconds: float | int) -> str:
    """Seconds as a person would say them: 42 s, 5 min 12 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def missing(message: str) -> str:
    """A note in the place of something that is not there."""
    return f'<p class="missing">{escape(message)}</p>'
