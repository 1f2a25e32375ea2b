"""Which times a sampler visits: falling, from T to 0, duplicates dropped."""

from collections.abc import Callable

import numpy as np

from undiffuse.errors import UsageError, nearest

Spacing = Callable[[int, int], np.ndarray]  # (T, steps) -> times without 0, in any order


def uniform(T: int, steps: int) -> np.ndarray:
    """Equal steps from 1 to T, then 0: the last network call sees t = 1 ("linspace" in diffusers)."""
    return np.linspace(T, 1, steps)


def trailing(T: int, steps: int) -> np.ndarray:
    """Equal steps from 0 to T (Lin et al. 2024, table 2): the last call sees t = T / steps."""
    return np.linspace(0, T, steps + 1)[1:]


def quadratic(T: int, steps: int) -> np.ndarray:
    """Equal steps in sqrt(t) from 1 to T, denser near the data (as Song et al. 2021, appendix D.2, up to T)."""
    return np.linspace(T**0.5, 1, steps) ** 2


SPACINGS: dict[str, Spacing] = {"uniform": uniform, "quadratic": quadratic, "trailing": trailing}


def times(T: int, steps: int, spacing: str = "uniform") -> list[float]:
    """T = t_0 > t_1 > ... > t_K = 0 on whole numbers, which is where the network was trained.

    Raises UsageError for steps outside 1..T and for an unknown spacing. Where rounding makes two times equal, one is
    dropped, so a dense spacing can have fewer steps than asked.
    """
    if not 1 <= steps <= T:
        raise UsageError(f"steps must lie in 1..T = {T}, got {steps}; set --steps or sample.steps")
    if spacing not in SPACINGS:
        raise UsageError(f"unknown spacing '{spacing}'; {nearest(spacing, list(SPACINGS))}")
    rising = np.unique(np.round(SPACINGS[spacing](T, steps)).clip(1, T))
    return [*rising[::-1].tolist(), 0.0]
