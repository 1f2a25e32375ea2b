"""What a TIFF file says of its pixels (TIFF 6.0, section 2), where Pillow does not know what to make of it."""

import struct
from typing import Any

PHOTOMETRIC, PLANAR = 262, 284
TIFF_KINDS = {0: "gray with white as zero", 1: "gray", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "LAB"}
SHORT, LONG = 3, 4  # types of numbers


def kind_of_tiff(content: bytes) -> str:
    """Its channels, bits and kind in words; "" of a file that is no sound TIFF."""
    try:
        tags = _tags(content)
        width, height, bits, photometric = (tags[tag][0] for tag in (256, 257, 258, PHOTOMETRIC))
    except (struct.error, LookupError):
        return ""
    channels = tags.get(277, [1])[0]
    if not (width and height and channels and bits in (1, 2, 4, 8, 12, 16, 24, 32, 64) and photometric in TIFF_KINDS):
        return ""
    planes = ", in separate planes" if tags.get(PLANAR, [1])[0] == 2 else ""
    order = "little" if content.startswith(b"II") else "big"
    each = f"{channels} channels" if channels > 1 else "one channel"
    packed = "" if tags.get(259, [1])[0] == 1 else ", compressed"
    return f"{TIFF_KINDS[photometric]}, {each} of {bits} bits, {order}-endian{planes}{packed}"


def white_is_zero(image: Any) -> bool:
    """Whether a picture that Pillow opened is a TIFF file whose largest level is black."""
    return image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0


def has_planes(image: Any) -> bool:
    """Whether a picture that Pillow opened is a TIFF file whose channels lie one after the other."""
    return image.format == "TIFF" and image.tag_v2.get(PLANAR, 1) == 2


def _tags(content: bytes) -> dict[int, tuple[int, ...]]:
    """The first directory's numbers, by their tags; of lists the first."""
    order = {b"II*\0": "<", b"MM\0*": ">"}[content[:4]]
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    tags = {}
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", content, place)
        if kind not in (SHORT, LONG) or not values:
            continue
        size = 2 if kind == SHORT else 4
        held = place + 8 if values * size <= 4 else struct.unpack_from(f"{order}I", content, place + 8)[0]
        tags[tag] = struct.unpack_from(f"{order}{'H' if kind == SHORT else 'I'}", content, held)
    return tags
