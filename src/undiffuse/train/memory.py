"""When memory runs out: the same work again, in smaller parts."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from undiffuse.errors import UndiffuseError

Result = TypeVar("Result")


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
