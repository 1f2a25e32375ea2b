"""One algorithm per file; `SAMPLERS` names them for the command line."""

from collections.abc import Callable

from undiffuse.diffusion.samplers.ancestral import Ancestral
from undiffuse.diffusion.samplers.base import Frame, Sampler, trajectory
from undiffuse.diffusion.samplers.ddim import DDIM

SAMPLERS: dict[str, Callable[[float], Sampler]] = {  # name -> eta -> sampler
    "ancestral": lambda eta: Ancestral(),
    "ddim": DDIM,
}

__all__ = ["DDIM", "SAMPLERS", "Ancestral", "Frame", "Sampler", "trajectory"]
