"""A sampling job may stop at any instant; continued, its folder ends with the same bytes as if it had not."""

import errno
import json
import os
import resource
import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from undiffuse import images, processes, sampling
from undiffuse.data.prepare import load
from undiffuse.diffusion.samplers import Frame
from undiffuse.errors import Interrupted, UndiffuseError, UsageError
from undiffuse.pipeline import Pipeline
from undiffuse.request import Request
from undiffuse.shards import FORMATS

KINDS = list(FORMATS)


@dataclass(frozen=True)
class Cheap(Pipeline):
    """A model whose image i is a fixed pattern, drawn without a network."""

    def _frames(self, rows, seed, label):
        x = torch.stack([torch.sin(torch.arange(64.0) * (i + 1 + seed)).reshape(1, 8, 8) for i in rows])
        yield Frame(1.0, x, x)
        yield Frame(0.0, x, x)


@pytest.fixture
def cheap(tiny_pipe):
    pipe = tiny_pipe.configured(steps=2)
    return Cheap(pipe.config, pipe.denoiser, pipe.device)


def draw(pipe, out, tell=lambda done: None, **asked) -> sampling.Job:
    """The whole command, but for the words: seven images from the third on, in blocks of four, by default."""
    request = Request.of(pipe, **{"n": 7, "start": 2, "batch_size": 4, **asked})
    with sampling.opened(pipe, request, out) as job:
        job.run(tell)
    return job


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def finished(folder: Path) -> bool:
    return json.loads((folder / "job.json").read_text())["finished"]


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
    data = load(str(out))
    found = torch.cat([data.train.images(), data.held_out.images()])
    assert {x.tobytes() for x in images.to_hwc(found)} == {x.tobytes() for x in wanted}
    labels = torch.cat([data.train.labels, data.held_out.labels])
    assert data.class_names == ("2", "7")
    assert sorted(data.class_names[y] for y in labels) == ["2"] * 3 + ["7"] * 4
    if kind != "tar":
        pictures, labels = images.read_images(out)
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
    assert load(str(tmp_path / "out")).class_names in ((), ("0",), ("-1",))
    if kind == "tar":
        import tarfile

        with tarfile.open(tmp_path / "out" / "000002-000003.tar") as archive:
            assert archive.getnames() == ["000002.png", "000003.png"]
    else:
        assert images.read_images(tmp_path / "out")[1].tolist() == [-1] * 7


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
            for read in (images.read_images, lambda folder: load(str(folder))):
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
        draw(tiny_pipe, out, stop, format=kind, n=20)
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


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 8}, r"n \(7 there, 8 here\)"),
        ({"start": 3}, r"start \(2 there, 3 here\)"),
        ({"seed": 1}, r"seed \(0 there, 1 here\)"),
        ({"batch_size": 5}, r"batch_size \(4 there, 5 here\)"),
        ({"label": "7"}, r"label \(\[0, 1, 2, .*\] there, \[7\] here\)"),
        ({"format": "npz"}, r"format \(png there, npz here\)"),
        ({"pipe": {"steps": 4}}, r"steps \(5 there, 4 here\)"),
        ({"pipe": {"sampler": "heun"}}, r"sampler \(ddim there, heun here\)"),
        ({"pipe": {"guidance": 1.5}}, r"guidance \(1.0 there, 1.5 here\)"),
        ({"pipe": {"eta": 0.5}}, r"eta \(0.0 there, 0.5 here\)"),
        ({"pipe": {"spacing": "quadratic"}}, r"spacing \(auto there, quadratic here\)"),
        ({"pipe": {"clip": False}}, r"clip \(True there, False here\)"),
    ],
    ids=str,
)
def test_another_request_is_refused_by_what_differs(tiny_pipe, tmp_path, change, words):
    out = tmp_path / "out"
    draw(tiny_pipe, out)
    before = tiny.tree(out)
    pipe = tiny_pipe.configured(**change.pop("pipe", {}))
    with pytest.raises(UsageError, match=f"holds another job, which differs in {words}; choose another folder"):
        draw(pipe, out, **change)
    assert tiny.tree(out) == before


def test_other_weights_times_and_noise_are_another_job(tiny_run, tiny_pipe, tmp_path):
    out = tmp_path / "out"
    draw(tiny_pipe, out)
    for other in (Pipeline.load(tiny_run, "raw"), Pipeline.load(tiny_run, checkpoint="4")):
        with pytest.raises(UsageError, match="differs in the model's weights; choose"):
            draw(other, out)
    with pytest.raises(UsageError, match="differs in times"):
        draw(tiny_pipe.fit(n=4), out)
    gamma = replace(tiny_pipe, config=tiny_pipe.config.replaced({"diffusion.noise": "laplace"}))
    with pytest.raises(UsageError, match="differs in the model's weights"):
        draw(gamma, out)


def test_the_same_request_in_other_words_is_the_same(tiny_pipe, tmp_path):
    """A class by its name, its index or in a list; a default by name."""
    draw(tiny_pipe, tmp_path / "out", label="7")
    assert draw(tiny_pipe, tmp_path / "out", label=7).finished
    assert draw(tiny_pipe.configured(sampler="ddim", steps=5), tmp_path / "out", label=[7]).finished


def test_a_job_without_an_image_gives_way_to_another(cheap, tmp_path):
    """Nothing is lost, and a request that could not be drawn does not block the folder."""
    with pytest.raises(UndiffuseError, match="sampling gave NaN"):
        broken = replace(cheap)
        object.__setattr__(broken, "_frames", lambda *_: (_ for _ in ()).throw(UndiffuseError("sampling gave NaN")))
        draw(broken, tmp_path / "out")
    draw(cheap, tmp_path / "out", n=5)
    assert finished(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"format_version": 1}', "null", "[" * 60_000, b"\xff\xfe"])
