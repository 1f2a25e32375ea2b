"""One algorithm per file; `SAMPLERS` names them for the command line."""

from collections.abc import Callable

from undiffuse.diffusion.samplers.ancestral import Ancestral
from undiffuse.diffusion.samplers.base import Frame, Sampler, trajectory
from undiffuse.diffusion.samplers.ddim import DDIM
from undiffuse.diffusion.samplers.deis import DEIS
from undiffuse.diffusion.samplers.dpmpp import DPMpp, DPMppSDE
from undiffuse.diffusion.samplers.heun import EDM, Euler, Heun
from undiffuse.diffusion.samplers.pndm import PNDM
from undiffuse.diffusion.samplers.repaint import Resampled
from undiffuse.diffusion.samplers.unipc import UniPC
from undiffuse.errors import UsageError


def _without_eta(name: str, make: Callable[[], Sampler]) -> Callable[[float], Sampler]:
    def made(eta: float) -> Sampler:
        if eta != 0:
            raise UsageError(f"eta is for the sampler 'ddim'; leave it at 0 for '{name}'")
        return make()

    return made


PLAIN: dict[str, Callable[[], Sampler]] = {
    "ancestral": Ancestral,
    "euler": Euler,
    "heun": Heun,
    "dpmpp_1m": lambda: DPMpp(1),
    "dpmpp_2m": lambda: DPMpp(2),
    "dpmpp_3m": lambda: DPMpp(3),
    "dpmpp_2m_sde": DPMppSDE,
    "unipc": UniPC,
    "deis": DEIS,
    "pndm": PNDM,
    "edm": EDM,
}
SAMPLERS: dict[str, Callable[[float], Sampler]] = {  # name -> eta -> sampler
    "ddim": DDIM,
    **{name: _without_eta(name, make) for name, make in PLAIN.items()},
}

GUESSES = {  # how many guesses a step combines, of those without noise: what times can be fitted for
    "ddim": 1,
    "euler": 1,
    "heun": 1,
    "dpmpp_1m": 1,
    "dpmpp_2m": 2,
    "dpmpp_3m": 2,
    "unipc": 2,
    "deis": 2,
}

__all__ = [
    "DDIM",
    "DEIS",
    "EDM",
    "GUESSES",
    "PNDM",
    "SAMPLERS",
    "Ancestral",
    "DPMpp",
    "DPMppSDE",
    "Euler",
    "Frame",
    "Heun",
    "Resampled",
    "Sampler",
    "UniPC",
    "trajectory",
]
