"""16 bits a channel follow one rule, gray or colour, with transparency or without, in PNG and TIFF."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from made import written
from undiffuse.data import deep
from undiffuse.data.decode import decode_picture, examine
from undiffuse.data.deep import to_bytes
from undiffuse.data.prepare import dataset
from undiffuse.data.spec import BadPicture, DataSpec

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG specification, table 8


def deep_png(levels: np.ndarray, clear: tuple[int, ...] = (), orientation: int = 0, late: bool = False) -> bytes:
    """uint16 [h, w, c] as a PNG by the specification alone. orientation: a note of it, before or after the pixels."""
    height, width, channels = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HH", orientation, 0) + bytes(4)
    chunks = [(b"IHDR", header), *[(b"eXIf", exif)] * (orientation > 0 and not late)]
    chunks += [(b"tRNS", struct.pack(f">{len(clear)}H", *clear))] * bool(clear)
    chunks += [(b"IDAT", zlib.compress(rows)), *[(b"eXIf", exif)] * late, (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_tiff(levels: np.ndarray, order: str, packed: bool) -> bytes:
    """uint16 [h, w, 3] as a TIFF of one strip, by the specification (TIFF 6.0, section 6); packed: by deflate."""
    height, width, channels = levels.shape
    data = levels.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if packed else data
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 + len(data)), (259, 3, 1, 8 if packed else 1)),
        *((262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data))),
    ]
    short = {259, 262, 277}
    table = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        held = struct.pack(f"{order}HH", value, 0) if tag in short else struct.pack(f"{order}I", value)
        table += struct.pack(f"{order}HHI", tag, kind, count) + held
    start = b"II*\0" if order == "<" else b"MM\0*"
    bits = struct.pack(f"{order}3H", 16, 16, 16)
    return start + struct.pack(f"{order}I", 8 + len(data) + 6) + data + bits + table + bytes(4)


Entry = tuple[int, int, list[int]]  # tag, type (3: short, 4: long), values


def any_tiff(levels: np.ndarray, order: str, kind: int, *, planes: bool = False, packed: bool = False, rows=2) -> bytes:
    """uint8 or uint16 [h, w, c] as a TIFF of strips of so many rows, by the specification (TIFF 6.0, sections 3 to 8).

    kind: its photometric interpretation, 0: white is zero, 1: black is zero, 2: RGB; planes: a channel after the other.
    """
    height, width, channels = levels.shape
    parts = [levels[..., c] for c in range(channels)] if planes else [levels]
    whole = levels.astype(levels.dtype.newbyteorder(order)).dtype
    strips = [part[y : y + rows].astype(whole).tobytes() for part in parts for y in range(0, height, rows)]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    sizes = [len(strip) for strip in strips]
    starts = [8 + sum(sizes[:k]) for k in range(len(sizes))]
    entries: list[Entry] = [(256, 4, [width]), (257, 4, [height]), (258, 3, [8 * whole.itemsize] * channels)]
    entries += [(259, 3, [8 if packed else 1]), (262, 3, [kind]), (273, 4, starts), (277, 3, [channels])]
    entries += [(278, 4, [rows]), (279, 4, sizes), (284, 3, [1 + planes])]
    entries += [(338, 3, [2])] * (channels in (2, 4))  # the last is transparency
    table, after, place = struct.pack(f"{order}H", len(entries)), b"", 8 + sum(sizes)
    for tag, form, values in entries:
        held = struct.pack(f"{order}{len(values)}{'H' if form == 3 else 'I'}", *values)
        if len(held) > 4:
            held, after = struct.pack(f"{order}I", place + 6 + 12 * len(entries) + len(after)), after + held
        table += struct.pack(f"{order}HHI", tag, form, len(values)) + held.ljust(4, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}I", place) + b"".join(strips) + table + bytes(4) + after


def some(channels: int, most: int = 65_535, seed: int = 0) -> np.ndarray:
    levels = np.random.default_rng(seed).integers(0, most + 1, (6, 5, channels)).astype(np.uint16)
    levels[0, 0] = most
    return levels


def rounded(levels: np.ndarray, most: int = 65_535) -> np.ndarray:
    return np.round(levels * (255 / most)).astype(np.uint8)


@pytest.mark.parametrize("orientation", [0, 1])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_is_rounded_not_cut(channels, orientation):
    """With a note of how it is turned, and without: then Pillow decodes all to look for one behind the pixels."""
    levels = some(channels)
    content = deep_png(levels, (), orientation)
    pixels, transparent = decode_picture(content)
    np.testing.assert_array_equal(pixels, rounded(levels))
    assert transparent == (channels in (2, 4))
    assert "16-bit" in examine(content).odd and examine(content).gray == (channels < 3)
    assert (pixels != (levels >> 8)).any()  # which the upper bytes alone would give


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_tiff_is_rounded_not_cut(order, packed):
    levels = some(3)
    np.testing.assert_array_equal(decode_picture(deep_tiff(levels, order, packed))[0], rounded(levels))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize(("channels", "kind"), [(1, 0), (1, 1), (2, 1), (3, 2), (4, 2)])
@pytest.mark.parametrize("deep", [False, True])
def test_every_kind_of_tiff_is_read_right_or_refused(order, packed, planes, channels, kind, deep):
    levels = some(channels) if deep else (some(channels) >> 8).astype(np.uint8)
    most = 65_535 if deep else 255
    content = any_tiff(levels, order, kind, planes=planes, packed=packed)
    not_known = deep and (channels == 2 or (kind == 0 and order == ">") or (planes and packed and channels > 2))
    if not_known or (planes and not deep and (channels == 2 or (kind == 0 and not packed))):
        bits = f"{'one channel' if channels == 1 else f'{channels} channels'} of {16 if deep else 8} bits"
        with pytest.raises(BadPicture, match=f"TIFF files of this kind are not read: .*{bits}.*; save it as PNG"):
            examine(content)
        return
    assert ("16-bit" in examine(content).odd) == deep
    wanted = rounded(most - levels if kind == 0 else levels, most)
    np.testing.assert_array_equal(decode_picture(content)[0], wanted)


def test_white_is_zero_in_the_bits_in_use(tmp_path):
    """Of 12 bits level 4095 is black."""
    levels = some(1, 4095)
    for i in range(6):
        written(tmp_path / "x", {f"{i}.tif": any_tiff(np.roll(levels, i, 0), "<", 0)})
    data = dataset(DataSpec(str(tmp_path / "x"), held_out=0.0))
    assert data.bits == 12
    np.testing.assert_array_equal(data.train.pictures[0, 0].numpy()[..., None], rounded(4095 - levels, 4095))


def test_a_damaged_tiff_is_still_called_so():
    content = any_tiff(some(2), "<", 1)
    for cut in (8, 20, 140, 170):
        with pytest.raises(BadPicture, match=r"damaged near its beginning|truncated|cannot be decoded"):
            examine(content[:cut])


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_it_is_turned_upright(channels, late):
    """By a note before the pixels, or after them."""
    levels = some(channels)
    upside = decode_picture(deep_png(levels, (), 3, late))[0]
    np.testing.assert_array_equal(upside, rounded(levels)[::-1, ::-1])
    turned = rounded(levels).transpose(1, 0, 2)[:, ::-1]
    np.testing.assert_array_equal(decode_picture(deep_png(levels, (), 6, late))[0], turned)
    assert examine(deep_png(levels, (), 6, late)).size == (5, 6)


def test_a_look_at_the_header_decodes_no_pixel(monkeypatch):
    def load(image):
        raise AssertionError("decoded")

    for cls in (PngImagePlugin.PngImageFile, Image.Image):
        monkeypatch.setattr(cls, "load", load)
    for orientation in (0, 6):
        assert examine(deep_png(some(3), (), orientation)).size == ((6, 5), (5, 6))[orientation > 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_level_that_is_called_transparent(channels):
    levels = some(channels)
    pixels, transparent = decode_picture(deep_png(levels, tuple(levels[2, 3].tolist())))
    assert transparent and pixels.shape[-1] == channels + 1
    np.testing.assert_array_equal(pixels[..., :-1], rounded(levels))
    np.testing.assert_array_equal(pixels[..., -1] == 0, (levels == levels[2, 3]).all(-1))


@pytest.mark.parametrize("orientation", [0, 1])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_twelve_bits_of_colour_keep_their_levels(tmp_path, channels, orientation):
    """As of gray: the largest level of the bits in use is white; alpha is of 16 bits always."""
    levels = some(channels, 4095)
    if channels in (2, 4):
        levels[..., -1] = 65_535
    place = written(tmp_path / "x", {f"{i}.png": deep_png(np.roll(levels, i, 0), (), orientation) for i in range(6)})
    data = dataset(DataSpec(str(place), held_out=0.0))
    assert data.bits == 12 and any("16-bit files use 12 bits" in note for note in data.notes)
    wanted = rounded(levels[..., :3] if channels > 2 else levels[..., :1], 4095)
    np.testing.assert_array_equal(data.train.pictures[0].permute(1, 2, 0).numpy(), wanted)
    with pytest.raises(BadPicture, match="levels beyond 10 bits; save it with 8 or 16 bits, or set"):
        decode_picture(deep_png(levels, (), orientation), bits=10)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_large_pictures_are_rounded_in_pieces(monkeypatch, channels, inverted):
    levels = some(channels)
    whole = to_bytes(levels, 16, channels in (2, 4), inverted)
    for at_once in (1, levels[0].size * 4):
        monkeypatch.setattr(deep, "LEVELS_AT_ONCE", at_once)
        np.testing.assert_array_equal(to_bytes(levels, 16, channels in (2, 4), inverted), whole)
    colours = levels[..., : channels - (channels in (2, 4))]
    wanted = rounded(65_535 - colours if inverted else colours)
    np.testing.assert_array_equal(whole[..., : colours.shape[-1]], wanted)


def test_pillow_reads_what_these_tests_write():
    """The upper bytes, which is all that Pillow keeps of colour."""
    levels = some(3)
    for content in (deep_png(levels), deep_tiff(levels, "<", True), deep_tiff(levels, ">", False)):
        with Image.open(io.BytesIO(content)) as image:
            np.testing.assert_array_equal(np.asarray(image), levels >> 8)
