"""A sampling job may stop at any instant; continued, its folder ends with the same bytes as if it had not."""

import errno
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from drawn import draw, finished, stamps, telling
from undiffuse import images
from undiffuse.data import generated
from undiffuse.data.prepare import load_data
from undiffuse.errors import Interrupted, UndiffuseError
from undiffuse.files.blocks import BLOCK_FORMATS
from undiffuse.pipeline import Pipeline
from undiffuse.processes import ranks, signals
from undiffuse.sampling import job as sampling
from undiffuse.sampling.request import Request

KINDS = list(BLOCK_FORMATS)


# -- what a folder holds ----------------------------------------------------------------------------------------------


NAMES = {
    "png": [f"{i:06d}.png" for i in range(2, 9)] + ["labels.json"],
    "npz": ["000002-000003.npz", "000004-000007.npz", "000008-000008.npz"],
    "tar": ["000002-000003.tar", "000004-000007.tar", "000008-000008.tar"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_named_by_index_and_hold_the_images_of_sample(tiny_pipe, tmp_path, kind):
    out = tmp_path / "some images"
    draw(tiny_pipe, out, format=kind, label=["7", 2], seed=3)
    assert sorted(path.name for path in out.iterdir()) == sorted([*NAMES[kind], "job.json"])
    wanted = images.to_hwc(tiny_pipe.sample(n=7, start=2, batch_size=4, label=[7, 2], seed=3))
    data = load_data(str(out))
    found = torch.cat([data.train.images(), data.held_out.images()])
    assert {x.tobytes() for x in images.to_hwc(found)} == {x.tobytes() for x in wanted}
    labels = torch.cat([data.train.labels, data.held_out.labels])
    assert data.class_names == ("2", "7")
    assert sorted(data.class_names[y] for y in labels) == ["2"] * 3 + ["7"] * 4
    if kind != "tar":
        pictures, labels = generated.read_images(out)
        np.testing.assert_array_equal(pictures, wanted)
        assert labels.tolist() == [7, 2, 7, 2, 7, 2, 7]


def test_each_sample_of_a_tar_is_its_picture_and_its_class(cheap, tmp_path):
    import tarfile

    draw(cheap, tmp_path / "out", format="tar", label=3)
    with tarfile.open(tmp_path / "out" / "000002-000003.tar") as archive:
        assert archive.getnames() == ["000002.png", "000002.cls", "000003.png", "000003.cls"]
        assert archive.extractfile("000003.cls").read() == b"3"


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_classes_gives_no_labels(tmp_path_factory, tmp_path, kind):
    run = tiny.trained(tmp_path / "run", model__conditional=False, train__steps=1)
    draw(Pipeline.load(run), tmp_path / "out", format=kind)
    assert load_data(str(tmp_path / "out")).class_names in ((), ("0",), ("-1",))
    if kind == "tar":
        import tarfile

        with tarfile.open(tmp_path / "out" / "000002-000003.tar") as archive:
            assert archive.getnames() == ["000002.png", "000003.png"]
    else:
        assert generated.read_images(tmp_path / "out")[1].tolist() == [-1] * 7


@pytest.mark.parametrize("label", [None, "7", ["7", "1", "1"]])
def test_classes_whose_names_are_other_classes_numbers(tmp_path, label):
    """Class 1 is called 7 and class 0 is called 1."""
    pipe = Pipeline.load(tiny.trained(tmp_path / "run", data__classes=["1", "7"]))
    asked = {"n": 7, "start": 2, "batch_size": 4, "label": label}
    draw(pipe, tmp_path / "out", **asked)
    pictures, labels = generated.read_images(tmp_path / "out")
    np.testing.assert_array_equal(pictures, images.to_hwc(pipe.sample(**asked)))
    assert labels.tolist() == pipe.labels(range(2, 9), label).tolist()
    other = images.to_hwc(pipe.sample(**asked | {"label": "1"}))
    assert (pictures != other).any()


# -- killed at any instant --------------------------------------------------------------------------------------------


def killed(at: int, work) -> bool:
    """Run `work` in a process that ends, as by SIGKILL, at its at-th touch of the disk; whether it came so far.

    A picture or array that is being written then is left half written."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        touches = iter(range(1, 1_000_000))

        def mortal(real, half=None):
            def touch(*arguments, **options):
                if next(touches) == at:
                    if half is not None:
                        half(*arguments)
                    os._exit(9)
                return real(*arguments, **options)

            return touch

        def half_written(path, *_):
            if isinstance(path, Path):
                path.write_bytes(b"\x89PNG half")

        images.write_png = mortal(images.write_png, half_written)
        images.write_npz = mortal(images.write_npz, half_written)
        Path.write_text = mortal(Path.write_text, lambda path, text: path.write_bytes(text.encode()[:9]))
        Path.replace, Path.mkdir, Path.unlink = mortal(Path.replace), mortal(Path.mkdir), mortal(Path.unlink)
        os.fsync, shutil.rmtree = mortal(os.fsync), mortal(shutil.rmtree)
        work()
    finally:
        os._exit(0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_at_any_instant_loses_nothing_and_leaves_nothing_half(cheap, tmp_path, kind):
    draw(cheap, tmp_path / "whole", format=kind)
    whole = tiny.tree(tmp_path / "whole")
    at, out = 0, tmp_path / "cut"
    while killed(at := at + 1, lambda: draw(cheap, out, format=kind)):
        left = tiny.tree(out) if out.exists() else {}
        for name, content in left.items():
            if not name.startswith(".") and name != "job.json":
                assert content == whole[name], f"{name} after a kill at touch {at}"
        if "job.json" in left and not finished(out):
            for read in (generated.read_images, lambda folder: load_data(str(folder))):
                with pytest.raises(UndiffuseError, match=r"not all of its images are there; run the command"):
                    read(out)
        elif left.keys() - {".job.writing.json"}:
            assert left == whole
        draw(cheap, out, format=kind)
        assert tiny.tree(out) == whole, f"continued after a kill at touch {at}"
        shutil.rmtree(out)
    assert at > 20


@pytest.mark.parametrize("kind", KINDS)
def test_kill_upon_kill_still_ends(cheap, tmp_path, kind):
    """Each go is killed at its 14th touch of the disk, beyond one block: so every go brings the end nearer."""
    draw(cheap, tmp_path / "whole", format=kind, n=20)
    out, goes = tmp_path / "cut", 0
    while killed(26 if kind == "png" else 14, lambda: draw(cheap, out, format=kind, n=20)):
        goes += 1
        assert goes < 20
    assert goes >= 1
    assert tiny.tree(out) == tiny.tree(tmp_path / "whole")


# -- done once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_is_there_is_not_drawn_again(tiny_pipe, tmp_path, kind):
    """Counted at the network."""
    calls, out = [], tmp_path / "out"
    hook = tiny_pipe.denoiser.backbone.register_forward_hook(lambda module, given, made: calls.append(len(made)))

    def stop(done):
        if done >= 2 + 4 + 1:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"stopped with 6 of 20 images in .*; go on with the same command"):
        draw(tiny_pipe, out, telling(stop), format=kind, n=20)
    assert calls == [2] * 5 + [4] * 5 + [4] * 2  # the third block was begun
    calls.clear()
    before = stamps(out)
    draw(tiny_pipe, out, format=kind, n=20)
    assert calls == [4] * 5 * 3 + [2] * 5
    kept = [name for name in before if name != "job.json"]
    assert len(kept) == (6 if kind == "png" else 2)
    assert {name: stamps(out)[name] for name in kept} == {name: before[name] for name in kept}
    calls.clear()
    before = stamps(out), tiny.tree(out), out.stat().st_mtime_ns
    assert draw(tiny_pipe, out, format=kind, n=20).finished
    assert (calls, (stamps(out), tiny.tree(out), out.stat().st_mtime_ns)) == ([], before)
    hook.remove()


SPOILED = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "short of its last byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "junk": lambda path: path.write_bytes(b"\xff junk" * 200),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_block_is_drawn_again_and_no_other(cheap, tmp_path, kind, how):
    out = tmp_path / "out"
    draw(cheap, out, format=kind)
    whole, before = tiny.tree(out), stamps(out)
    name = {"png": "000005.png"}.get(kind, f"000004-000007.{kind}")
    SPOILED[how](out / name)
    draw(cheap, out, format=kind)
    assert tiny.tree(out) == whole
    block = NAMES["png"][2:6] if kind == "png" else [name]
    renewed = {name for name, stamp in stamps(out).items() if before[name] != stamp}
    assert renewed - {"job.json", "labels.json"} == set(block)


def test_spoiled_labels_are_written_again(cheap, tmp_path):
    draw(cheap, tmp_path / "out")
    whole = tiny.tree(tmp_path / "out")
    (tmp_path / "out" / "labels.json").write_text("{}")
    draw(cheap, tmp_path / "out")
    assert tiny.tree(tmp_path / "out") == whole


# -- a full disk, signals, processes ----------------------------------------------------------------------------------


@pytest.fixture
def no_large_files():
    """The system lets no file grow beyond 2,000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


FULL = {"n": 60, "start": 0, "batch_size": 40}


@pytest.mark.parametrize("kind", ["npz", "tar"])
def test_a_full_disk_is_one_line(tiny_pipe, tmp_path, no_large_files, kind):
    with pytest.raises(UndiffuseError, match=r"File too large, with 0 of 60 images in .*; once that is mended, go on"):
        draw(tiny_pipe, tmp_path / "out", format=kind, **FULL)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["job.json"]  # what was aside gives its room back


def test_after_a_full_disk_the_job_goes_on(tiny_pipe, tmp_path, monkeypatch):
    real, written, out = images.write_png, [], tmp_path / "out"

    def write(file, picture):
        if len(written) == 43:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(real(file, picture))

    monkeypatch.setattr(images, "write_png", write)
    with pytest.raises(
        UndiffuseError, match=r"^No space left on device, with 40 of 60 images in .*; once .*, go on with the same"
    ):
        draw(tiny_pipe, out, **FULL)
    assert len(list(out.iterdir())) == 41
    monkeypatch.undo()
    draw(tiny_pipe, out, **FULL)
    draw(tiny_pipe, tmp_path / "whole", **FULL)
    assert tiny.tree(out) == tiny.tree(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 3, 6])
def test_the_first_signal_stops_at_once(tiny_pipe, tmp_path, number, at):
    """Not an image more is drawn; handlers are put back."""
    heard, before = [], (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))

    def tell(done):
        heard.append(done)
        if len(heard) == at + 1:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="stopped with"):
        draw(tiny_pipe, tmp_path / "out", telling(tell))
    assert len(heard) == at + 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    draw(tiny_pipe, tmp_path / "out")
    draw(tiny_pipe, tmp_path / "whole")
    assert tiny.tree(tmp_path / "out") == tiny.tree(tmp_path / "whole")


