"""A residual block by one kernel: torch's results in float64, the bits of its parts, and where it is not used."""

import ctypes
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from undiffuse.native import library
from undiffuse.nn import fused, operations
from undiffuse.nn.blocks import ResBlock
from undiffuse.nn.spec import UNetSpec
from undiffuse.nn.unet import UNet, spatial
from undiffuse.rng import fold

pytestmark = pytest.mark.skipif(library.kernels() is None, reason="no C compiler")

LAST = torch.channels_last
SPEC = UNetSpec(3, 3, channels=32, norm_groups=8, attention=(2,))
BLOCKS = [  # batch, in, out, height, width: whole chunks and a last one of fewer, one image at a time, odd sizes
    (32, 32, 32, 8, 8),
    (41, 32, 32, 8, 8),
    (67, 96, 64, 4, 4),
    (3, 32, 64, 29, 31),
    (9, 64, 64, 13, 5),
]


def block(c_in, c_out, spec=SPEC) -> ResBlock:
    made = ResBlock(c_in, c_out, spec)
    for place, parameter in enumerate(made.parameters()):
        parameter.data += 0.1 * fold(0, place, c_in).normal(tuple(parameter.shape))
    return spatial(made).eval()


def inputs(b, c_in, h, w):
    x = fold(0, "x", b, c_in, h, w).normal((b, c_in, h, w)).contiguous(memory_format=LAST)
    return x, fold(0, "e", b).normal((b, SPEC.embedding))


def exact(made: ResBlock, x, e):
    """By its formula in float64, written again."""
    made = made.double()
    x, e = x.double(), made.embedding(e.double())[..., None, None]

    def norm(layer, h):
        return F.group_norm(h, layer.groups, layer.weight, layer.bias, layer.eps)

    h = F.conv2d(F.silu(norm(made.norm1, x)), made.conv1.weight, made.conv1.bias, padding=1)
    if e.shape[1] == h.shape[1]:
        h = norm(made.norm2, h + e)
    else:
        scale, shift = e.chunk(2, dim=1)
        h = norm(made.norm2, h) * (1 + scale) + shift
    h = F.conv2d(F.silu(h), made.conv2.weight, made.conv2.bias, padding=1)
    skip = made.skip
    return h + (x if isinstance(skip, torch.nn.Identity) else F.conv2d(x, skip.weight, skip.bias))


