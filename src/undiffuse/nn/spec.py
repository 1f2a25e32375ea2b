"""What a U-Net is made of. Every choice where codebases differ has a name here."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt

from undiffuse.errors import UsageError

EXACT = 2**53  # up to here whole numbers are floats too
MOST_LEVELS = 12  # of which the last is 2,048 times smaller than the picture

Positive = Annotated[int, Ge(1), Le(EXACT)]
NotNegative = Annotated[int, Ge(0), Le(EXACT)]
Width = Annotated[int, Ge(1), Le(65_536)]


@dataclass(frozen=True, kw_only=True)
class UNetSettings:
    """The settings of a U-Net: the keys of `model` in a configuration, their ranges and defaults.

    channels: width at full size, even; multipliers: width of each level relative to it, each level half the size of
    the one above; blocks: residual blocks per level on the way down (one more on the way up).
    attention: down-sampling factors (1, 2, 4, ...) of the levels that get self-attention; the middle always has it.
    heads: attention heads; head_channels: width of a head instead (0: heads counts).
    block: "residual" (Ho et al. 2020) or "convnext" (Liu et al. 2022, as in The Annotated Diffusion Model).
    resample: sizes change by a "conv" (Ho et al.) or in a "residual" block (Dhariwal & Nichol 2021, after BigGAN).
    scale_shift: the embedding scales and shifts the second norm (Nichol & Dhariwal 2021) instead of being added.
    downsample_padding: 0 pads right and bottom only (TensorFlow's SAME, Ho et al.), 1 all sides (torch's habit).
    flip_sin_to_cos, freq_shift: cosines first; rates over half - freq_shift (Ho et al.: False, 1; ADM: True, 0).
    time_offset: subtracted from t before it is embedded: 1 for networks trained with t = 0..T-1.
    patch: squares of patch x patch pixels become channels before the first convolution and pixels again after the last
    (space to depth; Shi et al. 2016, Hoogeboom et al. 2023): full size is then that much smaller.
    """

    channels: Width = 64
    multipliers: Annotated[tuple[Width, ...], Len(1, MOST_LEVELS)] = (1, 2, 2)
    blocks: Annotated[int, Ge(1), Le(100)] = 2
    block: Literal["residual", "convnext"] = "residual"
    resample: Literal["conv", "residual"] = "conv"
    attention: Annotated[tuple[Width, ...], Len(0, MOST_LEVELS)] = (4,)
    heads: Width = 1
    head_channels: Annotated[int, Ge(0), Le(65_536)] = 0
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    norm_groups: Width = 32
    norm_eps: Annotated[float, Gt(0), Le(1)] = 1e-6
    scale_shift: bool = False
    downsample_padding: Literal[0, 1] = 0
    flip_sin_to_cos: bool = False
    freq_shift: Literal[0, 1] = 1
    time_offset: NotNegative = 0
    patch: Annotated[int, Ge(1), Le(64)] = 1


@dataclass(frozen=True)
class UNetSpec(UNetSettings):
    """A U-Net, whole: the settings, and what the data and the objective ask of it.

    num_classes: 0 for none; otherwise labels 0..num_classes-1, and num_classes for "no label".
    """

    in_channels: int
    out_channels: int
    num_classes: int = 0

    def __post_init__(self) -> None:
        factors = [2**level for level in range(len(self.multipliers))]
        if not set(self.attention) <= set(factors):
            raise UsageError(f"model.attention: {list(self.attention)} must be among this network's factors {factors}")
        if self.channels % 2:
            raise UsageError(f"model.channels: {self.channels} must be even: half are sines of the time, half cosines")
        if self.head_channels and self.heads != 1:
            raise UsageError(
                f"model.heads {self.heads} and model.head_channels {self.head_channels}: give one of them "
                "(head_channels=0 lets heads count)"
            )
        attending = self._attending()
        if any(width % self.heads for width in attending):
            raise UsageError(f"model.heads: {self.heads} must divide the widths {attending}")
        if self.head_channels and any(width % self.head_channels for width in attending):
            raise UsageError(f"model.head_channels: {self.head_channels} must divide the widths {attending}")

    @property
    def widths(self) -> list[int]:
        """Channels of each level, from the full size down."""
        return [self.channels * multiplier for multiplier in self.multipliers]

    @property
    def embedding(self) -> int:
        """Width of the conditioning vector."""
        return 4 * self.channels

    def heads_of(self, width: int) -> int:
        return width // self.head_channels if self.head_channels else self.heads

    def _attending(self) -> list[int]:
        chosen = {width for level, width in enumerate(self.widths) if 2**level in self.attention}
        return sorted(chosen | {self.widths[-1]})
