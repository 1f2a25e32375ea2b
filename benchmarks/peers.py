"""The networks compared: this library's, diffusers' with the same weights, lucidrains' of nearly the same size.

Each is used as its own users use it. Needs diffusers and denoising-diffusion-pytorch (see benchmarks/requirements.txt).
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from unittest.mock import MagicMock

import torch
from torch import nn

from undiffuse.nn.spec import UNetSpec
from undiffuse.nn.unet import UNet, spatial
from undiffuse.pipeline.diffusers import names

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Size:
    """One comparison: our specification, a batch, and lucidrains' arguments that come nearest in parameters."""

    spec: UNetSpec
    batch: int
    image: int
    lucidrains: dict

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.spec.in_channels, self.image, self.image)


SIZES = {
    "cifar10": Size(UNetSpec(3, 3, channels=128, multipliers=(1, 2, 2, 2), attention=(2,)), 8, 32, {"dim": 64}),
    "gray28": Size(
        UNetSpec(1, 1, channels=32, multipliers=(1, 2, 2), attention=(2,)),
        64,
        28,
        {"dim": 24, "dim_mults": (1, 2, 4), "channels": 1},
    ),
}


@dataclass(frozen=True)
class Contender:
    """A network, how it is called, and how its users make its optimiser."""

    network: nn.Module
    forward: Forward
    channels_last: bool
    fused: bool

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=1e-6, **({"fused": True} if self.fused else {}))


def diffusers_unet(size: Size, head_dim: int | None) -> Contender:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
    spec = size.spec
    attends = [2**level in spec.attention for level in range(len(spec.widths))]
    network = diffusers.UNet2DModel(
        sample_size=size.image,
        in_channels=spec.in_channels,
        out_channels=spec.out_channels,
        block_out_channels=tuple(spec.widths),
        layers_per_block=spec.blocks,
        down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        attention_head_dim=head_dim,
        norm_num_groups=spec.norm_groups,
        norm_eps=spec.norm_eps,
        downsample_padding=spec.downsample_padding,
        flip_sin_to_cos=spec.flip_sin_to_cos,
        freq_shift=spec.freq_shift,
    )
    return Contender(network, lambda x, t: network(x, t).sample, channels_last=False, fused=False)


def ours(size: Size, head_dim: int | None, weights: nn.Module, **changes: object) -> Contender:
    """This library's network with the weights of a diffusers one."""
    spec = replace(size.spec, head_channels=head_dim or 0, **changes)
    network = UNet(spec)
    network.load_state_dict(names.to_ours(weights.state_dict(), list(network.state_dict())))
    spatial(network)
    return Contender(network, network, channels_last=True, fused=True)


def lucidrains_unet(size: Size) -> Contender:
    """Its package wants torchvision for pictures on disk, which no U-Net needs and no CPU build of torch has."""
    missing = [name for name in ("torchvision", "torchvision.transforms") if name not in sys.modules]
    sys.modules.update({name: MagicMock() for name in missing})
    try:
        from denoising_diffusion_pytorch.denoising_diffusion_pytorch import Unet
    finally:
        for name in missing:
            del sys.modules[name]
    network = Unet(**size.lucidrains)
    return Contender(network, network, channels_last=False, fused=False)
