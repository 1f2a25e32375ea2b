"""Animations: the frames, their captions and their times are in the file."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from undiffuse.errors import UndiffuseError
from undiffuse.images import grid
from undiffuse.viz.animation import BAR, denoising_gif


def frames(channels: int = 1, count: int = 5) -> list[tuple[float, np.ndarray]]:
    rng = np.random.default_rng(0)
    times = np.linspace(1000, 0, count)
    return [(float(t), rng.integers(0, 256, (4, 8, 8, channels), dtype=np.uint8)) for t in times]


def read(path) -> tuple[list[np.ndarray], list[int]]:
    pictures, durations = [], []
    with Image.open(path) as gif:
        for i in range(gif.n_frames):
            gif.seek(i)
            pictures.append(np.asarray(gif.convert("RGB")).astype(int))
            durations.append(gif.info["duration"])
    return pictures, durations


@pytest.mark.parametrize("channels", [1, 3])
def test_each_frame_is_the_grid_above_its_caption(tmp_path, channels):
    made = frames(channels)
    denoising_gif(tmp_path / "a.gif", made)
    pictures, _ = read(tmp_path / "a.gif")
    assert len(pictures) == 5
    for picture, (_, images) in zip(pictures, made, strict=True):
        sheet = grid(images, scale=6)
        assert picture.shape == (sheet.shape[0] + BAR, sheet.shape[1], 3)
        assert np.abs(picture[:-BAR] - sheet).mean() < 8  # the palette is smaller than the picture's


def test_the_last_frame_is_held_and_progress_grows(tmp_path):
    denoising_gif(tmp_path / "a.gif", frames(), seconds=0.1, hold=3)
    pictures, durations = read(tmp_path / "a.gif")
    assert durations == [100, 100, 100, 100, 3000]
    done = [int((picture[-6, :, 0] > 200).sum()) for picture in pictures]
    assert done[0] == 0 and done == sorted(set(done))
    assert done[-1] == pictures[0].shape[1] - 12
    captions = {picture[-BAR : -BAR + 20].tobytes() for picture in pictures}
    assert len(captions) == 5, "each time is written"


def test_black_and_white_stay_and_noise_packs_small(tmp_path):
    flat = np.zeros((1, 8, 8, 1), np.uint8)
    flat[:, :4] = 255
    denoising_gif(tmp_path / "a.gif", [(1.0, flat), (0.0, flat)])
    sheet = read(tmp_path / "a.gif")[0][0]
    assert sheet[10, 10, 0] == 255 and sheet[40, 10, 0] == 0
    denoising_gif(tmp_path / "b.gif", frames(count=20))
    assert (tmp_path / "b.gif").stat().st_size < 60_000


def test_frames_may_be_a_generator_and_t_may_start_late(tmp_path):
    denoising_gif(tmp_path / "a.gif", (frame for frame in frames()[2:]), T=1000, columns=4)
    pictures, _ = read(tmp_path / "a.gif")
    width = pictures[0].shape[1]
    assert width == grid(frames()[0][1], 4, scale=6).shape[1]
    assert (pictures[0][-6, :, 0] > 200).sum() == pytest.approx((width - 12) / 2, abs=1)


def test_no_frames_is_an_error(tmp_path):
    with pytest.raises(UndiffuseError, match="no frames"):
        denoising_gif(tmp_path / "a.gif", [])
    assert not (tmp_path / "a.gif").exists()


def test_many_frames_are_thinned_evenly_and_both_ends_are_kept():
    from undiffuse.viz.animation import thinned

    chosen = thinned(list(range(1001)), 60)
    assert (len(chosen), chosen[0], chosen[-1]) == (60, 0, 1000)
    assert {b - a for a, b in pairwise(chosen)} <= {16, 17}
    assert thinned(list(range(60)), 60) == list(range(60))
