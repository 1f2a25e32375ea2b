"""Convolutions, linear layers and group norm: torch's parameters and results, on own CPU kernels where those run."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from undiffuse.nn import operations
from undiffuse.nn.spec import UNetSpec
from undiffuse.shapes import Float, Tensor


class Conv3x3(nn.Conv2d):
    """nn.Conv2d(c_in, c_out, 3, padding=1); on the CPU by Winograd's F(4x4, 3x3), about twice as fast."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "b i h w"], plus: Float[Tensor, "b o h w"] | None = None
    ) -> Float[Tensor, "b o h w"]:
        """The convolution, plus another map if one is given."""
        weight, bias = self.weight, self.bias
        if bias is not None and operations.conv_pays(x, c := bias.shape[0]) and self._is_as_made():
            b, k, h, w = x.shape
            if operations.fits((weight, (c, k, 3, 3)), (bias, (c,)), (plus, (b, c, h, w))):
                return operations.conv3x3(x, weight, bias, plus)
        out = super().forward(x)
        return out if plus is None else plus + out

    def _is_as_made(self) -> bool:
        made = (self.stride, self.padding, self.dilation, self.groups, self.padding_mode)
        return made == ((1, 1), (1, 1), (1, 1), 1, "zeros")


class Linear(nn.Linear):
    """nn.Linear, and on the CPU for many rows about 1.4 times as fast.

    stacked: how many layers it is, each with as many outputs, written as one; train.optimizer muon turns each apart.
    """

    def __init__(self, c_in: int, c_out: int, stacked: int = 1) -> None:
        super().__init__(c_in, c_out)
        self.stacked = stacked

    def forward(self, x: Float[Tensor, "... i"], plus: Float[Tensor, "... o"] | None = None) -> Float[Tensor, "... o"]:
        """The layer's output, plus another tensor if one is given."""
        weight, bias = self.weight, self.bias
        if bias is not None and operations.linear_pays(x, o := bias.shape[0]):
            shapes = (weight, (o, x.shape[-1])), (bias, (o,)), (plus, (*x.shape[:-1], o))
            if operations.fits(*shapes):
                return operations.linear(x, weight, bias, plus)
        out = super().forward(x)
        return out if plus is None else plus + out


class Conv1x1(nn.Conv2d):
    """nn.Conv2d(c_in, c_out, 1); on the CPU in channels_last as the linear layer that it is."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        if x.dim() != 4 or self.bias is None:
            return super().forward(x)
        rows, o = x.permute(0, 2, 3, 1), self.bias.shape[0]
        if not rows.is_contiguous() or not operations.linear_pays(rows, o) or not self._fits(rows, o):
            return super().forward(x)
        return operations.linear(rows, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

    def _fits(self, rows: Tensor, o: int) -> bool:
        made = (self.stride, self.padding, self.groups)
        alike = operations.fits((self.weight, (o, rows.shape[-1], 1, 1)), (self.bias, (o,)))
        return alike and made == ((1, 1), (0, 0), 1)


class GroupNorm(nn.Module):
    """w (x - mean) / sqrt(var + eps) + b over a group's channels and all positions (Wu & He 2018); then SiLU if asked.

    As many of spec.norm_groups as divide the channels.
    """

    def __init__(self, channels: int, spec: UNetSpec, silu: bool = True) -> None:
        super().__init__()
        self.groups, self.eps, self.silu = math.gcd(spec.norm_groups, channels), spec.norm_eps, silu
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        offset: Float[Tensor, "b c"] | None = None,
        scale: Float[Tensor, "b c"] | None = None,
        shift: Float[Tensor, "b c"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """silu((1 + scale) norm(x + offset) + shift); each of offset, scale and shift may be left out."""
        weight, bias = self.affine(scale, shift)
        if operations.suits(x) and self._fits(x, weight, bias, offset):
            return operations.group_norm(x, offset, weight, bias, (self.groups, self.eps, self.silu))
        h = x if offset is None else x + offset[:, :, None, None]
        h = h.contiguous() if operations.is_transformed() else h  # torch's forward-mode rule knows no channels_last
        if len(weight) == len(bias) == 1:
            h = F.group_norm(h, self.groups, weight[0], bias[0], self.eps)
        else:
            h = F.group_norm(h, self.groups, eps=self.eps) * weight[:, :, None, None] + bias[:, :, None, None]
        return F.silu(h) if self.silu else h

    def _fits(self, x: Tensor, weight: Tensor, bias: Tensor, offset: Tensor | None) -> bool:
        b, c = x.shape[:2]
        k, j = weight.shape[0], bias.shape[0]
        if c % self.groups or k not in (1, b) or j not in (1, b):
            return False
        return operations.fits((weight, (k, c)), (bias, (j, c)), (offset, (b, c)))

    def affine(
        self, scale: Float[Tensor, "b c"] | None = None, shift: Float[Tensor, "b c"] | None = None
    ) -> tuple[Float[Tensor, "k c"], Float[Tensor, "k c"]]:
        """The factor and the offset of the normed values; k is 1 or b."""
        weight, bias = self.weight[None], self.bias[None]
        if scale is not None:
            weight, bias = weight * (1 + scale), bias * (1 + scale)
        return weight, bias if shift is None else bias + shift


def zeroed(module: nn.Module) -> nn.Module:
    """Start at zero, so that a block begins as the identity and the network as zero (Ho et al. 2020's code)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


_DRAWING = (nn.MultiheadAttention, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


def may_draw(network: nn.Module) -> bool:
    """Whether its forward pass may draw from torch's generator: by dropout, or in modules that nobody here knows."""

    def draws(module: nn.Module) -> bool:
        if isinstance(module, nn.modules.dropout._DropoutNd):
            return module.p > 0
        own = type(module).__module__
        return isinstance(module, _DRAWING) or not own.startswith(("torch.nn.modules.", "undiffuse.nn."))

    return any(draws(module) for module in network.modules())


@contextmanager
def frozen(backbone: object) -> Iterator[None]:
    """Gradients for the input alone: a module's weights need none meanwhile."""
    parameters = backbone.parameters() if isinstance(backbone, nn.Module) else ()
    needing = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in needing:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needing:
            parameter.requires_grad_(True)
