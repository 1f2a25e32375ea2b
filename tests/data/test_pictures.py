"""Pictures in every state are read, or called bad by their right name; to any shape, as the policy says."""

import io

import numpy as np
import pytest
from corpus import BLUE, GRAY, RED, WHITE, corpus, noisy, plain, saved
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from undiffuse.data.check import check_data
from undiffuse.data.decode import decode_picture, examine
from undiffuse.data.fit import shaped
from undiffuse.data.prepare import dataset
from undiffuse.data.spec import FITS, BadPicture, DataSpec
from undiffuse.errors import UndiffuseError, UsageError

CORPUS = corpus()
SIZE = (16, 16)


def made(content, spec=None, size=SIZE, channels=3):
    spec = spec or DataSpec("x")
    picture, transparent = decode_picture(content, None if spec.fit == "pad" else size)
    return shaped(picture, transparent, spec, size, channels)


def test_the_corpus_has_its_forty_kinds():
    assert len(CORPUS) >= 40 and len({content for content, _ in CORPUS.values()}) >= len(CORPUS) - 2


@pytest.mark.parametrize("name", CORPUS)
def test_each_kind_is_read_or_refused_by_name(name):
    content, expected = CORPUS[name]
    if isinstance(expected, str) and expected != "turned":
        with pytest.raises(BadPicture) as caught:
            examine(content)
            decode_picture(content)
        assert caught.value.kind == expected, str(caught.value)
        assert "\n" not in str(caught.value)
        return
    facts, picture = examine(content), made(content)
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8
    if expected == "turned":
        assert facts.size == (16, 32) and "turned by EXIF" in facts.odd
        left, right = (BLUE, RED) if name in ("exif-6", "exif-7") else (RED, BLUE)
        assert (
            np.abs(picture[8, 2].astype(int) - left).max() < 12
            and np.abs(picture[8, 13].astype(int) - right).max() < 12
        )
    else:
        assert np.abs(picture[8, 8].astype(int) - expected).max() <= 1, picture[8, 8]


@pytest.mark.parametrize(
    ("name", "trait"),
    [
        ("gif-animated", "animated"),
        ("png-rgba-half", "transparent"),
        ("png-palette-transparent", "transparent"),
        ("png-16-bit", "16-bit"),
        ("jpeg-cmyk", "CMYK"),
        ("png-palette", "palette"),
    ],
)
def test_traits_are_reported(name, trait):
    assert trait in examine(CORPUS[name][0]).odd


@pytest.mark.parametrize(
    "name", [name for name, (_, expected) in CORPUS.items() if expected == GRAY and "rgba" not in name]
)
def test_gray_is_known_as_gray_and_stays_so(name):
    content, _ = CORPUS[name]
    assert examine(content).gray
    assert made(content, channels=1)[8, 8] == pytest.approx([119], abs=1)


# -- to one shape -----------------------------------------------------------------------------------------------------


def striped(height, width) -> np.ndarray:
    """Red changes down, green across."""
    down, across = np.mgrid[:height, :width]
    return np.stack([down * 255 // max(height - 1, 1), across * 255 // max(width - 1, 1), down * 0], -1).astype(
        np.uint8
    )


def test_crop_keeps_the_proportions_asked_for():
    rows, columns = np.mgrid[:60, :40].astype(np.uint8) * 4  # of 20 rows and 40 columns become 8 and 16: one in 2.5
    done = shaped(np.stack([rows, columns, rows], -1), False, DataSpec("x", fit="crop"), (8, 16), 3).astype(float)
    np.testing.assert_allclose(np.diff(done[1:-1, :, 0], axis=0), 10, atol=1.5)
    np.testing.assert_allclose(np.diff(done[:, 1:-1, 1], axis=1), 10, atol=1.5)


def test_an_odd_pixel_of_the_frame_is_right_and_below():
    done = shaped(np.full((2, 2, 1), 200, np.uint8), False, DataSpec("x", fit="pad"), (3, 5), 1)[..., 0]
    assert (done == 200).tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0] * 5]


