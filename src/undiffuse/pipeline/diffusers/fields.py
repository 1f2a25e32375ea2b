"""A diffusers UNet2DModel's and scheduler's fields <-> our configuration keys. What cannot be mapped is named."""

from typing import Any

import numpy as np

from undiffuse.diffusion.schedule import NoiseSchedule
from undiffuse.errors import UndiffuseError

Json = dict[str, Any]

# Fields that this library knows in one value only: (name, what we do, their own default).
UNET_ONLY: tuple[tuple[str, tuple[Any, ...], Any], ...] = (
    ("center_input_sample", (False,), False),
    ("time_embedding_type", ("positional",), "positional"),
    ("time_embedding_dim", (None,), None),
    ("mid_block_type", ("UNetMidBlock2D",), "UNetMidBlock2D"),
    ("mid_block_scale_factor", (1,), 1),
    ("act_fn", ("silu", "swish"), "silu"),
    ("add_attention", (True,), True),
    ("class_embed_type", (None,), None),
)
SCHEDULER_ONLY: tuple[tuple[str, tuple[Any, ...], Any], ...] = (
    ("thresholding", (False,), False),
    ("clip_sample_range", (1, 1.0), 1.0),
)
THEIR_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
THEIR_VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned",
}
SCHEDULERS = {  # that add noise by betas, as DDPM does; how a user samples with them is not the model's
    *("DDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler", "PNDMScheduler", "LMSDiscreteScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "DDPMParallelScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler", "DDIMParallelScheduler"),
}
RESAMPLES = {"conv": "conv", "resnet": "residual"}
# Their blocks: whether they attend, and how they change sizes; None: as downsample_type or upsample_type says.
DOWN = {
    "DownBlock2D": (False, "conv"),
    "ResnetDownsampleBlock2D": (False, "residual"),
    "AttnDownBlock2D": (True, None),
}
UP = {"UpBlock2D": (False, "conv"), "ResnetUpsampleBlock2D": (False, "residual"), "AttnUpBlock2D": (True, None)}


def from_unet(unet: Json) -> Json:
    """unet/config.json -> {our key: value} for model.* and data.shape."""
    _only(unet, UNET_ONLY)
    scale_shift = _known(unet, "resnet_time_scale_shift", {"default": False, "scale_shift": True}, "default")
    _attention_is_normed(unet, scale_shift)
    _known(unet, "_class_name", {"UNet2DModel": None}, "UNet2DModel")
    if unet.get("out_channels", 3) not in (unet.get("in_channels", 3), 2 * unet.get("in_channels", 3)):
        raise refused("out_channels", unet["out_channels"])
    widths = list(unet.get("block_out_channels", (224, 448, 672, 896)))
    if any(width % widths[0] for width in widths):
        raise refused("block_out_channels", widths)
    size = unet.get("sample_size")
    if size is None:
        raise refused("sample_size", None)
    height, width = (size, size) if isinstance(size, int) else size
    return {
        "data.shape": [unet.get("in_channels", 3), height, width],
        "model.channels": widths[0],
        "model.multipliers": [width // widths[0] for width in widths],
        "model.blocks": unet.get("layers_per_block", 2),
        "model.attention": _attention(unet, len(widths)),
        "model.resample": _resample(unet),
        "model.head_channels": _head_channels(unet),
        "model.dropout": float(unet.get("dropout", 0.0)),
        "model.norm_groups": unet.get("norm_num_groups", 32),
        "model.norm_eps": float(unet.get("norm_eps", 1e-5)),
        "model.scale_shift": scale_shift,
        "model.downsample_padding": unet.get("downsample_padding", 1),
        "model.flip_sin_to_cos": unet.get("flip_sin_to_cos", True),
        "model.freq_shift": unet.get("freq_shift", 0),
        "model.time_offset": 1,
        "model.conditional": unet.get("num_class_embeds") is not None,
    }


def from_scheduler(scheduler: Json) -> Json:
    """scheduler_config.json -> {our key: value} for diffusion.* and sample.clip."""
    _only(scheduler, SCHEDULER_ONLY)
    if scheduler.get("_class_name", "DDPMScheduler") not in SCHEDULERS:
        raise refused("_class_name", scheduler["_class_name"])
    return {
        "diffusion.T": scheduler.get("num_train_timesteps", 1000),
        "diffusion.betas": betas(scheduler).tolist(),
        "diffusion.schedule": "betas",
        "diffusion.zero_terminal_snr": scheduler.get("rescale_betas_zero_snr", False),
        "diffusion.prediction": _known(scheduler, "prediction_type", THEIR_PREDICTIONS, "epsilon"),
        "diffusion.variance": THEIR_VARIANCES[variance_of(scheduler)],
        "sample.clip": scheduler.get("clip_sample", True),
    }


def variance_of(scheduler: Json) -> str:
    """Their name of the variance; a scheduler without one has null, or none at all."""
    name = scheduler.get("variance_type") or "fixed_small"
    if name not in THEIR_VARIANCES:
        raise refused("variance_type", name)
    return str(name)


def betas(scheduler: Json) -> np.ndarray:
    """beta_1..beta_T as a diffusers scheduler has them, in float64 (theirs are float32)."""
    if scheduler.get("trained_betas") is not None:
        return np.asarray(scheduler["trained_betas"], np.float64)
    T = scheduler.get("num_train_timesteps", 1000)
    first, last = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
    shape = scheduler.get("beta_schedule", "linear")
    if shape == "linear":
        return np.linspace(first, last, T)
    if shape == "scaled_linear":
        return np.linspace(first**0.5, last**0.5, T) ** 2
    if shape == "sigmoid":
        return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, T)))
    if shape == "squaredcos_cap_v2":
        return NoiseSchedule.cosine(T).beta[1:]
    raise refused("beta_schedule", shape)


