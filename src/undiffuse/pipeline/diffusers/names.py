"""A diffusers folder's UNet2DModel and scheduler <-> our configuration keys and tensor names.

Ours at t equals theirs at t - 1 (`model.time_offset: 1`): they count 0..T-1, 0 being one noising step.
What cannot be mapped is refused with the name of the field.
"""

import re
from typing import Any

import torch

from undiffuse.errors import UndiffuseError
from undiffuse.files.checkpoint import Tensors

TIME_LAYER = "time_embedding.linear_1.weight"

# Our name (left) and theirs (right), piece by piece; `\1` carries a level's or block's number.
LAYER_NAMES = (
    (r"^conditioning\.time\.0", "time_embedding.linear_1"),
    (r"^conditioning\.time\.2", "time_embedding.linear_2"),
    (r"^conditioning\.label", "class_embedding"),
    (r"^stem", "conv_in"),
    (r"^down\.(\d+)", r"down_blocks.\1"),
    (r"^up\.(\d+)", r"up_blocks.\1"),
    (r"^shrink\.(\d+)", r"down_blocks.\1.downsamplers.0"),
    (r"^grow\.(\d+)", r"up_blocks.\1.upsamplers.0"),
    (r"^middle", "mid_block"),
    (r"^norm\.", "conv_norm_out."),
    (r"^head\.", "conv_out."),
    (r"samplers\.0\.embedding", "samplers.0.time_emb_proj"),
    (r"\.residual\.(\d+)\.embedding", r".resnets.\1.time_emb_proj"),
    (r"\.residual\.(\d+)\.skip", r".resnets.\1.conv_shortcut"),
    (r"\.residual\.", ".resnets."),
    (r"\.attention\.(\d+)\.norm", r".attentions.\1.group_norm"),
    (r"\.attention\.(\d+)\.projection", r".attentions.\1.to_out.0"),
    (r"\.attention\.", ".attentions."),
)


def their_names(name: str) -> tuple[str, ...]:
    """The tensors that one of ours is made of: one, or three for queries, keys and values."""
    for pattern, replacement in LAYER_NAMES:
        name = re.sub(pattern, replacement, name)
    return tuple(name.replace(".qkv.", f".to_{part}.") for part in "qkv") if ".qkv." in name else (name,)


def to_ours(theirs: Tensors, own_names: list[str]) -> Tensors:
    """A state dict of theirs under our names. Raises UndiffuseError for a missing or a left-over tensor."""
    taken: set[str] = set()
    ours = {}
    for name in own_names:
        parts = their_names(name)
        for part in parts:
            if part not in theirs:
                raise UndiffuseError(f"the weights lack the tensor '{part}'")
        taken.update(parts)
        ours[name] = torch.cat([theirs[part] for part in parts])
    if extra := sorted(set(theirs) - taken):
        raise UndiffuseError(f"the weights hold a tensor that this network has no place for: '{extra[0]}'")
    return ours


def shifted(weight: torch.Tensor, model: dict[str, Any]) -> torch.Tensor:
    """The time embedding's first layer for a network that is asked at t - 1 where ours is asked at t.

    sin(w (u + k)) and cos(w (u + k)) are a rotation by w k of sin(w u) and cos(w u), so the shift by
    k = 1 - time_offset folds into the weights exactly. weight [e, c]; nothing changes for time_offset 1.
    """
    k, half = 1 - model["time_offset"], weight.shape[1] // 2
    if k == 0:
        return weight
    exponent = torch.arange(half, dtype=torch.float64) / max(half - model["freq_shift"], 1)
    angle = k * 10000.0**-exponent
    parts = weight.double().chunk(2, dim=1)
    sine, cosine = reversed(parts) if model["flip_sin_to_cos"] else parts
    of_sine = sine * angle.cos() - cosine * angle.sin()
    of_cosine = sine * angle.sin() + cosine * angle.cos()
    turned = [of_cosine, of_sine] if model["flip_sin_to_cos"] else [of_sine, of_cosine]
    return torch.cat(turned, dim=1).to(weight.dtype)


def to_theirs(ours: Tensors) -> Tensors:
    """Our state dict under their names: the inverse of `to_ours`."""
    theirs: Tensors = {}
    for name, value in ours.items():
        parts = their_names(name)
        theirs.update(zip(parts, value.chunk(len(parts)), strict=True))
    return {name: value.contiguous() for name, value in theirs.items()}
