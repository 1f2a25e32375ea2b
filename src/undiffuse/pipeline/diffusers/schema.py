"""What the JSON of a diffusers folder may say: types and ranges of the fields that are read, no others."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Len, Lt
from typing_extensions import TypedDict

from undiffuse.nn.spec import MOST_LEVELS, Width

Levels = Len(1, MOST_LEVELS)
Pixels = Annotated[int, Ge(1), Le(16_384)]
Unit = Annotated[float, Gt(0), Le(1)]
MOST_TIMES = 1_000_000


class UnetFields(TypedDict, total=False):
    """unet/config.json."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]

    _class_name: str
    in_channels: Width
    out_channels: Width
    sample_size: Pixels | Annotated[list[Pixels], Len(2, 2)] | None
    block_out_channels: Annotated[list[Width], Levels]
    layers_per_block: Annotated[int, Ge(1), Le(100)]
    down_block_types: Annotated[list[str], Levels]
    up_block_types: Annotated[list[str], Levels]
    downsample_type: str
    upsample_type: str
    downsample_padding: int
    attention_head_dim: Annotated[int, Ge(0), Le(65_536)] | None
    norm_num_groups: Width
    norm_eps: Unit
    dropout: Annotated[float, Ge(0), Lt(1)]
    resnet_time_scale_shift: str
    flip_sin_to_cos: bool
    freq_shift: int
    num_class_embeds: Annotated[int, Ge(1), Le(1_000_000)] | None


class SchedulerFields(TypedDict, total=False):
    """scheduler/scheduler_config.json."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]

    _class_name: str
    num_train_timesteps: Annotated[int, Ge(1), Le(MOST_TIMES)]
    trained_betas: Annotated[list[float], Len(1, MOST_TIMES)] | None
    beta_start: Unit
    beta_end: Unit
    beta_schedule: str
    prediction_type: str
    variance_type: str | None
    rescale_betas_zero_snr: bool
    clip_sample: bool


class IndexFields(TypedDict):
    """The index of weights in several files."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]

    weight_map: Annotated[dict[str, str], Len(1)]
