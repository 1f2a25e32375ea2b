"""Published networks have their published number of parameters."""

import pytest
import torch

from undiffuse.config import Config
from undiffuse.nn.presets import PRESETS
from undiffuse.nn.unet import UNet, UNetSpec, parameter_count

CLASSES = 1000  # ImageNet's
EXACT = {"ddpm-cifar10": 35_746_307, "ddpm-lsun256": 113_673_219}  # of the weights their authors published


def spec(name: str) -> UNetSpec:
    preset = PRESETS[name]
    return UNetSpec(3, preset.outputs, CLASSES if preset.conditional else 0, **preset.settings)


@pytest.mark.parametrize("name", PRESETS)
def test_the_number_of_parameters_is_the_published_one(name):
    """To the digits given; the papers round 121 and 272 to 120 and 270."""
    with torch.device("meta"):
        found = parameter_count(UNet(spec(name)))
    assert found == EXACT.get(name, found)
    assert found / 1e6 == pytest.approx(PRESETS[name].millions, rel=0.011)


@pytest.mark.parametrize("name", PRESETS)
def test_the_configuration_builds_the_same_network(name):
    model = Config().replaced({"model.preset": name}).model
    settings = model.model_dump()
    assert settings.pop("conditional")
    wanted = spec(name)
    assert UNetSpec(3, wanted.out_channels, wanted.num_classes, **settings) == wanted
