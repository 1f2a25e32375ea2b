"""What is not as the kernels take it goes torch's way: right, or torch's own error; never a read out of bounds."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from undiffuse.nn.blocks import ResBlock
from undiffuse.nn.layers import Conv1x1, Conv3x3, GroupNorm, Linear
from undiffuse.nn.spec import UNetSpec
from undiffuse.nn.unet import UNet, spatial

LAST = torch.channels_last
SPEC = UNetSpec(3, 3, channels=32, norm_groups=8)


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return made.contiguous(memory_format=LAST) if len(shape) == 4 else made


@pytest.mark.parametrize("channels", [32, 63, 256])
@pytest.mark.parametrize("layer", [Conv3x3, Conv1x1])
def test_another_number_of_channels_than_the_weights_have(layer, channels):
    with pytest.raises(RuntimeError, match=f"to have 64 channels, but got {channels}"):
        layer(64, 64)(draw(16, channels, 16, 16))


def test_a_linear_layer_and_a_norm_of_another_width():
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Linear(64, 64)(draw(4, 1024, 256))
    with pytest.raises(RuntimeError, match="weight"):
        GroupNorm(64, SPEC)(draw(4, 32, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [lambda: Conv3x3(64, 64), lambda: Conv1x1(64, 64)])
def test_weights_of_another_type(make, dtype):
    layer, x = make().to(dtype), draw(16, 64, 16, 16)
    with pytest.raises(RuntimeError, match="type"):
        layer(x)
    close = {torch.float64: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    plain = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=layer.padding)
    torch.testing.assert_close(layer(x.to(dtype)).double(), plain, atol=close, rtol=close)


def test_a_bias_of_another_shape():
    layer, x = Conv3x3(64, 64), draw(16, 64, 16, 16)
    layer.bias = nn.Parameter(draw(32))
    with pytest.raises(RuntimeError, match="bias"):
        layer(x)


def test_a_convolution_changed_after_it_was_made():
    layer, x = Conv3x3(64, 64), draw(16, 64, 16, 16)
    layer.padding = layer.dilation = (2, 2)
    want = F.conv2d(x, layer.weight, layer.bias, padding=2, dilation=2)
    torch.testing.assert_close(layer(x), want, atol=1e-4, rtol=1e-4)


def test_pruned_layers():
    """Output channels taken away, as pruning tools do it: attributes stay, weights are narrower."""
    layer, x = Conv3x3(64, 64), draw(16, 64, 16, 16)
    layer.weight, layer.bias = nn.Parameter(layer.weight[:40].detach()), nn.Parameter(layer.bias[:40].detach())
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "broken",
    [
        lambda made: setattr(made, "conv1", Conv3x3(32, 64)),
        lambda made: setattr(made, "conv2", Conv3x3(32, 64)),
        lambda made: setattr(made, "norm1", GroupNorm(32, SPEC)),
        lambda made: setattr(made, "norm2", GroupNorm(32, SPEC)),
        lambda made: setattr(made, "skip", Conv1x1(32, 64)),
        lambda made: made.conv2.half(),
        lambda made: made.norm1.double(),
    ],
)
def test_a_block_with_a_part_that_does_not_fit(broken):
    made, x, e = ResBlock(64, 64, SPEC).eval(), draw(64, 64, 16, 16), draw(64, SPEC.embedding)
    broken(made)
    with torch.no_grad(), pytest.raises(RuntimeError):
        made(x, e)


def test_a_block_whose_map_has_other_channels():
    made, e = ResBlock(64, 64, SPEC).eval(), draw(64, SPEC.embedding)
    for x, beside in ((draw(64, 32, 16, 16), None), (draw(64, 64, 16, 16), draw(64, 32, 16, 16))):
        with torch.no_grad(), pytest.raises(RuntimeError):
            made(x, e, beside)


def network() -> UNet:
    torch.manual_seed(0)  # whatever ran before: float32 is near its tolerances here
    made = spatial(UNet(UNetSpec(1, 1, channels=32, multipliers=(1, 2), blocks=1, attention=(2,)))).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.01)
    return made


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_transforms_of_torch_func():
    """grad, per-sample gradients and jvp agree with what backward and single pictures give."""
    made, x, t = network(), draw(6, 1, 16, 16), torch.ones(6)
    with_grad = x.clone().requires_grad_()
    made(with_grad, t).square().sum().backward()
    of_func = torch.func.grad(lambda z: made(z, t).square().sum())(x)
    torch.testing.assert_close(of_func, with_grad.grad, atol=1e-3, rtol=1e-3)
    weights = {name: parameter.detach() for name, parameter in made.named_parameters()}

    def loss(weights, one, time):
        return torch.func.functional_call(made, weights, (one[None], time[None])).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, x, t)
    made.zero_grad()
    made(x[:1], t[:1]).square().sum().backward()
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(each[name][0], parameter.grad, atol=2e-3, rtol=2e-3)
    _, slope = torch.func.jvp(lambda z: made(z, t), (x,), (torch.ones_like(x),))
    difference = (made(x + 1e-2, t) - made(x - 1e-2, t)).detach() / 2e-2
    torch.testing.assert_close(slope, difference, atol=2e-2, rtol=2e-2)


def test_a_network_that_is_half_in_half():
    made = network()
    made.middle.half()
    with torch.no_grad(), pytest.raises(RuntimeError):
        made(draw(64, 1, 16, 16), torch.ones(64))


@pytest.mark.parametrize("seed", range(150))
def test_random_layers_and_inputs(seed):
    """Whatever is right or wrong with them, torch in float64 says the same, value or error."""
    dice = random.Random(seed)
    sizes, types = [1, 8, 16, 32, 40, 64, 63], [torch.float32] * 6 + [torch.float64, torch.float16]
    i, o = dice.choice(sizes), dice.choice(sizes)
    layer = dice.choice([Conv3x3, Conv1x1, Linear])(i, o)
    c = i if dice.random() < 0.7 else dice.choice(sizes)
    h = dice.choice([1, 4, 7, 16])
    x = draw(dice.choice([1, 2, 32]), c, h, h, seed=seed)
    x = x.permute(0, 2, 3, 1) if isinstance(layer, Linear) else x if dice.random() < 0.7 else x.contiguous()
    layer, x = layer.to(dice.choice(types)), x.to(dice.choice(types))
    if dice.random() < 0.2:
        layer.weight = nn.Parameter(layer.weight.detach()[: max(1, o // 2)])
    plain = copy.deepcopy(layer)
    plain.__class__ = nn.Linear if isinstance(layer, Linear) else nn.Conv2d
    try:
        want = plain(x)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            layer(x)
        return
    close = 2e-2 if torch.float16 in (x.dtype, layer.weight.dtype) else 1e-3
    torch.testing.assert_close(layer(x), want, atol=close, rtol=close)
