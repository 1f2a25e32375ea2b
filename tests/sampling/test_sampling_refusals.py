"""What a sampling job refuses, it names in one line, and it changes nothing."""

from dataclasses import replace

import pytest

import tiny
from drawn import draw, finished
from undiffuse.data import generated
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files.blocks import BLOCK_FORMATS
from undiffuse.pipeline import Pipeline
from undiffuse.sampling.job import open_job
from undiffuse.sampling.request import Request

KINDS = list(BLOCK_FORMATS)


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


def test_a_strangers_shard_of_other_images_is_named(cheap, tmp_path):
    """Images 2 to 8 in batches of 4: 2-3, 4-7 and 8."""
    out = tmp_path / "out"
    draw(cheap, out, format="npz")
    assert sorted(path.name for path in out.glob("*.npz")) == [f"00000{a}-00000{b}.npz" for a, b in ("23", "47", "88")]
    for name in ("000004-000005", "000000-000003", "000008-000011", "9" * 30, "000004", "4"):
        (out / f"{name}.npz").write_text("mine")
        with pytest.raises(UsageError, match=rf"{name}\.npz in it is not of this job"):
            draw(cheap, out, format="npz")
        (out / f"{name}.npz").unlink()
    assert draw(cheap, out, format="npz").finished


def test_a_folder_where_a_picture_belongs_is_named(cheap, tmp_path):
    out = tmp_path / "out"
    draw(cheap, out)
    (out / "000004.png").unlink()
    (out / "000004.png").mkdir()
    with pytest.raises(UndiffuseError, match=rf"{out}/000004\.png: Is a directory, with 3 of 7 images in {out}; once"):
        draw(cheap, out)


@pytest.mark.parametrize("content", ["x.txt", "000002.png", ".hidden", "labels.json"])
def test_a_folder_that_no_job_made_is_refused(cheap, tmp_path, content):
    (tmp_path / content).write_text("mine")
    with pytest.raises(UsageError, match="exists already, and no sampling job made it; choose another folder"):
        draw(cheap, tmp_path)
    assert tiny.tree(tmp_path) == {content: b"mine"}


def test_two_commands_do_not_draw_into_one_folder(cheap, tmp_path):
    refused = pytest.raises(UsageError, match="another command is writing into it; wait for it, or stop it")
    with open_job(cheap, Request.of(cheap, n=4), tmp_path / "out"), refused:
        draw(cheap, tmp_path / "out", n=4)
    assert not draw(cheap, tmp_path / "out", n=4, start=0).mine


def test_formats_and_channels_that_do_not_go_together(cheap, tmp_path):
    with pytest.raises(UsageError, match=r"--format jpg: unknown; .*png"):
        Request.of(cheap, n=1, format="jpg")
    two = replace(cheap, config=cheap.config.replaced({"data.shape": [2, 8, 8]}))
    with pytest.raises(UsageError, match="pictures of 2 channels have no image file format; take --format npz"):
        Request.of(two, n=1, format="tar")
    assert Request.of(two, n=1, format="npz").shape == [2, 8, 8]


@pytest.mark.parametrize("format", ["png", "npz"])
def test_a_finished_folder_that_has_lost_a_file_is_not_taken_for_all(cheap, tmp_path, format):
    draw(cheap, tmp_path / "out", format=format)
    assert len(generated.read_images(tmp_path / "out")[0]) == 7
    next((tmp_path / "out").glob(f"*.{format}")).unlink()
    with pytest.raises(UndiffuseError, match="not all of its images are there"):
        generated.read_images(tmp_path / "out")


def test_unfinished_is_what_we_say_not_what_others_name_so(cheap, tmp_path):
    """Another's job.json does not keep a folder from being read."""
    draw(cheap, tmp_path / "out")
    for text in ("[]", "nonsense", '{"finished": 0}', '{"request": 1}'):
        (tmp_path / "out" / "job.json").write_text(text)
        assert len(generated.read_images(tmp_path / "out")[0]) == 7
