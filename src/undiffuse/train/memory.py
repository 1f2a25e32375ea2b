"""The memory that training takes: counted before it begins; and when it runs out, the same work in smaller parts."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from undiffuse.config import Config
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.nn.cost import count_kept, count_weights
from undiffuse.nn.spec import UNetSpec
from undiffuse.nn.unet import UNet
from undiffuse.pipeline import build
from undiffuse.processes import machine

Result = TypeVar("Result")
TYPICAL = 3  # times the least that maps take is what training on the CPU took (docs/log.md, 30 November 2026)


def pictures_at_once(backbone: object, config: Config, wanted: int) -> int:
    """The number of pictures to handle at once on the CPU, where a system kills what takes too much: as wanted, or as
    many as half the memory has room for beside the weights, gradients, averages and moments.

    Raises UsageError if not even one fits.
    """
    if not isinstance(backbone, UNet) or config.data.shape is None:
        return wanted
    train, spec, most = config.train, backbone.spec, machine.memory()
    copies = 4 + len(train.decays)  # the weights, their gradients and Adam's two moments
    state = build.FLOAT_BYTES * copies * count_weights(spec)
    half = 1 if train.precision == "float32" else 2
    picture = build.FLOAT_BYTES * _kept(spec, config) // half
    if state + picture > most:
        raise UsageError(
            f"model: {count_weights(spec):,} weights with gradients, averages and moments take "
            f"{machine.in_words(state)}, the maps of one picture at least {machine.in_words(picture)}, and there are "
            f"{machine.in_words(most)} of memory; take smaller model.channels, multipliers or blocks, fewer train.ema, "
            "or train.gradient_checkpointing=true"
        )
    if state + TYPICAL * picture * wanted <= most:
        return wanted
    return min(wanted, max(1, int((most // 2 - state) // (TYPICAL * picture))))


def _kept(spec: UNetSpec, config: Config) -> int:
    shape = config.data.shape or [1, 1, 1]
    return count_kept(spec, shape[1], shape[2], config.train.gradient_checkpointing)


def fitting(work: Callable[[int], Result], size: int, network: nn.Module) -> tuple[Result, int]:
    """work(size), with half the size as often as memory runs out, and the size that did; gradients start from none.

    Raises UndiffuseError if one picture is too many.
    """
    while True:
        try:
            return work(size), size
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        if size == 1:
            raise UndiffuseError(
                "out of memory with one picture at a time; take a smaller network or picture, "
                "train.gradient_checkpointing=true, or train.shard=true over several processes"
            )
        size = -(-size // 2)
        network.zero_grad()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """torch's allocators say "out of memory" (GPU) and "can't allocate memory" (CPU), cuBLAS has a word of its own."""
    phrases = ("allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in phrases)
