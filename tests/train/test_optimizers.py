"""Muon against torch's own and the singular value decomposition; its Adam against torch's."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from undiffuse import config
from undiffuse.errors import UsageError
from undiffuse.nn.layers import Linear
from undiffuse.nn.spec import UNetSpec
from undiffuse.nn.unet import UNet
from undiffuse.pipeline import build
from undiffuse.rng import fold
from undiffuse.train import starting
from undiffuse.train import state as checkpoint
from undiffuse.train.optimizers import OPTIMIZERS, Muon, orthogonal


class Net(nn.Module):
    """Of everything one: a first and a last convolution, a grouped one, matrices, an embedding, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.conv = nn.Conv2d(24, 20, 3, padding=1)
        self.norm = nn.GroupNorm(4, 20)
        self.label = nn.Embedding(20, 32)
        self.linear = nn.Linear(32, 20, bias=False)
        self.wide = nn.Conv2d(20, 20, 1)
        self.head = nn.Conv2d(20, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.conv(self.depthwise(self.stem(x)))) + self.linear(self.label(y))[:, :, None, None]
        return self.head(torch.relu(self.wide(h)))


def network() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def learn(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        draws = fold(step, "batch")
        loss = (net(draws.normal((4, 3, 6, 6)), torch.arange(4)) - draws.normal((4, 3, 6, 6))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_orthogonal_has_the_singular_vectors_and_all_values_near_one():
    matrices = [fold(0, place).normal(shape) for place, shape in enumerate([(16, 16), (20, 180), (90, 20), (20, 30)])]
    for x, turned in zip(matrices, orthogonal(matrices), strict=True):
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        inside = u.mT @ turned @ v.mT  # in x's own singular vectors: diagonal
        values = torch.diagonal(inside)
        assert turned.shape == x.shape
        assert (inside - torch.diag(values)).abs().max() < 1e-4
        assert values.min() > 0.6
        assert values.max() < 1.25


@pytest.mark.parametrize("scale", [1e-10, 1e4])
def test_orthogonal_does_not_see_the_scale(scale):
    x = fold(0).normal((20, 30))
    torch.testing.assert_close(orthogonal([scale * x]), orthogonal([x]), rtol=1e-4, atol=1e-5)


def test_directions_without_a_gradient_stay():
    """A matrix of rank one is turned in one direction; rounding stays small in the others; nothing stays so."""
    x = torch.outer(*fold(0).normal((2, 24)))
    values = torch.linalg.svdvals(orthogonal([x])[0])
    assert 0.6 < values[0] < 1.25
    assert values[1] < 1e-2
    assert not orthogonal([torch.zeros(4, 5)])[0].any()


def test_a_matrix_moves_as_by_torchs_muon():
    """Which turns in bfloat16, so that both agree to its digits; two steps, so that the momentum counts."""
    net, theirs = (nn.Linear(48, 24, bias=False) for _ in range(2))
    theirs.load_state_dict(net.state_dict())
    start = net.weight.detach().clone()
    ours = Muon(net, 0.01)
    options = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
    reference = torch.optim.Muon(theirs.parameters(), lr=0.01, **options)
    for step in range(2):
        gradient = fold(step).normal((24, 48))
        for layer, optimizer in ((net, ours), (theirs, reference)):
            layer.weight.grad = gradient.clone()
            optimizer.step()
    moved, wanted = net.weight - start, theirs.weight - start
    assert (moved - wanted).norm() < 0.02 * wanted.norm()
    assert moved.square().mean().sqrt().item() == pytest.approx(2 * 0.01 * 0.2, rel=0.35)  # Adam's usual size


def test_a_layer_of_several_is_turned_as_so_many_layers():
    """Queries, keys and values written as one layer: as three layers of their own."""
    whole, apart = Linear(20, 3 * 24, stacked=3), nn.ModuleList(nn.Linear(20, 24) for _ in range(3))
    for part, weight, bias in zip(apart, whole.weight.chunk(3), whole.bias.chunk(3), strict=True):
        part.load_state_dict({"weight": weight, "bias": bias})
    ours, theirs = Muon(whole, 0.01), Muon(apart, 0.01)
    for step in range(2):
        whole.weight.grad = fold(step).normal((72, 20)) * torch.arange(1, 73)[:, None]
        for part, gradient in zip(apart, whole.weight.grad.chunk(3), strict=True):
            part.weight.grad = gradient.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(whole.weight, torch.cat([part.weight for part in apart]), rtol=1e-5, atol=1e-6)


def test_the_network_says_which_of_its_layers_are_several():
    spec = UNetSpec(
        in_channels=1, out_channels=1, channels=32, multipliers=(1, 2), attention=(2,), scale_shift=True, num_classes=3
    )
    net = UNet(spec)
    stacked = Muon(net, 0.01).stacked
    counts = {name: stacked[weight] for name, weight in net.named_parameters() if weight in stacked}
    assert counts["middle.attention.0.qkv.weight"] == 3
    assert counts["middle.residual.0.embedding.weight"] == 2  # scale and shift
    assert counts["middle.residual.0.conv1.weight"] == 1


def test_only_hidden_matrices_are_turned_and_the_rest_has_adams_update():
    net = network()
    muon = Muon(net, 0.01)
    turned = {id(weight) for weight in muon.param_groups[1]["params"]}
    names = [name for name, weight in net.named_parameters() if id(weight) in turned]
    assert names == ["conv.weight", "linear.weight", "wide.weight"]
    other = copy.deepcopy(net)
    adam = torch.optim.Adam([weight for name, weight in other.named_parameters() if name not in names], lr=0.01)
    for step in range(3):
        for (name, ours), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
            gradient = fold(step, name).normal(ours.shape)
            ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        adam.step()
    for (name, ours), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
        if name not in names:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_convolutions_update_does_not_depend_on_its_layout_in_memory():
    plain, last = network(), network().to(memory_format=torch.channels_last)
    for net in (plain, last):
        muon = Muon(net, 0.01)
        for name, weight in net.named_parameters():
            weight.grad = fold(0, name).normal(weight.shape)
        muon.step()
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_weights_without_a_gradient_stay():
    net = network()
    before = copy.deepcopy(net.state_dict())
    Muon(net, 0.01).step()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_network_without_matrices_is_adams_alone():
    net = nn.Conv2d(1, 1, 3, padding=1)
    learn_alone = Muon(net, 0.01)
    net(torch.ones(1, 1, 4, 4)).sum().backward()
    learn_alone.step()
    assert len(learn_alone.param_groups) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_never_stopped(name, tmp_path):
    first, second = network(), network()
    optimizer, again = OPTIMIZERS[name](first, 0.01), OPTIMIZERS[name](second, 0.01)
    learn(first, optimizer, range(3))
    state = {key: value.clone() for key, value in checkpoint.optimizer_tensors(optimizer).items()}
    second.load_state_dict(first.state_dict())
    checkpoint.fill_optimizer(again, state, tmp_path)
    learn(first, optimizer, range(3, 6))
    learn(second, again, range(3, 6))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_a_gpu_counts_of_steps_lie_where_the_weights_do(name, tmp_path):
    """torch's fused Adam reads them there."""
    net, other = network().cuda(), network().cuda()
    optimizer, again = OPTIMIZERS[name](net, 0.01), OPTIMIZERS[name](other, 0.01)
    for step in range(3):
        for weight in net.parameters():
            weight.grad = fold(step).normal(tuple(weight.shape)).to(weight)
        optimizer.step()
    torch.cuda.synchronize()
    checkpoint.fill_optimizer(again, checkpoint.optimizer_tensors(optimizer), tmp_path)
    for made in (optimizer, again):
        assert {state["step"].device.type for state in made.state.values() if "step" in state} == {"cuda"}


def test_torch_is_told_that_muons_adam_is_fused():
    """Then loading puts its counts of steps on the weights' device."""
    assert all(group["fused"] for group in Muon(network(), 0.01).param_groups)


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    net = network()
    adam = OPTIMIZERS["adam"](net, 0.01)
    learn(net, adam, range(1))
    with pytest.raises(Exception, match="belongs to another network, or another optimiser"):
        checkpoint.fill_optimizer(Muon(net, 0.01), checkpoint.optimizer_tensors(adam), tmp_path)


def test_muon_and_cut_matrices_do_not_go_together():
    with pytest.raises(UsageError, match=r"train\.shard cuts the matrices that train\.optimizer muon needs whole"):
        config.load("digits", ["train.optimizer=muon", "train.shard=true"])


def test_the_settings_name_the_optimizer():
    chosen = config.load("digits").replaced({"train.optimizer": "muon", "train.steps": 2, "train.batch_size": 4})
    data = build.dataset(chosen)
    chosen = build.resolved(chosen, data)
    from undiffuse.train.trainer import Trainer

    made = Trainer(build.denoiser(chosen), starting.loss(chosen), starting.batches(chosen, data), chosen.train)
    assert isinstance(made.optimizer, Muon)
    assert list(made.run()) == [1, 2]
    assert np.isfinite(made.report().loss)
