"""Class labels as users give them -> indices. The null label, which means none, is the number of classes."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from undiffuse.errors import UsageError, nearest, whole_number
from undiffuse.shapes import Tensor

Label = int | str | Sequence[int | str] | None


def labels_of_rows(names: Sequence[str], rows: Sequence[int], label: Label) -> Tensor | None:
    """int64 class index of each row; None for a model without classes.

    label: a class name, an index, or a sequence of them (row i gets entry i modulo its length); None gives row i the
    class i modulo their number.
    """
    if not names:
        if label is not None:
            raise UsageError("this model has no classes; leave the label out")
        return None
    if label is None:
        return torch.tensor([row % len(names) for row in rows], dtype=torch.int64)
    wanted = listed_labels(label)
    if not wanted:
        raise UsageError("an empty list of labels; name at least one class")
    known = {entry: _index(names, entry) for entry in dict.fromkeys(wanted)}
    indices = [known[entry] for entry in wanted]
    return torch.tensor([indices[row % len(indices)] for row in rows], dtype=torch.int64)


def listed_labels(label: Label) -> list[int | str]:
    """The classes one by one; whole numbers of NumPy and torch are as good as Python's."""
    several = [label] if isinstance(label, str | bytes) or not isinstance(label, Iterable) else [*label]
    return [entry if isinstance(entry, str) else whole_number("a class, if it is no name,", entry) for entry in several]


def named_labels(text: str | None, names: Sequence[str]) -> list[str] | None:
    """The classes that a,b,c names, one by one. A name may hold commas and spaces itself: the longest goes first."""
    if text is None:
        return None
    parts = text.split(",") if text.strip() else []
    found: list[str] = []
    while parts:
        for count in range(len(parts), 0, -1):
            joined = ",".join(parts[:count])
            ways = (joined, joined.strip(), joined.lstrip(), joined.rstrip())
            spelt = next((way for way in ways if way in names), None)
            if spelt is not None or count == 1:
                found.append(joined.strip() if spelt is None else spelt)
                parts = parts[count:]
                break
    return found


def labels_by_share(counts: Sequence[int], n: int) -> Tensor:
    """int64 [n]: classes as often as their counts say, and so for the first of them: next comes the class that is the
    furthest behind its share. Equal counts give 0, 1, 2, ... over and over."""
    shares, given = np.array(counts, np.int64), np.zeros(len(counts), np.int64)
    order = np.empty(n, np.int64)
    for i in range(n):
        order[i] = np.argmax(shares * (i + 1) - shares.sum() * given)
        given[order[i]] += 1
    return torch.from_numpy(order)


def checked_labels(names: Sequence[str], count: int, label: Tensor | None) -> Tensor | None:
    """Checked labels int64 [count] of images to be scored, the null label where none were given."""
    if not names:
        return None
    null = len(names)
    label = torch.full((count,), null) if label is None else label
    if not isinstance(label, torch.Tensor) or label.dtype != torch.int64 or label.shape != (count,):
        raise UsageError(f"give {count} labels, an int64 tensor [n] from 0 to {null} ({null} for none)")
    if int(label.min()) < 0 or int(label.max()) > null:
        raise UsageError(f"labels lie from 0 to {null} ({null} for none), not {int(label.min())} to {int(label.max())}")
    return label


def _index(names: Sequence[str], entry: int | str) -> int:
    """A class name, as it is or in any case, else an index."""
    if entry in names:
        return list(names).index(str(entry))
    lowered = [name.lower() for name in names]
    if str(entry).lower() in lowered:
        return lowered.index(str(entry).lower())
    try:
        index = int(entry)
    except ValueError:
        raise UsageError(f"no class '{entry}'; {nearest(str(entry), list(names))}") from None
    if not 0 <= index < len(names):
        raise UsageError(f"label {index} is out of range; this model has {len(names)} classes, 0 to {len(names) - 1}")
    return index
