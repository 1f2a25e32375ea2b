"""The U-Net's parts: residual and ConvNeXt block, down- and up-sampling."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from undiffuse.nn import fused
from undiffuse.nn.layers import Conv1x1, Conv3x3, GroupNorm, Linear, zeroed
from undiffuse.nn.spec import UNetSpec
from undiffuse.shapes import Float, Tensor


class ResBlock(nn.Module):
    """x + conv(norm(conv(norm(x)) + embedding)); with scale_shift the embedding scales and shifts the norm instead.

    Additive: Ho et al. 2020. Scale-shift: Nichol & Dhariwal 2021, section 3. With a direction, x and the first norm's
    output are halved (mean of 2x2) or doubled (nearest neighbour) in size: Dhariwal & Nichol 2021, after BigGAN.
    """

    def __init__(self, c_in: int, c_out: int, spec: UNetSpec, direction: Literal["down", "up"] | None = None) -> None:
        super().__init__()
        self.direction = direction
        self.norm1 = GroupNorm(c_in, spec)
        self.conv1 = Conv3x3(c_in, c_out)
        self.embedding = _embedding(c_out, spec)
        self.norm2 = GroupNorm(c_out, spec)
        self.dropout = nn.Dropout(spec.dropout)
        self.conv2 = zeroed(Conv3x3(c_out, c_out))
        self.skip = nn.Identity() if c_in == c_out else Conv1x1(c_in, c_out)

    def forward(
        self, x: Float[Tensor, "b i h w"], e: Float[Tensor, "b e"], beside: Float[Tensor, "b j h w"] | None = None
    ) -> Float[Tensor, "b o h2 w2"]:
        """e is the conditioning vector after its activation; beside: channels that follow x's."""
        if self._in_one(x, beside):
            weights = self._weights(*_split(self.embedding(e), self.conv1.out_channels))
            norms = (self.norm1.groups, self.norm1.eps, self.norm2.groups, self.norm2.eps)
            if fused.parts_fit(x, beside, weights, norms):
                return fused.residual(x, beside, weights, norms)
        x = joined(x, beside)
        h = self.norm1(x)
        if self.direction is not None:
            x, h = (RESIZE[self.direction](z) for z in (x, h))
        h = _conditioned(self.norm2, self.conv1(h), self.embedding(e))
        out: Tensor = self.conv2(self.dropout(h), self.skip(x))
        return out

    def _in_one(self, x: Tensor, beside: Tensor | None) -> bool:
        if self.direction is not None or (self.training and self.dropout.p):
            return False
        return fused.pays(x, beside, self.conv1.out_channels) and self._is_plain()

    def _is_plain(self) -> bool:
        """Whether these parts are our own and nobody waits at them for what goes through (hooks)."""
        parts = (self.norm1, self.conv1, self.norm2, self.dropout, self.conv2, self.skip)
        kinds = [type(part) for part in parts]
        plain = kinds[:5] == [GroupNorm, Conv3x3, GroupNorm, nn.Dropout, Conv3x3] and kinds[5] in (nn.Identity, Conv1x1)
        return plain and not any(part._forward_hooks or part._forward_pre_hooks for part in parts)

    def _weights(self, offset: Tensor | None, scale: Tensor | None, shift: Tensor | None) -> fused.Weights:
        """As the kernel takes them; offset, scale and shift of the second norm."""
        one, two, skip = self.norm1, self.norm2, self.skip
        thin = (skip.weight, skip.bias) if isinstance(skip, Conv1x1) else (None, None)
        first = (*one.affine(), self.conv1.weight, self.conv1.bias)
        return (*first, offset, *two.affine(scale, shift), self.conv2.weight, self.conv2.bias, *thin)


class ConvNeXtBlock(nn.Module):
    """x + conv(norm(gelu(conv(norm(depthwise(x) + embedding))))), twice as wide inside (Liu et al. 2022).

    As The Annotated Diffusion Model has it: 7x7 depthwise, 3x3 inside, one group per norm; but the last convolution
    starts at zero, and scale_shift is possible.
    """

    def __init__(self, c_in: int, c_out: int, spec: UNetSpec) -> None:
        super().__init__()
        whole = replace(spec, norm_groups=1)
        self.depthwise = nn.Conv2d(c_in, c_in, 7, padding=3, groups=c_in)
        self.embedding = _embedding(c_in, spec)
        self.norm1 = GroupNorm(c_in, whole, silu=False)
        self.conv1 = Conv3x3(c_in, 2 * c_out)
        self.norm2 = GroupNorm(2 * c_out, whole, silu=False)
        self.dropout = nn.Dropout(spec.dropout)
        self.conv2 = zeroed(Conv3x3(2 * c_out, c_out))
        self.skip = nn.Identity() if c_in == c_out else Conv1x1(c_in, c_out)

    def forward(
        self, x: Float[Tensor, "b i h w"], e: Float[Tensor, "b e"], beside: Float[Tensor, "b j h w"] | None = None
    ) -> Float[Tensor, "b o h w"]:
        """e is the conditioning vector after its activation; beside: channels that follow x's."""
        x = joined(x, beside)
        h = _conditioned(self.norm1, self.depthwise(x), self.embedding(e))
        h = self.norm2(F.gelu(self.conv1(h)))
        out: Tensor = self.conv2(self.dropout(h), self.skip(x))
        return out


BLOCKS: dict[str, Callable[[int, int, UNetSpec], nn.Module]] = {"residual": ResBlock, "convnext": ConvNeXtBlock}


def _embedding(channels: int, spec: UNetSpec) -> Linear:
    """Added to each channel; or, for scale_shift, two numbers per channel."""
    count = 2 if spec.scale_shift else 1
    return Linear(spec.embedding, count * channels, stacked=count)


def _conditioned(norm: GroupNorm, h: Float[Tensor, "b c h w"], e: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
    """norm(h + e), or norm(h) scaled and shifted by e's two halves where e is twice as wide as h."""
    out: Tensor = norm(h, *_split(e, h.shape[1]))
    return out


def _split(e: Float[Tensor, "b k"], channels: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Offset, scale and shift of GroupNorm: the first, or the other two."""
    if e.shape[1] == channels:
        return e, None, None
    scale, shift = e.chunk(2, dim=1)
    return None, scale, shift


def halved(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    return F.avg_pool2d(x, 2)


def doubled(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


RESIZE = {"down": halved, "up": doubled}


class Downsample(nn.Module):
    """Half the size by a 3x3 convolution of stride 2; see UNetSpec.downsample_padding."""

    def __init__(self, channels: int, spec: UNetSpec) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=spec.downsample_padding)

    def forward(self, x: Float[Tensor, "b c h w"], e: Float[Tensor, "b e"]) -> Float[Tensor, "b c h2 w2"]:
        """e is not used."""
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size by nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"], e: Float[Tensor, "b e"]) -> Float[Tensor, "b c h2 w2"]:
        """e is not used."""
        return self.conv(doubled(x))


def joined(x: Float[Tensor, "b i h w"], beside: Float[Tensor, "b j h w"] | None) -> Float[Tensor, "b k h w"]:
    return x if beside is None else torch.cat([x, beside], dim=1)
