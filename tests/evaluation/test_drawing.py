"""Samples to be measured are the model's samples, wherever drawing them was stopped, and leave nothing behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from drawn import Cheap
from undiffuse import images
from undiffuse.errors import Interrupted, UndiffuseError, UsageError
from undiffuse.evaluation.drawing import drawn_samples
from undiffuse.evaluation.measures import MEASURES
from undiffuse.evaluation.real import RealImages, reference_data
from undiffuse.evaluation.run import measure
from undiffuse.evaluation.samples import LevelImages, Samples
from undiffuse.pipeline import Pipeline, labels
from undiffuse.pipeline.labels import labels_by_share
from undiffuse.train.quality import Judge


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": tmp_path / "cache")
    return tmp_path / "cache"


def test_an_index_that_is_another_class_s_name_does_not_draw_that_one(tiny_pipe, cache, monkeypatch):
    """Folders 1, 2, 3: index 1 is the class "2"."""
    names = ("1", "2", "3")
    monkeypatch.setattr(Pipeline, "class_names", names)
    assert labels.labels_of_rows(names, range(3), ["1", "2", "3"]).tolist() == [0, 1, 2]
    with drawn_samples(tiny_pipe, 6, seeds=[0], shares=[3, 2, 1]) as (samples,):
        assert samples.labels.tolist() == [0, 1, 0, 2, 1, 0]
        x = tiny_pipe.sample(6, label=[names[i] for i in samples.labels])
        assert torch.equal(samples.images[:], images.from_levels(images.to_levels(x)))


@pytest.mark.parametrize("levels", [17, 256])
def test_a_models_samples_are_its_samples_rounded_once(tiny_pipe, cache, levels):
    with drawn_samples(tiny_pipe, 6, seeds=range(3, 5), levels=levels) as sets:
        for seed, samples in zip((3, 4), sets, strict=True):
            expected = images.from_levels(images.to_levels(tiny_pipe.sample(n=6, seed=seed), levels), levels)
            assert torch.equal(samples.images[:], expected)
            assert samples.labels.tolist() == list(range(6))


def test_of_some_classes_labels_count_within_them(tiny_pipe, cache):
    with drawn_samples(tiny_pipe, 5, seeds=[0], classes=["7", "2"]) as (samples,):
        expected = tiny_pipe.sample(n=5, label=["7", "2"])
        assert torch.equal(samples.images[:], images.from_levels(images.to_levels(expected)))
        assert samples.labels.tolist() == [0, 1, 0, 1, 0]


def test_shares_say_how_often_each_class_is_drawn(tiny_pipe, cache):
    with drawn_samples(tiny_pipe, 5, seeds=[0], classes=["7", "2"], shares=[3, 1]) as (samples,):
        expected = tiny_pipe.sample(n=5, label=["7", "7", "2", "7", "7"])
        assert torch.equal(samples.images[:], images.from_levels(images.to_levels(expected)))
        assert samples.labels.tolist() == [0, 0, 1, 0, 0]
    with drawn_samples(tiny_pipe, 3, seeds=[0], shares=[0] * 8 + [1, 2]) as (samples,):
        assert samples.labels.tolist() == [9, 8, 9]


@pytest.mark.parametrize("counts", [[1, 1, 1], [60, 3, 1, 0], [7], [2, 5, 3, 1000]])
def test_every_beginning_of_an_order_has_its_shares(counts):
    order = labels_by_share(counts, 500).numpy()
    for n in (1, 2, 10, 77, 500):
        seen = np.bincount(order[:n], minlength=len(counts))
        assert np.abs(seen - n * np.array(counts) / sum(counts)).max() < 1.5
    assert labels_by_share([4] * 10, 25).tolist() == [i % 10 for i in range(25)]


def test_classes_are_drawn_as_often_as_in_training_where_that_is_unlike(tiny_pipe):
    data = reference_data(tiny_pipe, None)
    ten, unlike = len(data.class_names), data.restricted(["0", "1"])
    kept = torch.cat([(unlike.train.labels == 0).nonzero()[:, 0], (unlike.train.labels == 1).nonzero()[:9, 0]])
    part = unlike.train
    unlike = replace(unlike, train=replace(part, labels=part.labels[kept], rows=part.rows[kept]))
    zeros = int((data.train.labels == 0).sum())
    assert data.shares("auto") is None and unlike.shares("even") is None
    assert unlike.shares("auto") == [zeros, 9] == unlike.shares("train")
    assert len(data.shares("train")) == ten and sum(data.shares("train")) == 1347
    assert replace(data, class_names=()).shares("train") is None


def test_any_rows_over_several_blocks(cheap, cache):
    """300 images lie in blocks of 128: slices, masks, and indices in any order, with repeats."""
    with drawn_samples(cheap, 300, seeds=[0]) as (samples,):
        whole = samples.images[:]
        assert torch.equal(whole, images.from_levels(images.to_levels(cheap.sample(n=300))))
        for rows in (slice(100, 270), np.array([299, 0, 128, 127, 0]), torch.arange(300) % 7 == 0, [5], []):
            assert torch.equal(samples.images[rows], whole[rows])


def test_measures_of_what_is_read_are_those_of_what_is_in_memory(tiny_pipe, cache):
    """Every measure, and per class; 300 samples are more than a block."""
    data = reference_data(tiny_pipe, None)
    with drawn_samples(tiny_pipe, 300, seeds=[0], levels=data.levels) as sets:
        held = [Samples(tiny_pipe.sample(n=300), torch.arange(300) % 10)]
        one, other = (measure(each, RealImages.of(data, "pca"), [*MEASURES], {}) for each in (sets, held))
        assert one == other
        np.testing.assert_array_equal(one.neighbours.generated, other.neighbours.generated)


def test_parts_of_a_few_images_give_the_same_numbers(tiny_pipe, cache, monkeypatch):
    data = reference_data(tiny_pipe, None)
    names = ["frechet", "inception_score", "label_accuracy"]
    with drawn_samples(tiny_pipe, 80, seeds=[0], levels=data.levels) as sets:
        whole = measure(sets, RealImages.of(data, "pixels"), names, {}).metrics
        monkeypatch.setattr("undiffuse.evaluation.samples.CHUNK", 7)
        parts = measure(sets, RealImages.of(data, "pixels"), names, {}).metrics
    for name in names:
        assert parts[name].value == pytest.approx(whole[name].value, rel=1e-6)
        assert parts[name].floor == pytest.approx(whole[name].floor, rel=1e-6)


# -- stopped and gone on with -----------------------------------------------------------------------------------------


def test_nothing_is_left_once_they_are_measured(cheap, cache):
    with drawn_samples(cheap, 300, seeds=range(2)):
        assert len(list(cache.iterdir())) == 2
    assert not list(cache.iterdir())


def test_what_was_drawn_before_a_stop_is_not_drawn_again(cheap, cache):
    """Two seeds: stopped in the second block of the second."""

    def stopping(items, total, what):
        for done in items:
            if what == "seed 1: image" and done > 128:
                os.kill(os.getpid(), signal.SIGINT)
            yield done

    said = "of 300 images in .*; go on with the same command"
    with pytest.raises(Interrupted, match=said), drawn_samples(cheap, 300, seeds=range(2), watch=stopping):
        pass
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    assert len(kept) == 4
    again = []

    def watch(items, total, what):
        again.append((total, what))
        return items

    with drawn_samples(cheap, 300, seeds=range(2), watch=watch) as sets:
        assert kept.items() <= {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}.items()
        for seed, samples in enumerate(sets):
            assert torch.equal(samples.images[:], images.from_levels(images.to_levels(cheap.sample(n=300, seed=seed))))
    assert again == [(300 - 128, "seed 1: image")]  # all of seed 0 and a block of seed 1 were there
    assert not list(cache.iterdir())


def test_measuring_that_fails_keeps_them(cheap, cache):
    with pytest.raises(UndiffuseError, match="later"), drawn_samples(cheap, 10, seeds=[0]):
        raise UndiffuseError("later")
    with drawn_samples(cheap, 10, seeds=[0], watch=lambda *told: pytest.fail()):
        pass


@pytest.mark.parametrize("changes", [{"n": 11}, {"seeds": [1]}, {"levels": 17}, {"classes": ["3"]}])
def test_other_samples_have_another_folder(cheap, cache, changes):
    first = {"n": 10, "seeds": [0]}
    with pytest.raises(UndiffuseError, match="later"), drawn_samples(cheap, **first):
        raise UndiffuseError("later")
    with drawn_samples(cheap, **first | changes):
        assert len(list(cache.iterdir())) == 2


def test_what_nobody_went_on_with_is_forgotten_after_a_month(cheap, cache):
    old, recent = cache / "old", cache / "recent"
    for folder, days in ((old, 31), (recent, 29)):
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - days * 86400,) * 2)
    with drawn_samples(cheap, 10, seeds=[0]):
        assert old.exists()
    assert list(cache.iterdir()) == [recent]


def test_two_commands_at_once_do_not_mix(cheap, cache):
    first, second = (drawn_samples(cheap, 10, seeds=[0]) for _ in range(2))
    with first, pytest.raises(UsageError, match="another command is writing into it"), second:
        pass


def test_a_cache_that_cannot_be_is_one_line(cheap, cache, monkeypatch):
    cache.parent.joinpath("file").write_text("")
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": cache.parent / "file" / "samples")
    said = "set XDG_CACHE_HOME to a folder that can be written"
    with pytest.raises(UndiffuseError, match=said), drawn_samples(cheap, 10, seeds=[0]):
        pass


def test_pictures_in_levels_are_images():
    pictures = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    stored = LevelImages(pictures, 17)
    assert len(stored) == 3
    assert torch.equal(stored[1:], torch.from_numpy(pictures).permute(0, 3, 1, 2)[1:] / 8 - 1)


@pytest.fixture
def cheap(tiny_pipe) -> Cheap:
    return Cheap(tiny_pipe.config, tiny_pipe.denoiser, tiny_pipe.device)


# -- real processes ---------------------------------------------------------------------------------------------------

LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


def evaluating(run, tmp_path, name: str, *options: str, launch: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`undiffuse evaluate` with a cache of its own for this name."""
    command = [sys.executable, *launch, "-m", "undiffuse", "evaluate", str(run), "-n", "1000", "--repeats", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / name)}
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.slow
def test_evaluate_stopped_and_killed_goes_on_and_two_processes_give_the_numbers_of_one(tiny_run, tmp_path):
    options = ["--metrics", "frechet,kid,train_on_generated", "--steps", "40"]
    finished(evaluating(tiny_run, tmp_path, "whole", *options, "--out", str(tmp_path / "whole.json")))
    cut = [*options, "--out", str(tmp_path / "cut.json")]
    there = 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = evaluating(tiny_run, tmp_path, "cut", *cut)
        deadline = time.monotonic() + 120
        while len(blocks := list((tmp_path / "cut").rglob("[0-9]*.npz"))) <= there and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        there = len(blocks)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130)
        assert "Traceback" not in err
        assert number == signal.SIGKILL or err.splitlines()[-1].startswith("undiffuse: stopped with ")
    _, err = finished(evaluating(tiny_run, tmp_path, "cut", *cut))
    left = re.search(r"image (\d+)/\1 ", err)
    assert left is not None and int(left[1]) < 1000  # what was there already is not drawn again
    _, err = finished(
        evaluating(tiny_run, tmp_path, "two", *options, "--out", str(tmp_path / "two.json"), launch=LAUNCH)
    )
    assert err.count("image 1000/1000") == 1
    whole, *others = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "cut", "two"))
    assert all(other == whole for other in others)
    for name in ("whole", "cut", "two"):
        assert not list((tmp_path / name / "undiffuse" / "samples").iterdir())
        shutil.rmtree(tmp_path / name)


def test_training_judges_samples_of_the_same_mix(tiny_pipe, monkeypatch):
    """Those of a run on unbalanced data are drawn as often as its classes are."""
    data = reference_data(tiny_pipe, None)
    config = tiny_pipe.config.replaced({"train.quality_n": 100, "evaluate.mix": "train"})
    asked = []
    sample = type(tiny_pipe).sample

    def spy(pipe, n, start, label):
        asked.append(label)
        return sample(pipe, n, start=start, label=label)

    monkeypatch.setattr(type(tiny_pipe), "sample", spy)
    for mix, wanted in (("train", np.array(data.shares("train")) / 1347 * 100), ("even", None)):
        judge = Judge(config.replaced({"evaluate.mix": mix}), data)
        assert judge.measure(5, tiny_pipe, tiny_pipe, []).verdict == "first"
        if wanted is not None:
            assert np.abs(np.bincount([int(name) for name in asked[-1]]) - wanted).max() < 1
    assert asked[2:] == [None, None]
