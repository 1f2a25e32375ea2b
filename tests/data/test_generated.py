"""Pictures that someone wrote are read whole and as they are, or refused in one line."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from undiffuse import images
from undiffuse.data.generated import in_channels, read_images
from undiffuse.errors import UndiffuseError

GRAY = (np.arange(3 * 64).reshape(3, 8, 8, 1) * 5 % 256).astype(np.uint8)


def folder(path, pictures=GRAY, names=None):
    path.mkdir(exist_ok=True)
    for i, picture in enumerate(pictures):
        images.write_png(path / (names[i] if names else f"{i:06d}.png"), picture)
    return path


def refused(path, said):
    with pytest.raises(UndiffuseError, match=re.escape(said)) as error:
        read_images(path)
    assert "\n" not in str(error.value)


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    for i, picture in enumerate(GRAY):
        Image.fromarray(picture[..., 0].astype(np.uint16) * 257).save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(read_images(tmp_path)[0], GRAY)


def test_transparency_is_a_channel_and_not_dropped(tmp_path):
    shown = np.concatenate([GRAY.repeat(3, 3), GRAY], 3)
    np.testing.assert_array_equal(read_images(folder(tmp_path, shown))[0], shown)


def test_suffixes_in_any_case(tmp_path):
    folder(tmp_path, names=["a.png", "b.PNG", "c.Png"])
    assert len(read_images(tmp_path)[0]) == 3
    images.write_npz(tmp_path / "x.NPZ", GRAY, np.zeros(3))
    assert len(read_images(tmp_path / "x.NPZ")[0]) == 3


def test_a_part_of_a_folder_is_never_taken_for_the_whole(tmp_path):
    folder(tmp_path)
    Image.fromarray(GRAY[0, ..., 0]).save(tmp_path / "x.jpg")
    refused(tmp_path, "holds 3 PNG, 0 .npz and 1 other pictures; leave one kind in it")
    (tmp_path / "x.jpg").unlink()
    images.write_npz(tmp_path / "x.npz", GRAY, np.zeros(3))
    refused(tmp_path, "holds 3 PNG, 1 .npz and 0 other pictures")


def test_a_folder_of_something_else_says_what_is_there(tmp_path):
    Image.fromarray(GRAY[0, ..., 0]).save(tmp_path / "x.gif")
    refused(tmp_path, "no PNG files here, but 1 of other kinds (x.gif); save them as PNG")
    (tmp_path / "x.gif").unlink()
    (tmp_path / "cats").mkdir()
    refused(tmp_path, "no PNG files here, and no .npz; is it one of its folders that is meant, such as cats?")


def test_notes_and_hidden_files_are_no_pictures(tmp_path):
    folder(tmp_path)
    for name in ("readme.txt", ".hidden.jpg", "report.html"):
        (tmp_path / name).write_text("")
    assert len(read_images(tmp_path)[0]) == 3


def test_a_picture_that_would_fill_the_memory(tmp_path):
    folder(tmp_path)
    header = bytearray((tmp_path / "000000.png").read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "000001.png").write_bytes(header)
    refused(tmp_path, "000001.png: not a readable picture: ")


@pytest.mark.parametrize("label", [3.7, True, "3", None])
def test_a_label_is_a_whole_number(tmp_path, label):
    folder(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps({"000000.png": 1, "000001.png": label, "000002.png": 2}))
    refused(tmp_path, f"labels.json: must map every picture's name to a class index: {label} is no whole number")


def test_a_label_beyond_all_numbers(tmp_path):
    np.savez(tmp_path / "a.npz", images=GRAY, labels=np.array([0, 1, 2**64 - 1], np.uint64))
    refused(tmp_path / "a.npz", f"the label {2**64 - 1} is no class index")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npz(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz", "not an .npz with an array 'images': it is not a zip archive")


def test_channels_change_where_nothing_is_lost():
    colour, opaque = GRAY.repeat(3, 3), np.full_like(GRAY, 255)
    np.testing.assert_array_equal(in_channels(colour, 1), GRAY)
    np.testing.assert_array_equal(in_channels(np.concatenate([GRAY, opaque], 3), 1), GRAY)
    np.testing.assert_array_equal(in_channels(np.concatenate([colour, opaque], 3), 3), colour)
    np.testing.assert_array_equal(in_channels(GRAY, 3), colour)
    np.testing.assert_array_equal(in_channels(np.concatenate([colour, GRAY], 3), 4), np.concatenate([colour, GRAY], 3))
    assert in_channels(np.concatenate([colour, GRAY], 3), 3) is None  # seen through
    assert in_channels(colour * np.array([1, 1, 0], np.uint8), 1) is None  # coloured