def test_crop_takes_the_middle_of_the_longer_side():
    picture = striped(16, 48)
    done = shaped(picture, False, DataSpec("x", fit="crop"), SIZE, 3)
    np.testing.assert_array_equal(done, picture[:, 16:32])


def test_pad_never_scales_and_frames_in_black_or_the_background():
    picture = striped(8, 30)
    done = shaped(picture, False, DataSpec("x", fit="pad"), SIZE, 3)
    np.testing.assert_array_equal(done[4:12], picture[:, 7:23])
    assert not done[:4].any() and not done[12:].any()
    green = shaped(picture, False, DataSpec("x", fit="pad", background="#00ff00"), SIZE, 3)
    assert (green[0, 0] == (0, 255, 0)).all()


def test_inside_keeps_everything_and_frames():
    done = shaped(np.full((10, 40, 3), 200, np.uint8), False, DataSpec("x", fit="inside"), SIZE, 3)
    assert (done[6:10] == 200).all() and not done[:6].any() and not done[10:].any()
    done = shaped(np.full((10, 27, 3), 200, np.uint8), False, DataSpec("x", fit="inside"), SIZE, 3)
    assert (done[5:11] == 200).all() and not done[:5].any() and not done[11:].any()  # 5.9 rows are 6


def test_stretch_fills_both_sides():
    done = shaped(striped(10, 40), False, DataSpec("x", fit="stretch"), SIZE, 3)
    assert done[0, 0, 1] < 10 and done[15, 15].tolist()[:2] == pytest.approx([250, 250], abs=8)


def test_scaling_is_pillows_lanczos():
    picture = noisy((40, 40))
    for side in (16, 64):
        expected = np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(shaped(np.asarray(picture), False, DataSpec("x"), (side, side), 3), expected)


def test_scaling_down_is_antialiased():
    fine = np.zeros((64, 64, 3), np.uint8)
    fine[::2] = 255
    done = shaped(fine, False, DataSpec("x"), SIZE, 3)
    assert np.abs(done.astype(int) - 127).max() <= 16  # nearest or bilinear points would give 0 or 255


def test_frames_of_transparent_pictures_are_white():
    clear = saved(plain("RGBA", (255, 0, 0, 0), (8, 8)), "PNG")
    assert (made(clear, DataSpec("x", fit="pad")) == 255).all()
    assert (made(clear, DataSpec("x", fit="pad", background="blue"))[0, 0] == BLUE).all()


def test_transparency_is_composited_in_exact_proportion():
    for alpha in (0, 1, 77, 128, 254, 255):
        picture = made(saved(plain("RGBA", (10, 200, 90, alpha)), "PNG"), DataSpec("x", background="#336699"))
        expected = np.round(np.array([10, 200, 90]) * alpha / 255 + np.array([0x33, 0x66, 0x99]) * (1 - alpha / 255))
        np.testing.assert_array_equal(picture[3, 3], expected)


def test_transparency_can_be_kept():
    picture = made(saved(plain("RGBA", (10, 200, 90, 77)), "PNG"), channels=4)
    assert picture[0, 0].tolist() == [10, 200, 90, 77]
    assert made(saved(plain("L", 9), "PNG"), channels=4)[0, 0].tolist() == [9, 9, 9, 255]


def test_frames_have_the_backgrounds_colour_in_any_channels():
    clear = saved(plain("RGBA", (255, 0, 0, 0), (8, 8)), "PNG")
    green = DataSpec("x", fit="pad", background="#00ff00")
    assert made(clear, green, channels=1)[0, 0] == 150
    assert made(clear, green, channels=4)[0, 0].tolist() == [0, 255, 0, 0]
    assert made(saved(plain("RGB", RED, (8, 8)), "PNG"), green, channels=4)[0, 0].tolist() == [0, 255, 0, 255]


