"""What a measure gives: a number, how sure it is, and what real data would score."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """value ± stderr in `unit`, from n generated images.

    floor is the same measure of as many real train images (all, if there are fewer): what a perfect model would score.
    """

    value: float
    stderr: float | None
    floor: float | None
    unit: str
    n: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
