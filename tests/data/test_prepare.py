"""Prepared once, kept under a key of all that matters, split by content; what it says, and what it refuses."""

import json
import os
import warnings
from collections import Counter

import numpy as np
import pytest
import torch

from made import NAMES, files, idx_folder, pictures, png, written
from undiffuse import config
from undiffuse.data import cache as files_kept
from undiffuse.data.check import check_data
from undiffuse.data.loader import Batches
from undiffuse.data.prepare import dataset
from undiffuse.data.spec import DataSpec, DataWarning
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.pipeline import build


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "pictures", files(60))


def kept(cache):
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


# -- the cache --------------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_read(folder, cache, monkeypatch):
    first = dataset(DataSpec(str(folder)))
    monkeypatch.setattr("undiffuse.data.sources.folder.read_bytes", None)
    again = dataset(DataSpec(str(folder)))
    assert again.content == first.content and len(kept(cache)) == 1
    assert torch.equal(again.train.images(), first.train.images())
    assert torch.equal(again.train.labels, first.train.labels)


def test_it_is_mapped_not_loaded(folder, cache):
    data = dataset(DataSpec(str(folder)))
    path = next(cache.glob("*/pictures.bin"))
    data.train.pictures[0] = 7  # private to this process
    assert dataset(DataSpec(str(folder))).train.pictures[0].float().mean() != 7
    assert path.stat().st_size == 60 * 3 * 8 * 8