def test_colour_becomes_gray_as_television_does():
    for colour, shade in (((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)):  # 76.2, 149.7, 29.1
        assert made(saved(plain("RGB", colour), "PNG"), channels=1)[0, 0] == shade
    assert made(saved(plain("RGB", WHITE), "PNG"), channels=1)[0, 0] == 255


@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(FITS),
    st.sampled_from([1, 3, 4]),
)
@example((49, 49), (8, 8), "crop", 1)  # 8 / (8 / 49) is more than 49
@example((98, 120), (16, 16), "crop", 3)
def test_any_size_becomes_any_size(have, want, fit, channels):
    done = shaped(np.full((*have, 3), 100, np.uint8), False, DataSpec("x", fit=fit), want, channels)
    assert done.shape == (*want, channels)
    if fit in ("crop", "stretch"):
        assert (done[..., 0] == 100).all()


def test_large_jpegs_are_decoded_small_and_look_the_same():
    big = np.zeros((1600, 1600, 3), np.uint8)
    big[:800], big[:, 800:, 2] = (200, 100, 50), 240
    content = saved(Image.fromarray(big), "JPEG", quality=95)
    assert [decode_picture(content, (side, side))[0].shape[0] for side in (32, 160, 320)] == [200, 400, 800]
    small = Image.open(io.BytesIO(content)).resize((32, 32), Image.Resampling.LANCZOS)
    difference = made(content, size=(32, 32)).astype(int) - np.asarray(small).astype(int)
    assert np.abs(difference).mean() < 1.5


# -- a folder of them -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    for name, (content, _) in CORPUS.items():
        suffix = ".jpg" if name == "name-lies" else ".png"
        (place / f"{name}{suffix}").write_bytes(content)
    return place


BAD = sorted(name for name, (_, expected) in CORPUS.items() if isinstance(expected, str) and expected != "turned")


def test_bad_pictures_are_refused_all_at_once(folder):
    with pytest.raises(UndiffuseError) as caught:
        dataset(DataSpec(str(folder), size=SIZE))
    said = str(caught.value)
    assert "undiffuse check" in said and "data.bad=skip" in said and f"of {len(CORPUS)} pictures" in said
    assert "not a picture" in said and "truncated" in said and "\n" not in said


def test_bad_pictures_are_skipped_and_counted(folder):
    data = dataset(DataSpec(str(folder), size=SIZE, bad="skip", held_out=0.25))
    assert len(data.train) + len(data.held_out) == len(CORPUS) - len(BAD)
    assert data.shape == (3, 16, 16) and data.class_names == () and data.levels == 256
    assert any("skipped" in note and "undiffuse check" in note for note in data.notes)
    assert any("animated" in note for note in data.notes)


def test_check_lists_every_one(folder, monkeypatch):
    monkeypatch.setattr("undiffuse.data.check.MOST_LISTED", 100)
    found = check_data(DataSpec(str(folder), size=SIZE))
    said = "\n".join(text for _, text in found.rows)
    for name in BAD:
        assert f"{name}." in said
    assert len(found.trouble) == 1 and "data.bad=skip" in found.trouble[0]
    assert "copies" in dict(found.rows)


def test_different_sizes_ask_for_one(folder):
    with pytest.raises(UsageError, match=r"sizes, from 1x1 to 3000x1 .* most often 16x16.*--set data.size=32"):
        dataset(DataSpec(str(folder), bad="skip"))
    assert any("data.size" in text for text in check_data(DataSpec(str(folder))).trouble)


def test_only_bad_pictures_are_refused_by_the_first(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UndiffuseError, match=r"no usable picture: a.png: the file is empty"):
        dataset(DataSpec(str(tmp_path), size=SIZE, bad="skip"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fit": "cover"}, "data.fit: unknown name 'cover'"),
        ({"bad": "ignore"}, "data.bad: unknown name 'ignore'"),
        ({"channels": 2}, "data.channels"),
        ({"background": "blurple"}, "'blurple' is no colour"),
    ],
)
def test_unknown_policies_are_named(changes, words):
    with pytest.raises(UsageError, match=words):
        DataSpec("x", **changes)


