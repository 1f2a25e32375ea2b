"""The moving average follows its formula, from the first update on."""

import copy

import pytest
import torch
from torch import nn

from undiffuse.train.ema import EMA


def network(value: float) -> nn.Module:
    """One weight and, through batch norm, buffers: floats and a whole number."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    nn.init.constant_(module[0].weight, value)
    return module


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.5, 0.9, 0.9999])
def test_the_warm_up_is_one_plus_n_over_ten_plus_n_capped_by_the_decay(decay):
    module, shadow = network(1.0), 1.0
    average = EMA(copy.deepcopy(module), module, decay)
    for count, value in enumerate([3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0]):
        module[0].weight.data.fill_(value)
        average.update(count)
        d = min(decay, (1 + count) / (10 + count))
        shadow = d * shadow + (1 - d) * value
        assert float(average.backbone[0].weight) == pytest.approx(shadow, rel=1e-5)


def test_far_along_the_decay_is_the_decay():
    module = network(1.0)
    average = EMA(copy.deepcopy(module), module, 0.99)
    module[0].weight.data.fill_(2.0)
    average.update(10**6)
    assert float(average.backbone[0].weight) == pytest.approx(1.01)


def test_buffers_are_copied():
    module = network(1.0).train()
    average = EMA(copy.deepcopy(module), module, 0.9)
    module(torch.tensor([[1.0], [5.0]]))
    average.update(0)
    for kept, now in zip(average.backbone.buffers(), module.buffers(), strict=True):
        assert torch.equal(kept, now)


def test_the_average_is_a_copy_that_is_never_trained():
    module = network(1.0).train()
    average = EMA(copy.deepcopy(module), module, 0.9)
    module[0].weight.data.fill_(7.0)
    assert float(average.backbone[0].weight) == 1
    assert not any(p.requires_grad for p in average.backbone.parameters())
    assert not average.backbone.training
    assert module.training
    assert module[0].weight.requires_grad