def test_a_job_that_cannot_be_read_is_one_line(cheap, tmp_path, text):
    out = tmp_path / "out"
    draw(cheap, out)
    (out / "job.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = tiny.tree(out)
    with pytest.raises(
        UndiffuseError, match=r"job\.json: does not say what was asked for .*; choose another folder"
    ) as e:
        draw(cheap, out)
    assert (type(e.value), len(str(e.value).splitlines())) == (UndiffuseError, 1)
    assert tiny.tree(out) == before


def test_a_newer_job_is_refused(cheap, tmp_path):
    draw(cheap, tmp_path / "out")
    path = tmp_path / "out" / "job.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(UndiffuseError, match="format_version 2 is newer than this undiffuse reads; please upgrade"):
        draw(cheap, tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_a_strangers_file_that_would_be_read_as_ours_is_named(cheap, tmp_path, kind):
    out = tmp_path / "out"
    draw(cheap, out, format=kind)
    (out / "notes.txt").write_text("not taken for an image")
    assert draw(cheap, out, format=kind).finished
    (out / f"000001.{kind}").write_text("mine")
    before = tiny.tree(out)
    with pytest.raises(UsageError, match=rf"000001\.{kind} in it is not of this job; move it away"):
        draw(cheap, out, format=kind)
    assert tiny.tree(out) == before


@pytest.mark.parametrize("content", ["x.txt", "000002.png", ".hidden", "labels.json"])
def test_a_folder_that_no_job_made_is_refused(cheap, tmp_path, content):
    (tmp_path / content).write_text("mine")
    with pytest.raises(UsageError, match="exists already, and no sampling job made it; choose another folder"):
        draw(cheap, tmp_path)
    assert tiny.tree(tmp_path) == {content: b"mine"}


def test_two_commands_do_not_draw_into_one_folder(cheap, tmp_path):
    refused = pytest.raises(UsageError, match="another command is drawing into it; wait for it, or stop it")
    with sampling.opened(cheap, Request.of(cheap, n=4), tmp_path / "out"), refused:
        draw(cheap, tmp_path / "out", n=4)
    assert not draw(cheap, tmp_path / "out", n=4, start=0).mine


def test_formats_and_channels_that_do_not_go_together(cheap, tmp_path):
    with pytest.raises(UsageError, match=r"--format jpg: unknown; .*png"):
        Request.of(cheap, n=1, format="jpg")
    two = replace(cheap, config=cheap.config.replaced({"data.shape": [2, 8, 8]}))
    with pytest.raises(UsageError, match="pictures of 2 channels have no image file format; take --format npz"):
        Request.of(two, n=1, format="tar")
    assert Request.of(two, n=1, format="npz").shape == [2, 8, 8]


def test_unfinished_is_what_we_say_not_what_others_name_so(cheap, tmp_path):
    """Another's job.json does not keep a folder from being read."""
    draw(cheap, tmp_path / "out")
    for text in ("[]", "nonsense", '{"finished": 0}', '{"request": 1}'):
        (tmp_path / "out" / "job.json").write_text(text)
        assert len(images.read_images(tmp_path / "out")[0]) == 7


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
@pytest.mark.parametrize("at", [0, 3, 7])
def test_the_first_signal_stops_at_once(tiny_pipe, tmp_path, number, at):
    """Not a frame more is drawn; handlers are put back."""
    heard, before = [], (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))

    def tell(done):
        heard.append(done)
        if len(heard) == at + 1:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="stopped with"):
        draw(tiny_pipe, tmp_path / "out", tell)
    assert len(heard) == at + 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    draw(tiny_pipe, tmp_path / "out")
    draw(tiny_pipe, tmp_path / "whole")
    assert tiny.tree(tmp_path / "out") == tiny.tree(tmp_path / "whole")


def test_a_signal_that_something_swallows_still_stops(cheap, tmp_path):
    with processes.stopping_at_once() as check:
        check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        with pytest.raises(KeyboardInterrupt):
            check()


def test_progress_counts_images_and_never_falls(tiny_pipe, tmp_path):
    heard = []
    draw(tiny_pipe, tmp_path / "out", heard.append, n=12, start=0)
    assert heard == sorted(heard)
    assert heard[4::5] == [4, 8, 12]
    assert heard[0] == 0 and heard[3] == 3  # of four images, one step of five and four steps of five


@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_of_several_processes_are_the_whole(cheap, tmp_path, monkeypatch, count):
    """Without their talk: each draws its share of one and the same list, last to first."""
    request, out = Request.of(cheap, n=30, batch_size=4), tmp_path / "out"
    draw(cheap, tmp_path / "whole", n=30, start=0)
    with sampling.opened(cheap, request, out) as job:
        todo = job.mine
    monkeypatch.setattr(processes, "count", lambda: count)
    monkeypatch.setattr(processes, "meet", lambda meanwhile: None)
    for rank in reversed(range(count)):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(processes, "agreed", lambda make: (todo, False))
        monkeypatch.setattr(sampling, "_begun", None)
        with sampling.opened(cheap, request, out) as job:
            assert len(job.mine) == len(todo[rank::count])
            assert finished(out) is False
            job.run()
    assert job.done == 30
    assert tiny.tree(out) == tiny.tree(tmp_path / "whole")
