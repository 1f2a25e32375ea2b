"""Self-attention over the positions of a map."""

import torch.nn.functional as F
from torch import nn

from undiffuse.nn import operations
from undiffuse.nn.layers import GroupNorm, Linear, zeroed
from undiffuse.nn.spec import UNetSpec
from undiffuse.shapes import Float, Tensor


class Attention(nn.Module):
    """x + projection(softmax(q k^T / sqrt(d)) v) over all positions of the map."""

    def __init__(self, channels: int, spec: UNetSpec) -> None:
        super().__init__()
        self.heads = spec.heads_of(channels)
        self.norm = GroupNorm(channels, spec, silu=False)
        self.qkv = Linear(channels, 3 * channels, stacked=3)
        self.projection = zeroed(Linear(channels, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        b, c, h, w = x.shape
        tokens, skip = (z.permute(0, 2, 3, 1).reshape(b, h * w, c) for z in (self.norm(x), x))  # free in channels_last
        qkv = self.qkv(tokens).reshape(b, h * w, 3, self.heads, c // self.heads)
        out = self.projection(attention(qkv).reshape(b, h * w, c), skip)
        return out.reshape(b, h, w, c).permute(0, 3, 1, 2)


def attention(qkv: Float[Tensor, "b n 3 k d"]) -> Float[Tensor, "b n k d"]:
    """softmax(q k^T / sqrt(d)) v for each of k heads (Vaswani et al. 2017, eq. 1)."""
    if operations.attention_suits(qkv):
        return operations.attend(qkv)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [b, k, n, d] each
    if operations.is_transformed():  # by torch.func, for which torch's fused attention lacks rules
        return ((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
