"""The U-Net: any size in, the same size out; zero at the start; every parameter is used."""

import math

import pytest
import torch
import torch.nn.functional as F

from undiffuse.errors import UsageError
from undiffuse.nn.blocks import ConvNeXtBlock
from undiffuse.nn.embeddings import Conditioning, sinusoids
from undiffuse.nn.layers import GroupNorm
from undiffuse.nn.unet import UNet, UNetSpec, parameter_count, spatial
from undiffuse.rng import fold, seed_torch

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "norm_groups": 4}


def small(in_channels=1, num_classes=0, **changes) -> UNet:
    seed_torch(0, "test")
    return UNet(UNetSpec(in_channels, in_channels, num_classes, **{**SMALL, **changes}))


def awake(network: UNet) -> UNet:
    """With the layers that start at zero set to something, as after some training."""
    for place, (_, parameter) in enumerate(sorted(network.named_parameters())):
        if not parameter.any():
            parameter.data = 0.1 * fold(0, "awake", place).normal(tuple(parameter.shape))
    return network.eval()


def noise(*shape: int) -> torch.Tensor:
    return fold(1, "x").normal(shape)


def at(*times: float) -> torch.Tensor:
    return torch.tensor(times, dtype=torch.float32)


def test_the_network_begins_as_zero():
    x = noise(3, 1, 8, 8)
    assert not small()(x, at(1, 20, 50)).any()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 46), (1, 8, 8), (3, 33, 17), (2, 1, 1), (1, 5, 1)])
@pytest.mark.parametrize("multipliers", [(1,), (1, 1, 2, 2)])
@pytest.mark.parametrize("changes", [{}, {"resample": "residual"}, {"block": "convnext"}])
def test_any_size_gives_its_own_size(shape, multipliers, changes):
    network = awake(small(shape[0], multipliers=multipliers, attention=(), **changes))
    out = network(noise(2, *shape), at(1, 7))
    assert out.shape == (2, *shape)
    assert out.isfinite().all()
    assert out.std() > 0


def test_more_channels_can_come_out_than_go_in():
    network = UNet(UNetSpec(3, 6, **SMALL))
    assert network(noise(2, 3, 9, 10), at(1, 2)).shape == (2, 6, 9, 10)


def test_images_of_a_batch_do_not_mix():
    network, x, t = awake(small()), noise(5, 1, 8, 8), at(1, 2, 3, 4, 5)
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(network(x, t), alone, rtol=1e-4, atol=1e-5)


def test_the_output_depends_on_time_label_and_picture():
    network, x = awake(small(num_classes=3)), noise(1, 1, 8, 8)
    y = torch.tensor([1])
    base = network(x, at(5), y)
    for other in (network(x, at(6), y), network(x, at(5), y + 1), network(-x, at(5), y)):
        assert (other - base).abs().max() > 1e-5


@pytest.mark.parametrize("attention", [(3,), (4,), (0,), (1, 2, 8), (-2,)])
def test_attention_factors_must_be_the_networks_own(attention):
    with pytest.raises(UsageError, match=r"model\.attention: .* must be among this network's factors \[1, 2\]"):
        small(attention=attention)


@pytest.mark.parametrize(
    ("changes", "words"), [({"heads": 3}, "model.heads: 3 must divide"), ({"channels": 7}, "even")]
)
def test_widths_that_cannot_be_shared_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        small(**changes)


@pytest.mark.parametrize("channels", [2, 4, 6, 10, 14])
def test_every_even_width_runs(channels):
    assert small(channels=channels, norm_groups=8)(noise(1, 1, 8, 8), at(3)).shape == (1, 1, 8, 8)


def test_the_null_label_is_the_number_of_classes():
    network, x, t = awake(small(num_classes=4)), noise(3, 1, 8, 8), at(1, 2, 3)
    assert torch.equal(network(x, t), network(x, t, torch.full((3,), 4)))
    assert not torch.equal(network(x, t), network(x, t, torch.full((3,), 3)))


def test_labels_are_refused_by_a_network_without_classes():
    with pytest.raises(ValueError, match="without classes"):
        small()(noise(1, 1, 8, 8), at(1), torch.tensor([0]))


