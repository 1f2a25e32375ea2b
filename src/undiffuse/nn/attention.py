"""Self-attention over the positions of a map."""

import torch.nn.functional as F
from torch import nn

from undiffuse.nn.layers import GroupNorm, zeroed
from undiffuse.nn.spec import UNetSpec
from undiffuse.shapes import Float, Tensor


class Attention(nn.Module):
    """x + projection(softmax(q k^T / sqrt(d)) v) over all positions of the map."""

    def __init__(self, channels: int, spec: UNetSpec) -> None:
        super().__init__()
        self.heads = spec.heads_of(channels)
        self.norm = GroupNorm(channels, spec, silu=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.projection = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        b, c, h, w = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c)  # [b, n, c], free in channels_last
        qkv = self.qkv(tokens).reshape(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])  # [b, heads, n, d]
        out = self.projection(mixed.transpose(1, 2).reshape(b, h * w, c))
        return x + out.reshape(b, h, w, c).permute(0, 3, 1, 2)
