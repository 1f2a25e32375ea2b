"""undiffuse: denoising diffusion models that you can train, measure and trust.

Names are loaded when first used, so `import undiffuse` and `undiffuse --help` do not import torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Denoiser": "undiffuse.diffusion.denoiser",
    "Frame": "undiffuse.diffusion.samplers",
    "Gaussian": "undiffuse.diffusion.noise",
    "NoiseSchedule": "undiffuse.diffusion.schedule",
    "Pipeline": "undiffuse.pipeline.pipeline",
    "Process": "undiffuse.diffusion.process",
    "Simple": "undiffuse.diffusion.losses",
    "Split": "undiffuse.diffusion.split",
    "UNet": "undiffuse.nn.unet",
    "UndiffuseError": "undiffuse.errors",
    "UsageError": "undiffuse.errors",
    "bind": "undiffuse.diffusion.denoiser",
    "clipped": "undiffuse.diffusion.guidance",
    "guided": "undiffuse.diffusion.guidance",
    "spacing": "undiffuse.diffusion.samplers.spacing:times",
    "trajectory": "undiffuse.diffusion.samplers",
}
_MODULES = {"editing": "undiffuse.pipeline.editing", "rng": "undiffuse.rng", "samplers": "undiffuse.diffusion.samplers"}

__all__ = ["__version__"]
__all__ += [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _HOMES:
        home, _, other = _HOMES[name].partition(":")
        return getattr(import_module(home), other or name)
    raise AttributeError(f"module 'undiffuse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