@pytest.mark.parametrize("change", ["bytes", "name", "label", "new"])
def test_any_change_of_the_pictures_is_another_content(folder, cache, change):
    before = dataset(DataSpec(str(folder)))
    one = folder / "cat/0.png"
    if change == "bytes":  # the same size, and the time set back
        facts, data = one.stat(), bytearray(png(pictures(1, seed=5)[0]))
        one.write_bytes(bytes(data).ljust(facts.st_size, b"\0")[: max(facts.st_size, len(data))])
        os.utime(one, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    elif change == "name":
        one.rename(folder / "cat/00.png")
    elif change == "label":
        one.rename(folder / "dog/0.png")
    else:
        (folder / "cat/99.png").write_bytes(png(pictures(1, seed=5)[0]))
    assert dataset(DataSpec(str(folder))).content != before.content
    assert len(kept(cache)) == 2


def test_the_same_pictures_elsewhere_are_not_prepared_again(folder, tmp_path, cache):
    before = dataset(DataSpec(str(folder)))
    folder.rename(tmp_path / "moved")
    assert dataset(DataSpec(str(tmp_path / "moved"))).content == before.content
    assert len(kept(cache)) == 1


def test_another_policy_is_another_file_and_a_choice_among_them_is_not(folder, cache):
    for changes in ({}, {"bad": "skip"}, {"held_out": 0.5}, {"limit": 10}, {"duplicates": "drop"}):
        dataset(DataSpec(str(folder), **changes))
    assert len(kept(cache)) == 1
    for changes in ({"size": (4, 4)}, {"channels": 1}, {"size": (16, 16), "fit": "pad"}):
        dataset(DataSpec(str(folder), **changes))
    assert len(kept(cache)) == 4


def test_a_damaged_cache_says_what_to_do(folder, cache):
    dataset(DataSpec(str(folder)))
    path = next(cache.glob("*/pictures.bin"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UndiffuseError, match="damaged; delete this folder"):
        dataset(DataSpec(str(folder)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda facts, _: facts.write_text(""),
        lambda facts, _: facts.write_text(facts.read_text()[:300]),
        lambda facts, _: facts.write_text("{}"),
        lambda facts, _: facts.write_text(json.dumps(json.loads(facts.read_text()) | {"digests": []})),
        lambda _, path: path.unlink(),
    ],
)
def test_so_do_facts_cut_short_and_pictures_gone(folder, cache, damage):
    dataset(DataSpec(str(folder)))
    damage(next(cache.glob("*/facts.json")), next(cache.glob("*/pictures.bin")))
    with pytest.raises(UndiffuseError, match="damaged; delete this folder"):
        dataset(DataSpec(str(folder)))


def test_a_folder_half_deleted_is_made_again(folder, cache):
    dataset(DataSpec(str(folder)))
    next(cache.glob("*/facts.json")).unlink()
    dataset(DataSpec(str(folder)))
    assert len(list(cache.glob("*/facts.json"))) == 1


def test_nothing_is_left_of_what_was_refused(tmp_path, cache):
    written(tmp_path / "x", {"a.png": png(pictures(1)[0]), "b.png": png(pictures(1, (9, 9, 3))[0])})
    with pytest.raises(UsageError):
        dataset(DataSpec(str(tmp_path / "x")))
    assert not cache.exists() or not list(cache.iterdir())


def test_without_a_cache_they_are_held_in_memory_and_that_is_said(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": tmp_path / "file" / "x")
    with pytest.warns(DataWarning, match=r"cannot be used \(Not a directory\); the pictures are held in memory"):
        data = dataset(DataSpec(str(folder)))
    assert len(data.train) + len(data.held_out) == 60


def test_a_full_disk_is_known_before_it_is_full(folder, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(files_kept.shutil, "disk_usage", lambda _: usage)
    with pytest.warns(DataWarning, match="0 MiB are needed, 0 MiB are free"):
        dataset(DataSpec(str(folder)))


# -- the split --------------------------------------------------------------------------------------------------------


def test_a_share_of_every_class_is_held_out(folder):
    data = dataset(DataSpec(str(folder), held_out=0.2))
    assert Counter(data.held_out.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    rows = set(data.train.rows.tolist()) | set(data.held_out.rows.tolist())
    assert rows == set(range(60)) and len(data.train) == 48


def test_new_pictures_move_no_others_into_training(folder):
    before = dataset(DataSpec(str(folder), held_out=0.5))
    held = {x.numpy().tobytes() for x in before.held_out.images()}
    for i, picture in enumerate(pictures(3, seed=7)):
        (folder / f"cat/{100 + i}.png").write_bytes(png(picture))
    trained = {x.numpy().tobytes() for x in dataset(DataSpec(str(folder), held_out=0.5)).train.images()}
    assert len(held & trained) <= 2  # of 30: the boundary moves by half of what is new


def test_copies_fall_on_one_side_and_can_be_dropped(tmp_path):
    content = {f"{i}-{copy}.png": png(x) for i, x in enumerate(pictures(20)) for copy in range(3)}
    written(tmp_path / "x", content)
    data = dataset(DataSpec(str(tmp_path / "x"), held_out=0.3))
    sides = [{x.numpy().tobytes() for x in part.images()} for part in (data.train, data.held_out)]
    assert not sides[0] & sides[1] and (len(sides[0]), len(sides[1])) == (14, 6)
    assert (len(data.train), len(data.held_out)) == (42, 18)
    alone = dataset(DataSpec(str(tmp_path / "x"), held_out=0.3, duplicates="drop"))
    assert (len(alone.train), len(alone.held_out)) == (14, 6) and "40 copies dropped" in alone.notes


def test_a_limit_is_a_random_choice_of_all_classes(folder):
    data = dataset(DataSpec(str(folder), limit=9))
    assert len(data.train) == 9 and len(set(data.train.labels.tolist())) == 3
    assert torch.equal(dataset(DataSpec(str(folder), limit=9)).train.images(), data.train.images())


def test_two_parts_are_needed(tmp_path):
    written(tmp_path / "x", {"a.png": png(pictures(1)[0])})
    with pytest.raises(UndiffuseError, match="to train on: 1, to hold out: 0; both are needed"):
        dataset(DataSpec(str(tmp_path / "x")))


def test_small_sets_hold_out_something(tmp_path):
    written(tmp_path / "x", {f"{i}.png": png(x) for i, x in enumerate(pictures(4))})
    assert len(dataset(DataSpec(str(tmp_path / "x"))).held_out) == 1


# -- classes and configuration ----------------------------------------------------------------------------------------


def test_restricting_copies_no_picture(folder):
    data = dataset(DataSpec(str(folder)))
    some = data.restricted(["owl", "cat"])
    assert some.class_names == ("cat", "owl") and some.train.pictures is data.train.pictures
    assert set(some.train.labels.tolist()) == {0, 1}
    owls = data.train.labels == 2
    assert torch.equal(some.train.images()[some.train.labels == 1], data.train.images()[owls])


def test_classes_of_what_has_none_are_refused(tmp_path):
    idx_folder(tmp_path)
    for path in tmp_path.glob("*labels*"):
        path.unlink()
    with pytest.raises(UsageError, match="has no classes; leave it out"):
        dataset(DataSpec(str(tmp_path))).restricted(["cat"])


def test_a_run_remembers_its_pictures(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    start = config.Config().replaced({"data.source": "pictures", "data.classes": ["dog", "owl"]})
    data = build.dataset(start)
    run = build.resolved(start, data)
    assert run.data.source == str(folder) and run.data.shape == [3, 8, 8] and run.data.classes == ["dog", "owl"]
    monkeypatch.chdir("/")
    again = build.dataset(run)
    build.check_same_data(run, again)
    assert again.class_names == ("dog", "owl")
    (folder / "cat/99.png").write_bytes(png(pictures(1, seed=5)[0]))
    with pytest.raises(UndiffuseError, match="have changed since this run began"):
        build.check_same_data(run, build.dataset(run))


def test_pictures_without_classes_stay_so_when_read_back(tmp_path):
    idx_folder(tmp_path / "x")
    for path in (tmp_path / "x").glob("*labels*"):
        path.unlink()
    start = config.Config().replaced({"data.source": str(tmp_path / "x")})
    run = build.resolved(start, build.dataset(start))
    assert run.data.classes == [] and build.num_classes(run) == 0
    assert build.dataset(run).class_names == ()


@pytest.mark.parametrize(("size", "expected"), [(16, (16, 16)), ([12, 20], (12, 20)), (None, None)])
def test_sizes_are_one_number_or_two(size, expected):
    assert build.data_spec(config.Config().replaced({"data.size": size})).size == expected


# -- check ------------------------------------------------------------------------------------------------------------


def test_check_says_what_training_will_see(folder):
    found = check_data(DataSpec(str(folder)))
    rows = dict(found.rows)
    assert rows["pictures"] == "60 in pictures" and rows["sizes (h x w)"] == "8x8 60"
    assert rows["classes"] == "3: cat 20, dog 20, owl 20" and not found.trouble
    assert rows["training sees"] == "3x8x8: 54 pictures, 6 held out (data.held_out=0.1)"


def test_check_tells_copies_in_other_classes(folder):
    (folder / "owl/copy.png").write_bytes((folder / "cat/0.png").read_bytes())
    said = check_data(DataSpec(str(folder))).rows
    assert ("copies", "1, each the same as an earlier picture; first owl/copy.png = cat/0.png") in said
    assert ("", "1 of them in another class") in said


def test_training_after_check_reads_nothing(folder, monkeypatch):
    check_data(DataSpec(str(folder)))
    monkeypatch.setattr("undiffuse.data.sources.folder.read_bytes", None)
    dataset(DataSpec(str(folder)))


@pytest.mark.parametrize(("count", "changes"), [(1, {}), (12, {"held_out": 0.99})])
def test_check_tells_when_a_part_is_empty(tmp_path, count, changes):
    written(tmp_path / "x", files(count))
    spec = DataSpec(str(tmp_path / "x"), **changes)
    with pytest.raises(UndiffuseError) as refused:
        dataset(spec)
    assert check_data(spec).trouble == [str(refused.value)]


# -- the order of training --------------------------------------------------------------------------------------------


def test_flips_mirror_half_of_the_pictures_by_their_place_alone(folder):
    part = dataset(DataSpec(str(folder))).train
    plain, flipped = Batches(part, 24, 0), Batches(part, 24, 0, flip=True)
    mirrored = 0
    for step in range(10):
        (x, y), (z, w) = plain.batch(step), flipped.batch(step)
        same, other = [(z == as_is).flatten(1).all(1) for as_is in (x, x.flip(-1))]
        assert (same | other).all() and torch.equal(y, w)
        mirrored += int((~same).sum())
        torch.testing.assert_close(flipped.batch(step, slice(5, 11))[0], z[5:11])
    assert 90 < mirrored < 150


def test_ten_levels_of_gray_stay_on_their_grid():
    assert dataset(DataSpec("digits", size=(16, 16), fit="pad")).shape == (1, 16, 16)
    with pytest.raises(UsageError, match=r"17 levels of grey, which resizing would leave; take data.fit=pad"):
        dataset(DataSpec("digits", size=(16, 16)))


def test_nothing_warns(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = dataset(DataSpec(str(folder), size=(5, 7)))
    assert data.shape == (3, 5, 7) and data.class_names == NAMES
    assert np.isfinite(data.train.images().numpy()).all()
