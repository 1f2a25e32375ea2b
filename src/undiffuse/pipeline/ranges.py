"""Blocks of images aligned to their index: equal blocks are computed alike, whatever was asked for around them."""

from collections.abc import Iterator
from itertools import chain, pairwise

from undiffuse.errors import UsageError


def aligned(start: int, n: int, size: int) -> Iterator[range]:
    """start..start+n-1 cut at the multiples of size."""
    check_blocks(start, n, size)
    end = start + n
    inner = range((start // size + 1) * size, end, size)
    yield from (range(a, b) for a, b in pairwise(chain([start], inner, [end])))


def check_blocks(start: int, n: int, size: int) -> None:
    check_count(n)
    if start < 0 or size < 1:
        raise UsageError(f"start must be at least 0 and the batch size at least 1, got {start} and {size}")


def check_count(n: int) -> int:
    if n < 1:
        raise UsageError(f"n must be at least 1, got {n}")
    return n
