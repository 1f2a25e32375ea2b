"""Random layers and inputs on the CPU kernels, right ones and wrong ones: torch says the same, value or error.

    python tests/native/fuzzing.py 10000 0                 so many, from this seed
    (tests/native/test_sanitizers.py)                      with the kernels compiled under sanitizers

Prints how many took a kernel, how many torch computed and how many torch refused.
"""

import copy
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from undiffuse.native import library
from undiffuse.nn import operations
from undiffuse.nn.blocks import ResBlock
from undiffuse.nn.layers import Conv1x1, Conv3x3, GroupNorm, Linear
from undiffuse.nn.spec import UNetSpec

SIZES = (1, 3, 8, 16, 24, 32, 40, 48, 63, 64)
WRONG = 0.4  # the share of cases in which something does not fit


@dataclass(frozen=True)
class Case:
    """A module, what it is called with, and whether all of that is as networks have it."""

    module: nn.Module
    inputs: tuple[torch.Tensor | None, ...]


def case(seed: int) -> Case:
    dice = random.Random(seed)
    made = dice.choice([_convolution, _linear, _norm, _norm, _attention, _block])(dice)
    torch.set_num_threads(dice.choice([1, 1, 2, 3]))
    wrong = dice.random() < WRONG
    module = _spoilt_module(made.module, dice) if wrong and dice.random() < 0.6 else made.module
    inputs = tuple(_spoilt(x, dice) if x is not None and wrong and dice.random() < 0.4 else x for x in made.inputs)
    return Case(module, inputs)


def _draw(dice: random.Random, *shape: int) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(dice.randrange(1 << 30)))
    return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made


def _map(dice: random.Random, c: int) -> torch.Tensor:
    b, h = dice.choice([1, 2, 3, 7, 16]), dice.choice([1, 2, 4, 7, 8, 9, 16])
    return _draw(dice, b, c, h, dice.choice([h, h, 5]))


def _convolution(dice: random.Random) -> Case:
    i, o = dice.choice(SIZES), dice.choice(SIZES)
    x = _map(dice, i)
    if dice.random() < 0.3:
        return Case(Conv1x1(i, o), (x,))
    plus = _draw(dice, x.shape[0], o, *x.shape[2:]) if dice.random() < 0.3 else None
    return Case(Conv3x3(i, o), (x, plus))


def _linear(dice: random.Random) -> Case:
    i, o = dice.choice(SIZES), dice.choice(SIZES)
    x = _draw(dice, dice.choice([1, 5, 64]), dice.choice([1, 33, 64]), i)
    return Case(Linear(i, o), (x, _draw(dice, *x.shape[:2], o) if dice.random() < 0.3 else None))


def _norm(dice: random.Random) -> Case:
    x = _map(dice, c := dice.choice(SIZES))
    rest = [_draw(dice, x.shape[0], c) if dice.random() < 0.4 else None for _ in range(3)]
    return Case(GroupNorm(c, UNetSpec(1, 1, norm_groups=dice.choice([1, 4, 8])), dice.random() < 0.5), (x, *rest))


class Heads(nn.Module):
    """Attention as the networks do it, and torch's where the kernel does not suit."""

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        if operations.attention_suits(qkv):
            return operations.attend(qkv)
        if qkv.dim() != 5 or qkv.shape[2] != 3:
            raise RuntimeError("not q, k and v")
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _attention(dice: random.Random) -> Case:
    b, n = dice.choice([1, 2, 5]), dice.choice([1, 4, 16, 49, 64])
    return Case(Heads(), (_draw(dice, b, n, 3, dice.choice([1, 2, 4]), dice.choice([4, 8, 16, 24, 32, 33])),))


def _block(dice: random.Random) -> Case:
    spec = UNetSpec(1, 1, channels=32, norm_groups=8, scale_shift=dice.random() < 0.5)
    j, o = dice.choice([0, 0, 16, 32]), dice.choice([16, 32, 64])
    x = _map(dice, i := dice.choice([16, 32, 64]))
    if dice.random() < 0.5:
        x = _draw(dice, dice.choice([32, 48, 64]), i, *x.shape[2:])  # enough for the fused kernel
    beside = _draw(dice, x.shape[0], j, *x.shape[2:]) if j else None
    return Case(ResBlock(i + j, o, spec).eval(), (x, _draw(dice, x.shape[0], spec.embedding), beside))


# -- what may be wrong -------------------------------------------------------------------------------------------------


