"""Small classifiers that come with undiffuse: what they recognise, and the features that they judge pictures by.

`benchmarks/classifier.py` trains them; each file says on what, how and how well.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import as_file, files
from itertools import pairwise

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from undiffuse.shapes import Float, Images, Tensor

CLASSIFIER_BATCH = 500


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 one (He et al. 2016), batch normalised."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(c, wide, 3, padding=1, bias=False) for c in (width, wide))
        self.past = nn.Conv2d(width, wide, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(wide) for _ in range(3))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        h = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(h)) + self.norms[2](self.past(x)))


class Classifier(nn.Module):
    """Pictures of any size in [-1, 1] -> logits; `features` is the mean over places before the last layer."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], classes)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        h = F.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            h = block(F.max_pool2d(h, 2))
        return h.mean((2, 3))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.head(self.features(x))


@dataclass(frozen=True)
class Shipped:
    """A trained classifier. accuracy: on all held-out pictures of its data set, in [0, 1]; digest: of its file."""

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    accuracy: float
    network: Classifier
    digest: str

    @torch.inference_mode()
    def features(self, images: Images) -> Tensor:
        """float32 [n, 128]."""
        return torch.cat([self.network.features(part) for part in torch.split(images, CLASSIFIER_BATCH)])

    @torch.inference_mode()
    def classes(self, images: Images) -> Tensor:
        """The index, in `class_names`, that it takes each for: int64 [n]."""
        return torch.cat([self.network(part).argmax(1) for part in torch.split(images, CLASSIFIER_BATCH)])

    @torch.inference_mode()
    def probabilities(self, images: Images) -> Tensor:
        """p(y | x) of all its classes: float64 [n, k]."""
        return torch.cat([self.network(part).double().softmax(1) for part in torch.split(images, CLASSIFIER_BATCH)])


def shipped_for(shape: Sequence[int], class_names: Sequence[str]) -> Shipped | None:
    """The classifier of pictures of this shape that knows all these classes."""
    for entry in sorted(files("undiffuse.metrics").joinpath("weights").iterdir(), key=lambda path: path.name):
        if entry.name.endswith(".safetensors"):
            with as_file(entry) as path, safe_open(path, "pt") as file:
                recorded = file.metadata()
                names, known = json.loads(recorded["class_names"]), tuple(json.loads(recorded["shape"]))
                if known != tuple(shape) or not set(class_names) <= set(names) or not class_names:
                    continue
                network = Classifier(known[0], len(names), json.loads(recorded["widths"]))
                network.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})  # noqa: SIM118
                name = entry.name.removesuffix(".safetensors")
                digest = sha256(path.read_bytes()).hexdigest()[:16]
                return Shipped(name, tuple(names), known, float(recorded["accuracy"]), network.eval(), digest)
    return None
