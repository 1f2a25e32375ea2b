"""Levels to [-1, 1] and back without loss; grids and files give back what was put in."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from undiffuse import images
from undiffuse.data import generated
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.rng import fold


def pictures(n=3, h=5, w=4, c=1) -> np.ndarray:
    return fold(0, "pictures").integers(0, 255, (n, h, w, c)).numpy().astype(np.uint8)


@pytest.mark.parametrize("levels", range(2, 257))
def test_levels_survive_the_way_there_and_back(levels):
    u = torch.arange(levels, dtype=torch.uint8).reshape(1, 1, 1, levels)
    x = images.from_levels(u, levels)
    assert torch.equal(images.to_levels(x, levels), u)
    assert (x.dtype, x.min()) == (torch.float32, -1)
    assert 1 - 1e-6 < x.max() <= 1


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_are_evenly_spaced(levels):
    x = images.from_levels(torch.arange(levels, dtype=torch.uint8).reshape(1, 1, 1, levels), levels).ravel()
    np.testing.assert_allclose(x, [2 * u / (levels - 1) - 1 for u in range(levels)], atol=1e-6)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_nearest_level_is_taken(levels):
    """Neither truncated (half a level darker) nor wrapped: 0.49 of a level either way changes nothing."""
    u = torch.arange(levels, dtype=torch.uint8).reshape(1, 1, 1, levels)
    for part in (-0.49, 0.49):
        x = images.from_levels(u, levels) + part * 2 / (levels - 1)
        assert torch.equal(images.to_levels(x, levels), u)


def test_what_is_out_of_range_is_clamped():
    x = torch.tensor([-7.0, -1.1, 1.1, 300.0, float("inf"), -float("inf")]).reshape(1, 1, 1, -1)
    assert images.to_levels(x).ravel().tolist() == [0, 0, 255, 255, 255, 0]


def test_half_precision_is_converted_in_float32():
    u = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 1, 256)
    assert torch.equal(images.to_levels(images.from_levels(u).double()), u)
    assert torch.equal(images.to_levels(images.from_levels(u).half()), u)


def test_channels_go_last():
    x = images.from_levels(torch.from_numpy(pictures(c=3)).permute(0, 3, 1, 2).contiguous())
    np.testing.assert_array_equal(images.to_hwc(x), pictures(c=3))


# -- grids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (6, 3), (7, 3), (2, 5)])
@pytest.mark.parametrize("c", [1, 3])
def test_every_picture_stands_in_its_cell(n, columns, c):
    shown, pad, scale = pictures(n, c=c), 1, 2
    sheet = images.grid(shown, columns, pad, scale)
    rows, cell_h, cell_w = -(-n // columns), 2 * (5 + 1), 2 * (4 + 1)
    assert sheet.shape == (rows * cell_h + 2, columns * cell_w + 2, c)
    for i in range(n):
        top, left = 2 + i // columns * cell_h, 2 + i % columns * cell_w
        np.testing.assert_array_equal(sheet[top : top + 10 : 2, left : left + 8 : 2], shown[i])
        np.testing.assert_array_equal(sheet[top + 1 : top + 10 : 2, left + 1 : left + 8 : 2], shown[i])
        assert (sheet[top - 1, left : left + 8] == sheet[0, 0]).all()


def test_sixty_four_squares_make_eight_by_eight_and_tiny_ones_are_enlarged():
    assert images.grid(pictures(64, 8, 8)).shape == (8 * 54 + 6, 8 * 54 + 6, 1)
    assert images.grid(pictures(4, 64, 64)).shape == (3 * (2 * 65 + 1), 3 * (2 * 65 + 1), 1), "as few are"
    assert images.grid(pictures(4, 256, 256)).shape == (2 * 257 + 1, 2 * 257 + 1, 1)


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 3])
def test_a_folder_of_png_gives_back_its_pictures_in_order(tmp_path, c):
    shown = pictures(12, c=c)
    for i, picture in enumerate(shown):
        images.write_png(tmp_path / f"{i:05d}.png", picture)
    read, labels = generated.read_images(tmp_path)
    np.testing.assert_array_equal(read, shown)
    assert labels.tolist() == [-1] * 12


def test_a_png_may_have_an_alpha_channel(tmp_path):
    images.write_png(tmp_path / "a.png", pictures(1, c=4)[0])
    with Image.open(tmp_path / "a.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened), pictures(1, c=4)[0])


@pytest.mark.parametrize("c", [1, 2, 3, 5])
def test_an_npz_gives_back_pictures_and_labels(tmp_path, c):
    images.write_npz(tmp_path / "a.npz", pictures(c=c), np.array([2, -1, 0]))
    read, labels = generated.read_images(tmp_path / "a.npz")
    np.testing.assert_array_equal(read, pictures(c=c))
    assert (labels.tolist(), labels.dtype) == ([2, -1, 0], np.int64)


def test_an_npz_without_labels_has_none(tmp_path):
    np.savez(tmp_path / "a.npz", images=pictures())
    assert generated.read_images(tmp_path / "a.npz")[1].tolist() == [-1, -1, -1]


def test_a_gif_shows_every_frame_and_holds_the_last(tmp_path):
    shown = [np.full((8, 8, 1), 40 * i, np.uint8) for i in range(5)]
    images.write_gif(tmp_path / "a.gif", shown, seconds=0.1, hold=1.0)
    with Image.open(tmp_path / "a.gif") as opened:
        assert (opened.n_frames, opened.info["loop"]) == (5, 0)
        durations = []
        for i, picture in enumerate(shown):
            opened.seek(i)
            durations.append(opened.info["duration"])
            np.testing.assert_array_equal(np.asarray(opened.convert("L")), picture[..., 0])
    assert durations == [100] * 4 + [1000]


@pytest.mark.parametrize("c", [2, 5])
def test_channels_without_a_file_format_are_refused(c):
    with pytest.raises(UndiffuseError, match=f"a picture of {c} channels has no image file format; write .npz"):
        images.to_pil(pictures(c=c)[0])


def _bad_npz(path, **arrays):
    np.savez(path, **arrays)


def _npy_under_another_name(path):
    with path.open("wb") as file:
        np.save(file, pictures())


def _corrupt(path):
    images.write_npz(path, pictures(50, 8, 8), np.zeros(50))
    raw = bytearray(path.read_bytes())
    raw[100:140] = bytes(40)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b""), "not an .npz with an array 'images'"),
        (lambda path: path.write_text("hello\nworld"), "not an .npz with an array 'images'"),
        (lambda path: _bad_npz(path, pictures=pictures()), "not an .npz with an array 'images'"),
        (lambda path: _bad_npz(path, images=np.array([None, 1])), "not an .npz with an array 'images'"),
        (lambda path: _bad_npz(path, images=pictures()[0]), "must be uint8 [n, h, w, c]"),
        (lambda path: _bad_npz(path, images=pictures() / 255), "must be uint8 [n, h, w, c]"),
        (lambda path: _bad_npz(path, images=pictures(), labels=np.zeros(2)), "must be uint8 [n, h, w, c]"),
        (_npy_under_another_name, "not an .npz with an array 'images'"),
        (_corrupt, "not an .npz with an array 'images'"),
    ],
)
def test_a_spoiled_npz_is_refused_in_one_line(tmp_path, spoil, said):
    spoil(tmp_path / "a.npz")
    with pytest.raises(UndiffuseError, match=re.escape(said)) as refused:
        generated.read_images(tmp_path / "a.npz")
    assert "\n" not in str(refused.value)
    assert str(tmp_path / "a.npz") in str(refused.value)


def _differ(folder):
    images.write_png(folder / "a.png", pictures(1, 5, 4)[0])
    images.write_png(folder / "b.png", pictures(1, 4, 5)[0])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: None, "no PNG files here"),
        (lambda folder: (folder / "a.png").write_text("no\npicture"), "a.png: not a readable picture"),
        (_differ, "the pictures differ in size or colour"),
    ],
)
def test_a_spoiled_folder_is_refused_in_one_line(tmp_path, spoil, said):
    spoil(tmp_path)
    with pytest.raises(UndiffuseError, match=re.escape(said)) as refused:
        generated.read_images(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["missing", "picture.jpg", "picture.png"])
def test_what_holds_no_pictures_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=re.escape("give an .npz file or a folder of PNG files")):
        generated.read_images(tmp_path / name)


@pytest.mark.parametrize("c", [2, 5])
def test_channels_without_colours_are_shown_in_grey_side_by_side(c):
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 3, c), np.uint8)
    shown = images.visible(pictures)
    assert shown.shape == (6, 4, 3 * c, 1)
    for i in range(c):
        np.testing.assert_array_equal(shown[:, :, 3 * i : 3 * i + 3, 0], pictures[..., i])
    assert images.grid(pictures).shape[-1] == 1
    assert images.visible(pictures[..., :1]) is not None and images.visible(pictures[..., :1]).shape[-1] == 1