# -- levels and transparency ------------------------------------------------------------------------------------------


def disc(colour, size=48, radius=16) -> np.ndarray:
    """A disc of one colour on clear black."""
    y, x = np.mgrid[:size, :size]
    inside = (x - size / 2) ** 2 + (y - size / 2) ** 2 < radius**2
    return np.where(inside[..., None], np.array([*colour, 255], np.uint8), np.zeros(4, np.uint8))


@pytest.mark.parametrize("fit", ["crop", "inside", "stretch"])
@pytest.mark.parametrize("size", [(16, 16), (20, 12), (96, 96)])
def test_what_is_clear_gives_no_colour_to_the_edges(fit, size):
    done = shaped(disc((255, 200, 0)), True, DataSpec("x", fit=fit), size, 4).astype(int)
    edge = done[(done[..., 3] > 30) & (done[..., 3] < 225)]
    assert len(edge) > 4
    assert np.abs(edge[:, :3] - [255, 200, 0]).max() <= 4


def test_on_a_background_the_two_ways_agree():
    """Premultiplied, then laid on white: as laid on white and then scaled, to rounding and Lanczos' overshoot."""
    clear = shaped(disc((255, 200, 0)), True, DataSpec("x"), (16, 16), 4).astype(float)
    alpha = clear[..., 3:] / 255
    laid = alpha * clear[..., :3] + (1 - alpha) * 255
    flat = shaped(disc((255, 200, 0)), True, DataSpec("x"), (16, 16), 3).astype(float)
    inside = clear[..., 3] > 0
    assert np.abs(laid - flat)[inside].max() <= 12  # the colour of what is clear would be off by 100


def deep(levels: np.ndarray) -> bytes:
    return saved(Image.fromarray(levels.astype(np.uint16)), "PNG")


@pytest.mark.parametrize(("most", "bits"), [(255, 8), (1000, 10), (4095, 12), (16383, 14), (16384, 16), (65535, 16)])
def test_files_of_16_bits_that_use_fewer_keep_their_levels(tmp_path, most, bits):
    ramp = np.linspace(0, most, 256).round().reshape(16, 16)
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(deep(np.roll(ramp, i, 1)))
    data = dataset(DataSpec(str(tmp_path)))
    pictures = data.train.pictures[data.train.rows]
    assert data.bits == bits
    assert int(pictures.max()) == round(most * 255 / (2**bits - 1)) and len(pictures.unique()) > 60
    told = [note for note in data.notes if "16-bit files" in note]
    wanted = f"16-bit files use {bits} bits: read as 0 to {2**bits - 1:,}; data.bits says otherwise"
    assert told == ([] if bits == 16 else [wanted])
    again = dataset(DataSpec(str(tmp_path), bits=16))
    assert again.bits == 16 and int(again.train.pictures[again.train.rows].max()) == round(most / 257)


def test_levels_beyond_the_bits_asked_for_are_refused(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(deep(np.full((8, 8), 5000 + i)))
    with pytest.raises(UndiffuseError, match=r"levels beyond 12 bits; save it with 8 or 16 bits, or set data\.bits"):
        dataset(DataSpec(str(tmp_path), bits=12))


def test_a_run_keeps_the_bits_that_its_data_have(tmp_path):
    """So a picture of one's own is read alike, and a resume finds the same pictures."""
    from undiffuse.config import load
    from undiffuse.pipeline import build

    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(deep(np.arange(64).reshape(8, 8) * 60 + i))
    config = load("digits", [f"data.source={tmp_path}"])
    resolved = build.resolved(config, build.dataset(config))
    assert resolved.data.bits == 12
    assert build.dataset(resolved).content == resolved.data.content
