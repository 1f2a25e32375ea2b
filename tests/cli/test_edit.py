"""edit: files in and out."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from undiffuse import images
from undiffuse.cli import main
from undiffuse.data import generated
from undiffuse.data.prepare import digits
from undiffuse.pipeline import pictures


@pytest.fixture
def edit(tiny_run, tmp_path, monkeypatch, capsys):
    """Run an edit in an empty folder; its stdout."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> str:
        assert main(["edit", str(tiny_run), *map(str, arguments)]) == 0, capsys.readouterr()
        return capsys.readouterr().out

    return run


def test_inpainting_keeps_the_pixels_of_the_file(edit):
    picture = (np.arange(64).reshape(8, 8) * 4).astype(np.uint8)
    Image.fromarray(picture).save("x.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 5:] = 255
    Image.fromarray(mask).save("m.png")
    assert edit("inpaint", "--image", "x.png", "--mask", "m.png", "-n", 3, "--out", "y.npz") == "y.npz\n"
    made, labels = generated.read_images(Path("y.npz"))
    assert made.shape == (3, 8, 8, 1) and labels.tolist() == [-1] * 3
    assert (made[:, :, :5, 0] == picture[:, :5]).all()
    assert len(np.unique(made[:, :, 5:].reshape(3, -1), axis=0)) == 3


PAINTED = {
    "left": np.s_[:, :4],
    "right": np.s_[:, 4:],
    "top": np.s_[:4],
    "bottom": np.s_[4:],
    "center": np.s_[2:6, 2:6],
}


@pytest.mark.parametrize("side", PAINTED)
def test_sides_have_names(edit, side):
    edit("inpaint", "--rows", "0", "--mask", side, "-n", 1, "--out", "x.npz", "--label", "3")
    made, labels = generated.read_images(Path("x.npz"))
    assert labels.tolist() == [3]
    changed = made[0, ..., 0] != images.to_hwc(digits().held_out.images()[:1])[0, ..., 0]
    painted = np.zeros((8, 8), bool)
    painted[PAINTED[side]] = True
    assert changed[painted].mean() > 0.5 and not changed[~painted].any()


def test_sheets_and_folders(edit):
    edit("variation", "--out", "x.png", "-n", 2)
    assert Image.open("x.png").size == (17 * 28, 17 * 37)  # four pictures and two of each, enlarged
    edit("variation", "--out", "new", "-n", 2, "--label", "1,2")
    made, labels = generated.read_images(Path("new"))
    assert made.shape == (8, 8, 8, 1) and labels.tolist() == [1, 1, 2, 2, 1, 1, 2, 2]


def test_reconstruct_says_the_error(edit):
    out = edit("reconstruct", "--out", "x.png", "--rows", "0,1,2")
    assert re.search(r"^error per dimension of pictures in \[0, 1\]: \d\.\d\de[-+]\d\d$", out, re.M)


def test_interpolation_is_an_animation_too(edit):
    edit("interpolate", "--between", "3,8", "-n", 5, "--out", "x.gif")
    with Image.open("x.gif") as animation:
        assert animation.n_frames == 5
    edit("interpolate", "--rows", "0,1", "-n", 4, "--refine", 1, "--steps", 20, "--out", "x.png")


def test_a_mask_s_frame_and_what_is_clear_in_it_are_kept(tiny_pipe, tmp_path):
    """Pictures of this model are framed in white where they do not fit; masks never are."""
    pipe = replace(tiny_pipe, config=tiny_pipe.config.replaced({"data.fit": "inside", "data.background": "white"}))
    white = np.full((8, 16, 4), 255, np.uint8)
    white[:, :8, 3] = 0
    Image.fromarray(white).save(tmp_path / "m.png")
    painted = pictures.read_mask(pipe, tmp_path / "m.png", [(8, 16)])[0].numpy()
    assert painted[2:6, 5:].all() and not painted[:2].any() and not painted[6:].any() and not painted[:, :3].any()


def test_a_mask_of_other_proportions_is_refused(edit, tiny_run, capsys):
    Image.fromarray(np.zeros((20, 40), np.uint8)).save("x.png")
    Image.fromarray(np.zeros((40, 20), np.uint8)).save("m.png")
    arguments = ["edit", str(tiny_run), "inpaint", "--image", "x.png", "--mask", "m.png", "--out", "y.png"]
    assert main(arguments) == 2
    assert "m.png: 20 x 40 has not the proportions of the picture, 40 x 20" in capsys.readouterr().err
    Image.fromarray(np.full((10, 20), 255, np.uint8)).save("m.png")  # smaller, but alike
    edit(*arguments[2:])


def test_noise_without_a_chain_paints_without_going_back(tmp_path):
    run = tiny.trained(tmp_path / "run", diffusion__noise="uniform", train__steps=1)
    arguments = [
        "edit",
        str(run),
        "inpaint",
        "--rows",
        "0",
        "--mask",
        "left",
        "-n",
        "1",
        "--out",
        str(tmp_path / "x.npz"),
    ]
    assert main(arguments) == 0
    assert main([*arguments, "--repeats", "5"]) == 2


def test_pictures_without_a_side_are_refused(edit, tiny_run, capsys):
    images.write_npz(Path("x.npz"), np.zeros((2, 0, 8, 1), np.uint8), np.zeros(2, np.int64))
    assert main(["edit", str(tiny_run), "variation", "--image", "x.npz", "--out", "y.png"]) == 1
    assert "x.npz: 'images' must be uint8 [n, h, w, c]" in capsys.readouterr().err
