"""Pictures in every state that people have them: name -> (bytes, what becomes of it).

What becomes of it: the colour of its middle once it is 16x16 with three channels, or the kind of bad picture it is.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RED, GREEN, BLUE, GRAY, WHITE, BLACK = (
    (255, 0, 0),
    (0, 128, 0),
    (0, 0, 255),
    (119, 119, 119),
    (255, 255, 255),
    (0, 0, 0),
)
Expected = tuple[int, int, int] | str


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def plain(mode: str, colour, size=(16, 16)) -> Image.Image:
    return Image.new(mode, size, colour)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """By hand, whatever Pillow would say to it."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def turned(orientation: int) -> bytes:
    """Upper half red, lower half blue, and a note that it must be turned to be looked at."""
    image = plain("RGB", RED, (16, 32))
    image.paste(BLUE, (0, 16, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, "JPEG", exif=exif, quality=95)


def animation(format: str) -> bytes:
    frames = [plain("RGB", colour) for colour in (RED, GREEN, BLUE)]
    return saved(
        frames[0], format, save_all=True, append_images=frames[1:], **({"lossless": True} if format == "WEBP" else {})
    )


def wide(levels: int) -> Image.Image:
    return Image.fromarray(np.full((16, 16), levels, np.uint16))


def palette(transparency: int | None = None) -> bytes:
    image = plain("P", 1)
    image.putpalette([0, 0, 0, *RED, *GREEN])
    return saved(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


def gray_palette() -> bytes:
    image = plain("P", 1)
    image.putpalette([value for level in (0, 119, 255) for value in (level,) * 3])
    return saved(image, "PNG")


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def flipped(data: bytes) -> bytes:
    """A bit of its pixels is another one; the checksum is not."""
    at = data.index(b"IDAT") + 30
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def noisy(size=(64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


def corpus() -> dict[str, tuple[bytes, Expected]]:
    red, jpeg = plain("RGB", RED), saved(noisy(), "JPEG")
    return {
        "png-rgb": (saved(red, "PNG"), RED),
        "png-gray": (saved(plain("L", 119), "PNG"), GRAY),
        "png-one-bit": (saved(plain("1", 1), "PNG"), WHITE),
        "png-palette": (palette(), RED),
        "png-palette-transparent": (palette(1), WHITE),
        "png-gray-palette": (gray_palette(), GRAY),
        "png-rgba-opaque": (saved(plain("RGBA", (*RED, 255)), "PNG"), RED),
        "png-rgba-clear": (saved(plain("RGBA", (*RED, 0)), "PNG"), WHITE),
        "png-rgba-half": (saved(plain("RGBA", (0, 0, 0, 136)), "PNG"), GRAY),
        "png-gray-alpha-clear": (saved(plain("LA", (0, 0)), "PNG"), WHITE),
        "png-gray-alpha-opaque": (saved(plain("LA", (119, 255)), "PNG"), GRAY),
        "png-16-bit": (saved(wide(119 * 257), "PNG"), GRAY),
        "png-16-bit-clear": (saved(wide(119 * 257), "PNG", transparency=119 * 257), WHITE),
        "png-16-bit-another-clear": (saved(wide(119 * 257), "PNG", transparency=5), GRAY),
        "png-16-bit-darkest": (saved(wide(128), "PNG"), BLACK),
        "png-16-bit-brightest": (saved(wide(65535), "PNG"), WHITE),
        "png-by-hand": (png(16, 16, b"".join(b"\0" + bytes(RED) * 16 for _ in range(16))), RED),
        "jpeg-rgb": (saved(red, "JPEG", quality=95, subsampling=0), (254, 0, 0)),
        "jpeg-gray": (saved(plain("L", 119), "JPEG"), GRAY),
        "jpeg-progressive": (saved(plain("L", 119), "JPEG", progressive=True), GRAY),
        "jpeg-cmyk": (saved(plain("CMYK", (0, 0, 0, 255)), "JPEG"), BLACK),
        "gif": (saved(red, "GIF"), RED),
        "gif-animated": (animation("GIF"), RED),
        "png-animated": (animation("PNG"), RED),
        "webp": (saved(red, "WEBP", lossless=True), RED),
        "webp-animated": (animation("WEBP"), RED),
        "webp-transparent": (saved(plain("RGBA", (*RED, 0)), "WEBP", lossless=True, exact=True), WHITE),
        "bmp": (saved(red, "BMP"), RED),
        "tiff": (saved(red, "TIFF"), RED),
        "tiff-16-bit": (saved(wide(119 * 257), "TIFF"), GRAY),
        "tiff-cmyk": (saved(plain("CMYK", (0, 255, 255, 0)), "TIFF"), RED),
        "tiff-float": (saved(plain("F", 0.5), "TIFF"), "unsupported"),
        "tiff-32-bit": (saved(plain("I", 70000), "TIFF"), "unsupported"),
        "tiff-lab": (saved(plain("LAB", (119, 128, 128)), "TIFF"), (111, 111, 111)),
        "ppm": (saved(red, "PPM"), RED),
        "pgm": (saved(plain("L", 119), "PPM"), GRAY),
        "one-pixel": (saved(plain("RGB", RED, (1, 1)), "PNG"), RED),
        "thin": (saved(plain("RGB", RED, (1, 3000)), "PNG"), RED),
        "wide": (saved(plain("RGB", RED, (3000, 2)), "PNG"), RED),
        "large": (saved(plain("RGB", RED, (3000, 2000)), "PNG"), RED),
        "name-lies": (saved(red, "PNG"), RED),
        "exif-5": (turned(5), "turned"),
        "exif-6": (turned(6), "turned"),
        "exif-7": (turned(7), "turned"),
        "exif-8": (turned(8), "turned"),
        "exif-junk": (saved(red, "PNG", exif=b"Exif\0\0junk"), RED),
        "trailing-bytes": (saved(red, "PNG") + b"more" * 100, RED),
        "empty": (b"", "empty"),
        "text": (b"not a picture at all", "not a picture"),
        "html": (b"<!DOCTYPE html><html>404</html>", "not a picture"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        "pdf": (b"%PDF-1.4 junk", "not a picture"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        "zeros": (bytes(500), "not a picture"),
        "png-cut-header": (saved(red, "PNG")[:20], "truncated"),
        "png-cut": (cut(saved(noisy(), "PNG"), 0.5), "truncated"),
        "jpeg-cut": (cut(jpeg, 0.5), "truncated"),
        "jpeg-cut-header": (jpeg[:30], "truncated"),
        "gif-cut": (cut(saved(noisy(), "GIF"), 0.5), "truncated"),
        "webp-cut": (cut(saved(noisy(), "WEBP", lossless=True), 0.5), "damaged"),
        "png-no-pixels": (png(16, 16, b""), "truncated"),
        "avif-cut": (saved(noisy(), "AVIF")[:300], "damaged"),
        "png-zero-wide": (png(0, 16, b""), "damaged"),
        "png-bomb": (png(60_000, 60_000, bytes(1000)), "too large"),
        "png-just-too-large": (png(10_001, 10_000, bytes(1000)), "too large"),
        "png-flipped-bit": (flipped(saved(noisy((8, 8)), "PNG")), "damaged"),
        "png-bad-checksum": (saved(red, "PNG").replace(b"IDAT", b"IDAX", 1), "damaged"),
    }
