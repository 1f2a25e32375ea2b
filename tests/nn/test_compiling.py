"""torch.compile in place: the same network, or one clear warning and the network as it was."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from undiffuse.native.library import SlowWarning
from undiffuse.nn.compiling import compile_network
from undiffuse.nn.unet import UNet, UNetSpec
from undiffuse.rng import fold, seed_torch


def network() -> UNet:
    seed_torch(0, "compiling")
    made = UNet(UNetSpec(1, 1, channels=16, multipliers=(1, 2), attention=(2,), norm_groups=4))
    made.head.weight.data += 0.1
    return made


X, T = fold(0, "x").normal((3, 1, 8, 8)), torch.tensor([1.0, 5.0, 9.0])


@pytest.mark.parametrize("training", [False, True])
def test_a_compiler_that_fails_is_named_once_and_left_out(monkeypatch, training):
    """In training mode it may fail as late as in the backward pass."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            raise RuntimeError("no working C++ compiler\nand a long story")

    def broken(self, **_):
        def call(*args):
            if training:
                return Broken.apply(self.forward(*args))
            raise torch._dynamo.exc.InternalTorchDynamoError("no working C++ compiler\nand a long story")

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", broken)
    monkeypatch.setattr("undiffuse.nn.compiling.kernels", lambda: None)
    made, plain = network().train(training), network()
    names = list(made.state_dict())
    with pytest.warns(SlowWarning, match=r"torch\.compile failed, going on without it: no working C.. compiler$"):
        compile_network(made, X, T)
    assert torch.equal(made(X, T), plain(X, T))
    assert list(made.state_dict()) == names
    assert all(parameter.grad is None for parameter in made.parameters())


SCRIPT = """
import torch
from undiffuse.nn.compiling import compile_network
from undiffuse.nn.unet import UNet, UNetSpec
torch.manual_seed(0)
plain, made = (UNet(UNetSpec(1, 1, channels=16, multipliers=(1, 2), attention=(2,), norm_groups=4)) for _ in "ab")
plain.head.weight.data += 0.1
made.load_state_dict(plain.state_dict())
x, t = torch.linspace(-1, 1, 192).reshape(3, 1, 8, 8).sin(), torch.tensor([1.0, 5.0, 9.0])
compile_network(made, x, t)
outs = [network(x, t) for network in (made, plain)]
torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)
for out in outs:
    out.square().mean().backward()
for a, b in zip(made.parameters(), plain.parameters(), strict=True):
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
assert made._compiled_call_impl is not None
"""


@pytest.mark.slow
def test_the_compiled_network_gives_the_same_numbers_and_gradients():
    """In a process of its own: the type checks of the tests cannot be compiled."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT]
    done = subprocess.run(command, env={**os.environ, "UNDIFFUSE_NATIVE": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_cpu_with_fast_kernels_is_told_that_compiling_is_slower(monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: None)
    monkeypatch.setattr("undiffuse.nn.compiling.kernels", lambda: object())
    with pytest.warns(SlowWarning, match="pays on GPUs"):
        compile_network(network(), X, T)
    monkeypatch.setattr("undiffuse.nn.compiling.kernels", lambda: None)
    compile_network(network(), X, T)
