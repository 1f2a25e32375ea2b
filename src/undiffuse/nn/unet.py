"""The U-Net of Ho et al. 2020 and its family: (x, t, y) -> a tensor of x's size. It knows nothing of diffusion."""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from undiffuse.nn.attention import Attention
from undiffuse.nn.blocks import BLOCKS, Downsample, ResBlock, Upsample
from undiffuse.nn.embeddings import Conditioning
from undiffuse.nn.layers import GroupNorm, zeroed
from undiffuse.nn.spec import UNetSpec
from undiffuse.shapes import Float, Int64, Tensor


class _Level(nn.Module):
    """Residual blocks of one size, with attention after each or none."""

    def __init__(self, spec: UNetSpec, widths: list[tuple[int, int]], attention: bool) -> None:
        super().__init__()
        block = BLOCKS[spec.block]
        self.residual = nn.ModuleList(block(c_in, c_out, spec) for c_in, c_out in widths)
        self.attention = nn.ModuleList(Attention(c_out, spec) if attention else nn.Identity() for _, c_out in widths)

    def forward(
        self, h: Tensor, e: Tensor, skips: Iterator[Tensor] | None = None, checkpointed: bool = False
    ) -> Iterator[Tensor]:
        """The map after each block; on the way up each block first takes in the next of `skips`."""
        for place in range(len(self.residual)):
            inputs = (place, h, e, None if skips is None else next(skips))
            if checkpointed and torch.is_grad_enabled():
                h = checkpoint(self._block, *inputs, use_reentrant=False)
            else:
                h = self._block(*inputs)
            yield h

    def _block(self, place: int, h: Tensor, e: Tensor, skip: Tensor | None) -> Tensor:
        out: Tensor = self.attention[place](self.residual[place](h, e, skip))
        return out


def _resampler(width: int, spec: UNetSpec, direction: Literal["down", "up"]) -> nn.Module:
    if spec.resample == "residual":
        return ResBlock(width, width, spec, direction)
    return Downsample(width, spec) if direction == "down" else Upsample(width)


class UNet(nn.Module):
    """A U-Net for any number of channels, any height and width: sizes that the levels do not divide are padded, then
    cropped.

    checkpointed: keep only what goes into each block for the backward pass and compute the rest of it again then
    (gradient checkpointing, Chen et al. 2016): a forward pass more, a fraction of the memory, the same gradients.
    """

    checkpointed = False

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = spec.widths
        last = len(widths) - 1
        attends = [2**level in spec.attention for level in range(len(widths))]
        self.conditioning = Conditioning(spec)
        self.stem = nn.Conv2d(spec.in_channels * spec.patch**2, spec.channels, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        skips, width = [spec.channels], spec.channels
        for level, wide in enumerate(widths):
            self.down.append(_Level(spec, [(width, wide)] + [(wide, wide)] * (spec.blocks - 1), attends[level]))
            self.shrink.append(_resampler(wide, spec, "down") if level < last else nn.Identity())
            skips += [wide] * (spec.blocks + (level < last))
            width = wide
        self.middle = _Level(spec, [(width, width)] * 2, True)
        self.middle.attention[1] = nn.Identity()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, wide in reversed(list(enumerate(widths))):
            inputs = [width + skips.pop()] + [wide + skips.pop() for _ in range(spec.blocks)]
            self.up.append(_Level(spec, [(c_in, wide) for c_in in inputs], attends[level]))
            self.grow.append(_resampler(wide, spec, "up") if level else nn.Identity())
            width = wide
        self.norm = GroupNorm(width, spec)
        self.head = zeroed(nn.Conv2d(width, spec.out_channels * spec.patch**2, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], y: Int64[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b o h w"]:
        """t in [0, T], y labels or None."""
        height, width = x.shape[-2:]
        multiple = self.spec.patch * 2 ** (len(self.down) - 1)
        if height % multiple or width % multiple:
            x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
        e = F.silu(self.conditioning(t, y))
        h = self.stem(F.pixel_unshuffle(x.to(self.stem.weight.dtype), self.spec.patch))  # b c*p*p h/p w/p
        out: Tensor = F.pixel_shuffle(self._body(h, e), self.spec.patch)[..., :height, :width]
        return out

    def _body(self, h: Tensor, e: Tensor) -> Tensor:
        skips = [h]
        for level, shrink in zip(self.down, self.shrink, strict=True):
            skips += level(skips[-1], e, None, self.checkpointed)
            if not isinstance(shrink, nn.Identity):
                skips.append(shrink(skips[-1], e))
        *_, h = self.middle(skips[-1], e, None, self.checkpointed)
        taken = reversed(skips)
        for level, grow in zip(self.up, self.grow, strict=True):
            *_, h = level(h, e, taken, self.checkpointed)
            h = h if isinstance(grow, nn.Identity) else grow(h, e)
        out: Tensor = self.head(self.norm(h))
        return out


def parameter_count(backbone: nn.Module) -> int:
    return sum(parameter.numel() for parameter in backbone.parameters())


def spatial(backbone: nn.Module) -> nn.Module:
    """channels_last weights: the layout in which convolutions are fastest on CPUs and tensor cores."""
    return backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