def _spoilt(x: torch.Tensor, dice: random.Random) -> torch.Tensor:
    """Another type, size or place in memory."""
    last = x.shape[-1]
    ways: list[Callable[[], torch.Tensor]] = [
        lambda: x.to(dice.choice([torch.float64, torch.float16, torch.bfloat16])),
        x.contiguous,
        lambda: x[..., : max(1, last // 2)],
        lambda: x.narrow(x.dim() // 4, 0, max(1, x.shape[x.dim() // 4] // 2)),
        lambda: x[: len(x) // 2],
        lambda: x[:1].expand_as(x),
        lambda: torch.cat([x, x], dim=-1)[..., last // 2 : last // 2 + last],
        lambda: torch.stack([x, x], dim=-1)[..., 0],
        lambda: torch._neg_view(x),
        lambda: x[:0],
        x.flatten,
    ]
    return dice.choice(ways)()


def _spoilt_module(module: nn.Module, dice: random.Random) -> nn.Module:
    names = [name for name, _ in module.named_parameters()]
    if names:
        name = dice.choice(names)
        owner = module.get_submodule(name.rpartition(".")[0])
        parameter = getattr(owner, name.rpartition(".")[2])
        setattr(owner, name.rpartition(".")[2], nn.Parameter(_spoilt(parameter.detach(), dice)))
    return module


# -- both ways ---------------------------------------------------------------------------------------------------------


def outcome(given: Case, backward: bool) -> list[torch.Tensor] | None:
    """The output and the gradients; None if torch refuses."""
    module = copy.deepcopy(given.module)
    inputs = [x if x is None else x.detach().requires_grad_(backward and x.is_floating_point()) for x in given.inputs]
    try:
        with torch.set_grad_enabled(backward):
            out = module(*inputs)
        if not backward:
            return [out]
        weights = [x for x in [*inputs, *module.parameters()] if x is not None]
        slope = torch.arange(out.numel()).sin().to(out.dtype).reshape(out.shape)  # no long sums that nearly vanish
        found = torch.autograd.grad(out, weights, slope, allow_unused=True)
        return [out.detach(), *(x.new_zeros(()) if g is None else g for x, g in zip(weights, found, strict=True))]
    except (RuntimeError, IndexError, ValueError):
        return None


def compare(seed: int, calls: Counter[str]) -> None:
    given, backward = case(seed), seed % 2 == 0
    before = calls["kernel"]
    ours = outcome(given, backward)
    took = calls["kernel"] > before
    with library.switched(False):
        want = outcome(given, backward)
    calls["kernels"] += took
    calls["torch"] += not took and want is not None
    calls["refused"] += want is None
    if (ours is None) != (want is None):
        raise AssertionError(f"seed {seed}: {'refused' if ours is None else 'computed'} what torch did not")
    for place, (one, other) in enumerate(zip(ours or (), want or (), strict=True)):
        close = {torch.float32: 2e-4, torch.float64: 2e-4}.get(one.dtype, 5e-2)
        apart = _apart(one, other)
        if apart > close and apart > 30 * _blur(given, backward, place):
            raise AssertionError(f"seed {seed}: {apart} apart")


def _blur(given: Case, backward: bool, place: int) -> float:
    """How far torch is from float64, or rounding of the inputs moves that: nearly alike values in a group are beyond
    float32, whoever norms them."""
    exact, moved = (_exactly(given, backward, nudge)[place] for nudge in (0, 1e-7))
    with library.switched(False):
        torchs = outcome(given, backward)
    assert torchs is not None
    return max(_apart(moved, exact), _apart(torchs[place], exact))


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, in units of the largest value, or of 1."""
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max()) / max(1.0, float(other.abs().max())) if other.numel() else 0.0


def _exactly(given: Case, backward: bool, nudge: float) -> list[torch.Tensor]:
    """The outcome in float64, of inputs that are off by a share of themselves."""
    module, inputs = copy.deepcopy(given.module).double(), (x if x is None else x.double() for x in given.inputs)
    moved = (x if x is None else x * (1 + nudge * torch.arange(x.numel()).sin().view(x.shape)) for x in inputs)
    found = outcome(Case(module, tuple(moved)), backward)
    assert found is not None
    return found


def _counted(calls: Counter[str]) -> None:
    """Count what reaches the library, and give it scratch memory of exactly the size it asks for."""
    for name in ("_Conv3x3", "_GroupNorm", "_Attention", "_Linear"):
        function = getattr(operations, name)
        plain = function.apply

        def apply(*given, plain=plain):
            calls["kernel"] += 1
            return plain(*given)

        function.apply = apply
    operations.workspace = lambda floats: torch.empty(floats, dtype=torch.float32)


def main(count: int, first: int) -> None:
    assert library.kernels() is not None
    calls: Counter[str] = Counter()
    _counted(calls)
    for seed in range(first, first + count):
        compare(seed, calls)
    print(
        f"{count} cases: {calls['kernels']} took a kernel, torch computed {calls['torch']}, refused {calls['refused']}"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