def agree(unet: Json, scheduler: Json) -> None:
    """A learned variance is a second half of the output's channels, and nothing else is."""
    doubled = unet.get("out_channels", 3) == 2 * unet.get("in_channels", 3)
    if doubled != (variance_of(scheduler) == "learned_range"):
        raise refused("variance_type", variance_of(scheduler))


def to_unet(model: Json, shape: list[int], num_classes: int, learned: bool = False) -> Json:
    """Our model section and image shape -> unet/config.json; learned: with a variance beside each channel."""
    widths = [model["channels"] * multiplier for multiplier in model["multipliers"]]
    attends = [2**level in model["attention"] for level in range(len(widths))]
    _groups_fit(model, widths)
    if model["block"] != "residual":
        raise refused("model.block", model["block"])
    plain = "Resnet{}sampleBlock2D" if model["resample"] == "residual" else "{}Block2D"
    way = "resnet" if model["resample"] == "residual" else "conv"
    head = model["head_channels"] or _common_head(model["heads"], {*widths[-1:], *_chosen(widths, attends)})
    return {
        "_class_name": "UNet2DModel",
        "sample_size": shape[1] if shape[1] == shape[2] else shape[1:],
        "in_channels": shape[0],
        "out_channels": shape[0] * (2 if learned else 1),
        "block_out_channels": widths,
        "layers_per_block": model["blocks"],
        "down_block_types": ["AttnDownBlock2D" if attend else plain.format("Down") for attend in attends],
        "up_block_types": ["AttnUpBlock2D" if attend else plain.format("Up") for attend in reversed(attends)],
        "downsample_type": way,
        "upsample_type": way,
        "attention_head_dim": head,
        "dropout": model["dropout"],
        "norm_num_groups": model["norm_groups"],
        "attn_norm_num_groups": model["norm_groups"] if model["scale_shift"] else None,
        "norm_eps": model["norm_eps"],
        "resnet_time_scale_shift": "scale_shift" if model["scale_shift"] else "default",
        "downsample_padding": model["downsample_padding"],
        "flip_sin_to_cos": model["flip_sin_to_cos"],
        "freq_shift": model["freq_shift"],
        "num_class_embeds": num_classes + 1 if num_classes else None,
    }


