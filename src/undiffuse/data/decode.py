"""One picture: from the bytes of a file, in whatever state, to an array [h, w, c] of uint8."""

import io
import warnings
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from undiffuse.data import png
from undiffuse.data.budget import MOST_SCANNED
from undiffuse.data.deep import (
    clear_where,
    colours_of,
    halves,
    is_deep,
    is_deep_gray,
    is_inverted,
    levels_of,
    put_right,
    to_bytes,
)
from undiffuse.data.sources.base import PICTURE_STARTS
from undiffuse.data.spec import BadPicture
from undiffuse.data.tiff import kind_of_tiff

PICTURE_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "TGA")
MAX_PIXELS = 100_000_000
GRAY_MODES = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I"}
ALPHA_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}
CHANNELS_WITH_ALPHA = 4  # of an array; two are two colours
ORIENTATION = 0x0112
AVIF_START = b"ftypavi"  # after a length of four bytes
START_OF_SCAN = b"\xff\xda"  # within a scan's data 0xff is followed by 0 or a restart mark (ITU-T T.81, B.1.1)


class _Quiet:
    """Silence for Pillow, which warns of what is reported here, or is harmless.

    Filters belong to the process, and several threads decode at once: the first that comes changes them, the last that
    goes puts them back.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.filterwarnings("ignore", module="PIL")

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(*error)


_quiet = _Quiet()


@dataclass(frozen=True)
class Facts:
    """What a picture is before anything is done to it. size: (h, w) as it is to be looked at; odd: traits to report."""

    format: str
    mode: str
    size: tuple[int, int]
    gray: bool
    odd: tuple[str, ...] = ()

    @property
    def transparent(self) -> bool:
        return "transparent" in self.odd


def examine(content: bytes | np.ndarray) -> Facts:
    """What the header of a picture tells. Raises BadPicture."""
    if isinstance(content, np.ndarray):
        height, width, channels = content.shape
        odd = ("transparent",) if channels == CHANNELS_WITH_ALPHA else ()
        return Facts("array", f"{channels} channels", (height, width), channels == 1, odd)
    with _open(content) as image:
        return _facts(image)


def decode_picture(
    content: bytes | np.ndarray, near: tuple[int, int] | None = None, bits: int = 16, budget: float = 1.0
) -> tuple[np.ndarray, bool]:
    """uint8 [h, w, c], c = 1 (gray), 3, or 2 and 4 with transparency last; and whether it has transparency.

    Upright by its EXIF orientation, the first frame of an animation, 16 bits rounded to 8. near: a JPEG much larger
    than this (h, w) may be decoded at 1/2, 1/4 or 1/8 of its size, still at least twice as large. bits: those that
    16-bit levels use; budget: see data.budget. Raises BadPicture.
    """
    if isinstance(content, np.ndarray):
        return content, content.shape[-1] == CHANNELS_WITH_ALPHA
    with _open(content) as image:
        facts = _facts(image)
        _check_scans(content, image, budget)
        if image.format == "PNG" and (chunk := png.damaged_chunk(content)):
            raise BadPicture("damaged", f"cannot be decoded: the checksum of its {chunk} chunk is wrong")
        if near is not None and min(facts.size) > 0:
            image.draft(image.mode, (2 * max(near), 2 * max(near)))
        if is_deep(image):
            pixels = _deep_pixels(_levels(content, image, facts), image, facts, bits)
        else:
            pixels = _pixels(_upright(_load(image), facts), facts)
        return pixels, facts.transparent and pixels.shape[-1] in (2, 4)


def deepest_level(content: bytes) -> int:
    """The largest level of a picture of 16 bits; 0 of one that is damaged."""
    try:
        with _open(content) as image:
            facts = _facts(image)
            return int(colours_of(_levels(content, image, facts), facts.transparent).max()) if is_deep(image) else 0
    except BadPicture:
        return 0


def _open(content: bytes) -> Image.Image:
    if not content:
        raise BadPicture("empty", "the file is empty")
    with _quiet:
        try:
            image = Image.open(io.BytesIO(png.notes_first(content)), formats=PICTURE_FORMATS)
        except UnidentifiedImageError as error:
            if kind := kind_of_tiff(content):
                raise BadPicture(
                    "unsupported", f"TIFF files of this kind are not read: {kind}; save it as PNG"
                ) from error
            if content.startswith(PICTURE_STARTS) or content[4:11] == AVIF_START:
                raise BadPicture("damaged", "cannot be read: damaged near its beginning") from error
            raise BadPicture("not a picture", f"not a picture: it starts with {content[:12]!r}") from error
        except (Image.DecompressionBombError, MemoryError) as error:
            raise BadPicture("too large", f"more than {MAX_PIXELS / 1e6:.0f} million pixels") from error
        except Exception as error:  # decoders of damaged files raise whatever they stumble over
            raise _broken(error) from error
    height, width = image.height, image.width
    if width * height > MAX_PIXELS:
        raise BadPicture("too large", f"{width} x {height} is more than {MAX_PIXELS / 1e6:.0f} million pixels")
    if not width * height:
        raise BadPicture("damaged", f"{width} x {height} holds no pixel")
    _put_right(image, content)
    return image


def _put_right(image: Image.Image, content: bytes) -> None:
    try:
        right = put_right(image)
    except Exception as error:
        raise _broken(error) from error
    if not right:
        raise _not_read(kind_of_tiff(content) or "separate planes")


def _not_read(kind: str) -> BadPicture:
    return BadPicture("unsupported", f"TIFF files of this kind are not read: {kind}; save it as PNG")


def _check_scans(content: bytes, image: Image.Image, budget: float) -> None:
    """A progressive JPEG may pass over all pixels as often as it likes, in a few bytes each time."""
    if image.format not in ("JPEG", "MPO"):  # several JPEGs in one file are MPO
        return
    scans = content.count(START_OF_SCAN)
    if scans * image.width * image.height > MOST_SCANNED * budget:
        what = f"{image.width} x {image.height} in {scans:,} passes, which takes minutes"
        raise BadPicture("too large", f"{what}; if you trust the file: data.budget={max(10, 10 * budget):g}")


def _facts(image: Image.Image) -> Facts:
    with _quiet:
        try:
            animated = bool(getattr(image, "is_animated", False))
        except Exception as error:
            raise _broken(error) from error
        try:
            turned = Image.Image.getexif(image).get(ORIENTATION, 1)  # that of PNG decodes all pixels
        except Exception:  # pixels may be sound though the note beside them is not
            turned = 1
    transparent = image.mode in ALPHA_MODES or "transparency" in image.info
    traits = {
        "transparent": transparent,
        "animated": animated,
        "turned by EXIF": turned in range(2, 9),
        "16-bit": is_deep(image),
        "CMYK": image.mode == "CMYK",
        "palette": image.mode in ("P", "PA"),
    }
    size = (image.width, image.height) if turned in range(5, 9) else (image.height, image.width)
    odd = tuple(name for name, holds in traits.items() if holds)
    return Facts(image.format or "?", image.mode, size, _is_gray(image), odd)


def _is_gray(image: Image.Image) -> bool:
    """Whether a picture is gray, by its mode or the colours of its palette."""
    if image.mode in GRAY_MODES or is_deep_gray(image):
        return True
    if image.mode != "P" or image.palette is None:
        return False
    colours = np.frombuffer(bytes(image.palette.palette), np.uint8)
    if image.palette.mode != "RGB" or len(colours) % 3:
        return False
    return bool((colours.reshape(-1, 3) == colours.reshape(-1, 3)[:, :1]).all())


def _load(image: Image.Image) -> Image.Image:
    with _quiet:
        try:
            image.load()
        except MemoryError as error:
            raise BadPicture("too large", "too large for the memory") from error
        except Exception as error:
            raise _broken(error) from error
    return image


def _broken(error: Exception) -> BadPicture:
    cut = any(word in str(error).lower() for word in ("truncated", "end of", "eof", "not enough"))
    return BadPicture("truncated" if cut else "damaged", f"cannot be decoded: {' '.join(str(error).split())[:120]}")


def _upright(image: Image.Image, facts: Facts) -> Image.Image:
    if "turned by EXIF" not in facts.odd:
        return image
    with _quiet:
        try:
            return ImageOps.exif_transpose(image)
        except Exception:
            return image


def _levels(content: bytes, image: Image.Image, facts: Facts) -> np.ndarray:
    """All levels of a picture of 16 bits [h, w, c]."""
    with _open(content) as again:
        return levels_of([_upright(_load(half), facts) for half in halves(image, again)], facts.gray)


def _deep_pixels(levels: np.ndarray, image: Image.Image, facts: Facts, bits: int) -> np.ndarray:
    """16 bits to 8: the largest level of `bits` becomes 255."""
    try:
        pixels = to_bytes(levels, bits, facts.transparent, is_inverted(image))
    except ValueError as error:
        hint = ", or set data.bits" if bits < 16 else ""
        raise BadPicture("unsupported", f"{error}; save it with 8 or 16 bits{hint}") from error
    clear = clear_where(levels, image.info.get("transparency"))
    return pixels if clear is None else np.concatenate([pixels, clear], -1)


def _pixels(image: Image.Image, facts: Facts) -> np.ndarray:
    if image.mode == "F":
        raise BadPicture("unsupported", "floating-point levels have no agreed range; save it with 8 or 16 bits")
    target = ("LA" if facts.transparent else "L") if facts.gray else ("RGBA" if facts.transparent else "RGB")
    with _quiet:
        try:
            if target == "LA" and image.mode != "LA":
                image = image.convert("RGBA")
            pixels = np.asarray(image if image.mode == target else image.convert(target))
        except Exception as error:
            raise BadPicture("unsupported", f"colours of mode {image.mode} cannot be converted: {error}") from error
    return pixels.reshape(*pixels.shape[:2], -1)
