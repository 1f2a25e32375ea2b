"""How much of a training step and of a sampling step is not the network.

Run: make bench   (or: python benchmarks/overhead.py [RECIPE])

In one process, repetitions of "whole step" and "network alone" take turns; what counts is the median over the pairs of
the share outside, because absolute times on a shared machine mean little.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from undiffuse import config, rng
from undiffuse.diffusion.denoiser import bind
from undiffuse.diffusion.guidance import clipped
from undiffuse.pipeline import build
from undiffuse.train.job import Training

REPEATS = 30
BATCH = 128


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def interleaved(whole: Callable[[], object], alone: Callable[[], object]) -> tuple[float, float, float]:
    """Median seconds of each, and the median over pairs of (whole - alone) / whole."""
    for _ in range(3):
        whole(), alone()
    pairs = [(timed(whole), timed(alone)) for _ in range(REPEATS)]
    shares = [(a - b) / a for a, b in pairs]
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    return a, b, statistics.median(shares)


def training_pair(recipe: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """A step of the trainer, and forward + backward + optimiser of the same network on fixed inputs."""
    settings = ["train.steps=100000", "train.log_every=100000", "train.checkpoint_every=0", "train.sample_every=0"]
    chosen = config.load(recipe, [*settings, f"train.batch_size={BATCH}"])
    training = Training.start(chosen, Path(tempfile.mkdtemp()) / "run", "bench")
    steps = training.trainer.run()
    other = Training.start(chosen, Path(tempfile.mkdtemp()) / "run", "bench").trainer
    x = rng.fold(0).normal((BATCH, *training.config.data.shape)).contiguous(memory_format=torch.channels_last)
    t, y = torch.full((BATCH,), 500.0), torch.zeros(BATCH, dtype=torch.int64)

    def alone() -> None:
        ((other.network(x, t, y) - x) ** 2).mean().backward()
        other.optimizer.step()
        other.optimizer.zero_grad()

    return lambda: next(steps), alone


def sampling_pair(chosen: config.Config, batch: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """A step of DDIM(eta = 1) with per-image noise and clipping, and the network alone."""
    denoiser = build.denoiser(chosen)
    denoiser.backbone.eval()
    process, shape = denoiser.process, (batch, *chosen.data.shape)
    y, t = torch.zeros(batch, dtype=torch.int64), torch.full((batch,), 500.0)
    draws = rng.per_row(0, "bench", rows=range(batch))
    x = process.prior(shape, draws).contiguous(memory_format=torch.channels_last)
    sampler = build.sampler(chosen.replaced({"sample.eta": 1.0, "sample.sampler": "ddim"}))
    denoise = clipped(bind(replace(denoiser), y))

    def whole() -> None:
        with torch.no_grad():
            sampler.step(process, denoise, x, 500.0, 480.0, draws)

    def alone() -> None:
        with torch.no_grad():
            denoiser.backbone(x, t, y)

    return whole, alone


def noise_share(chosen: config.Config, batch: int) -> float:
    """Of a step with noise, the share that goes to drawing it: median over pairs of both, in turns."""
    whole, _ = sampling_pair(chosen, batch)
    draws = rng.per_row(0, "noise", rows=range(batch))
    shape = (batch, *(chosen.data.shape or ()))
    whole(), draws.normal(shape)
    shares = [timed(lambda: draws.normal(shape)) / timed(whole) for _ in range(REPEATS)]
    return statistics.median(shares)


def main() -> None:
    recipe = sys.argv[1] if len(sys.argv) > 1 else "digits"
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    digits = config.load(recipe)
    digits = build.resolved(digits, build.dataset(digits))
    cifar10 = digits.replaced({"model.preset": "ddpm-cifar10", "data.shape": [3, 32, 32]})
    for name, batch, pair in (
        (f"{recipe}, training", BATCH, training_pair(recipe)),
        (f"{recipe}, sampling", BATCH, sampling_pair(digits, BATCH)),
        ("ddpm-cifar10, sampling", 8, sampling_pair(cifar10, 8)),
    ):
        whole, alone, share = interleaved(*pair)
        steps = f"batch {batch}, step {whole * 1e3:.1f} ms, network {alone * 1e3:.1f} ms"
        print(f"{name}: {steps}, outside the network {share:.1%}, {batch / whole:.0f} images/s")
    gray28 = config.load("fashion-mnist").replaced({"data.shape": [1, 28, 28], "data.classes": [*map(str, range(10))]})
    print(f"fashion-mnist, sampling with noise: {noise_share(gray28, BATCH):.2%} of a step goes to drawing it")


if __name__ == "__main__":
    main()
