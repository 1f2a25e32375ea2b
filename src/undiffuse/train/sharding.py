"""Weights cut over processes by torch's fully_shard (FSDP2), and made whole again for files."""

import warnings

import torch
from torch import nn

from undiffuse.files.checkpoint import is_cut
from undiffuse.shapes import Tensor


def shard_module(network: nn.Module) -> nn.Module:
    """Cut in place. The smallest blocks of its lists are gathered each for their own use, the rest together."""
    from torch.distributed.fsdp import fully_shard

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nothing is added to it in place
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # it takes no others, channels last among them
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    for block in (child for blocks in lists for child in blocks):
        if _has_weights(block) and not any(isinstance(inner, nn.ModuleList) for inner in block.modules()):
            fully_shard(block)
    fully_shard(network)
    return network


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def full(tensor: Tensor, wanted: bool = True) -> Tensor:
    """The full tensor; all processes must ask together. Of a cut one, on the CPU: a GPU may not hold all of them; and
    empty where it is not wanted."""
    if not is_cut(tensor):
        return tensor
    whole = tensor.full_tensor()  # type: ignore[attr-defined]
    return whole.cpu() if wanted else torch.empty(0)
