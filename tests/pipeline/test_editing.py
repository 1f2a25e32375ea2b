"""Pictures in, pictures out, with a model: what must stay stays, draws depend on (seed, i) alone, junk is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from undiffuse import images, rng
from undiffuse.diffusion.samplers import SAMPLERS
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files.drawn import write_folder
from undiffuse.pipeline import editing, pictures

X = torch.linspace(-1, 1, 6 * 64).reshape(6, 1, 8, 8).round(decimals=1)
KNOWN = torch.zeros(8, 8, dtype=torch.bool)
KNOWN[:, :3] = True


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_known_pixels_come_back_exactly_and_others_do_not(tiny_pipe, sampler, repeats):
    pipe = tiny_pipe.configured(sampler=sampler, steps=11)
    made = editing.inpaint(pipe, X, KNOWN, repeats=repeats)
    assert torch.equal(made[..., KNOWN], X[..., KNOWN])
    assert not torch.isclose(made[..., ~KNOWN], X[..., ~KNOWN]).all()
    assert made.isfinite().all() and made.abs().max() <= 1.5


@pytest.mark.bare
@pytest.mark.parametrize(
    "edit",
    [
        lambda pipe, x, y: editing.inpaint(pipe, x, KNOWN, y, seed=3),
        lambda pipe, x, y: editing.variations(pipe, x, 0.6, y, seed=3),
        lambda pipe, x, y: editing.invert(pipe, x, y),
        lambda pipe, x, y: editing.reconstruct(pipe, x, y, refinements=1),
    ],
    ids=["inpaint", "variations", "invert", "reconstruct"],
)
def test_a_picture_s_edit_does_not_depend_on_those_beside_it(tiny_pipe, edit, monkeypatch):
    pipe, y = tiny_pipe.configured(eta=0.5, sampler="ddim"), torch.arange(6)
    together = edit(pipe, X, y)
    torch.testing.assert_close(edit(pipe, X[:2], y[:2]), together[:2], rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(editing, "BLOCK", 4)
    torch.testing.assert_close(edit(pipe, X, y), together, rtol=1e-4, atol=1e-4)
    other = edit(pipe, X, y.flip(0))
    assert not torch.allclose(other, together, atol=1e-3)


@pytest.mark.parametrize(
    ("edit", "walks"),
    [
        (lambda pipe, watch: editing.inpaint(pipe, X, KNOWN, repeats=1, watch=watch), [20]),
        (lambda pipe, watch: editing.inpaint(pipe, X, KNOWN, repeats=3, watch=watch), [10]),
        (lambda pipe, watch: editing.variations(pipe, X, 0.5, watch=watch), [12]),
        (lambda pipe, watch: editing.reconstruct(pipe, X, watch=watch), [20, 20]),
        (lambda pipe, watch: editing.interpolate(pipe, X[:2], 6, watch=watch), [20]),
    ],
    ids=["inpaint", "inpaint again", "variations", "reconstruct", "interpolate"],
)
def test_who_watches_is_told_how_many_frames_will_come(tiny_pipe, edit, walks, monkeypatch):
    told, seen = [], []

    def watch(frames, total, what):
        told.append(total)
        seen.append(0)
        for frame in frames:
            seen[-1] += 1
            yield frame

    monkeypatch.setattr(editing, "BLOCK", 4)  # six pictures: two blocks
    edit(tiny_pipe.configured(steps=10, sampler="ddim", eta=0.0), watch)
    assert told == seen == walks


@pytest.mark.parametrize(("steps", "stretch"), [(2, 1), (10, 2), (50, 10)])
def test_few_steps_are_gone_back_over_too(tiny_pipe, steps, stretch):
    calls = []

    def counted(x, t, y=None):
        calls.append(float(t[0]))
        return torch.zeros_like(x)

    pipe = replace(tiny_pipe, denoiser=replace(tiny_pipe.denoiser, backbone=counted)).configured(steps=steps, eta=0.0)
    editing.inpaint(pipe, X, KNOWN, repeats=3)
    times = pipe.times()[:-1]
    assert calls == [*times[:stretch], *(t for i in range(stretch, steps, stretch) for t in times[i : i + stretch] * 3)]


def test_another_seed_paints_another_picture(tiny_pipe):
    one, other = (editing.inpaint(tiny_pipe, X, KNOWN, seed=seed) for seed in (0, 1))
    assert not torch.allclose(one, other, atol=0.1)


def test_a_variation_starts_from_the_picture_in_the_noise_of_its_strength(tiny_pipe):
    """v = 0 is the answer for data N(0, 1): DDIM stands still but for cos(phi_t - phi_s) a step."""
    still = replace(tiny_pipe.denoiser, backbone=lambda x, t, y=None: torch.zeros_like(x))
    pipe = replace(tiny_pipe, denoiser=still).configured(clip=False, eta=0.0)
    for strength, t in ((0.001, 1.0), (0.3, 15.0), (1.0, 50.0)):
        angles = np.arctan2(*pipe.process.scales(np.array([t, *(s for s in pipe.times() if s < t)]))[::-1])
        x_t = pipe.process.corrupt(X, t, rng.per_row(7, "sample", rows=range(6))).x_t
        expected = x_t * float(np.cos(np.diff(angles)).prod())
        torch.testing.assert_close(editing.variations(pipe, X, strength, seed=7), expected, rtol=1e-4, atol=1e-5)


def test_all_the_way_is_a_new_image(tiny_pipe):
    """With next to nothing of the picture left, the picture does not matter."""
    one, other = (editing.variations(tiny_pipe, x, 1.0) for x in (X, -X))
    assert editing.error(one, other) < 1e-3


def test_the_way_between_two_noises_ends_at_the_images_of_sample(tiny_pipe):
    x_T = torch.cat([tiny_pipe.noise(1, start=3), tiny_pipe.noise(1, start=8)])
    way = editing.interpolate(tiny_pipe, x_T, 5, tiny_pipe.labels([3, 8]))
    drawn = tiny_pipe.sample(9)
    torch.testing.assert_close(way[[0, -1]], drawn[[3, 8]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(way[2], way[0], atol=1e-2)


def test_there_and_back_refined_is_nearer(tiny_pipe):
    pipe = tiny_pipe.configured(steps=10)
    plain, refined = (editing.error(X, editing.reconstruct(pipe, X, None, n)) for n in (0, 4))
    assert refined < plain


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda pipe: editing.inpaint(pipe, X[:, :, :4], KNOWN), "float32 tensor"),
        (lambda pipe: editing.inpaint(pipe, X, KNOWN.float()), "bool tensor"),
        (lambda pipe: editing.inpaint(pipe, X, torch.ones(3, 5, dtype=torch.bool)), "does not fit"),
        (lambda pipe: editing.variations(pipe, X, label=torch.full((6,), 11)), "labels lie from 0 to 10"),
        (lambda pipe: editing.interpolate(pipe, X, 4), "two ends"),
        (lambda pipe: editing.interpolate(pipe.configured(sampler="edm"), X[:2], 4), "draws noise on the way"),
    ],
)
def test_what_cannot_be_edited_is_refused(tiny_pipe, call, words):
    with pytest.raises(UsageError, match=words):
        call(tiny_pipe)


def test_a_model_that_knows_no_pictures_without_a_class_asks_for_one(tiny_pipe):
    pipe = replace(tiny_pipe, config=tiny_pipe.config.replaced({"train.label_dropout": 0.0}))
    with pytest.raises(UsageError, match="give a label"):
        editing.variations(pipe, X)
    editing.variations(pipe, X, label=torch.arange(6))


# -- files ------------------------------------------------------------------------------------------------------------


def test_any_picture_is_brought_to_the_model_s_shape(tiny_pipe, tmp_path):
    colour = np.zeros((40, 80, 4), np.uint8)
    colour[:, 20:60] = (255, 255, 255, 255)
    Image.fromarray(colour).save(tmp_path / "x.png")
    x = pictures.read_pictures(tiny_pipe, tmp_path / "x.png")
    assert x.shape == (1, 1, 8, 8) and torch.equal(x, torch.ones_like(x))  # the middle, and white behind the rest


def test_pictures_of_the_right_size_are_taken_to_the_pixel(tiny_pipe, tmp_path):
    levels = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    images.write_npz(tmp_path / "x.npz", levels, np.zeros(2, np.int64))
    write_folder(tmp_path / "x", levels, np.zeros(2, np.int64))
    for path in ("x.npz", "x"):
        assert np.array_equal(images.to_hwc(pictures.read_pictures(tiny_pipe, tmp_path / path)), levels)


def test_a_mask_is_white_where_to_paint(tiny_pipe, tmp_path):
    picture = np.zeros((16, 16), np.uint8)
    picture[:, 8:] = 200
    Image.fromarray(picture).save(tmp_path / "m.png")
    mask = pictures.read_mask(tiny_pipe, tmp_path / "m.png")
    assert mask.shape == (1, 8, 8) and mask[..., 4:].all() and not mask[..., :4].any()


def test_junk_is_refused(tiny_pipe, tmp_path):
    (tmp_path / "x.png").write_bytes(b"junk")
    with pytest.raises(UndiffuseError, match=r"x\.png: not a picture"):
        pictures.read_pictures(tiny_pipe, tmp_path / "x.png")
