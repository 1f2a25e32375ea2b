"""A model in a run folder: its configuration, the weights of a checkpoint, and the times fitted to it."""

from pathlib import Path

from torch import nn

from undiffuse.config import Config, read
from undiffuse.diffusion.denoiser import Denoiser
from undiffuse.diffusion.samplers.fitted import Fitted
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files import checkpoint
from undiffuse.files.reading import read_text
from undiffuse.files.run import RunFolder
from undiffuse.files.writing import put_text
from undiffuse.nn.unet import UNet
from undiffuse.pipeline import build
from undiffuse.pipeline.build import average_name


def load_run(path: Path, weights: str, which: str, times: bool) -> tuple[Config, Denoiser, Fitted | None]:
    """Load the model of a run folder. weights, which, times: as weights, checkpoint and times of Pipeline.load."""
    run = RunFolder.open(path)
    config = read(run.config)
    denoiser = build.denoiser(config)
    _load_weights(denoiser, run, _group(weights, config), which)
    return config, denoiser, _read_times(run, denoiser.process.T) if times else None


def save_run(folder: Path, config: Config, denoiser: Denoiser, fitted: Fitted | None) -> Path:
    """Write a model as a new run folder with one checkpoint, at the last step; its path.

    Raises UndiffuseError for a network that `load_run` could not make from the configuration.
    """
    if not isinstance(denoiser.backbone, UNet):
        kind = type(denoiser.backbone).__name__
        raise UndiffuseError(
            f"a {kind} is no network that a configuration describes, so it could not be loaded again; keep its weights "
            "with safetensors.torch.save_model"
        )
    run = RunFolder.create(folder, "model")
    put_text(run.config, config.as_yaml())
    weights = {"ema": denoiser.backbone.state_dict()}
    state = {"step": config.train.steps, "noise": str(denoiser.process.noise)}
    checkpoint.save(run.checkpoints, checkpoint.Snapshot(weights, state))
    if fitted is not None:
        put_text(run.times, fitted.write())
    return run.path


def _group(weights: str, config: Config) -> str:
    """The file of a checkpoint that holds these weights."""
    decays = config.train.decays
    known = {"raw": "backbone"} | {average_name(decays, i): average_name(decays, i) for i in range(len(decays))}
    if weights == f"ema-{decays[0]!r}":
        return "ema"
    if weights not in known:
        *names, last = map(repr, ["ema", "raw", *list(known)[2:]])
        raise UsageError(f"this model's weights are {', '.join(names)} or {last}, not '{weights}'")
    return known[weights]


def _read_times(run: RunFolder, T: int) -> Fitted | None:
    if not run.times.is_file():
        return None
    try:
        return Fitted.read(read_text(run.times), T)
    except (OSError, ValueError) as error:
        raise UndiffuseError(f"{run.times}: {error}; delete it, or make it again with: undiffuse fit") from error


def _load_weights(denoiser: Denoiser, run: RunFolder, group: str, which: str) -> None:
    found = checkpoint.find(run.checkpoints, str(run.best_step()) if which == "best" else which)
    state = checkpoint.load_state(found)
    checkpoint.check_same_noise(state, denoiser.process.noise, found)
    if isinstance(denoiser.backbone, nn.Module):
        tensors = checkpoint.load_tensors(found, group)
        checkpoint.check_unchanged(found / f"{group}.safetensors", state.get("digests", {}))
        checkpoint.fill(denoiser.backbone, tensors, found)
