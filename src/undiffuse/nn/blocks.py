"""The U-Net's parts: residual block, down- and up-sampling."""

import torch
import torch.nn.functional as F
from torch import nn

from undiffuse.nn.layers import Conv3x3, GroupNorm, zeroed
from undiffuse.nn.spec import UNetSpec
from undiffuse.shapes import Float, Tensor


class ResBlock(nn.Module):
    """x + conv(norm(conv(norm(x)) + embedding)); with scale_shift the embedding scales and shifts the norm instead.

    Additive: Ho et al. 2020. Scale-shift: Nichol & Dhariwal 2021, section 3.
    """

    def __init__(self, c_in: int, c_out: int, spec: UNetSpec) -> None:
        super().__init__()
        self.scale_shift = spec.scale_shift
        self.norm1 = GroupNorm(c_in, spec)
        self.conv1 = Conv3x3(c_in, c_out)
        self.embedding = nn.Linear(spec.embedding, 2 * c_out if spec.scale_shift else c_out)
        self.norm2 = GroupNorm(c_out, spec)
        self.dropout = nn.Dropout(spec.dropout)
        self.conv2 = zeroed(Conv3x3(c_out, c_out))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Float[Tensor, "b i h w"], e: Float[Tensor, "b e"]) -> Float[Tensor, "b o h w"]:
        """e is the conditioning vector after its activation."""
        h = self.conv1(self.norm1(x))
        if self.scale_shift:
            scale, shift = self.embedding(e).chunk(2, dim=1)
            h = self.norm2(h, scale=scale, shift=shift)
        else:
            h = self.norm2(h, offset=self.embedding(e))
        return self.skip(x) + self.conv2(self.dropout(h))


class Downsample(nn.Module):
    """Half the size by a 3x3 convolution of stride 2; see UNetSpec.downsample_padding."""

    def __init__(self, channels: int, spec: UNetSpec) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=spec.downsample_padding)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size by nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def concat(x: Float[Tensor, "b i h w"], skip: Float[Tensor, "b j h w"]) -> Float[Tensor, "b k h w"]:
    return torch.cat([x, skip], dim=1)
