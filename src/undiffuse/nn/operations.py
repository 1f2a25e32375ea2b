"""The C kernels as differentiable operations on tensors; where they do not suit, callers use torch's."""

import threading
from ctypes import CDLL
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from undiffuse.native.library import HeadsShape, LinearShape, NormShape, kernels
from undiffuse.shapes import Float, Tensor

_local = threading.local()
LEAST_ROWS = 1024
MOST_CHANNELS = 4096  # groupnorm.c's MOST, and more than any network has


_PLAIN = (torch.Tensor, nn.Parameter)
_transforms = torch._C._functorch.peek_interpreter_stack


def _ours(x: Tensor) -> bool:
    if not _is_plain(x) or torch.is_autocast_enabled("cpu") or not x.numel():
        return False
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or is_transformed():
        return False
    return kernels() is not None


def _is_plain(x: Tensor) -> bool:
    """float32 on the CPU, and nothing that only stands for such a tensor."""
    return x.dtype is torch.float32 and x.is_cpu and type(x) in _PLAIN and not x.is_neg()


def is_transformed() -> bool:
    """Whether torch.func (grad, vmap, jvp) is at work: it needs rules that the kernels have not."""
    return _transforms() is not None or forward_ad._current_level >= 0


def fits(*wanted: tuple[Tensor | None, tuple[int, ...]]) -> bool:
    """Whether each tensor is float32 on the CPU and of this shape; None fits anything. The kernels read by pointers and
    shapes alone: what does not fit is for torch, which computes it or says what is wrong."""
    for tensor, shape in wanted:  # a plain loop: it runs for every layer
        if tensor is not None and (tensor.shape != shape or not _is_plain(tensor)):
            return False
    return True


def attention_suits(qkv: Tensor) -> bool:
    """Whether `attention` can run on this tensor: CPU, float32, contiguous, no tracing."""
    return qkv.dim() == 5 and qkv.shape[2] == 3 and qkv.is_contiguous() and _ours(qkv)


def suits(x: Tensor) -> bool:
    """Whether the kernels can run on this map: CPU, float32, channels_last, whole vectors of channels, no tracing."""
    if not (x.dim() == 4 and _ours(x) and x.is_contiguous(memory_format=torch.channels_last)):
        return False
    return x.shape[1] % _width() == 0 and x.shape[1] <= MOST_CHANNELS


def conv_pays(x: Tensor, c_out: int) -> bool:
    """Whether `conv3x3` can and should be used: it has to beat the direct convolution at the same peak rate.

    Counts multiplications: direct, 9 per output and input channel; here, the transforms of filters (250), of input
    tiles (400) and output tiles (250), 36 products per tile, and the call. The coefficients were measured on a Zen 4.
    """
    return suits(x) and winograd_pays(tuple(x.shape), c_out)


def winograd_pays(shape: tuple[int, ...], c: int) -> bool:
    width, (b, k, h, w) = _width(), shape
    if width < 8 or c % width:  # narrower vectors, without fused multiply-add, lose to torch's kernels
        return False
    return 9 * b * k * h * w * c > 250 * k * c + b * tiles(h, w) * (36 * k * c + 400 * k + 250 * c) + 1_000_000