def test_a_signal_that_something_swallows_still_stops(cheap, tmp_path):
    with signals.stopping_at_once() as check:
        check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        with pytest.raises(KeyboardInterrupt):
            check()


def test_progress_counts_every_image_once_as_its_block_goes_on(tiny_pipe, tmp_path):
    told, calls = [], []
    hook = tiny_pipe.denoiser.backbone.register_forward_hook(lambda module, given, made: calls.append(1))
    draw(tiny_pipe, tmp_path / "out", telling(lambda done: told.append((done, len(calls)))), n=12, start=0)
    hook.remove()
    assert [done for done, _ in told] == [*range(1, 13)]
    assert [steps for _, steps in told[:5]] == [2, 3, 4, 5, 7]  # of four images in five steps


@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_of_several_processes_are_the_whole(cheap, tmp_path, monkeypatch, count):
    """Without their talk: each draws its share of one and the same list, last to first."""
    request, out = Request.of(cheap, n=30, batch_size=4), tmp_path / "out"
    draw(cheap, tmp_path / "whole", n=30, start=0)
    with sampling.open_job(cheap, request, out) as job:
        todo = job.mine
    monkeypatch.setattr(ranks, "count", lambda: count)
    monkeypatch.setattr(ranks, "meeting", lambda: iter(()))
    for rank in reversed(range(count)):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(ranks, "from_first", lambda make: (todo, False))
        monkeypatch.setattr(sampling, "_begin", None)
        with sampling.open_job(cheap, request, out) as job:
            assert len(job.mine) == len(todo[rank::count])
            assert finished(out) is False
            job.run()
    assert job.done == 30
    assert tiny.tree(out) == tiny.tree(tmp_path / "whole")
