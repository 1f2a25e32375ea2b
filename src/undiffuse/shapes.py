"""Names for the shapes that pass between functions. Checked by beartype in one of the tests; free otherwise.

b images, c channels, h rows, w columns; `*d` any shape of one datum.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from undiffuse.errors import UsageError

Data: TypeAlias = Float[Tensor, "b *d"]  # a batch of data of any shape
Images: TypeAlias = Float[Tensor, "b c h w"]  # images in [-1, 1]
PerDatum: TypeAlias = Float[Tensor, "b"]  # one number per datum
Mask: TypeAlias = Bool[Tensor, "..."]  # which pixels; broadcast against data
Labels: TypeAlias = Int64[Tensor, "b"]  # class indices; the null label is num_classes
Float64Array: TypeAlias = NDArray[np.float64] | np.float64  # schedule tables and coefficients
Times: TypeAlias = float | int | np.ndarray | np.generic | Tensor  # t in [0, T]: one for all data, or one per datum [b]

_Item = TypeVar("_Item")


@runtime_checkable
class Watch(Protocol):
    """A function that is told of items to come and passes them on: a progress bar.

    total: how many items will come, None if nobody knows; what: one of them, or the work, in words, as in "step".
    """

    def __call__(self, items: Iterable[_Item], total: int | None, what: str, /) -> Iterable[_Item]: ...


def unwatched(items: Iterable[_Item], total: int | None, what: str) -> Iterable[_Item]:
    """A Watch that looks at nothing."""
    return items


def watch_items(watch: Watch, items: Iterable[_Item], total: int | None, what: str) -> Iterator[_Item]:
    """Every item once, in its order, while `watch` goes through them, whatever it passes on itself.

    Raises UsageError for what is no Watch, and for one that leaves items out: they would be lacking in the result.
    """
    passed: deque[_Item] = deque()
    ended = False

    def each() -> Iterator[_Item]:
        nonlocal ended
        for item in items:
            passed.append(item)
            yield item
        ended = True

    source = each()
    watched = watch(source, total, what) if callable(watch) else None
    if not isinstance(watched, Iterable):
        raise UsageError("watch is a function of (items, total, what) that passes the items on; leave it out for none")
    for _ in watched:
        while passed:
            yield passed.popleft()
    yield from passed
    passed.clear()
    if not ended and next(source, None) is not None:  # one that took exactly all did not ask for another
        raise UsageError(f"watch ended before the last {what}; it must pass all items on")


__all__ = [
    "Callable",
    "Data",
    "Float",
    "Float32",
    "Float64Array",
    "Images",
    "Int64",
    "Labels",
    "Mask",
    "PerDatum",
    "Tensor",
    "Times",
    "UInt8",
    "Watch",
    "unwatched",
    "watch_items",
]