def error(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("shape", BLOCKS, ids=str)
@torch.no_grad()
def test_it_is_the_formula(shape, scale_shift, threads, monkeypatch):
    b, c_in, c_out, h, w = shape
    made, (x, e) = block(c_in, c_out, replace(SPEC, scale_shift=scale_shift)), inputs(b, c_in, h, w)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = at_once_of(made, x, None, *split(made, e))
    assert found.is_contiguous(memory_format=LAST)
    assert error(found, exact(made, x, e)) < 3e-6


def at_once_of(made, x, beside, *conditioning):
    """By the kernel, whether it pays or not."""
    norms = (made.norm1.groups, made.norm1.eps, made.norm2.groups, made.norm2.eps)
    return fused.residual(x, beside, made._weights(*conditioning), norms)


def split(made: ResBlock, e):
    e = made.embedding(e)
    return (e, None, None) if e.shape[1] == made.conv1.out_channels else (None, *e.chunk(2, dim=1))


@pytest.mark.parametrize("scale_shift", [False, True])
@torch.no_grad()
def test_it_has_the_bits_of_its_parts(scale_shift, monkeypatch):
    """So a picture is the same with and without gradients, as far as torch's own layers go."""
    net = spatial(UNet(replace(SPEC, multipliers=(1, 2), blocks=1, scale_shift=scale_shift))).eval()
    for place, parameter in enumerate(net.parameters()):
        parameter.data += 0.05 * fold(0, place).normal(tuple(parameter.shape))
    x, t = fold(0, "x").normal((128, 3, 10, 14)).contiguous(memory_format=LAST), torch.linspace(1, 1000, 128)
    used, pays = [], fused.pays
    monkeypatch.setattr(fused, "pays", lambda *given: used.append(pays(*given)) or used[-1])
    at_once = net(x, t)
    assert used == [True] * 8
    monkeypatch.setattr(fused, "pays", lambda *given: False)
    assert torch.equal(at_once, net(x, t))


@pytest.mark.parametrize("left", [16, 48, 80])
@torch.no_grad()
def test_two_maps_go_in_side_by_side(left):
    made, (x, e) = block(96, 32), inputs(37, 96, 7, 9)
    a, b = (z.contiguous(memory_format=LAST) for z in x.split([left, 96 - left], dim=1))
    assert torch.equal(at_once_of(made, a, b, *split(made, e)), at_once_of(made, x, None, *split(made, e)))
    assert fused.pays(a, b, 32)
    assert not fused.pays(a, b[:, :3], 32)
    with library.switched(False):
        assert torch.equal(made(a, e, b), made(x, e))


@torch.no_grad()
def test_no_image_depends_on_the_others_or_on_the_threads(monkeypatch):
    made, (x, e) = block(32, 64), inputs(50, 32, 8, 8)
    whole = at_once_of(made, x, None, *split(made, e))
    assert torch.equal(at_once_of(made, x[7:20], None, *split(made, e[7:20])), whole[7:20])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(at_once_of(made, x, None, *split(made, e)), whole)


@pytest.mark.parametrize("scale_shift", [False, True])
@torch.no_grad()
def test_one_embedding_serves_all_images(scale_shift):
    """The kernels read a row for each; one that is not there would be foreign memory."""
    made, (x, e) = block(32, 32, replace(SPEC, scale_shift=scale_shift)), inputs(40, 32, 8, 8)
    wanted = made(x, e[:1].expand(40, -1))
    assert error(at_once_of(made, x, None, *split(made, e[:1])), wanted.double()) < 1e-6
    with pytest.raises(RuntimeError, match="expand"):
        at_once_of(made, x, None, *split(made, e[:3]))


def test_rows_that_norms_read():
    row, rows = torch.zeros(1, 32), torch.zeros(5, 32)
    assert [len(z) for z in operations.for_images(5, row, row, row)] == [5, 1, 1]
    assert [len(z) for z in operations.for_images(5, rows, row, rows)] == [5, 5, 5]


@pytest.mark.parametrize("size", [4, 8, 12])
@torch.no_grad()
def test_it_keeps_to_its_scratch_memory(size, monkeypatch):
    """A last chunk of fewer images may be cut into larger blocks of tiles than a whole one."""
    made, guard, given = block(32, 32), 4096, []

    def workspace(floats):
        given.append(torch.full((floats + guard,), 7.0))
        return given[-1]

    monkeypatch.setattr(operations, "workspace", workspace)
    for b in range(1, 70, 3):
        x, e = inputs(b, 32, size, size)
        at_once_of(made, x, None, *split(made, e))
    assert all(bool((memory[-guard:] == 7).all()) for memory in given)


@pytest.mark.parametrize("march", ["-march=x86-64-v3", "-march=x86-64-v2"])
@torch.no_grad()
def test_narrower_vectors_give_the_same(march, monkeypatch):
    if "avx2" not in library.cpu():
        pytest.skip("another architecture")
    built = library.declared(ctypes.CDLL(str(library.compile_library(((march,),)))))
    made, (x, e) = block(24, 40), inputs(20, 24, 7, 9)
    at_once = split(made, e)
    monkeypatch.setattr(fused, "kernels", lambda: built)
    assert error(at_once_of(made, x, None, *at_once), exact(made, x, e)) < 3e-6


def test_where_it_is_used(monkeypatch):
    x = inputs(64, 64, 8, 8)[0]
    assert not fused.pays(x, None, 64)  # gradients are kept
    with torch.no_grad():
        assert fused.pays(x, None, 64)
        assert not fused.pays(x.contiguous(), None, 64)
        assert not fused.pays(x, None, 63)
        assert not fused.pays(x, None, operations.MOST_CHANNELS + 64)  # more than group norm's arrays hold
        half = inputs(1, operations.MOST_CHANNELS // 2 + 32, 8, 8)[0].expand(40, -1, -1, -1)
        half = half.contiguous(memory_format=LAST)
        assert fused.pays(half, None, 64)
        assert not fused.pays(half, half, 64)  # together more
        assert not fused.pays(x[:1], None, 64)  # too small for the convolutions
        assert not fused.pays(inputs(2, 512, 8, 8)[0], None, 512)  # few tiles, large filters
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        wide = inputs(3, 32, 40, 40)[0]
        assert not fused.pays(wide, None, 32)  # two for one thread, one for the other
        assert fused.pays(wide[:2], None, 32)
        with library.switched(False):
            assert not fused.pays(x, None, 64)


def test_dropout_and_resizing_go_the_long_way(monkeypatch):
    monkeypatch.setattr(fused, "residual", None)  # called, it would fail
    x, e = inputs(32, 32, 8, 8)
    with torch.no_grad():
        block(32, 32, replace(SPEC, dropout=0.1)).train()(x, e)
        for direction, size in (("down", 4), ("up", 16)):
            made = spatial(ResBlock(32, 32, SPEC, direction))
            assert made(x, e).shape[-1] == size
    block(32, 32)(x, e).sum().backward()


@pytest.mark.parametrize("part", ["norm1", "conv1", "norm2", "dropout", "conv2", "skip"])
def test_parts_that_are_watched_or_replaced_are_asked(part, monkeypatch):
    """Forward hooks fire, and another module in a part's place (an adapter, say) has its say."""
    made, (x, e), seen = block(32, 64), inputs(32, 32, 8, 8), []
    with torch.no_grad():
        assert made._in_one(x, None)
        at_once = made(x, e)
        for watch in ("register_forward_hook", "register_forward_pre_hook"):
            handle = getattr(getattr(made, part), watch)(lambda *_: seen.append(part))
            torch.testing.assert_close(made(x, e), at_once)
            handle.remove()
        assert seen == [part, part] and made._in_one(x, None)

        class Adapted(type(getattr(made, part))):
            pass

        getattr(made, part).__class__ = Adapted
        assert not made._in_one(x, None)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_forward_mode_derivatives_are_right():
    """By torch's own path: not silently dropped."""
    made, (x, e) = block(32, 32), inputs(32, 32, 8, 8)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        slope = torch.autograd.forward_ad.unpack_dual(made(dual, e)).tangent
    with torch.no_grad():
        difference = (made(x * 1.001, e) - made(x * 0.999, e)) / 0.002
    torch.testing.assert_close(slope, difference, atol=5e-3, rtol=5e-3)  # the difference's own rounding
