"""The learning rate of every step."""

from collections.abc import Callable
from math import cos, pi

from undiffuse.config import Train

COOLDOWN = 0.2  # the share of the steps over which lr_decay "cooldown" falls


def _inverse_sqrt(done: int, settings: Train) -> float:
    """1 / sqrt(max(step / warmup, 1)), as Karras et al. 2024 let it fall (EDM2), with the warm-up as their t_ref."""
    return float(max(done / max(settings.warmup, 1), 1.0) ** -0.5)


# done updates, settings -> what the learning rate is multiplied by
LR_DECAYS: dict[str, Callable[[int, Train], float]] = {
    "none": lambda done, settings: 1.0,
    "linear": lambda done, settings: 1 - done / settings.steps,
    "cosine": lambda done, settings: (1 + cos(pi * done / settings.steps)) / 2,
    "cooldown": lambda done, settings: min(1.0, (1 - done / settings.steps) / COOLDOWN),  # as Hägele et al. 2024
    "inverse_sqrt": _inverse_sqrt,
}


def learning_rate(settings: Train, step: int) -> float:
    """The learning rate of the step that follows `step` steps: it rises over `warmup` updates, then falls as `lr_decay`
    says; linear, cosine and cooldown end at 0."""
    warm = min(1.0, (step + 1) / (settings.warmup + 1))
    return float(settings.lr * warm * LR_DECAYS[settings.lr_decay](step, settings))