def to_scheduler(diffusion: Json, sample: Json, beta: np.ndarray) -> Json:
    """Our diffusion and sample sections and the table beta[0..T] -> scheduler_config.json."""
    theirs = {ours: name for name, ours in THEIR_PREDICTIONS.items()}
    variances = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}
    if diffusion["noise"] != "gaussian":
        raise refused("diffusion.noise", diffusion["noise"])
    if diffusion["prediction"] not in theirs:
        raise refused("diffusion.prediction", diffusion["prediction"])
    if diffusion["variance"] not in variances:
        raise refused("diffusion.variance", diffusion["variance"])
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(beta) - 1,
        "trained_betas": beta[1:].tolist(),
        "prediction_type": theirs[diffusion["prediction"]],
        "variance_type": variances[diffusion["variance"]],
        "clip_sample": sample["clip"],
        "clip_sample_range": 1.0,
        "timestep_spacing": "trailing",
    }


def refused(field: str, value: Any) -> UndiffuseError:
    return UndiffuseError(f"the field '{field}' = {repr(value)[:80]} has no counterpart here, so it cannot be mapped")


def _only(config: Json, rules: tuple[tuple[str, tuple[Any, ...], Any], ...]) -> None:
    for name, allowed, default in rules:
        if config.get(name, default) not in allowed:
            raise refused(name, config[name])


def _known(config: Json, name: str, table: Json, default: str) -> Any:
    value = config.get(name, default)
    if value not in table:
        raise refused(name, value)
    return table[value]


def _attention(unet: Json, levels: int) -> list[int]:
    """Down-sampling factors of the levels with attention; up must mirror down."""
    down, up = _block_types(unet)
    for field, names, table in (("down_block_types", down, DOWN), ("up_block_types", up, UP)):
        unknown = [name for name in names if name not in table]
        if unknown or len(names) != levels:
            raise refused(field, unknown[0] if unknown else list(names))
    attends = [DOWN[name][0] for name in down]
    if [UP[name][0] for name in up] != attends[::-1]:
        raise refused("up_block_types", list(up))
    return [2**level for level, attend in enumerate(attends) if attend]


def _resample(unet: Json) -> str:
    """The way that sizes change: the same way everywhere. The last block of each list changes none."""
    down, up = _block_types(unet)
    downs, ups = (_known(unet, f"{way}sample_type", RESAMPLES, "conv") for way in ("down", "up"))
    ways = {DOWN[name][1] or downs for name in down[:-1]} | {UP[name][1] or ups for name in up[:-1]}
    if len(ways) > 1:
        raise refused("upsample_type", unet.get("upsample_type", "conv"))
    return str(ways.pop()) if ways else "conv"


def _block_types(unet: Json) -> tuple[list[str], list[str]]:
    """Down and up, with their defaults."""
    down = unet.get("down_block_types", ("DownBlock2D",) + ("AttnDownBlock2D",) * 3)
    return list(down), list(unet.get("up_block_types", ("AttnUpBlock2D",) * 3 + ("UpBlock2D",)))


def _attention_is_normed(unet: Json, scale_shift: bool) -> None:
    """Refuse a middle attention without a norm: with scale-shift theirs has one only if attn_norm_num_groups says so;
    ours always has."""
    groups = unet.get("norm_num_groups", 32)
    if unet.get("attn_norm_num_groups", None) not in ((groups,) if scale_shift else (None, groups)):
        raise refused("attn_norm_num_groups", unet.get("attn_norm_num_groups"))


def _head_channels(unet: Json) -> int:
    """0 is one head, which is what null means there."""
    return unet.get("attention_head_dim", 8) or 0


def _common_head(heads: int, widths: set[int]) -> int | None:
    """The channels per head, which diffusers wants the same at all levels."""
    if heads == 1:
        return None
    if len(widths) > 1:
        raise refused("model.heads", heads)
    return widths.pop() // heads


def _chosen(widths: list[int], attends: list[bool]) -> set[int]:
    return {width for width, attend in zip(widths, attends, strict=True) if attend}


def _groups_fit(model: Json, widths: list[int]) -> None:
    """Refuse widths that norm_groups does not divide, which their group norm wants; ours takes as many as do."""
    if any(width % model["norm_groups"] for width in widths):
        raise refused("model.norm_groups", model["norm_groups"])
