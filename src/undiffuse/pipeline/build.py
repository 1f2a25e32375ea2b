"""Configuration -> objects: the only place where names become classes."""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from undiffuse import rng
from undiffuse.config import Config
from undiffuse.data import prepare
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources import anywhere
from undiffuse.data.spec import DataSpec
from undiffuse.diffusion.denoiser import Denoiser
from undiffuse.diffusion.noise import NOISES, Gamma, Noise
from undiffuse.diffusion.process import VARIANCES, Process
from undiffuse.diffusion.samplers import GUESSES, SAMPLERS, Sampler
from undiffuse.diffusion.samplers.fitted import FEW, Fitted
from undiffuse.diffusion.samplers.spacing import times
from undiffuse.diffusion.schedule import SCHEDULES, NoiseSchedule, ScheduleWarning
from undiffuse.errors import UndiffuseError, UsageError, nearest
from undiffuse.nn.cost import count_waiting, count_weights
from undiffuse.nn.spec import UNetSpec
from undiffuse.nn.unet import UNet, spatial
from undiffuse.processes import machine
from undiffuse.shapes import Watch, unwatched


class NoiseWarning(UserWarning):
    """A noise family used beyond what is known to work."""


_Row = TypeVar("_Row")
FLOAT_BYTES = 4
GAMMA_SOUND = 0.005  # up to here every sampler brings the data back within chance (benchmarks/reverse_noise.py)


def dataset(config: Config, watch: Watch = unwatched) -> Dataset:
    """The data, restricted to data.classes; refused if it is not what the configuration says it is."""
    data = prepare.dataset(data_spec(config), watch)
    wanted = config.data.classes
    if wanted is not None and (wanted or config.data.shape is None):  # [] in a run's own configuration: it has none
        data = data.restricted(wanted)
    for key, configured, found in (
        ("levels", config.data.levels, data.levels),
        ("shape", config.data.shape, list(data.shape)),
    ):
        if configured is not None and configured != found:
            raise UsageError(f"data.{key}: the source '{config.data.source}' has {found}, not {configured}")
    return data


def data_spec(config: Config) -> DataSpec:
    """The specification of the data set."""
    return DataSpec(**{field.name: getattr(config.data, field.name) for field in fields(DataSpec)})


def resolved(config: Config, data: Dataset) -> Config:
    """The configuration with everything about the data that a model needs later: levels, shape, class names; paths hold
    from anywhere."""
    facts: dict[str, Any] = {
        "data.levels": data.levels,
        "data.shape": list(data.shape),
        "data.classes": list(data.class_names),
        "data.content": data.content,
        "data.source": anywhere(config.data.source),
    }
    if data.bits is not None:
        facts["data.bits"] = data.bits
    if config.data.labels is not None and Path(config.data.labels).exists():
        facts["data.labels"] = str(Path(config.data.labels).resolve())
    return config.replaced(facts)


def is_same_data(config: Config, data: Dataset) -> bool:
    """Whether these pictures are those that a run was made with, as far as its configuration says."""
    return config.data.content in (None, data.content)


def check_same_data(config: Config, data: Dataset) -> None:
    """Refuse to go on with other pictures, or other names of their classes, than those that a run began with."""
    if config.data.classes is not None and config.data.classes != [*data.class_names]:
        raise UndiffuseError(
            f"data.classes: {config.data.source} has the classes {', '.join(data.class_names) or 'none'}, in this "
            "order, and config.yaml says otherwise; put them back: labels are numbers, names say which"
        )
    if not is_same_data(config, data):
        raise UndiffuseError(
            f"the pictures of {config.data.source} have changed since this run began, so it cannot go on exactly; put "
            "them back, or start a new run from its weights with: undiffuse train --from MODEL"
        )


def process(config: Config) -> Process:
    diffusion = config.diffusion
    schedule = _rescaled(config) if diffusion.zero_terminal_snr else _schedule(config)
    noise = _noise(config)
    variance = look_up({name: name for name in VARIANCES}, diffusion.variance, "diffusion.variance")
    return Process(schedule, noise, variance)  # type: ignore[arg-type]


def _noise(config: Config) -> Noise:
    name, theta = config.diffusion.noise, config.diffusion.theta
    family = look_up(NOISES, name, "diffusion.noise")
    if theta is not None and family is not Gamma:
        raise UsageError(f"diffusion.theta is for gamma noise; leave it out for '{name}'")
    if theta is not None and theta > GAMMA_SOUND:
        warnings.warn(
            f"gamma noise with theta = {theta:g}: samplers are wrong above {GAMMA_SOUND:g}, see docs/noise.md",
            NoiseWarning,
            stacklevel=2,
        )
    return family() if theta is None else Gamma(theta)


