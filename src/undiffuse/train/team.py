"""The processes that train together, as `accelerate launch` or `torchrun` start them: a thin view of accelerate.

Losses and wishes travel between CPUs through gloo, where a process that died is noticed at once; gradients travel
between the devices that made them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import nn

from undiffuse.errors import UndiffuseError
from undiffuse.files.checkpoint import is_cut
from undiffuse.files.run import resuming
from undiffuse.processes.ranks import FOR_EVER, check_launcher


class Team:
    """This process (index of count) and what it does with the others. With one process nothing is sent anywhere."""

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        if accelerator is None:
            check_launcher()
            waiting = InitProcessGroupKwargs(timeout=FOR_EVER)  # others wait while one draws samples
            accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[waiting])
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.count: int = accelerator.num_processes
        self.index: int = accelerator.process_index
        self.writes: bool = accelerator.is_main_process
        self._talk = dist.new_group(backend="gloo", timeout=FOR_EVER) if self.count > 1 else None

    def share(self, batch_size: int) -> range:
        """The positions of the global batch that are this process's. Raises UndiffuseError if they cannot be shared."""
        if batch_size % self.count:
            raise UndiffuseError(f"train.batch_size {batch_size} cannot be shared by {self.count} processes evenly")
        size = batch_size // self.count
        return range(size * self.index, size * (self.index + 1))

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The rows of float64 of all processes, in their order."""
        if self.count == 1:
            return rows
        own = torch.from_numpy(np.ascontiguousarray(rows))
        parts = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(parts, own, group=self._talk)
        return np.concatenate([part.numpy() for part in parts])

    def total(self, numbers: np.ndarray) -> np.ndarray:
        """The sum over processes."""
        return self.gather(numbers[None]).sum(0) if self.count > 1 else numbers

    def any(self, wish: bool) -> bool:
        """Whether any process wants it."""
        return bool(self.total(np.array([float(wish)]))[0]) if self.count > 1 else wish

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """The mean over processes in one message; sharded weights have seen to it themselves."""
        if self.count == 1 or is_cut(parameters[0]):
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        means = torch.split(flat / self.count, [grad.numel() for grad in grads])
        for p, grad, mean in zip(parameters, grads, means, strict=True):
            p.grad = grad.copy_(mean.view(grad.shape))


@contextmanager
def reporting_lost_peers(out: Path | None = None) -> Iterator[None]:
    """Raises UndiffuseError if another process has died, which its connections tell, wherever they are used."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        go_on = "start again" if out is None else f"go on with: {resuming(out)}"
        raise UndiffuseError(
            "another process of this training has stopped, so this one stops too; see what it said (killed for want of "
            f"memory, it said nothing), then {go_on}"
        ) from error
