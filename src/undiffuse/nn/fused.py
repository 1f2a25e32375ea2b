"""A residual block without gradients in one kernel: a few images at a time go through it, so that maps stay cached."""

from typing import Any

import torch

from undiffuse.native.library import ResidualShape, kernels
from undiffuse.nn import operations
from undiffuse.nn.operations import pointer, tiles
from undiffuse.shapes import Float, Tensor

FUSED_CHUNK = 64  # tiles that go through together


def pays(x: Tensor, beside: Tensor | None, c_out: int) -> bool:
    """Whether `residual` can and should be used: no gradients, convolutions that pay, alike work for all threads.

    Not where few tiles meet large filters: wino_conv has its own way there.
    """
    maps = [x] if beside is None else [x, beside]
    library = None if torch.is_grad_enabled() or not all(map(operations.suits, maps)) else kernels()
    (b, _, h, w), k = x.shape, sum(z.shape[1] for z in maps)
    if library is None or max(k, c_out) > operations.MOST_CHANNELS:
        return False
    if not all(operations.winograd_pays((b, c, h, w), c_out) for c in (k, c_out)):
        return False
    if library.wino_fuses(b, h, w, max(k, c_out), c_out):
        return False
    chunk, rounds, threads = _chunks(b, h, w)
    return b >= 0.8 * chunk * rounds * threads


Weights = tuple[Tensor | None, ...]  # in the order of ResidualShape.POINTERS


def parts_fit(x: Tensor, beside: Tensor | None, weights: Weights, norms: tuple[int, float, int, float]) -> bool:
    """Whether all parts are of the sizes and the type that the kernel takes for granted."""
    one, _, conv1, bias1, _, two, _, _, bias2, skip, thin = weights
    if conv1 is None or bias1 is None or bias2 is None or one is None or two is None:
        return False
    (b, k, h, w), j, o, rows = x.shape, 0 if beside is None else beside.shape[1], conv1.shape[0], two.shape[0]
    k += j
    if k % norms[0] or o % norms[2] or rows not in (1, b) or (k != o if skip is None else thin is None):
        return False
    wanted = ((1, k), (1, k), (o, k, 3, 3), (o,), (b, o), (rows, o), (rows, o), (o, o, 3, 3), (o,), (o, k, 1, 1), (o,))
    return operations.fits((beside, (b, j, h, w)), *zip(weights, wanted, strict=True))


def _chunks(b: int, h: int, w: int) -> tuple[int, int, int]:
    """Images of a chunk (about CHUNK tiles), chunks of a thread, threads."""
    most, threads = max(1, FUSED_CHUNK // tiles(h, w)), torch.get_num_threads()
    rounds = -(-b // (threads * most))
    return -(-b // (threads * rounds)), rounds, threads


def residual(
    x: Float[Tensor, "b i h w"],
    beside: Float[Tensor, "b j h w"] | None,
    weights: Weights,
    norms: tuple[int, float, int, float],
) -> Float[Tensor, "b o h w"]:
    """conv2(silu(norm2(conv1(silu(norm1(x))) + offset))) + skip(x), bit for bit what this library's parts give.

    (One by one, torch computes a skip convolution of fewer than operations.LEAST_ROWS positions: 1e-6 apart.)
    beside: channels that follow x's. weights: in the order of Residual.POINTERS, the offset [b, o] and the skip's two
    or None; norms: groups and eps of each.
    """
    before, (offset, weight, bias), after = weights[:4], weights[4:7], weights[7:]
    assert weight is not None and bias is not None
    weights = (*before, *operations.for_images(len(x), offset, weight, bias), *after)
    out: Tensor = _Residual.apply(x, beside, weights, norms)  # type: ignore[no-untyped-call]
    return out


class _Residual(torch.autograd.Function):
    """Forward only; as a Function it refuses what would need more (forward-mode derivatives, vmap)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beside: Tensor | None, weights: tuple[Tensor | None, ...], norms: Any) -> Tensor:
        held = [None if z is None else operations.last(z) if z.dim() == 4 else z.contiguous() for z in weights]
        named: dict[str, Any] = dict(zip(ResidualShape.POINTERS, held, strict=True))
        (b, i, h, w), (groups1, eps1, groups2, eps2) = x.shape, norms
        o, per_image = len(named["conv1_bias"]), len(named["norm2_weight"]) > 1
        chunk, _, threads = _chunks(b, h, w)
        sizes = (b, h, w, i, i + (0 if beside is None else beside.shape[1]), o, groups1, groups2, o * per_image, chunk)
        shape = ResidualShape(*sizes, eps1, eps2, *map(pointer, held))
        out = torch.empty((b, o, h, w), dtype=x.dtype, memory_format=torch.channels_last)
        library: Any = kernels()
        work = operations.workspace(library.residual_floats(shape, threads))
        library.residual_forward(shape, threads, *map(pointer, (x, beside, out, work)))
        return out
