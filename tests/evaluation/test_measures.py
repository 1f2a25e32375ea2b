"""What `evaluate` measures: real data score their floor, noise scores badly, and the protocol says how."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import made
from undiffuse import images
from undiffuse.data.prepare import digits
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.evaluation import measures
from undiffuse.evaluation.choice import choose_metrics
from undiffuse.evaluation.real import RealImages, _first, random_rows, reference_data
from undiffuse.evaluation.run import default_count, measure, model_protocol
from undiffuse.evaluation.samples import Samples, samples_of_files
from undiffuse.metrics.kernel import kernel_distance
from undiffuse.pipeline import build
from undiffuse.rng import fold

pytestmark = pytest.mark.filterwarnings("ignore:the Frechet distance of")  # of few images: said, and so be it here


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def judged(data):
    return RealImages.of(data, "pixels")


def real(data) -> Samples:
    return Samples(data.train.images(), data.train.labels)


def noise(n=200, seed=0) -> Samples:
    return Samples(fold(seed, "noise").normal((n, 1, 8, 8)).clamp(-1, 1), torch.arange(n) % 10)


def test_real_train_images_score_the_floor(data, judged):
    found = measure([real(data)], judged, ["frechet", "train_on_generated"], {}).metrics
    for metric in found.values():
        assert metric.value == pytest.approx(metric.floor)
    assert found["train_on_generated"].value == pytest.approx(0.991, abs=0.001)


def test_noise_scores_badly(judged):
    found = measure([noise()], judged, ["frechet", "train_on_generated"], {}).metrics
    assert found["frechet"].value > 20 * found["frechet"].floor
    assert found["train_on_generated"].value < 0.3


def test_the_result_has_the_contracts_shape_and_is_strict_json(judged):
    """Also with so few images that there is no error bar."""
    result = measure([noise(12)], judged, ["frechet"], {"seeds": [0]}).as_dict()
    text = json.dumps(result, allow_nan=False)
    assert set(result) == {"metrics", "protocol"}
    assert set(json.loads(text)["metrics"]["frechet"]) == {"value", "stderr", "floor", "unit", "n"}
    assert result["metrics"]["frechet"]["n"] == 12
    assert result["protocol"]["seeds"] == [0]
    assert (result["protocol"]["real_train"], result["protocol"]["real_held_out"]) == (1347, 450)


def test_several_sets_give_their_mean_and_its_error(judged):
    sets = [noise(seed=seed) for seed in range(3)]
    alone = [measures.frechet([one], judged) for one in sets]
    together = measures.frechet(sets, judged)
    assert together.value == pytest.approx(np.mean([one.value for one in alone]))
    assert together.stderr == pytest.approx(np.linalg.norm([one.stderr for one in alone]) / 3)
    assert together.n == 600


def test_measures_are_chosen_by_name_or_by_what_the_samples_allow(data):
    neighbours = ["precision", "recall", "density", "coverage"]
    usual = ["frechet", "train_on_generated", "label_accuracy", "kid", *neighbours, "memorisation"]
    assert choose_metrics(None, 10, True, data) == usual
    assert choose_metrics(None, 1, True, data) == ["frechet", "label_accuracy", "kid", *neighbours, "memorisation"]
    assert choose_metrics(None, 0, True, data) == ["frechet", "kid", *neighbours, "memorisation"]
    assert choose_metrics(None, 0, True, data, 5) == ["frechet", "kid", "memorisation"]
    assert choose_metrics(" frechet ,", 10, True, data) == ["frechet"]
    assert choose_metrics("recall", 10, True, data, 5) == ["recall"]  # named, so refused where it is measured
    assert set(choose_metrics("all", 10, True, data)) == set(measures.MEASURES)
    assert choose_metrics("bpd,all", 10, True, data)[:2] == ["bpd", "frechet"]
    other = replace(data, class_names=tuple("abcdefghij"))
    assert choose_metrics(None, 10, True, other) == usual
    assert choose_metrics(None, 1, True, other) == ["frechet", "kid", *neighbours, "memorisation"]
    assert "inception_score" not in choose_metrics("all", 10, True, other)
    for names, words in (("frechett", "did you mean 'frechet'"), ("", "an empty list"), (" , ", "an empty list")):
        with pytest.raises(UsageError, match=words):
            choose_metrics(names, 10, True, data)


def test_the_label_accuracy_of_real_images_is_the_classifiers_own(data, judged):
    found = measures.label_accuracy([real(data)], judged)
    assert found.value > 0.99 and found.floor == pytest.approx(0.9978, abs=1e-4)
    wrong = Samples(data.train.images(), (data.train.labels + 1) % 10)
    assert measures.label_accuracy([wrong], judged).value < 0.01
    some = data.restricted(["3", "7"])
    assert measures.label_accuracy([real(some)], RealImages.of(some, "pixels")).value > 0.99


def test_where_no_classifier_comes_along_an_svc_of_real_images_judges_labels(data):
    """Its accuracy on held-out images is the floor of train_on_generated, of as many train images."""
    other = replace(data, class_names=tuple("abcdefghij"))
    judged = RealImages.of(other, "pixels")
    found = measures.label_accuracy([real(data)], judged)
    assert found.value > 0.99 and found.says == {"classifier": "the SVC, trained on 1347 train images"}
    assert found.floor == pytest.approx(measures.train_on_generated([real(data)], judged).floor)
    few = Samples(data.held_out.images()[:200], (data.held_out.labels[:200] + 1) % 10)
    assert measures.label_accuracy([few], judged).value < 0.05
    assert "label_accuracy" not in measures.per_class([real(data)], judged, ["label_accuracy", "kid"])
    one = RealImages.of(other.restricted(["c"]), "pixels")
    with pytest.raises(UndiffuseError, match="at least two classes"):
        measures.label_accuracy([Samples(data.train.images()[:9], torch.zeros(9).long())], one)


def test_samples_are_rounded_to_the_datas_levels_first(data, judged):
    shifted = Samples(data.train.images() + 0.06, data.train.labels)
    for one in measures.MEASURES.values():
        assert one([shifted], judged).value == pytest.approx(one([real(data)], judged).value)


def test_the_error_of_a_share(data, judged):
    """Of labels: binomial in all samples. Of what was learnt: binomial in the one test set, and spread over seeds."""
    value, error = measures._share([0.8, 0.9], 100)
    assert (value, error) == pytest.approx((0.85, np.hypot(np.sqrt(0.85 * 0.15 / 100), 0.05)))
    right = data.train.labels.clone()
    right[::2] = (right[::2] + 1) % 10
    found = measures.label_accuracy([Samples(data.train.images(), right)] * 3, judged)
    assert found.stderr == pytest.approx(np.sqrt(found.value * (1 - found.value) / (3 * 1347)))


def test_sums_in_pieces_are_those_of_the_whole(data, judged, monkeypatch):
    whole = judged.train(1000).sums.moments()
    monkeypatch.setattr("undiffuse.evaluation.samples.CHUNK", 300)
    for found, wanted in zip(RealImages.of(judged.data, "pixels").train(1000).sums.moments(), whole, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_the_kernel_distance_of_real_digits_is_below_nothing_by_their_fixed_shares(data):
    """The split gives both parts the same shares of classes: by what `kernel_distance` says."""
    judged = RealImages.of(data, "classifier")
    x, y = (part.features.astype(np.float64) for part in (judged.train(1347), judged.held_out()))
    both, label = np.concatenate([x, y]), np.concatenate([data.train.labels, data.held_out.labels])
    k, same = (both @ both.T / both.shape[1] + 1) ** 3, label[:, None] == label
    between, within = k[~same].mean(), k[same & ~np.eye(len(k), dtype=bool)].mean()
    unlike = 1 - (np.bincount(label) ** 2).sum() / len(label) ** 2
    value, error = kernel_distance(x, y)
    assert value == pytest.approx(-(1 / 1346 + 1 / 449) * unlike * (within - between), abs=4 * error)
    assert value < -4 * error


def test_no_classifier_is_said(data):
    other = replace(data, class_names=tuple("abcdefghij"))
    with pytest.raises(UndiffuseError, match="none comes with undiffuse for digits"):
        measures.inception_score([real(data)], RealImages.of(other, "pixels"))
    with pytest.raises(UsageError, match="no classifier comes with undiffuse for pictures of 1x8x8"):
        RealImages.of(other, "classifier")


@pytest.mark.parametrize("features", ["pca", "classifier"])
def test_every_kind_of_features_tells_noise_from_pictures(data, features):
    judged = RealImages.of(data, features)
    close, far = (measures.frechet([s], judged) for s in (real(data), noise()))
    assert close.value == pytest.approx(close.floor) and far.value > 10 * close.value


def test_the_floor_of_few_samples_is_of_as_few_train_images_of_all_classes(data, judged):
    small = measures.frechet([noise(100)], judged).floor
    assert small > 1.5 * measures.frechet([noise(1347)], judged).floor
    by_class = replace(data, train=data.train.chosen(data.train.labels.argsort()))
    assert len(np.unique(by_class.train.labels[random_rows(len(by_class.train), 100)])) == 10


def test_statistics_of_real_images_are_kept_under_all_that_defines_them(data, tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": tmp_path)
    first = RealImages.of(data, "classifier").held_out()
    assert len(list(tmp_path.iterdir())) == 1
    again = RealImages.of(data, "classifier")
    monkeypatch.setattr(RealImages, "_extract", None)
    np.testing.assert_array_equal(again.held_out().features, first.features)
    monkeypatch.undo()
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": tmp_path)
    fewer = replace(data, train=data.train.chosen(torch.arange(0, 1347, 2)))
    RealImages.of(data, "pca").held_out()
    for other in (
        RealImages.of(fewer, "pca"),
        RealImages.of(data.restricted(["1", "2"]), "classifier"),
        RealImages.of(replace(data, content="other"), "classifier"),
        RealImages.of(data, "pixels"),
    ):
        before = len(list(tmp_path.iterdir()))
        other.held_out()
        assert len(list(tmp_path.iterdir())) == before + 1


def swap_a_byte(path):
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 64
    path.write_bytes(raw)


def of_nothing_known(path):
    save_file({"features": np.zeros((450, 128), np.float32)}, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"junk"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        swap_a_byte,
        of_nothing_known,
        lambda path: save_file({"other": np.zeros(3)}, path),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["junk", "empty", "cut", "a byte", "no key", "no features", "a folder"],
)
def test_damaged_statistics_are_made_again(data, tmp_path, monkeypatch, damage):
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": tmp_path)
    first = RealImages.of(data, "classifier").held_out()
    (path,) = tmp_path.iterdir()
    damage(path)
    np.testing.assert_array_equal(RealImages.of(data, "classifier").held_out().features, first.features)
    if path.is_file():  # and kept, sound
        monkeypatch.setattr(RealImages, "_extract", None)
        np.testing.assert_array_equal(RealImages.of(data, "classifier").held_out().features, first.features)


def test_statistics_of_other_images_are_not_taken_even_under_the_right_name(data, tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": tmp_path)
    first = RealImages.of(data, "classifier").held_out()
    (right,) = tmp_path.iterdir()
    right.unlink()
    RealImages.of(data.restricted(["1", "2"]), "classifier").held_out()
    (wrong,) = tmp_path.iterdir()
    wrong.rename(right)
    np.testing.assert_array_equal(RealImages.of(data, "classifier").held_out().features, first.features)


def test_features_are_extracted_once_for_all_measures(data, monkeypatch):
    judged, counted = RealImages.of(data, "pixels"), []
    monkeypatch.setattr("undiffuse.evaluation.real.cached_features", lambda key, make: make())
    extract = judged.features.extract
    seen = replace(judged.features, extract=lambda x: counted.append(len(x)) or extract(x))
    judged = replace(judged, features=seen)
    measure([noise(100), noise(100, 1)], judged, ["frechet", "kid", "precision", "coverage"], {})
    assert sorted(counted) == [100, 100, 100, 450]  # two sets, as many train images, the held-out ones


def test_the_protocol_tells_what_a_measure_was_of(judged):
    said = measure([noise(100)], judged, ["inception_score", "recall", "memorisation"], {}).protocol
    assert said["inception_score"] == {"probabilities": "of the classifier 'digits' of undiffuse, 10 classes"}
    assert said["recall"] == {"k": 3, "images a side": 100, "features": "pixels"}
    closest = said["memorisation"]["closest"]
    assert closest["distance"] == sorted(closest["distance"]) and len(closest["sample"]) == 12


def test_a_model_protocol_hides_nothing_of_the_features(data, tiny_pipe):
    """Both have weights, under two names."""
    judged = RealImages.of(data, "classifier")
    of_model = model_protocol(tiny_pipe, [0])
    said = measure([noise(20)], judged, ["kid"], of_model).protocol
    for one in (judged.features.says, of_model):
        assert {name: said[name] for name in one} == one


def test_the_closest_pairs_are_pairs(data, judged):
    """A copy of train image 700 in the second set, and one that is two levels off in one pixel in the first."""
    sets = [noise(50), noise(50, 1)]
    sets[1].images[17] = data.train.images()[700]
    sets[0].images[3] = data.train.images()[31]
    sets[0].images[3, 0, 3, 3] += 2 / 8 if sets[0].images[3, 0, 3, 3] < 0.5 else -2 / 8
    said = measures.memorisation(sets, judged).says
    assert said["exact copies of train images"] == 1
    found = [said["closest"][name][:2] for name in ("set", "sample", "train image", "distance")]
    assert found == [[1, 0], [17, 3], [700, 31], [0, pytest.approx(2 / 8)]]


def test_the_closest_pairs_tell_the_nearest_held_out_image_too(data, judged):
    sets = [noise(50)]
    sets[0].images[3] = data.train.images()[31]
    said = measures.memorisation(sets, judged).says["closest"]
    assert (said["sample"][0], said["distance"][0]) == (3, 0)
    real = images.to_levels(data.held_out.images(), data.levels).double()
    away = (real - images.to_levels(data.train.images()[31:32], data.levels)).square().mean((1, 2, 3)).sqrt()
    assert (said["held-out image"][0], said["held-out distance"][0]) == (int(away.argmin()), pytest.approx(away.min()))


def test_the_floor_of_the_inception_score_is_of_images_that_its_classifier_has_not_seen(data, judged):
    found = measures.inception_score([noise(100)], judged)
    unseen = replace(data, train=data.held_out)
    assert found.floor == measures.inception_score([noise(100)], RealImages.of(unseen, "pixels")).floor
    held_out = Samples(data.held_out.images(random_rows(450, 100)), None)
    assert measures.inception_score([held_out], judged).value == pytest.approx(found.floor)


def test_measures_by_neighbours_count_the_images_that_they_look_at(judged):
    found = [getattr(measures, name)([noise(600), noise(600, 1)], judged).n for name in ("precision", "coverage")]
    assert found == [900, 900]  # there are 450 held-out images


def test_more_samples_than_there_are_real_images_is_said(data, judged):
    few = replace(judged.data, train=data.train.chosen(torch.arange(150)))
    with pytest.warns(measures.MeasureWarning, match=r"200 samples beside 150 real images.*take -n 150"):
        result = measure([noise(200)], RealImages.of(few, "pixels"), ["frechet", "kid"], {})
    assert result.protocol["real_in_their_place"] == 150
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="the Frechet distance of")
        for n in (150, 160):  # as many, and rounded up to equal numbers of each class
            measure([noise(n)], RealImages.of(few, "pixels"), ["frechet"], {})


def test_neighbours_are_the_pictures_that_the_protocol_tells_of(data, judged):
    sets = [noise(50), noise(50, 1)]
    sets[1].images[17] = data.train.images()[700]
    sets[0].images[40] = data.held_out.images()[9]
    found = measure(sets, judged, ["memorisation"], {}).neighbours
    np.testing.assert_array_equal(found.generated[0], found.train[0])
    np.testing.assert_array_equal(found.train[0], images.to_hwc(data.train.images()[700:701])[0])
    (copy,) = np.flatnonzero(np.array(found.to_held_out) == 0)
    np.testing.assert_array_equal(found.generated[copy], found.held_out[copy])
    levels = [(x / 255 * 16).round() for x in (found.generated, found.train, found.held_out)]
    for real, told in zip(levels[1:], (found.to_train, found.to_held_out), strict=True):
        np.testing.assert_allclose(np.sqrt(np.square(levels[0] - real).mean((1, 2, 3))), told)
    assert measure(sets, judged, ["kid"], {}).neighbours is None


def by_class(samples, judged, names=("label_accuracy", "kid")):
    return measure([samples], judged, names, {}).per_class


@pytest.mark.parametrize(("name", "said"), [("FID", "frechet with --features inception"), ("is", "inception_score")])
def test_names_that_others_use_are_told_ours(data, name, said):
    with pytest.raises(UsageError, match=said):
        choose_metrics(name, 10, True, data)


def test_the_label_accuracies_of_the_classes_make_up_that_of_all(data, judged):
    wrong = data.train.labels.clone()
    wrong[::7] = (wrong[::7] + 1) % 10
    samples = Samples(data.train.images(), wrong)
    found = by_class(samples, judged)["label_accuracy"]
    whole = measures.label_accuracy([samples], judged)
    assert list(found) == list(data.class_names) and sum(one.n for one in found.values()) == 1347
    assert sum(one.value * one.n for one in found.values()) / 1347 == pytest.approx(whole.value)
    held_out = [int((data.held_out.labels == index).sum()) for index in range(10)]
    floors = [one.floor for one in found.values()]
    assert np.dot(floors, held_out) / sum(held_out) == pytest.approx(whole.floor)


@pytest.mark.parametrize("features", ["pixels", "classifier"])
def test_a_measure_of_one_class_is_that_of_its_own_images(data, features):
    """As if the rest of the data were not there, though features are made once."""
    sets = [noise(300), noise(300, 1)]
    judged, alone = RealImages.of(data, features), RealImages.of(data.restricted(["4"]), features)
    found = measure(sets, judged, ["kid"], {}).per_class["kid"]["4"]
    own = [Samples(s.images[4::10], torch.zeros(30).long()) for s in sets]
    wanted = measures.kid(own, alone)
    assert (found.value, found.stderr) == pytest.approx((wanted.value, wanted.stderr))
    assert found.n == 60


def test_a_class_that_is_drawn_as_another_is_found_by_its_measures(data, judged):
    labels = data.train.labels
    shown = data.train.images().clone()
    threes = (labels == 3).nonzero()[:, 0]
    shown[threes] = data.train.images()[(labels == 5).nonzero()[: len(threes), 0].repeat(2)[: len(threes)]]
    found = by_class(Samples(shown, labels), judged)
    assert found["label_accuracy"]["3"].value < 0.01
    assert max(found["kid"], key=lambda name: found["kid"][name].value) == "3"
    others = [one for name, one in found["kid"].items() if name != "3"]
    assert all(one.value == pytest.approx(one.floor) for one in others)


def test_only_classes_with_images_enough_are_measured_alone(data, judged):
    assert by_class(noise(10), judged) == {}, "one of each class"
    assert by_class(Samples(noise().images, None), judged, ["kid"]) == {}
    assert by_class(noise(), judged, ["frechet"]) == {}
    one = data.restricted(["3"])
    assert by_class(Samples(one.train.images(), one.train.labels), RealImages.of(one, "pixels")) == {}
    few = Samples(noise().images, torch.arange(200) % 3 + 4)
    assert list(by_class(few, judged)["kid"]) == ["4", "5", "6"]


def test_classes_that_differ_by_case_only_stay_apart(data):
    named = replace(data, class_names=("a", "A", *data.class_names[2:]))
    judged, plain = RealImages.of(named, "pixels"), RealImages.of(data, "pixels")
    found, wanted = (by_class(noise(), one, ["kid"])["kid"] for one in (judged, plain))
    assert list(found.values()) == list(wanted.values()) and list(found)[:2] == ["a", "A"]


def test_the_error_of_a_mean_of_memberships(data, judged):
    """Samples are independent from set to set; the held-out images are the same."""
    sets = [noise(200, seed) for seed in range(2)]
    for name in ("precision", "density"):
        alone = [measures.MEASURES[name]([one], judged) for one in sets]
        together = measures.MEASURES[name](sets, judged)
        assert together.value == pytest.approx(np.mean([one.value for one in alone]))
        assert together.stderr == pytest.approx(np.linalg.norm([one.stderr for one in alone]) / 2)


def test_few_images_for_their_features_are_warned_of(data, judged):
    with pytest.warns(measures.MeasureWarning, match="the Frechet distance of 64 images by 64 features is too large"):
        measures.frechet([noise(64)], judged)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measures.frechet([noise(65)], judged)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(bad):
    images = noise(20).images
    images[3, 0, 2, 2] = bad
    with pytest.raises(UndiffuseError, match="some of the samples hold NaN or infinity"):
        Samples(images, None)


def test_unlabelled_samples_cannot_teach(judged):
    with pytest.raises(UndiffuseError, match="needs labelled samples"):
        measures.train_on_generated([Samples(noise().images, None)], judged)


def test_one_image_is_too_few(judged):
    with pytest.raises(UndiffuseError, match="at least 2 images"):
        measures.frechet([noise(1)], judged)


def test_nothing_held_out_is_nothing_to_compare_with(data):
    for n in (0, 1):
        few = replace(data, held_out=data.held_out.chosen(torch.arange(n)))
        with pytest.raises(UndiffuseError, match=rf"digits: {n} held-out pictures to compare with, and at least 2"):
            RealImages.of(few, "pixels")


def test_as_many_as_there_are_to_train_on_shared_by_the_classes(data):
    assert default_count(data) == 1350
    assert default_count(data.restricted(["1", "2"])) % 2 == 0


# -- files ----------------------------------------------------------------------------------------------------------


def written(path, pictures, labels):
    images.write_npz(path, pictures, np.asarray(labels))
    return path


PICTURES = (np.arange(20 * 64).reshape(20, 8, 8, 1) % 256).astype(np.uint8)


def test_written_pictures_come_back(tmp_path, data):
    samples = samples_of_files(written(tmp_path / "a.npz", PICTURES, np.arange(20) % 10), data)
    np.testing.assert_array_equal(images.to_hwc(samples.images[:]), PICTURES)
    assert samples.labels.tolist() == [i % 10 for i in range(20)]


def test_pictures_without_labels_have_none(tmp_path, data):
    assert samples_of_files(written(tmp_path / "a.npz", PICTURES, np.full(20, -1)), data).labels is None


@pytest.mark.parametrize("bad", [10, -2, 2**40])
def test_a_label_that_is_no_class(tmp_path, data, bad):
    labels = np.zeros(20, np.int64)
    labels[3] = bad
    with pytest.raises(UndiffuseError, match="a label lies outside the 10 classes of digits"):
        samples_of_files(written(tmp_path / "a.npz", PICTURES, labels), data)


@pytest.mark.parametrize("shape", [(20, 8, 7, 1), (20, 8, 8, 3), (20, 16, 16, 1)])
def test_pictures_of_another_shape(tmp_path, data, shape):
    shown = (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)
    with pytest.raises(UndiffuseError, match=r"pictures are .* but digits is 1x8x8; save them with its size"):
        samples_of_files(written(tmp_path / "a.npz", shown, np.zeros(20, int)), data)


def test_gray_pictures_saved_as_colour_are_measured_as_gray(tmp_path, data):
    gray, colour = (written(tmp_path / f"{c}.npz", PICTURES.repeat(c, 3), np.zeros(20, int)) for c in (1, 3))
    one, other = (samples_of_files(path, data) for path in (gray, colour))
    assert torch.equal(one.images[:], other.images[:])


def test_labels_of_some_pictures_only(tmp_path, data):
    labels = np.arange(20) % 10
    labels[7] = -1
    with pytest.raises(UndiffuseError, match=r"1 of 20 pictures have no label \(-1\); give it to all, or to none"):
        samples_of_files(written(tmp_path / "a.npz", PICTURES, labels), data)


def test_other_pictures_than_the_model_was_trained_on_are_said(tiny_pipe):
    changed = replace(tiny_pipe, config=tiny_pipe.config.replaced({"data.content": "0" * 32}))
    with pytest.warns(measures.MeasureWarning, match="are not those that this model was trained on"):
        reference_data(changed, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reference_data(tiny_pipe, None)
        reference_data(changed, "digits")  # asked for


def test_a_models_own_data_in_another_place_are_read_by_its_own_choice(tiny_pipe, tmp_path):
    """Its selection and its labels hold for a source of the same name, and not for another."""
    for kept in ("cat", "dog"):
        for size in ("8", "16"):
            (tmp_path / "a" / "pics" / size / kept).mkdir(parents=True)
            for i, x in enumerate(made.pictures(6, seed=len(kept))):
                (tmp_path / "a" / "pics" / size / kept / f"{i}.png").write_bytes(made.png(x))
    own = {"data.source": str(tmp_path / "a" / "pics"), "data.select": "8/*", "data.levels": None, "data.shape": None}
    config = tiny_pipe.config.replaced(own | {"data.content": None, "data.classes": None})
    pipe = replace(tiny_pipe, config=build.resolved(config, build.dataset(config)))
    assert len(reference_data(pipe, None).train) == 10
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(UsageError, match=r"no such file or folder.* or say where its pictures are with --data"):
        reference_data(pipe, None)
    assert len(reference_data(pipe, str(tmp_path / "b" / "pics")).train) == 10
    (tmp_path / "b" / "pics").rename(tmp_path / "b" / "others")
    with pytest.raises(UsageError, match="its classes are 8, 16"):
        reference_data(pipe, str(tmp_path / "b" / "others"))


def test_class_names_in_a_message_are_few_or_none():
    said = [_first(names) for names in ((), ("cat", "dog"), tuple("abcdef"))]
    assert said == ["none", "cat, dog", "a, b, c, d ... (6)"]
