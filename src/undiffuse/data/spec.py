"""What is asked of a data set, and what may be wrong with a picture."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from undiffuse.errors import UndiffuseError, UsageError, nearest

FITS = ("crop", "pad", "inside", "stretch")
POLICIES = ("refuse", "skip")
SPLITS = ("auto", "folders", "none")
DUPLICATES = ("keep", "drop")
Side = Annotated[int, Ge(1), Le(4096)]


@dataclass(frozen=True)
class DataSpec:
    """The rules by which the pictures of `source` become arrays of one shape.

    size: (h, w); None: their own, if all have the same. fit: how a picture gets there: "crop" (scaled to cover it, then
    cut at the middle), "pad" (never scaled: cut or framed), "inside" (scaled to fit into it, then framed), "stretch".
    channels: 1 or 3 (4 keeps transparency); None: 1 if every picture is gray, else 3.
    background: a colour, behind transparent pixels and in frames; None: white for those with transparency, else black.
    bad: pictures that cannot be used are refused, all together in one message, or skipped and counted.
    duplicates: of pictures that are equal after preparation, with the same label, keep all or only the first.
    held_out: the share that training never sees, of a source that does not say; limit: at most so many of each part.
    bits: those that 16-bit pictures use, such as 12 of X-rays; None: found in the pictures, see survey.bits_of.
    split: folders, archives and files called train, test, val are parts ("auto": refused if pictures lie beside them;
    "folders": these are left out; "none": they are like others, and columns of parts are not read).
    select: only files whose path matches this pattern.
    labels: a CSV or JSON file; label_key, file_key: its columns of classes and of the pictures' names.
    budget: what a file may cost, in multiples of the usual, for archives that unpack to very much: see data.budget.
    """

    source: str = "digits"
    size: tuple[Side, Side] | None = None
    fit: str = "crop"
    channels: int | None = None
    background: str | None = None
    bad: str = "refuse"
    duplicates: str = "keep"
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.1
    limit: Annotated[int, Ge(1)] | None = None
    select: str | None = None
    labels: str | None = None
    label_key: str | None = None
    file_key: str | None = None
    split: str = "auto"
    bits: Annotated[int, Ge(8), Le(16)] | None = None
    budget: Annotated[float, Gt(0), Le(1e6)] = 1.0

    def __post_init__(self) -> None:
        self.check_choices()

    def check_choices(self) -> None:
        """Raise UsageError for a name or a colour that does not exist."""
        for key, value, known in (
            ("fit", self.fit, FITS),
            ("bad", self.bad, POLICIES),
            ("duplicates", self.duplicates, DUPLICATES),
            ("split", self.split, SPLITS),
        ):
            if value not in known:
                raise UsageError(f"data.{key}: unknown name '{value}'; {nearest(value, known)}")
        if self.channels not in (None, 1, 3, 4):
            raise UsageError(f"data.channels: 1 (gray), 3 (colour) or 4 (with transparency), not {self.channels}")
        if self.select is not None and not PurePosixPath(self.select).parts:
            raise UsageError("data.select: a pattern is wanted, for example '*.png'")
        if self.background is not None:
            colour(self.background)


def colour(name: str) -> tuple[int, int, int]:
    """white, #ffcc00, rgb(1,2,3): red, green, blue."""
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(name)
    except ValueError as error:
        raise UsageError(f"data.background: '{name}' is no colour; give a name such as white, or #rrggbb") from error
    return red, green, blue


class BadPicture(UndiffuseError):
    """A picture that cannot be used. kind: in two words, as counted; the message says more."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class DataWarning(UserWarning):
    """Something about the data that works otherwise than asked."""
