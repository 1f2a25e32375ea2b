"""What `evaluate` measures: real data score their floor, noise scores badly, and the protocol says how."""

import json

import numpy as np
import pytest
import torch

from undiffuse import evaluation, images
from undiffuse.data.sources import digits
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.evaluation import Samples
from undiffuse.rng import fold


@pytest.fixture(scope="module")
def data():
    return digits()


def real(data) -> Samples:
    return Samples(data.train.images(), data.train.labels)


def noise(n=200, seed=0) -> Samples:
    return Samples(fold(seed, "noise").normal((n, 1, 8, 8)).clamp(-1, 1), torch.arange(n) % 10)


def test_real_train_images_score_the_floor(data):
    found = evaluation.measure([real(data)], data, ["frechet", "train_on_generated"], {})["metrics"]
    for metric in found.values():
        assert metric["value"] == pytest.approx(metric["floor"])
    assert found["train_on_generated"]["value"] == pytest.approx(0.991, abs=0.001)


def test_noise_scores_badly(data):
    found = evaluation.measure([noise()], data, ["frechet", "train_on_generated"], {})["metrics"]
    assert found["frechet"]["value"] > 20 * found["frechet"]["floor"]
    assert found["train_on_generated"]["value"] < 0.3


def test_the_result_has_the_contracts_shape_and_is_strict_json(data):
    """Also with so few images that there is no error bar."""
    result = evaluation.measure([noise(12)], data, ["frechet"], {"seeds": [0]})
    text = json.dumps(result, allow_nan=False)
    assert set(result) == {"metrics", "protocol"}
    assert set(json.loads(text)["metrics"]["frechet"]) == {"value", "stderr", "floor", "unit", "n"}
    assert result["metrics"]["frechet"]["n"] == 12
    assert result["protocol"]["seeds"] == [0]
    assert (result["protocol"]["real_train"], result["protocol"]["real_held_out"]) == (1347, 450)


def test_several_sets_give_their_mean_and_its_error(data):
    sets = [noise(seed=seed) for seed in range(3)]
    alone = [evaluation.frechet([one], data) for one in sets]
    together = evaluation.frechet(sets, data)
    assert together.value == pytest.approx(np.mean([one.value for one in alone]))
    assert together.stderr == pytest.approx(np.linalg.norm([one.stderr for one in alone]) / 3)
    assert together.n == 600


def test_measures_are_chosen_by_name_or_by_what_the_samples_allow():
    assert evaluation.chosen(None, labelled=True, model=True) == ["frechet", "train_on_generated"]
    assert evaluation.chosen(None, labelled=False, model=True) == ["frechet"]
    assert evaluation.chosen(" frechet ,", labelled=True, model=True) == ["frechet"]
    for names, words in (("frechett", "did you mean 'frechet'"), ("", "an empty list"), (" , ", "an empty list")):
        with pytest.raises(UsageError, match=words):
            evaluation.chosen(names, labelled=True, model=True)


def test_unlabelled_samples_cannot_teach(data):
    with pytest.raises(UndiffuseError, match="needs labelled samples"):
        evaluation.train_on_generated([Samples(noise().images, None)], data)


def test_one_image_is_too_few(data):
    with pytest.raises(UndiffuseError, match="at least 2 images"):
        evaluation.frechet([noise(1)], data)


def test_as_many_as_there_are_to_train_on_shared_by_the_classes(data):
    assert evaluation.default_count(data) == 1350
    assert evaluation.default_count(data.restricted(["1", "2"])) % 2 == 0


def test_a_models_samples_are_its_samples(tiny_pipe):
    seen = []

    def watch(frames):
        for frame in frames:
            seen.append(frame)
            yield frame

    sets = evaluation.of_model(tiny_pipe, 6, range(3, 5), watch)
    assert len(seen) == 10
    for seed, samples in zip((3, 4), sets, strict=True):
        assert torch.equal(samples.images, tiny_pipe.sample(n=6, seed=seed))
        assert samples.labels.tolist() == list(range(6))


# -- files ----------------------------------------------------------------------------------------------------------


def written(path, pictures, labels):
    images.write_npz(path, pictures, np.asarray(labels))
    return path


PICTURES = (np.arange(20 * 64).reshape(20, 8, 8, 1) % 256).astype(np.uint8)


def test_written_pictures_come_back(tmp_path, data):
    samples = evaluation.of_files(written(tmp_path / "a.npz", PICTURES, np.arange(20) % 10), data)
    np.testing.assert_array_equal(images.to_hwc(samples.images), PICTURES)
    assert samples.labels.tolist() == [i % 10 for i in range(20)]


def test_pictures_without_labels_have_none(tmp_path, data):
    assert evaluation.of_files(written(tmp_path / "a.npz", PICTURES, np.full(20, -1)), data).labels is None


@pytest.mark.parametrize("bad", [10, -2, 2**40])
def test_a_label_that_is_no_class(tmp_path, data, bad):
    labels = np.zeros(20, np.int64)
    labels[3] = bad
    with pytest.raises(UndiffuseError, match="a label lies outside the 10 classes of digits"):
        evaluation.of_files(written(tmp_path / "a.npz", PICTURES, labels), data)


@pytest.mark.parametrize("shape", [(20, 8, 7, 1), (20, 8, 8, 3), (20, 16, 16, 1)])
def test_pictures_of_another_shape(tmp_path, data, shape):
    with pytest.raises(UndiffuseError, match=r"pictures are .* but digits is 1x8x8"):
        evaluation.of_files(written(tmp_path / "a.npz", np.zeros(shape, np.uint8), np.zeros(20, int)), data)
