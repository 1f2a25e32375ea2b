"""Threads that wait for each other give way on a busy machine, and spin on an idle one.

OpenMP's threads spin at the end of every parallel loop until the last has come. Alone that is fastest. Beside other
programs the last one waits for a processor, which the others' spinning keeps from it: training falls to a tenth. GCC's
runtime spins but briefly (1,000 rounds in place of 300,000) while more threads are known to it than there are
processors; it looks at every wait. So while others need the processors, a thread of ours holds a sleeping team.
The work's own threads stay as many as they were, and so does every result, to the bit.
"""

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from undiffuse.native.library import kernels

EVERY = 0.5  # seconds from look to look
BUSY, CALM = 0.10, 0.04  # the others' share of the processors from which threads give way, and below which they spin
STAT, QUOTA = Path("/proc/stat"), Path("/sys/fs/cgroup/cpu.max")


class Sharing:
    """Looks at the machine now and then, when asked to by whoever is about to compute."""

    def __init__(self) -> None:
        self.due = 0.0
        self._before = _seconds() if sys.platform == "linux" else None
        self._holder: tuple[threading.Thread, threading.Event] | None = None

    @property
    def gives_way(self) -> bool:
        return self._holder is not None

    def look(self, threads: int) -> None:
        """Give way, or stop doing so, as the time since the last look says; threads: how many the caller computes with.

        If no look is due, it costs one at the clock.
        """
        now = time.monotonic()
        if now < self.due:
            return
        if kernels() is None:
            self.due = math.inf
            return
        self.due = now + EVERY
        after = _seconds()
        before, self._before = self._before, after
        if before is not None:
            share = others_share(before, after)
            busy = has_small_quota() or share > (CALM if self.gives_way else BUSY)
            self.give_way(busy and threads > 1, threads)

    def give_way(self, wanted: bool, threads: int) -> None:
        if wanted == self.gives_way:
            return
        if self._holder is not None:
            thread, released = self._holder
            self._holder = None
            released.set()
            thread.join()
        elif (library := kernels()) is not None:
            held, released = threading.Event(), threading.Event()
            count = max(2, len(os.sched_getaffinity(0)) - threads + 2)
            arguments = (lambda: library.gather_threads(count), held, released)
            thread = threading.Thread(target=_hold, args=arguments, name="undiffuse-yield", daemon=True)
            thread.start()
            held.wait()
            self._holder = thread, released

    def forget(self) -> None:
        """In a forked child, where the thread is not."""
        self.due, self._before, self._holder = 0.0, None, None


def _seconds() -> tuple[float, float, float]:
    """Of the clock, of all programs, of this one."""
    return time.monotonic(), seconds_of_all(), time.process_time()


def _hold(gather: Callable[[], None], held: threading.Event, released: threading.Event) -> None:
    gather()
    held.set()
    released.wait()  # the team ends with this thread


def others_share(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """The share of the processors that other programs used between two looks."""
    wall, everything, own = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, everything - own) / (wall * len(os.sched_getaffinity(0)))


def seconds_of_all() -> float:
    """How long the processors that this process may use have worked, for whoever, since the system began."""
    allowed = {f"cpu{i}" for i in os.sched_getaffinity(0)}
    lines = (line.split() for line in STAT.read_text("utf-8").splitlines())
    user_nice_system_irq_softirq_steal = (1, 2, 3, 6, 7, 8)
    ticks = sum(int(line[i]) for line in lines if line[0] in allowed for i in user_nice_system_irq_softirq_steal)
    return ticks / os.sysconf("SC_CLK_TCK")


def has_small_quota() -> bool:
    """Whether a container's limit gives less time than the processors have: spinning would use it up."""
    try:
        quota, period = QUOTA.read_text("utf-8").split()
        return quota != "max" and int(quota) < int(period) * len(os.sched_getaffinity(0))
    except (OSError, ValueError):
        return False


sharing = Sharing()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=sharing.forget)