def tiles(h: int, w: int) -> int:
    """The number of tiles of 4x4 outputs that cover a map."""
    return -(-h // 4) * -(-w // 4)


def linear_pays(x: Tensor, c_out: int) -> bool:
    """Whether `linear` can and should be used: enough rows to pay for arranging the weight. Measured on a Zen 4."""
    if not _ours(x) or _width() < 8 or x.shape[-1] % _width() or c_out % _width():
        return False
    return x.numel() >= LEAST_ROWS * x.shape[-1]


@cache
def _width() -> int:
    """Channels that the kernels take at a time; only where they can be had."""
    library = kernels()
    return int(library.wino_vector()) if library is not None else 1


def conv3x3(
    x: Float[Tensor, "b i h w"],
    weight: Float[Tensor, "o i 3 3"],
    bias: Float[Tensor, "o"],
    plus: Float[Tensor, "b o h w"] | None = None,
) -> Float[Tensor, "b o h w"]:
    """F.conv2d(x, weight, bias, padding=1) + plus by Winograd's F(4x4, 3x3) (Lavin & Gray 2015); i, o whole vectors."""
    out: Tensor = _Conv3x3.apply(x, weight, bias, plus)  # type: ignore[no-untyped-call]
    return out


def group_norm(
    x: Float[Tensor, "b c h w"],
    offset: Float[Tensor, "b c"] | None,
    weight: Float[Tensor, "k c"],
    bias: Float[Tensor, "k c"],
    norm: tuple[int, float, bool],
) -> Float[Tensor, "b c h w"]:
    """silu(weight * normed(x + offset) + bias); norm: groups, eps, whether SiLU follows; k is 1 or b."""
    out: Tensor = _GroupNorm.apply(x, *for_images(len(x), offset, weight, bias), norm)  # type: ignore[no-untyped-call]
    return out


def for_images(b: int, offset: Tensor | None, weight: Tensor, bias: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """A tensor with as many rows as the kernels read: b, or of weight and bias both one. RuntimeError if they do not
    fit b."""
    rows = 1 if len(weight) == len(bias) == 1 else b
    return None if offset is None else offset.expand(b, -1), weight.expand(rows, -1), bias.expand(rows, -1)


def attend(qkv: Float[Tensor, "b n 3 k d"]) -> Float[Tensor, "b n k d"]:
    """softmax(q k^T / sqrt(d)) v for each of k heads (Vaswani et al. 2017, eq. 1)."""
    out: Tensor = _Attention.apply(qkv)  # type: ignore[no-untyped-call]
    return out


def linear(
    x: Float[Tensor, "... i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, "o"],
    plus: Float[Tensor, "... o"] | None = None,
) -> Float[Tensor, "... o"]:
    """F.linear(x, weight, bias) + plus; i and o whole vectors."""
    out: Tensor = _Linear.apply(x, weight, bias, plus)  # type: ignore[no-untyped-call]
    return out


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def workspace(floats: int) -> Tensor:
    """Scratch memory, kept per thread: fresh pages at each call would cost more than small maps' arithmetic."""
    held: Tensor | None = getattr(_local, "memory", None)
    if held is None or held.numel() < floats:
        held = _local.memory = torch.empty(floats, dtype=torch.float32)
    return held


def _convolve(
    library: CDLL,
    x: Tensor,
    weight: Tensor,
    transposed: bool,
    bias: Tensor | None = None,
    *,
    plus: Tensor | None = None,
) -> Tensor:
    """The convolution, or (transposed) the gradient of its input from x, that of its output."""
    (b, k, h, w), threads = x.shape, torch.get_num_threads()
    c = weight.shape[1 if transposed else 0]
    out = torch.empty((b, c, h, w), dtype=x.dtype, memory_format=torch.channels_last)
    work = workspace(library.wino_conv_floats(b, h, w, k, c, threads))
    pointers = (pointer(tensor) for tensor in (x, weight, bias, plus, out))
    library.wino_conv(*pointers, b, h, w, k, c, int(transposed), work.data_ptr(), threads)
    return out


def _weight_gradient(library: CDLL, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the weight and of the bias, from the input and the gradient of the output."""
    (b, k, h, w), c, threads = x.shape, g.shape[1], torch.get_num_threads()
    out, of_bias = torch.empty((c, k, 3, 3), dtype=x.dtype, memory_format=torch.channels_last), x.new_empty(c)
    work = workspace(library.wino_wgrad_floats(b, h, w, k, c, threads))
    pointers = (pointer(tensor) for tensor in (x, g, out, of_bias))
    library.wino_wgrad(*pointers, b, h, w, k, c, work.data_ptr(), threads)
    return out, of_bias


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, plus: Tensor | None) -> Tensor:
        weight, bias, plus = last(weight), bias.contiguous(), None if plus is None else last(plus)
        ctx.save_for_backward(x, weight)
        ctx.library = kernels()
        return _convolve(ctx.library, x, weight, False, bias, plus=plus)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, of_plus = ctx.needs_input_grad
        g = last(gradients[0])
        dx = _convolve(ctx.library, g, weight, True) if of_x else None
        dw, db = _weight_gradient(ctx.library, x, g) if of_weight or of_bias else (None, None)
        return dx, dw, db, g if of_plus else None


class _GroupNorm(torch.autograd.Function):
    """Saves its input, and mean and 1 / std per group; the activation is computed again in backward."""

    @staticmethod
    def forward(  # noqa: PLR0917  (torch passes them by position)
        ctx: Any, x: Tensor, offset: Tensor | None, weight: Tensor, bias: Tensor, norm: tuple[int, float, bool]
    ) -> Tensor:
        groups, eps, silu = norm
        b, c, h, w = x.shape
        ctx.library = kernels()
        offset = None if offset is None else offset.contiguous()
        weight, bias = weight.contiguous(), bias.contiguous()
        shape = NormShape(b, h * w, c, groups, 0 if len(weight) == 1 else c, silu)
        out, mean = torch.empty_like(x), x.new_empty(b, groups)
        rstd = torch.empty_like(mean)
        pointers = [pointer(tensor) for tensor in (x, offset, weight, bias, out, mean, rstd)]
        ctx.library.norm_forward(shape, torch.get_num_threads(), *pointers[:4], eps, *pointers[4:])
        ctx.save_for_backward(x, offset, weight, bias, mean, rstd)
        ctx.shape = shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, weight, bias, mean, rstd = ctx.saved_tensors
        g, dx = last(gradients[0]), torch.empty_like(x)
        d_weight = x.new_empty(x.shape[:2])
        d_bias, d_offset = torch.empty_like(d_weight), None if offset is None else torch.empty_like(d_weight)
        tensors = (x, offset, weight, bias, mean, rstd, g, dx, d_weight, d_bias, d_offset)
        ctx.library.norm_backward(ctx.shape, torch.get_num_threads(), *map(pointer, tensors))
        return dx, d_offset, d_weight.sum_to_size(weight.shape), d_bias.sum_to_size(bias.shape), None


class _Attention(torch.autograd.Function):
    """Saves its input, its output and the log-sum-exp of every query's scores."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> Tensor:
        ctx.library = kernels()
        b, n, _, k, d = qkv.shape
        ctx.shape = HeadsShape(b, n, k, d)
        out, lse = qkv.new_empty(b, n, k, d), qkv.new_empty(b, k, n)
        threads = torch.get_num_threads()
        work = workspace(threads * ctx.library.attention_floats(ctx.shape, 0))
        ctx.library.attention_forward(ctx.shape, threads, *map(pointer, (qkv, out, lse, work)))
        ctx.save_for_backward(qkv, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        qkv, out, lse = ctx.saved_tensors
        g, dqkv = gradients[0].contiguous(), torch.empty_like(qkv)
        threads = torch.get_num_threads()
        work = workspace(threads * ctx.library.attention_floats(ctx.shape, 1))
        ctx.library.attention_backward(ctx.shape, threads, *map(pointer, (qkv, g, out, lse, dqkv, work)))
        return dqkv


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, plus: Tensor | None) -> Tensor:
        x, weight, plus = x.contiguous(), weight.contiguous(), None if plus is None else plus.contiguous()
        library, (o, i) = kernels(), weight.shape
        assert library is not None
        out, work = x.new_empty(*x.shape[:-1], o), workspace(i * o)
        shape, tensors = LinearShape(x.numel() // i, i, o), (x, weight, bias.contiguous(), plus, out, work)
        library.linear_forward(shape, torch.get_num_threads(), *map(pointer, tensors))
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """By torch: a kernel of its own gained at most 1 % of training (docs/log.md)."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, of_plus = ctx.needs_input_grad
        g = gradients[0]
        rows = g.reshape(-1, g.shape[-1])
        dx = (rows @ weight).view(x.shape) if of_x else None
        dw = rows.t() @ x.view(-1, x.shape[-1]) if of_weight else None
        return dx, dw, rows.sum(0) if of_bias else None, g if of_plus else None
