"""UniPC, a unified predictor-corrector: Zhao et al. 2023 (arXiv 2302.04867)."""

from dataclasses import dataclass
from math import isfinite

from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.process import Process
from undiffuse.diffusion.samplers.base import Memory
from undiffuse.diffusion.samplers.multistep import Past, log_snr, shares, with_x0
from undiffuse.diffusion.split import Split
from undiffuse.errors import UsageError
from undiffuse.rng import Generator
from undiffuse.shapes import Data


@dataclass(frozen=True)
class UniPC:
    """Corrects the step that led here with the new guess, then predicts the next from the corrected x_t.

    Both are the mean of a polynomial through guesses of x0: the predictor's through the last `order`, the corrector's
    through those and the one at its end (algorithms 1 to 3, |B(h)| = 1 - e^-h, prediction of x0). With two guesses the
    predictor, and with one the corrector, goes half a step along a line, as in the paper's section 3.4. The call of the
    corrector is the predictor's next: one network call a step. Order `order` + 1, less at the ends and in long steps
    as DPMpp, and at most 2 for runs that start amid the data.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise UsageError(f"UniPC has order 1, 2 or 3, got {self.order}")

    def step(
        self, process: Process, denoise: Denoise, x_t: Data, t: float, s: float, rng: Generator, memory: Memory = None
    ) -> tuple[Data, Memory]:
        guess, here = denoise(x_t, t), log_snr(process, t)
        past = Past()
        if memory is not None:
            began, past = memory
            x_t = _corrected(process, began, past, guess.x0, t, x_t)
        past = past.seen(here, guess.x0, self.order)
        h = log_snr(process, s) - here
        split = Split.from_x0(x_t, past.ahead(h), guess.signal, guess.sigma)
        return process.carried(split, s), (split, past)


def _corrected(process: Process, began: Split, past: Past, x0: Data, t: float, predicted: Data) -> Data:
    """x_t again, from where the step began, now that x0 is known at its end."""
    h = log_snr(process, t) - past.at[0]
    if not isfinite(h):
        return predicted
    nodes = [h, *(a - past.at[0] for a in past.at)]
    weights = [0.5, 0.5] if len(nodes) == 2 else shares(h, nodes, 1)
    mean = Past((h, *past.at), (x0, *past.values)).combined(weights)
    return process.carried(with_x0(began.x_t, mean, began), t)
