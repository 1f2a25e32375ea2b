"""Adam (Kingma & Ba 2015) for all weights, or Muon (Jordan et al. 2024) for the matrices among them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.adam import adam

from undiffuse.shapes import Float, Tensor

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: singular values, but the least, to about 1 in 5 turns
TURNS = 5
RMS = 0.2  # Liu et al. 2025, section 2.2: the root mean square of Adam's usual updates, in units of lr
ADAM, MUON = ("step", "exp_avg", "exp_avg_sq"), ("momentum",)  # what is kept of each weight
LEAST_SIDE = 16  # channels a side: with fewer, a layer reads or writes pixels


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal; Adam for what is not a matrix.

    G, the gradient of W [r, c]:  M <- 0.95 M + 0.05 G,  W <- W - lr 0.2 sqrt(max(r, c)) orthogonal(0.05 G + 0.95 M).
    All directions of a matrix learn alike fast, where Adam follows the few that are large. The scale makes an
    entry's update as large as Adam's usually is (Liu et al. 2025, equation 4), so one learning rate serves both.

    A matrix is the weight of a linear layer, or of a convolution that is not grouped, which is [out, height * width *
    in] here, with at least 16 channels on either side, as the layers next to the pixels have only where model.patch
    is large. A layer that says it is several in one (`stacked`: queries, keys and values) has as many matrices. The
    rest (biases, norms, embeddings) has Adam's update, beta 0.9 and 0.999.
    """

    betas = (0.9, 0.999)
    eps = 1e-8

    def __init__(self, network: nn.Module, lr: float) -> None:
        self.stacked = dict(_matrices(network))  # a parameter's hash is its identity
        others = [weight for weight in network.parameters() if weight not in self.stacked]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": list(self.stacked), "moments": MUON}]
        # "fused" has torch keep Adam's count of steps on the weights' own device, after loading too
        super().__init__([group for group in groups if group["params"]], {"lr": lr, "moments": ADAM, "fused": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            learnt = [weight for weight in group["params"] if weight.grad is not None]
            if learnt:
                update = self._adam if group["moments"] == ADAM else self._muon
                update(learnt, [weight.grad for weight in learnt], group["lr"])

    def _muon(self, weights: list[Tensor], gradients: list[Tensor], lr: float) -> None:
        momentum = self._kept(weights, "momentum")
        torch._foreach_lerp_(momentum, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momentum, MOMENTUM)  # Nesterov's: as one more like it would leave it
        counts = [self.stacked[weight] for weight in weights]
        # [out, height, width, in], as the weights of convolutions lie in memory: no copies
        steps, pieces = (
            [piece for x, n in zip(tensors, counts, strict=True) for piece in x.movedim(1, -1).chunk(n)]
            for tensors in (ahead, weights)
        )
        for piece, update in zip(pieces, orthogonal([step.flatten(1) for step in steps]), strict=True):
            piece.sub_(update.view(piece.shape), alpha=lr * RMS * max(update.shape) ** 0.5)

    def _adam(self, weights: list[Tensor], gradients: list[Tensor], lr: float) -> None:
        mean, square = self._kept(weights, "exp_avg"), self._kept(weights, "exp_avg_sq")
        for weight in weights:
            if "step" not in self.state[weight]:
                self.state[weight]["step"] = torch.zeros((), device=weight.device)
        steps = [self.state[weight]["step"] for weight in weights]
        gradients = [  # fused, both are gone through in the order of memory
            g if g.stride() == w.stride() else torch.empty_like(w).copy_(g)
            for w, g in zip(weights, gradients, strict=True)
        ]
        how: dict[str, Any] = {"amsgrad": False, "maximize": False, "weight_decay": 0.0, "eps": self.eps, "fused": True}
        first, second = self.betas
        adam(weights, gradients, mean, square, [], steps, lr=lr, beta1=first, beta2=second, **how)

    def _kept(self, weights: list[Tensor], name: str) -> list[Tensor]:
        """The state of each parameter under this name, at first zeros."""
        for weight in weights:
            if name not in self.state[weight]:
                self.state[weight][name] = torch.zeros_like(weight)
        return [self.state[weight][name] for weight in weights]


def orthogonal(matrices: Sequence[Float[Tensor, "_ _"]]) -> list[Tensor]:
    """U V^T of each X = U S V^T, nearly: singular values above |X| / 350 come to lie between 0.68 and 1.21.

    X <- Q X with Q = a + b (X X^T) + c (X X^T)^2, five times, from X / |X|: a Newton-Schulz iteration. As Q and X X^T
    commute, the product of all Q is found from X X^T alone, whose size is X's smaller side, for all of a size together.
    """
    wide = [x if x.shape[0] <= x.shape[1] else x.mT for x in matrices]
    alike: dict[int, list[int]] = {}
    for place, x in enumerate(wide):
        alike.setdefault(len(x), []).append(place)
    found = list(wide)
    for places in alike.values():
        factors = _product_of_q(torch.stack([wide[place] @ wide[place].mT for place in places]))
        for place, factor in zip(places, factors, strict=True):
            found[place] = factor @ wide[place]
    return [y if y.shape == x.shape else y.mT.contiguous() for x, y in zip(matrices, found, strict=True)]


def _product_of_q(square: Float[Tensor, "k r r"]) -> Float[Tensor, "k r r"]:
    """The factor of X in a step, X not yet divided by |X| = sqrt(tr(X X^T)); of the zero matrix, something finite."""
    size = square.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-30)[:, None, None]
    square = square / size
    one = torch.eye(square.shape[1], device=square.device, dtype=square.dtype)
    a, b, c = NEWTON_SCHULZ
    whole = one  # not yet over |X|
    for turn in range(TURNS):
        q = torch.baddbmm(torch.add(a * one, square, alpha=b), square, square, alpha=c)
        whole = q @ whole if turn else q
        square = q @ square @ q if turn + 1 < TURNS else square
    return whole / size.sqrt()


def _matrices(network: nn.Module) -> Iterable[tuple[Tensor, int]]:
    """The weights that hold matrices, with how many each holds, one over the other."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            stacked = int(getattr(layer, "stacked", 1))
            if min(layer.weight.shape[0] // stacked, layer.weight.shape[1]) >= LEAST_SIDE:
                yield layer.weight, stacked


OPTIMIZERS: dict[str, Callable[[nn.Module, float], torch.optim.Optimizer]] = {
    "adam": lambda network, lr: torch.optim.Adam(network.parameters(), lr=lr, fused=True),
    "muon": Muon,
}
