"""An exponential moving average of the weights, which is what one samples from."""

import copy

import torch
from torch import nn


class EMA:
    """shadow <- d shadow + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)) after n updates.

    The warm-up lets the average forget the random start within a short run; decay alone would need 1 / (1 - decay)
    updates for it.
    """

    def __init__(self, backbone: nn.Module, decay: float) -> None:
        self.backbone = copy.deepcopy(backbone).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, backbone: nn.Module, count: int) -> None:
        """Take in the weights after `count` earlier updates. Buffers are copied."""
        decay = min(self.decay, (1 + count) / (10 + count))
        shadow: list[torch.Tensor] = list(self.backbone.parameters())
        now: list[torch.Tensor] = list(backbone.parameters())
        torch._foreach_lerp_(shadow, now, 1 - decay)
        for kept, buffer in zip(self.backbone.buffers(), backbone.buffers(), strict=True):
            kept.copy_(buffer)
