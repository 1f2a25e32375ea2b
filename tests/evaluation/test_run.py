"""`undiffuse.evaluate` and `undiffuse.evaluate_images`: the command's numbers, from Python, and junk refused."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import undiffuse as ud
from undiffuse import images
from undiffuse.cli import main
from undiffuse.data.prepare import digits
from undiffuse.evaluation.samples import Samples
from undiffuse.rng import fold

pytestmark = pytest.mark.filterwarnings("ignore:the Frechet distance of")  # of few images: said, and so be it here


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": tmp_path / "cache" / kind)


@pytest.fixture(scope="module")
def data():
    return digits()


def test_the_library_gives_the_command_s_numbers(tiny_run, tmp_path):
    out = tmp_path / "n.json"
    options = ["-n", "40", "--repeats", "2", "--seed", "3", "--metrics", "frechet,kid,memorisation,bpd", "--times", "3"]
    assert main(["evaluate", str(tiny_run), *options, "--out", str(out)]) == 0
    found = ud.evaluate(
        ud.Pipeline.load(tiny_run),
        n=40,
        seeds=range(3, 5),
        metrics=["frechet", "kid", "memorisation", "bpd"],
        times=3,
    )
    assert json.loads(json.dumps(found.as_dict())) == json.loads(out.read_text())
    assert list(found.metrics) == ["frechet", "kid", "memorisation", "bpd"]
    assert list(found.per_class) == ["kid"] and set(found.per_class["kid"]) == set("0123456789")
    assert found.protocol["weights"] == "ema" and found.protocol["seeds"] == [3, 4]
    assert len(found.neighbours.generated) == len(found.neighbours.to_train) == 12


def test_what_a_pipeline_was_loaded_with_is_in_the_protocol(tiny_run):
    last = str(ud.Pipeline.load(tiny_run).config.train.steps)
    pipe = ud.Pipeline.load(tiny_run, weights="raw", checkpoint=last)
    said = ud.evaluate(pipe, n=10, seeds=[0], metrics="kid").protocol
    assert (said["weights"], said["checkpoint"]) == ("raw", last)


def test_a_data_set_in_memory_stands_for_its_name(tiny_pipe, data):
    for name, settings in (("frechet", {"n": 20, "seeds": [0]}), ("bpd", {"times": 2})):
        first, second = (ud.evaluate(tiny_pipe, data=given, metrics=name, **settings) for given in (None, data))
        assert first == second


def test_classes_may_be_names_or_indices(tiny_pipe):
    given = {"n": 20, "seeds": [0], "metrics": ["frechet"]}
    by_name, by_index = (ud.evaluate(tiny_pipe, classes=classes, **given) for classes in (["2", "7"], [2, 7]))
    assert by_name == by_index and by_name.protocol["classes"] == ["2", "7"]


def test_who_watches_is_told_how_much_will_come(tiny_pipe, monkeypatch):
    monkeypatch.setattr("undiffuse.evaluation.likelihood.ODE_STEPS", 2)
    told = []

    def watch(items, total, what):
        items = list(items)
        told.append((what, total, len(items)))
        return items

    ud.evaluate(tiny_pipe, n=10, seeds=[0, 1], metrics=["kid", "bpd", "bpd_ode"], times=3, watch=watch)
    what = [name for name, _, _ in told]
    assert what == [
        "seed 0: image",
        "seed 1: image",
        "term of the bound",
        "step of the ODE, of 2",
        "step of the ODE, of 1",
    ]
    assert all(total == count > 0 for _, total, count in told)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": 1}, "n must be at least 2"),
        ({"seeds": []}, "seeds at least 1"),
        ({"metrics": "bpd", "n": 10}, "n counts samples"),
        ({"metrics": "frechet", "times": 3}, "times is for bpd"),
        ({"metrics": []}, "an empty list of metrics"),
        ({"mix": "evne"}, "did you mean 'even'"),
        ({"classes": ["eleven"]}, "eleven"),
        ({"features": "pixel"}, "did you mean 'pixels'"),
        ({"data": "digts"}, "digts"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_drawn(tiny_pipe, monkeypatch, given, said):
    monkeypatch.setattr(type(tiny_pipe), "_frames", lambda *asked: pytest.fail("drawn"))
    with pytest.raises(ud.UsageError, match=said):
        ud.evaluate(tiny_pipe, **given)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_tensor_a_file_and_samples_give_the_same_numbers(tiny_pipe, data, tmp_path):
    x, y = tiny_pipe.sample(30), torch.arange(30) % 10
    images.write_npz(tmp_path / "x.npz", images.to_hwc(x), y.numpy())
    exact = images.from_levels(images.to_levels(x))  # as a file of 256 levels holds them
    names = ["kid", "label_accuracy"]
    found = [
        ud.evaluate_images(exact, data, labels=y, metrics=names),
        ud.evaluate_images(exact, "digits", labels=y.tolist(), metrics=names),
        ud.evaluate_images(tmp_path / "x.npz", data, metrics="kid,label_accuracy"),
        ud.evaluate_images(Samples(exact, y), data, metrics=names),
    ]
    assert all(one.metrics == found[0].metrics and one.per_class == found[0].per_class for one in found)
    assert ud.evaluate_images(x, data).metrics.keys() >= {"frechet", "kid"}


NOISE = fold(0, "noise").normal((10, 1, 8, 8)).clamp(-1, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": NOISE[0]}, r"float32 tensor \[n, c, h, w\] in \[-1, 1\]; got float32 \[1, 8, 8\]"),
        ({"images": (NOISE * 127 + 128).to(torch.uint8)}, "got uint8"),
        ({"images": NOISE * 255}, "scale them first"),
        ({"images": NOISE[:1]}, "at least 2 are needed"),
        ({"images": NOISE.repeat(1, 3, 1, 1)}, "images are 3x8x8 but digits is 1x8x8"),
        ({"images": NOISE, "labels": [0] * 9}, "give one for each"),
        ({"images": NOISE, "labels": [10] * 10}, "outside the 10 classes"),
        ({"images": "x.npz", "labels": [0]}, "labels go with a tensor"),
        ({"images": NOISE, "metrics": "bpd"}, "property of a model"),
        ({"images": NOISE, "metrics": "train_on_generated"}, "label"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pictures_that_cannot_be_measured_are_refused(data, given, said):
    with pytest.raises(ud.UndiffuseError, match=said):
        ud.evaluate_images(data=data, **given)


def test_not_a_number_is_refused(data):
    x = NOISE.clone()
    x[3, 0, 0, 0] = float("nan")
    with pytest.raises(ud.UndiffuseError, match="NaN or infinity"):
        ud.evaluate_images(x, data)


def test_an_array_of_numpy_is_as_good_as_a_tensor(data):
    one, other = (ud.evaluate_images(x, data, metrics="kid") for x in (NOISE, NOISE.numpy()))
    assert one.metrics == other.metrics
    with pytest.raises(ud.UsageError, match="give images as a float32 tensor"):
        ud.evaluate_images(np.zeros((4, 8, 8, 1), np.uint8), data)


# -- junk, as a user without type checks sends it ---------------------------------------------------------------------


def test_junk_is_one_line_and_whole_numbers_are_whole_numbers(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).parent / "junk.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_watch_cannot_change_what_is_made(tiny_pipe):
    """One that turns items round gives the same; one that leaves some out is refused."""
    given = {"metrics": ["kid", "bpd"], "n": 10, "seeds": [0], "times": 4}
    plain = ud.evaluate(tiny_pipe, **given)
    assert ud.evaluate(tiny_pipe, watch=lambda items, total, what: reversed(list(items)), **given) == plain
    wanted = tiny_pipe.sample(9, batch_size=4)
    for watch in (
        lambda items, total, what: [x for x in items for _ in "ab"],
        lambda items, total, what: itertools.islice(items, total),
    ):
        frames = [frame for _, frame in tiny_pipe.stream(9, batch_size=4, watch=watch)]
        assert torch.equal(torch.cat([frame.x for frame in frames if frame.t == 0]), wanted)
    for ask in (lambda w: ud.evaluate(tiny_pipe, watch=w, **given), lambda w: list(tiny_pipe.stream(4, watch=w))):
        with pytest.raises(ud.UsageError, match="watch ended before the last"):
            ask(lambda items, total, what: itertools.islice(items, 1))


def test_of_a_folder_without_parts_all_pictures_are_the_reference(tmp_path):
    """Against themselves the distance is none; nothing stands in the samples' place, so there is no floor."""
    for i, picture in enumerate(images.to_hwc(fold(0, "pictures").normal((120, 1, 8, 8)).clamp(-1, 1))):
        (tmp_path / "real").mkdir(exist_ok=True)
        images.write_png(tmp_path / "real" / f"{i}.png", picture)
    found = ud.evaluate_images(tmp_path / "real", str(tmp_path / "real"))
    assert (found.protocol["real_held_out"], found.protocol["real_train"]) == (120, 0)
    assert found.protocol["reference"] == "all images"
    assert found.metrics.keys() == {"frechet", "kid", "precision", "recall", "density", "coverage"}
    assert found.metrics["frechet"].value == pytest.approx(0, abs=1e-6)
    assert found.metrics["coverage"].value == found.metrics["precision"].value == 1
    assert all(estimate.floor is None for estimate in found.metrics.values())
    with pytest.raises(ud.UndiffuseError, match="memorisation is of the images of training"):
        ud.evaluate_images(tmp_path / "real", str(tmp_path / "real"), metrics="memorisation")
