"""The C kernels against torch's in float64, on whole and partial tiles; what happens where they cannot be had."""

import ctypes
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from undiffuse.native import library
from undiffuse.nn import operations
from undiffuse.nn.layers import Conv1x1, Conv3x3, GroupNorm, Linear
from undiffuse.nn.spec import UNetSpec
from undiffuse.nn.unet import UNet, spatial
from undiffuse.rng import fold

pytestmark = pytest.mark.skipif(library.kernels() is None, reason="no C compiler")

LAST = torch.channels_last
MAPS = [  # batch, in, out, height, width
    (2, 32, 32, 8, 8),
    (3, 48, 16, 7, 7),
    (1, 96, 32, 33, 17),
    (5, 16, 80, 1, 3),
    (8, 256, 128, 4, 4),
    (1, 16, 16, 2, 2),
    (8, 128, 384, 8, 8),
    (64, 32, 64, 14, 14),
]


def draw(*shape, at="x"):
    return fold(0, at, *shape).normal(shape)


def error(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


def gradients(out, inputs, g):
    return (out, *torch.autograd.grad(out, inputs, g.to(out.dtype)))


def conv_errors(b, c_in, c_out, h, w, plus=False):
    tensors = [
        draw(b, c_in, h, w).contiguous(memory_format=LAST),
        draw(c_out, c_in, 3, 3) / (9 * c_in) ** 0.5,
        draw(c_out, at="bias"),
        *([draw(b, c_out, h, w, at="plus").contiguous(memory_format=LAST)] if plus else []),
    ]
    ours = [tensor.clone().requires_grad_() for tensor in tensors]
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    g = draw(b, c_out, h, w, at="g")
    found = gradients(operations.conv3x3(*ours), ours, g)
    wanted = gradients(F.conv2d(*exact[:3], padding=1) + (exact[3] if plus else 0), exact, g)
    assert found[0].is_contiguous(memory_format=LAST)
    return [error(a.detach(), b.detach()) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("shape", MAPS, ids=str)
@pytest.mark.parametrize("plus", [False, True])
def test_convolution_and_its_gradients_are_torchs(shape, plus):
    assert max(conv_errors(*shape, plus)) < 3e-6


@pytest.mark.parametrize("shape", [*MAPS, (5, 96, 64, 14, 14)], ids=str)
@pytest.mark.parametrize("threads", [2, 3])
def test_convolutions_are_the_same_by_several_threads(shape, threads, monkeypatch):
    """By whole chunks for each thread, by shared ones, and by fewer tiles than threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert max(conv_errors(*shape, plus=True)) < 3e-6


def test_what_is_added_may_lie_in_any_order_in_memory():
    x, w, plus = draw(2, 32, 6, 5).contiguous(memory_format=LAST), draw(16, 32, 3, 3), draw(2, 16, 6, 5)
    wanted = operations.conv3x3(x, w, draw(16)) + plus
    assert torch.equal(operations.conv3x3(x, w, draw(16), plus), wanted)


def test_partial_sums_of_the_weight_gradient_do_not_drift():
    assert max(conv_errors(16, 32, 32, 64, 64)) < 3e-6


@pytest.mark.parametrize("march", ["-march=x86-64-v3", "-march=x86-64-v2"])
def test_narrower_vectors_give_the_same(march, monkeypatch):
    if "avx2" not in library.cpu():
        pytest.skip("another architecture")
    built = library.declared(ctypes.CDLL(str(library.compile_library(((march,),)))))
    assert built.wino_vector() == {"-march=x86-64-v3": 8, "-march=x86-64-v2": 4}[march]
    monkeypatch.setattr(operations, "kernels", lambda: built)
    assert max(conv_errors(3, 48, 24, 7, 9)) < 3e-6
    assert max(norm_errors(True, True, True)) < 2e-6
    assert max(attention_errors(2, 37, 3, 12)) < 2e-6
    assert max(linear_errors((3, 700), 24, 40, True)) < 2e-6


def norm_errors(with_offset, per_image, silu):
    b, c, groups = 3, 64, 16
    tensors = [(2 + draw(b, c, 5, 7)).contiguous(memory_format=LAST)]
    tensors += [draw(b if per_image else 1, c, at=name) for name in ("weight", "bias")]
    tensors += [draw(b, c, at="offset")] if with_offset else []
    ours = [tensor.clone().requires_grad_() for tensor in tensors]
    exact = [tensor.double().requires_grad_() for tensor in tensors]

    def wanted_of(x, weight, bias, offset=None):
        h = x if offset is None else x + offset[..., None, None]
        h = F.group_norm(h, groups, eps=1e-6) * weight[..., None, None] + bias[..., None, None]
        return F.silu(h) if silu else h

    g = draw(b, c, 5, 7, at="g")
    offset = ours[3] if with_offset else None
    found = gradients(operations.group_norm(ours[0], offset, *ours[1:3], (groups, 1e-6, silu)), ours, g)
    wanted = gradients(wanted_of(*exact), exact, g)
    return [error(a.detach(), b.detach()) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("with_offset", [True, False])
def test_group_norm_and_its_gradients_are_torchs(with_offset, per_image, silu):
    assert max(norm_errors(with_offset, per_image, silu)) < 2e-6


def test_silu_saturates_and_keeps_nan():
    x = torch.tensor([-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30, float("nan")]).repeat(8)
    x = x.reshape(1, 64, 1, 1).contiguous(memory_format=LAST).expand(1, 64, 2, 2).contiguous(memory_format=LAST)
    norm = (64, 1e30, True)  # eps makes the norm a multiplication by 1e-15
    weight, bias = torch.full((1, 64), 1e15), x[:, :, 0, 0].clone()
    found = operations.group_norm(torch.zeros_like(x), None, weight, bias, norm)
    torch.testing.assert_close(found, F.silu(x), equal_nan=True, rtol=1e-5, atol=1e-8)


def attention_errors(b, n, heads, d, scale=1.0):
    qkv, g = draw(b, n, 3, heads, d), draw(b, n, heads, d, at="g")
    qkv[:, :, 0] *= scale
    found, wanted = [], []
    for x, results in ((qkv.clone(), found), (qkv.double(), wanted)):
        x.requires_grad_()
        if x.dtype == torch.float32:
            out = operations.attend(x)
        else:
            q, k, v = x.permute(2, 0, 3, 1, 4)
            out = ((q @ k.mT / d**0.5).softmax(-1) @ v).transpose(1, 2)  # Vaswani et al. 2017, eq. 1
        results += gradients(out, x, g)
    return [error(a.detach(), b.detach()) for a, b in zip(found, wanted, strict=True) if b.any()]


ROWS = [(2, 196, 8, 8), (3, 49, 1, 64), (1, 1, 2, 3), (2, 33, 3, 1), (1, 16, 2, 40), (2, 65, 1, 128), (1, 1000, 1, 20)]


@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_attention_and_its_gradients_are_the_formulas(shape):
    assert max(attention_errors(*shape)) < 2e-6


def test_attention_withstands_scores_far_apart():
    """exp(scores) would overflow; float32 scores of 1e3 leave 1e-4 of the weights' digits."""
    errors = attention_errors(2, 50, 2, 16, scale=300.0)
    assert max(errors) < 2e-4


@pytest.mark.parametrize("gap, share", [(30.0, 1.0), (60.0, 0.0), (85.0, 0.0), (200.0, 0.0)])
def test_attention_leaves_out_weights_too_small_to_count(gap, share):
    """A weight of 1e-13 counts; those of 1e-26 and less are 0, so that no product is subnormal."""
    x = torch.zeros(1, 40, 3, 1, 16)
    x[:, :, 0] = 1.0
    x[:, 1:, 1] = -gap / 4  # scores of the first key 0, of the others -gap
    x[:, :, 2] = draw(1, 40, 1, 16)
    x.requires_grad_()
    g = draw(1, 40, 1, 16, at="g")
    (dx,) = torch.autograd.grad(operations.attend(x), x, g)
    others = (share * math.exp(-gap) * g[0, :, 0].sum(0)).expand(39, 16)
    torch.testing.assert_close(dx[0, 1:, 2, 0], others, rtol=1e-4, atol=0)
    torch.testing.assert_close(dx[0, 0, 2, 0], g[0, :, 0].sum(0), rtol=1e-4, atol=1e-5)
    assert not ((dx != 0) & (dx.abs() < torch.finfo().tiny)).any()


def test_attention_passes_on_nan_and_gradients_in_any_layout():
    x = draw(2, 20, 3, 2, 8).requires_grad_()
    g = draw(2, 2, 20, 8).transpose(1, 2)
    (strided,) = torch.autograd.grad(operations.attend(x), x, g)
    (plain,) = torch.autograd.grad(operations.attend(x), x, g.contiguous())
    assert torch.equal(strided, plain)
    spoilt = x.detach().clone()
    spoilt[1, 3, 1, 0, 2] = float("nan")
    found = operations.attend(spoilt)
    assert found[1, :, 0].isnan().all()
    assert found[0].isfinite().all()
    assert found[1, :, 1].isfinite().all()


def linear_errors(shape, i, o, plus=False):
    tensors = [
        draw(*shape, i),
        draw(o, i) / i**0.5,
        draw(o, at="bias"),
        *([draw(*shape, o, at="plus")] if plus else []),
    ]
    ours = [tensor.clone().requires_grad_() for tensor in tensors]
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    g = draw(*shape, o, at="g")
    found = gradients(operations.linear(*ours), ours, g)
    wanted = gradients(F.linear(*exact[:3]) + (exact[3] if plus else 0), exact, g)
    return [error(a.detach(), b.detach()) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize(
    "shape", [((64, 196), 64, 192), ((5, 7, 9), 48, 80), ((1,), 16, 16), ((3, 3001), 32, 16)], ids=str
)
def test_linear_and_its_gradients_are_torchs(shape, plus):
    assert max(linear_errors(*shape, plus)) < 2e-6


def test_a_1x1_convolution_is_torchs():
    x, layer = draw(5, 32, 15, 15).contiguous(memory_format=LAST), Conv1x1(32, 48)
    x.requires_grad_()
    inputs, g, found = [x, layer.weight, layer.bias], draw(5, 48, 15, 15), []
    for on in (True, False):
        with library.switched(on):
            out = layer(x)
            assert out.is_contiguous(memory_format=LAST)
            found.append(gradients(out, inputs, g))
    assert max(error(a.detach(), b.detach().double()) for a, b in zip(*found, strict=True)) < 2e-6


def test_twice_the_same_bits():
    qkv = draw(3, 70, 3, 2, 8).requires_grad_()
    once, more = (gradients(operations.attend(qkv), qkv, torch.ones(3, 70, 2, 8)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, more, strict=True))
    w = draw(32, 64).requires_grad_()
    first, again = (
        gradients(operations.linear(draw(5000, 64), w, draw(32)), [w], torch.ones(5000, 32)) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    x, w, b = draw(8, 64, 9, 9).contiguous(memory_format=LAST), draw(32, 64, 3, 3), draw(32)
    w.requires_grad_()
    first, again = (gradients(operations.conv3x3(x, w, b), [w], torch.ones(8, 32, 9, 9)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_network_is_the_same_with_and_without(scale_shift):
    spec = UNetSpec(3, 3, channels=32, multipliers=(1, 2), blocks=1, attention=(2,), scale_shift=scale_shift)
    net = spatial(UNet(spec))
    for place, parameter in enumerate(net.parameters()):
        parameter.data += 0.05 * fold(0, place).normal(tuple(parameter.shape))
    x, t = draw(16, 3, 33, 18).contiguous(memory_format=LAST), torch.linspace(1, 1000, 16)
    results = []
    for on in (True, False):
        with library.switched(on):
            net.zero_grad()
            out = net(x, t)
            out.square().mean().backward()
            results.append((out.detach(), [parameter.grad.clone() for parameter in net.parameters()]))
    assert error(results[0][0], results[1][0].double()) < 3e-6
    total = sum(float(g.double().square().sum()) for g in results[1][1]) ** 0.5
    apart = (
        sum(float((a - b).double().square().sum()) for a, b in zip(results[0][1], results[1][1], strict=True)) ** 0.5
    )
    assert apart < 1e-5 * total


def test_what_does_not_suit_goes_to_torch():
    spec = UNetSpec(3, 3, channels=128, norm_groups=8)
    fits = draw(8, 64, 16, 16).contiguous(memory_format=LAST)
    assert operations.conv_pays(fits, 64)
    assert not operations.conv_pays(fits, 3)
    assert not operations.suits(fits.double())
    assert not operations.suits(fits.contiguous())
    assert not operations.suits(draw(8, 3, 16, 16).contiguous(memory_format=LAST))
    assert not operations.conv_pays(draw(2, 64, 1, 1).contiguous(memory_format=LAST), 64)
    assert operations.linear_pays(draw(4, 400, 64), 32)
    assert not operations.linear_pays(draw(4, 4, 64), 32)
    assert not operations.linear_pays(draw(4, 400, 60), 32)
    assert not operations.attention_suits(draw(2, 6, 3, 1, 4).double())
    assert not operations.attention_suits(draw(2, 3, 6, 1, 4).transpose(1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert not operations.suits(fits)
        assert not operations.attention_suits(draw(2, 6, 3, 1, 4))
    with library.switched(False):
        assert not operations.suits(fits)
        assert Conv3x3(64, 64)(fits).shape == fits.shape
        x, layer = draw(2, 700, 64), Linear(64, 64)
        assert torch.equal(layer(x, x), layer(x) + x)
    assert GroupNorm(24, spec)(draw(1, 24, 3, 3)).shape == (1, 24, 3, 3)


def test_one_openmp_runtime_serves_both():
    """Two pools of threads would spin against each other; scikit-learn's own may be there, unused."""
    operations.conv3x3(draw(1, 16, 4, 4).contiguous(memory_format=LAST), draw(16, 16, 3, 3), draw(16))
    maps = Path("/proc/self/maps").read_text()
    assert str(library.compile_library()) in maps
    assert sum("/torch" in path for path in {line.split()[-1] for line in maps.splitlines() if "libgomp" in line}) == 1
