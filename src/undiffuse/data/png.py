"""The chunks of a PNG file (PNG specification, section 5), which hold checksums that Pillow does not look at."""

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
UPRIGHT_NOTES = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that may say how it is turned


def damaged_chunk(content: bytes) -> str:
    """The name of the first chunk of pixels or palette whose checksum is wrong; "" if all are sound. One that is cut
    off is not looked at."""
    for kind, start, end in _chunks(content):
        if kind in (b"IDAT", b"PLTE"):
            found = zlib.crc32(memoryview(content)[start + 4 : end - 4])
            if found != int.from_bytes(content[end - 4 : end], "big"):
                return kind.decode()
    return ""


def notes_first(content: bytes) -> bytes:
    """The same file, with notes that lie behind the pixels before them: so its header alone tells how it is turned."""
    if not content.startswith(SIGNATURE):
        return content
    late, pixels = b"", 0
    for kind, start, end in _chunks(content):
        pixels = pixels or (start if kind == b"IDAT" else 0)
        if pixels and (kind == b"eXIf" or content[start + 8 : start + 48].startswith(UPRIGHT_NOTES)):
            late += content[start:end]
    return content[:pixels] + late + content[pixels:] if late else content


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of every whole chunk."""
    start = len(SIGNATURE)
    while start + 12 <= len(content):
        kind = content[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if end > len(content):
            return
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end
