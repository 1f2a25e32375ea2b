"""What a network takes, counted before it is built, is what it takes once it is."""

import random

import pytest
import torch

from undiffuse.nn.cost import count_kept, count_waiting, count_weights
from undiffuse.nn.presets import PRESETS
from undiffuse.nn.spec import UNetSpec
from undiffuse.nn.unet import UNet, parameter_count


def some_spec(seed: int) -> UNetSpec:
    dice = random.Random(seed)
    levels = dice.randint(1, 4)
    return UNetSpec(
        dice.choice([1, 3, 4]),
        dice.choice([1, 3, 6]),
        dice.choice([0, 0, 1, 10]),
        channels=dice.choice([2, 8, 14]),
        multipliers=tuple(dice.choice([1, 2, 3]) for _ in range(levels)),
        blocks=dice.randint(1, 3),
        block=dice.choice(["residual", "convnext"]),
        resample=dice.choice(["conv", "residual"]),
        attention=tuple(2**level for level in range(levels) if dice.random() < 0.4),
        norm_groups=dice.choice([1, 2]),
        scale_shift=dice.random() < 0.5,
        patch=dice.choice([1, 1, 2, 3]),
    )


@pytest.mark.parametrize("seed", range(40))
def test_weights_are_counted_exactly(seed):
    spec = some_spec(seed)
    with torch.device("meta"):
        network = UNet(spec)
    assert count_weights(spec) == parameter_count(network)


@pytest.mark.parametrize("name", PRESETS)
def test_published_networks_are_counted_exactly(name):
    spec = UNetSpec(3, 3, **PRESETS[name].settings)
    with torch.device("meta"):
        assert count_weights(spec) == parameter_count(UNet(spec))


@pytest.mark.parametrize("seed", range(12))
def test_what_training_keeps_is_no_less_than_counted(seed):
    """Tensors kept for the backward pass, each storage once; and the count is no triviality: a tenth of them."""
    spec, side = some_spec(seed), 25
    network = UNet(spec)
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes() // 4
            held.append(tensor)
        return tensor

    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x = torch.zeros(1, spec.in_channels, side, side)
        out = network(x, torch.ones(1), torch.zeros(1, dtype=torch.int64) if spec.num_classes else None)
    assert out.requires_grad
    count = count_kept(spec, side, side)
    assert 0.1 * sum(kept.values()) <= count <= 1.02 * sum(kept.values()), (count, sum(kept.values()))
    assert count_kept(spec, side, side, True) < count_kept(spec, side, side)
    assert 0 < count_waiting(spec, side, side) < count_kept(spec, side, side)