CHANGES = [
    {},
    {"scale_shift": True, "heads": 2},
    {"dropout": 0.1, "attention": (1, 2)},
    {"resample": "residual", "scale_shift": True, "head_channels": 8},
    {"block": "convnext"},
    {"block": "convnext", "resample": "residual", "scale_shift": True, "dropout": 0.1},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_the_gradient_reaches_every_parameter_after_a_few_steps(changes):
    """Not at once: behind a layer that starts at zero nothing moves before that layer has."""
    network = small(num_classes=2, **changes).train()
    adam = torch.optim.Adam(network.parameters(), lr=1e-2)
    x, target, t = noise(6, 1, 8, 8), fold(2, "y").normal((6, 1, 8, 8)), at(*range(6))
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    reached: set[str] = set()
    for _ in range(4):
        adam.zero_grad()
        ((network(x, t, y) - target) ** 2).mean().backward()
        reached |= {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
        adam.step()
    assert reached == {name for name, _ in network.named_parameters()}


def test_the_configuration_of_ho_et_al_for_cifar10_has_their_number_of_parameters():
    """35.7 M in their appendix B; 35,746,307 is the count of the published weights (google/ddpm-cifar10-32)."""
    spec = UNetSpec(3, 3, channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(2,))
    with torch.device("meta"):
        assert parameter_count(UNet(spec)) == 35_746_307


def test_attention_is_where_it_was_asked_for_and_in_the_middle():
    from undiffuse.nn.attention import Attention

    network = small(multipliers=(1, 1, 1), attention=(2,), blocks=2)
    found = {n.split(".attention")[0] for n, m in network.named_modules() if isinstance(m, Attention)}
    assert found == {"down.1", "middle", "up.1"}


def test_dropout_works_in_training_only():
    network, x, t = awake(small(dropout=0.5)), noise(2, 1, 8, 8), at(3, 3)
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


def test_a_convnext_block_is_its_formula():
    """x + conv(norm(gelu(conv(norm(depthwise(x) + embedding))))), one group, from torch's own pieces."""
    spec = UNetSpec(1, 1, channels=8, block="convnext")
    seed_torch(0, "block")
    block, x, e = ConvNeXtBlock(6, 10, spec), noise(2, 6, 7, 5), noise(2, spec.embedding)
    for parameter in block.parameters():
        parameter.data += 0.1
    h = F.conv2d(x, block.depthwise.weight, block.depthwise.bias, padding=3, groups=6)
    h = F.group_norm(h + block.embedding(e)[:, :, None, None], 1, block.norm1.weight, block.norm1.bias, 1e-6)
    h = F.gelu(F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1))
    h = F.group_norm(h, 1, block.norm2.weight, block.norm2.bias, 1e-6)
    wanted = block.skip(x) + F.conv2d(h, block.conv2.weight, block.conv2.bias, padding=1)
    assert block.conv1.weight.shape[0] == 20
    torch.testing.assert_close(block(x, e), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", CHANGES)
def test_gradient_checkpointing_changes_no_number(changes):
    """Less is kept and more is computed, dropout included: gradients are the same bits."""
    gradients = []
    for checkpointed in (False, True):
        network = awake(small(num_classes=2, **changes)).train()
        network.checkpointed = checkpointed
        seed_torch(0, "dropout")
        network(noise(3, 1, 8, 8), at(1, 2, 3), torch.tensor([0, 1, 2])).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_gradient_checkpointing_keeps_less_for_the_backward_pass():
    kept = []
    for checkpointed in (False, True):
        network, sizes = small(blocks=3), []
        network.checkpointed = checkpointed
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            network(noise(4, 1, 16, 16), at(1, 2, 3, 4)).sum()
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_the_layout_in_memory_changes_no_number_by_much():
    plain, last = awake(small()), spatial(awake(small()))
    x = noise(2, 1, 8, 8)
    torch.testing.assert_close(
        last(x.contiguous(memory_format=torch.channels_last), at(1, 2)), plain(x, at(1, 2)), rtol=1e-4, atol=1e-5
    )


def test_sinusoids_are_sines_then_cosines_of_falling_rates():
    times, channels = [0.0, 1.0, 17.5, 999.0], 8
    found = sinusoids(at(*times), channels)
    rates = [10000 ** (-i / 3) for i in range(4)]
    wanted = [[math.sin(t * w) for w in rates] + [math.cos(t * w) for w in rates] for t in times]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=2e-4)


def test_times_are_told_apart_over_the_whole_range():
    e = sinusoids(torch.arange(1001.0), 64)
    gaps = torch.cdist(e, e) + 9 * torch.eye(1001)
    assert gaps.min() > 0.1


def test_group_norm_takes_as_many_groups_as_divide_the_channels():
    spec = UNetSpec(1, 1, norm_groups=32)
    assert [GroupNorm(c, spec).groups for c in (64, 48, 6, 7)] == [32, 16, 2, 1]
    assert GroupNorm(64, spec).eps == 1e-6


def test_conditioning_has_one_more_vector_than_classes():
    conditioning = Conditioning(UNetSpec(1, 1, 10, channels=8))
    assert conditioning.label is not None
    assert conditioning.label.weight.shape == (11, 32)
    assert Conditioning(UNetSpec(1, 1, channels=8)).label is None
