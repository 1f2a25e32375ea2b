"""Times and labels as vectors."""

import math

import torch
from torch import nn

from undiffuse.nn.spec import UNetSpec
from undiffuse.shapes import Float, Int64, Tensor


def sinusoids(t: Float[Tensor, "b"], channels: int, freq_shift: int = 1, flip: bool = False) -> Float[Tensor, "b c"]:
    """[sin(w t), cos(w t)], w from 1 down by equal ratios, 1/10000 last for freq_shift 1 (Ho et al. 2020's code).

    flip: cosines first. freq_shift 0 stops one ratio short of 1/10000 (Dhariwal & Nichol 2021's code).
    """
    half = channels // 2
    steps = torch.arange(half, device=t.device, dtype=torch.float32)
    angles = t.float()[:, None] * torch.exp(-math.log(10000) * steps / max(half - freq_shift, 1))
    parts = [angles.cos(), angles.sin()] if flip else [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)


class Conditioning(nn.Module):
    """Time, and label if there are classes, to one vector per datum. The null label is `num_classes`."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.time = nn.Sequential(
            nn.Linear(spec.channels, spec.embedding), nn.SiLU(), nn.Linear(spec.embedding, spec.embedding)
        )
        self.label = nn.Embedding(spec.num_classes + 1, spec.embedding) if spec.num_classes else None

    def forward(self, t: Float[Tensor, "b"], y: Int64[Tensor, "b"] | None) -> Float[Tensor, "b e"]:
        """y = None is the null label; labels given to a network without classes are an error."""
        spec = self.spec
        waves = sinusoids(t - spec.time_offset, spec.channels, spec.freq_shift, spec.flip_sin_to_cos)
        e = self.time(waves.to(next(self.time.parameters()).dtype))
        if self.label is None:
            if y is not None:
                raise ValueError("labels were given to a network without classes")
            return e
        if y is None:
            y = torch.full((len(t),), spec.num_classes, dtype=torch.int64, device=t.device)
        return e + self.label(y)
