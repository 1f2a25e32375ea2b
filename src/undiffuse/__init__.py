"""undiffuse: denoising diffusion models that you can train, measure and trust.

Names are loaded when first used, so `import undiffuse` and `undiffuse --help` do not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undiffuse import rng as rng
    from undiffuse.diffusion import samplers as samplers
    from undiffuse.diffusion.denoiser import Denoiser as Denoiser
    from undiffuse.diffusion.denoiser import bind as bind
    from undiffuse.diffusion.guidance import clipped as clipped
    from undiffuse.diffusion.guidance import guided as guided
    from undiffuse.diffusion.losses import Simple as Simple
    from undiffuse.diffusion.noise import Gamma as Gamma
    from undiffuse.diffusion.noise import Gaussian as Gaussian
    from undiffuse.diffusion.noise import Laplace as Laplace
    from undiffuse.diffusion.noise import Mixture as Mixture
    from undiffuse.diffusion.noise import Uniform as Uniform
    from undiffuse.diffusion.process import Process as Process
    from undiffuse.diffusion.samplers import Frame as Frame
    from undiffuse.diffusion.samplers import trajectory as trajectory
    from undiffuse.diffusion.samplers.spacing import times as spacing
    from undiffuse.diffusion.schedule import NoiseSchedule as NoiseSchedule
    from undiffuse.diffusion.split import Split as Split
    from undiffuse.errors import UndiffuseError as UndiffuseError
    from undiffuse.errors import UsageError as UsageError
    from undiffuse.evaluation.result import Evaluation as Evaluation
    from undiffuse.evaluation.run import evaluate as evaluate
    from undiffuse.evaluation.run import evaluate_images as evaluate_images
    from undiffuse.nn.unet import UNet as UNet
    from undiffuse.pipeline import editing as editing
    from undiffuse.pipeline.pipeline import Pipeline as Pipeline
    from undiffuse.train.job import Training as Training

__version__ = "0.1.0"

_HOMES = {  # of what is imported above for type checkers
    "Denoiser": "undiffuse.diffusion.denoiser",
    "Evaluation": "undiffuse.evaluation.result",
    "Frame": "undiffuse.diffusion.samplers",
    "Gamma": "undiffuse.diffusion.noise",
    "Gaussian": "undiffuse.diffusion.noise",
    "Laplace": "undiffuse.diffusion.noise",
    "Mixture": "undiffuse.diffusion.noise",
    "NoiseSchedule": "undiffuse.diffusion.schedule",
    "Pipeline": "undiffuse.pipeline.pipeline",
    "Process": "undiffuse.diffusion.process",
    "Simple": "undiffuse.diffusion.losses",
    "Split": "undiffuse.diffusion.split",
    "Training": "undiffuse.train.job",
    "UNet": "undiffuse.nn.unet",
    "UndiffuseError": "undiffuse.errors",
    "Uniform": "undiffuse.diffusion.noise",
    "UsageError": "undiffuse.errors",
    "bind": "undiffuse.diffusion.denoiser",
    "clipped": "undiffuse.diffusion.guidance",
    "evaluate": "undiffuse.evaluation.run",
    "evaluate_images": "undiffuse.evaluation.run",
    "guided": "undiffuse.diffusion.guidance",
    "spacing": "undiffuse.diffusion.samplers.spacing:times",
    "trajectory": "undiffuse.diffusion.samplers",
}
_MODULES = {"editing": "undiffuse.pipeline.editing", "rng": "undiffuse.rng", "samplers": "undiffuse.diffusion.samplers"}

__all__ = [
    "Denoiser",
    "Evaluation",
    "Frame",
    "Gamma",
    "Gaussian",
    "Laplace",
    "Mixture",
    "NoiseSchedule",
    "Pipeline",
    "Process",
    "Simple",
    "Split",
    "Training",
    "UNet",
    "UndiffuseError",
    "Uniform",
    "UsageError",
    "__version__",
    "bind",
    "clipped",
    "editing",
    "evaluate",
    "evaluate_images",
    "guided",
    "rng",
    "samplers",
    "spacing",
    "trajectory",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _HOMES:
        home, _, other = _HOMES[name].partition(":")
        return getattr(import_module(home), other or name)
    raise AttributeError(f"module 'undiffuse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
