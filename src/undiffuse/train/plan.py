"""How long, how fast and how carefully to train: numbers only."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi

from undiffuse.errors import UsageError

COOLDOWN = 0.2  # the share of the steps over which lr_decay "cooldown" falls


def _inverse_sqrt(done: int, plan: "Plan") -> float:
    """1 / sqrt(max(step / warmup, 1)), as Karras et al. 2024 let it fall (EDM2), with the warm-up as their t_ref."""
    return float(max(done / max(plan.warmup, 1), 1.0) ** -0.5)


# done updates, plan -> what the learning rate is multiplied by
LR_DECAYS: dict[str, Callable[[int, "Plan"], float]] = {
    "none": lambda done, plan: 1.0,
    "linear": lambda done, plan: 1 - done / plan.steps,
    "cosine": lambda done, plan: (1 + cos(pi * done / plan.steps)) / 2,
    "cooldown": lambda done, plan: min(1.0, (1 - done / plan.steps) / COOLDOWN),  # as Hägele et al. 2024
    "inverse_sqrt": _inverse_sqrt,
}


@dataclass(frozen=True)
class Plan:
    """lr rises over `warmup` updates, then falls as `lr_decay` says: linear, cosine and cooldown end at 0.

    ema: decays of the averages, the first is the one to sample from. num_classes: 0 trains without labels; the null
    label is num_classes. micro_batch: pictures that one process handles at once, 0 for all of its share.
    """

    steps: int
    lr: float = 2e-4
    optimizer: str = "adam"
    warmup: int = 0
    lr_decay: str = "none"
    ema: tuple[float, ...] = (0.9999,)
    grad_clip: float = 1.0
    num_classes: int = 0
    label_dropout: float = 0.0
    max_skips: int = 10
    micro_batch: int = 0
    precision: str = "float32"
    shard: bool = False

    def __post_init__(self) -> None:
        if self.shard and self.precision == "fp16":
            raise UsageError("train.shard and train.precision fp16 do not go together; take bf16")
        if self.shard and self.optimizer == "muon":
            raise UsageError("train.shard cuts the matrices that train.optimizer muon needs whole; take adam")

    def lr_at(self, step: int) -> float:
        """The learning rate of the step that follows `step` steps."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        return float(self.lr * warm * LR_DECAYS[self.lr_decay](step, self))
