"""Which times a sampler visits: falling, from T to 0, duplicates dropped."""

from collections.abc import Callable

import numpy as np

from undiffuse.diffusion.samplers.multistep import SOLVABLE
from undiffuse.diffusion.schedule import NoiseSchedule
from undiffuse.errors import UsageError, nearest

Spacing = Callable[[int, int], np.ndarray]  # (T, steps) -> times without 0, in any order
RHO = 7  # Karras et al. 2022, table 1


def uniform(T: int, steps: int) -> np.ndarray:
    """Equal steps from 1 to T, then 0: the last network call sees t = 1 ("linspace" in diffusers)."""
    return np.linspace(T, 1, steps)


def trailing(T: int, steps: int) -> np.ndarray:
    """Equal steps from 0 to T (Lin et al. 2024, table 2): the last call sees t = T / steps."""
    return np.linspace(0, T, steps + 1)[1:]


def quadratic(T: int, steps: int) -> np.ndarray:
    """Equal steps in sqrt(t) from 1 to T, denser near the data (as Song et al. 2021, appendix D.2, up to T)."""
    return np.linspace(T**0.5, 1, steps) ** 2


def equal_log_snr(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Equal steps of lambda = log(signal / sigma) between T and 1 (Lu et al. 2022, DPM-Solver).

    Where lambda_T lies below -5.1 (cosine, zero terminal SNR) the second time is where equal steps from -5.1 have it.
    """
    first, last = _ends(schedule)
    return _from_T(schedule, np.linspace(first, last, steps))


def karras(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Equal steps of (sigma / signal)^(1/7) between T and 1 (Karras et al. 2022, eq. 5); lambda_T as in log_snr."""
    first, last = _ends(schedule)
    roots = np.linspace(np.exp(-first / RHO), np.exp(-last / RHO), steps)
    return _from_T(schedule, -RHO * np.log(roots))


def _ends(schedule: NoiseSchedule) -> tuple[float, float]:
    return max(float(schedule.half_log_snr(schedule.T)), SOLVABLE), float(schedule.half_log_snr(1))


def _from_T(schedule: NoiseSchedule, lambdas: np.ndarray) -> np.ndarray:
    return np.concatenate([[float(schedule.T)], schedule.time_of(lambdas[1:])])


SPACINGS: dict[str, Spacing] = {"uniform": uniform, "quadratic": quadratic, "trailing": trailing}
OF_THE_SCHEDULE: dict[str, Callable[[NoiseSchedule, int], np.ndarray]] = {"log-snr": equal_log_snr, "karras": karras}


SPACING_NAMES = ["auto", *SPACINGS, *OF_THE_SCHEDULE, "fitted"]  # auto and fitted are a pipeline's to resolve


def times(schedule: NoiseSchedule | int, steps: int, spacing: str = "uniform") -> list[float]:
    """T = t_0 > t_1 > ... > t_K = 0 on whole numbers, which is where the network was trained.

    schedule: or T alone, for uniform, quadratic and trailing. Raises UsageError for steps outside 1..T and for an
    unknown spacing. Where rounding makes two times equal one is dropped: a dense spacing can have fewer steps.
    """
    T = schedule if isinstance(schedule, int) else schedule.T
    if not 1 <= steps <= T:
        raise UsageError(f"steps must lie in 1..T = {T}, got {steps}; set --steps or sample.steps")
    if spacing in SPACINGS:
        chosen = SPACINGS[spacing](T, steps)
    elif spacing not in OF_THE_SCHEDULE:
        raise UsageError(f"unknown spacing '{spacing}'; {nearest(spacing, SPACING_NAMES)}")
    elif isinstance(schedule, int):
        raise UsageError(f"the spacing '{spacing}' is one of the schedule: give it instead of T")
    else:
        chosen = OF_THE_SCHEDULE[spacing](schedule, steps)
    rising = np.unique(np.round(chosen).clip(1, T))
    return [*rising[::-1].tolist(), 0.0]
