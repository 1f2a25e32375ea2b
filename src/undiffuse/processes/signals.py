"""What SIGINT and SIGTERM do: stop at once, or at the next good moment."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_OF_ONE_WISH = 2.0  # a launcher passes on what its processes were told already


@contextmanager
def stopping_at_once() -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM raise KeyboardInterrupt; the function given raises it too, should it have been swallowed."""
    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    def stop(number: int, frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    with _handling(stop):
        yield check


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM asks to stop at the next good moment; one that comes later stops at once."""
    asked, first = threading.Event(), [0.0]

    def ask(number: int, frame: FrameType | None) -> None:
        if not asked.is_set():
            first[0] = time.monotonic()
        elif time.monotonic() - first[0] > SECONDS_OF_ONE_WISH:
            raise KeyboardInterrupt
        asked.set()

    with _handling(ask):
        yield asked


@contextmanager
def _handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go there for a while; only the main thread can hear them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
