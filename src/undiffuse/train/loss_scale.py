"""The loss scale of fp16, without which small gradients are rounded to 0 (Micikevicius et al. 2018, section 3.2)."""

from dataclasses import dataclass
from typing import Any

from undiffuse.errors import UndiffuseError

GOOD_UPDATES = 2000  # updates without an overflow, after which twice the scale is tried
LARGEST_SCALE = 2.0**24


@dataclass
class LossScale:
    """value: what the loss is multiplied by. It halves at every overflow, and doubles after 2,000 good updates."""

    value: float = 2.0**16
    good: int = 0
    overflows: int = 0

    def succeeded(self) -> None:
        self.good += 1
        if self.good == GOOD_UPDATES:
            self.value, self.good = min(2 * self.value, LARGEST_SCALE), 0

    def overflowed(self, step: int) -> None:
        """Raises UndiffuseError below 1: then it is the gradient itself that fp16 cannot hold."""
        self.value, self.good, self.overflows = self.value / 2, 0, self.overflows + 1
        if self.value < 1:
            raise UndiffuseError(
                f"fp16 gradients overflow whatever the loss scale, at step {step + 1}; go on with --resume and "
                "train.precision bf16 or float32 in config.yaml, or a lower train.lr"
            )

    def as_state(self) -> dict[str, Any]:
        return {"value": self.value, "good": self.good, "overflows": self.overflows}


class Unscaled(LossScale):
    """float32 and bf16 reach as far as the gradients do."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def succeeded(self) -> None:
        pass


def for_precision(precision: str, state: dict[str, Any] | None = None) -> LossScale:
    """The loss scale of a precision, as saved if it was."""
    if precision != "fp16":
        return Unscaled()
    return LossScale(**state) if state else LossScale()
