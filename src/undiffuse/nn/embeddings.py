"""Times and labels as vectors."""

import math

import torch
from torch import nn

from undiffuse.shapes import Float, Int64, Tensor


def sinusoids(t: Float[Tensor, "b"], channels: int) -> Float[Tensor, "b c"]:
    """[sin(w t), cos(w t)], w from 1 down to 1/10000 in equal ratios (Ho et al. 2020's code; Vaswani et al. 2017)."""
    half = channels // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / max(half - 1, 1))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Conditioning(nn.Module):
    """Time, and label if there are classes, to one vector per datum. The null label is `num_classes`."""

    def __init__(self, channels: int, out_channels: int, num_classes: int = 0) -> None:
        super().__init__()
        self.channels = channels
        self.num_classes = num_classes
        self.time = nn.Sequential(nn.Linear(channels, out_channels), nn.SiLU(), nn.Linear(out_channels, out_channels))
        self.label = nn.Embedding(num_classes + 1, out_channels) if num_classes else None

    def forward(self, t: Float[Tensor, "b"], y: Int64[Tensor, "b"] | None) -> Float[Tensor, "b e"]:
        """y = None is the null label; labels given to a network without classes are an error."""
        e = self.time(sinusoids(t, self.channels).to(next(self.time.parameters()).dtype))
        if self.label is None:
            if y is not None:
                raise ValueError("labels were given to a network without classes")
            return e
        if y is None:
            y = torch.full((len(t),), self.num_classes, dtype=torch.int64, device=t.device)
        return e + self.label(y)