def _schedule(config: Config) -> NoiseSchedule:
    diffusion = config.diffusion
    if diffusion.schedule != "betas":
        return look_up(SCHEDULES, diffusion.schedule, "diffusion.schedule")(diffusion.T)
    if diffusion.betas is None or len(diffusion.betas) != diffusion.T:
        raise UsageError(f"diffusion.betas: the schedule 'betas' needs T = {diffusion.T} numbers here")
    if config.data.source != "imported":
        return NoiseSchedule.from_betas(diffusion.betas)
    return NoiseSchedule.from_betas(diffusion.betas, most_left=1.0)  # so it was trained, with few steps perhaps


def _rescaled(config: Config) -> NoiseSchedule:
    """The schedule rescaled to end in pure noise. What is left of the data at T before is nothing to warn of: this
    takes it away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScheduleWarning)
        return _schedule(config).zero_terminal_snr()


def num_classes(config: Config) -> int:
    """Classes that the network knows; 0 if it is unconditional."""
    return len(config.data.classes or ()) if config.model.conditional else 0


def backbone(config: Config) -> nn.Module:
    """The network, initialised from the seed. Needs a resolved configuration."""
    if config.data.shape is None:
        raise UndiffuseError("data.shape is missing: this configuration was not written by a training run")
    channels = config.data.shape[0]
    settings = config.model.model_dump(exclude={"conditional"})
    out = channels * (2 if config.diffusion.variance == "learned" else 1)
    spec = UNetSpec(channels, out, num_classes(config), **settings)
    _check_memory(spec, config.data.shape)
    with torch.random.fork_rng(devices=[]):  # the user's own draws go on as they would have
        rng.seed_torch(config.seed, "init")
        network = UNet(spec)
    network.checkpointed = config.train.gradient_checkpointing
    return spatial(network)


def _check_memory(spec: UNetSpec, shape: list[int]) -> None:
    """Refuse a network that this machine cannot hold, or not with one picture of this shape: before it is built."""
    weights, maps, most = count_weights(spec), count_waiting(spec, *shape[1:]), machine.memory()
    if FLOAT_BYTES * (weights + maps) > most:
        raise UsageError(
            f"model: {weights:,} weights take {machine.in_words(FLOAT_BYTES * weights)}, the maps of one picture of "
            f"{shape[1]} x {shape[2]} at least {machine.in_words(FLOAT_BYTES * maps)}, and there are "
            f"{machine.in_words(most)} of memory; take smaller model.channels, multipliers or blocks, or data.size"
        )


def denoiser(config: Config) -> Denoiser:
    return Denoiser(backbone(config), process(config), config.diffusion.prediction)


def sampler(config: Config) -> Sampler:
    return look_up(SAMPLERS, config.sample.sampler, "sample.sampler")(config.sample.eta)


def guesses(config: Config) -> int | None:
    """The number of guesses that a step combines; None for samplers with noise, and for PNDM, which wants equal
    steps."""
    return None if config.sample.eta else GUESSES.get(config.sample.sampler)


def look_up(table: Mapping[str, _Row], name: str, key: str) -> _Row:
    if name not in table:
        raise UsageError(f"{key}: unknown name '{name}'; {nearest(name, list(table))}")
    return table[name]


def average_name(decays: tuple[float, ...], index: int) -> str:
    """The name of an average's file: the first is `ema`, others say their decay, as in `ema-0.9999`."""
    return "ema" if index == 0 else f"ema-{decays[index]!r}"


def visited_times(config: Config, process: Process, fitted: Fitted | None) -> list[float]:
    """The times that sampling as configured visits, from T to 0: see Pipeline.times."""
    settings, per_step = config.sample, guesses(config)
    spacing = settings.spacing
    if spacing == "auto":
        known = fitted is not None and settings.steps <= min(FEW, fitted.most)
        spacing = "fitted" if known and per_step == 1 else "uniform"
    if spacing != "fitted":
        return times(process.schedule, settings.steps, spacing)
    if fitted is None:
        raise UsageError("no times were fitted for this model; do so with: undiffuse fit MODEL")
    return fitted.times(settings.steps, per_step or 1)
