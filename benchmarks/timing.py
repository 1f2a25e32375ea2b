"""Times of calls that take turns, so that a shared machine's slow minutes hit all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Call = Callable[[], object]


def timed(call: Call) -> float:
    """Seconds of one call, its accelerator work included."""
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def interleaved(calls: Mapping[str, Call], repeats: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times, in turns."""
    for _ in range(warmup):
        for call in calls.values():
            timed(call)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(timed(call))
    return times


@dataclass(frozen=True)
class Spread:
    """Median, first and third quartile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def ratio(slow: list[float], fast: list[float]) -> Spread:
    """How many times faster `fast` is, turn by turn."""
    return Spread.of([a / b for a, b in zip(slow, fast, strict=True)])


def convolution_peak(device: str, channels_last: bool, dtype: torch.dtype, training: bool) -> float:
    """The most floating-point operations per second that a 3x3 convolution of this library's kind reaches here.

    The best over widths and sizes as in the networks measured, median of several calls each. `training` counts a
    convolution forward and backward (three times the operations).
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    best = 0.0
    for batch, width, size in ((8, 128, 32), (8, 256, 16), (8, 512, 16), (8, 256, 8), (64, 64, 28), (64, 64, 14)):
        x = torch.ones(batch, width, size, size, device=device, dtype=dtype).contiguous(memory_format=layout)
        w = torch.ones(width, width, 3, 3, device=device, dtype=dtype).contiguous(memory_format=layout)
        flops = 2 * 9 * batch * width * width * size * size * (3 if training else 1)
        x.requires_grad_(training), w.requires_grad_(training)
        gradient = torch.ones_like(x)

        def call(x=x, w=w, gradient=gradient) -> None:
            with torch.set_grad_enabled(training):
                out = F.conv2d(x, w, padding=1)
                if training:
                    torch.autograd.grad(out, (x, w), gradient)

        seconds = statistics.median(interleaved({"": call}, 15)[""])
        best = max(best, flops / seconds)
    return best
