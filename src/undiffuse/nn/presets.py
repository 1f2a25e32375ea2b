"""Published networks by name: what `model.preset` fills in, with the number of parameters that their papers state."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """settings: fields of UNetSettings. The rest says for what images and outputs the paper counts `millions`.

    millions: parameters as published; outputs: 6 where a variance is learned beside 3 channels; conditional: on
    ImageNet's 1000 classes.
    """

    source: str
    size: int
    millions: float | int
    settings: dict[str, Any]
    outputs: int = 3
    conditional: bool = False


HO = {"channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (2,), "time_offset": 1}
OPENAI = HO | {"norm_eps": 1e-5, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "scale_shift": True}
NICHOL = OPENAI | {"blocks": 3, "attention": (4, 8), "multipliers": (1, 2, 3, 4), "heads": 4}
ADM = OPENAI | {"resample": "residual", "head_channels": 64}

HO_SOURCE = "Ho et al. 2020, appendix B"
IDDPM_SOURCE = "Nichol & Dhariwal 2021, section 6"
ADM_SOURCE = "Dhariwal & Nichol 2021, table 11"
SMALL_ADM = {"channels": 192, "blocks": 3, "multipliers": (1, 2, 3, 4), "attention": (2, 4, 8), "dropout": 0.1}
LARGE_ADM = {"channels": 256, "attention": (4, 8, 16), "multipliers": (1, 1, 2, 3, 4)}
LARGER = {"channels": 256, "attention": (8, 16, 32), "multipliers": (1, 1, 2, 2, 4, 4)}

PRESETS = {
    "ddpm-cifar10": Preset(HO_SOURCE, 32, 35.7, HO | {"dropout": 0.1}),
    "ddpm-lsun256": Preset(HO_SOURCE, 256, 114, HO | {"multipliers": (1, 1, 2, 2, 4, 4), "attention": (16,)}),
    "iddpm-imagenet64-small": Preset(IDDPM_SOURCE, 64, 30, NICHOL | {"channels": 64}, 6),
    "iddpm-imagenet64": Preset(IDDPM_SOURCE, 64, 120, NICHOL, 6),
    "iddpm-imagenet64-large": Preset(IDDPM_SOURCE, 64, 270, NICHOL | {"channels": 192}, 6),
    "adm-imagenet64": Preset(ADM_SOURCE, 64, 296, ADM | SMALL_ADM, 6, True),
    "adm-imagenet128": Preset(ADM_SOURCE, 128, 422, ADM | LARGE_ADM, 6, True),
    "adm-imagenet256": Preset(ADM_SOURCE, 256, 554, ADM | LARGER, 6, True),
}
