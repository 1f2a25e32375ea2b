"""Progress: a bar with rate and time left on a terminal, plain lines otherwise. On stderr; results go to stdout."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from undiffuse.cli import say
from undiffuse.errors import in_a_message
from undiffuse.metrics.base import Estimate
from undiffuse.processes import ranks
from undiffuse.report.format import duration, quantity

_Item = TypeVar("_Item")
SECONDS_BETWEEN_LINES = 4.0


class Progress:
    """Tells how far along something is: call it with what is done and what to say about it."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.first, self.done = what, total, done, done
        self.began, self.spoke = time.monotonic(), 0.0

    def __call__(self, done: int, message: str = "") -> None:
        ended, self.done = self.done >= self.total, done
        now = time.monotonic()
        if ended or (done < self.total and now - self.spoke < SECONDS_BETWEEN_LINES):
            return
        self.spoke = now
        say("  ".join(filter(None, (f"{self.what} {done}/{self.total}", message, self.left()))))

    def note(self, message: str) -> None:
        """A line of its own."""
        say(message)

    def rate(self, done: int, what: str) -> str:
        """The number done a second so far; nothing before the first."""
        steps = done - self.first
        return f"{steps / (time.monotonic() - self.began):.3g} {what}/s" if steps > 0 else ""

    def left(self) -> str:
        """Time left at the mean rate so far, or time taken once done."""
        seconds, steps = time.monotonic() - self.began, self.done - self.first
        if self.done >= self.total:
            return f"{duration(seconds)} in all"
        return f"{duration(seconds / steps * (self.total - self.done))} left" if steps else ""


class Bar(Progress):
    """A Progress in one line that changes in place."""

    def __init__(self, bar: Any, what: str, total: int, done: int = 0) -> None:
        super().__init__(what, total, done)
        self.bar, self.task = bar, bar.add_task(what, total=total, completed=done, message="", left="")

    def __call__(self, done: int, message: str = "") -> None:
        self.done = done
        self.bar.update(self.task, completed=done, message=message, left=self.left())

    def note(self, message: str) -> None:
        self.bar.console.print(in_a_message(message), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Progress]:
    """A Progress that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield Progress(what, total, done)
        return
    from rich import progress as rich
    from rich.console import Console

    columns = ("{task.description}", rich.BarColumn(), "{task.completed}/{task.total}", "{task.fields[message]}")
    with rich.Progress(*columns, "{task.fields[left]}", console=Console(stderr=True)) as bar:
        yield Bar(bar, what, total, done)


def show(items: Iterable[_Item], total: int | None, what: str) -> Iterable[_Item]:
    """Pass items on, showing how many have come: the Watch of the command line. Process 0 speaks for all."""
    if ranks.rank():
        return items
    return count_along(what, items) if total is None else track(what, items, total)


def track(what: str, items: Iterable[_Item], total: int) -> Iterator[_Item]:
    """Pass items on, whose number is known; of images also how many a second."""
    with progress(what, total) as tell:
        for done, item in enumerate(items, 1):
            tell(done, tell.rate(done, "images") if what.endswith("image") else "")
            yield item


def count_along(what: str, items: Iterable[_Item]) -> Iterator[_Item]:
    """Pass items on, whose number nobody knows; speaks only of what takes a while."""
    began = spoke = None
    for done, item in enumerate(items):  # the first says when reading begins
        now = time.monotonic()
        began, spoke = (now, now) if began is None or spoke is None else (began, spoke)
        if now - spoke > SECONDS_BETWEEN_LINES:
            spoke = now
            say(f"{what}: {done:,}  {float(f'{done / (now - began):.3g}'):,g} a second")
        yield item


def table(metrics: dict[str, Estimate]) -> str:
    """Measures as aligned text: value ± stderr, what real images score, unit, n."""
    rows = [("measure", "value", "real images", "unit", "n")]
    for name, m in metrics.items():
        value = " ± ".join(part for part in quantity(m.value, m.stderr) if part)
        floor = "" if m.floor is None else quantity(m.floor, None, m.stderr)[0]
        rows.append((name, value, floor, m.unit, str(m.n)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
