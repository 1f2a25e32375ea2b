"""Exponential moving averages of the weights, which is what one samples from."""

import torch
from torch import nn


class EMA:
    """shadow <- d shadow + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)) after n updates.

    The warm-up lets the average forget the random start within a short run; decay alone would need 1 / (1 - decay)
    updates for it. `backbone` is a copy of the network, made by the caller, that holds the average.
    """

    def __init__(self, backbone: nn.Module, network: nn.Module, decay: float) -> None:
        self.backbone = backbone.requires_grad_(False).eval()
        self.decay = decay
        self._shadow: list[torch.Tensor] = list(self.backbone.parameters())  # listing them takes 1 ms a step
        self._weights: list[torch.Tensor] = list(network.parameters())
        self._buffers = list(zip(self.backbone.buffers(), network.buffers(), strict=True))

    @torch.no_grad()
    def update(self, count: int) -> None:
        """Take in the weights as they are now, after `count` earlier updates. Buffers are copied."""
        decay = min(self.decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(self._shadow, self._weights, 1 - decay)
        for kept, buffer in self._buffers:
            kept.copy_(buffer)
