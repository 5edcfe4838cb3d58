"""What an image file is, by its content, and the part of it that its pixels need.

Each of the six formats has a reader that walks the file's own structure, checks the size that it
states, and leaves out what no pixel needs: comments, profiles, previews, later frames. So no
metadata can blow up, and none can make Pillow warn, which could not be silenced for one thread.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, NoReturn

from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from headstart.errors import DataError

Reason = Literal[
    "not_an_image", "truncated", "too_large", "unsupported_format", "corrupt", "zero_size", "unreadable"
]  # fmt: skip

MAX_PIXELS = 50_000_000
_MAX_PARTS = 65_536  # segments, directory entries, strips: more than any camera or scanner writes
_MAX_SCAN_PIXELS = 1_500_000_000  # every scan of a progressive JPEG visits every pixel again
_MAX_RUN_BYTES = 4_000_000  # Pillow undoes the runs of a BMP in Python, at 0.3 s per megabyte


class ImageRefused(DataError):
    """A file that does not become pixels: `reason` from the closed list, `detail` one sentence."""

    def __init__(self, reason: Reason, detail: str, where: object = None) -> None:
        super().__init__(f"This image is refused ({reason}), {detail}", where=where)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[ImageRefused], tuple[Reason, str, object]]:
        return ImageRefused, (self.reason, self.detail, self.where)


def check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width <= 0 or height <= 0:
        raise ImageRefused("zero_size", f"it is {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        detail = f"it is {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels"
        raise ImageRefused("too_large", detail)


class Parts(NamedTuple):
    """What is handed to the plugin, and what the file says that the plugin shall not read."""

    payload: bytes
    orientation: int = 1
    needs: int = 0  # bytes that the pixel data should reach to; 0 where the format does not say


def reader(data: bytes) -> tuple[type[ImageFile.ImageFile], Callable[[bytes], Parts]]:
    """The plugin that these bytes ask for; raises ImageRefused when they ask for none of the six."""
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile, _jpeg
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile, _png
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile, _gif
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile, _webp
    if data[:2] in (b"II", b"MM") and data[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+"):
        return TiffImageFile, _tiff
    if data.startswith(b"BM") and data[14:18] in _BMP_HEADERS:
        return BmpImageFile, _bmp
    if not data:
        raise ImageRefused("zero_size", "the file is empty")
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    svg = head.startswith((b"<svg", b"<?xml", b"<!DOCTYPE svg")) and b"<svg" in head
    foreign = next((name for magic, name in _FOREIGN if data.startswith(magic)), None)
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        foreign = "HEIF or AVIF"
    if foreign := foreign or ("SVG" if svg else None):
        raise ImageRefused("unsupported_format", f"{foreign} is not one of the six formats read")
    raise ImageRefused("not_an_image", "its first bytes are those of no image format")


_BMP_HEADERS = {size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)}
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}
_FOREIGN = (
    (b"%PDF", "PDF"), (b"8BPS", "PSD"), (b"%!PS", "EPS"), (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"), (b"\xff\x0a", "JPEG XL"), (b"II\xbc", "JPEG XR"),
    (b"\0\0\1\0", "ICO"), (b"\0\0\2\0", "CUR"), (b"icns", "ICNS"), (b"DDS ", "DDS"),
    (b"qoif", "QOI"), (b"v/1\1", "OpenEXR"), (b"#?RADIANCE", "HDR"), (b"gimp xcf", "XCF"),
    (b"SIMPLE  =", "FITS"), (b"\x8aMNG", "MNG"), *((b"P%d" % n, "PNM") for n in range(1, 8)),
)  # fmt: skip


def _stop(detail: str) -> NoReturn:
    raise ImageRefused("truncated", detail)


def _jpeg(data: bytes) -> Parts:
    """Tables, frame header and scans; of the application segments only JFIF and Adobe's colours."""
    kept, orientation, at, framed = [data[:2]], 1, 2, False
    for _ in range(_MAX_PARTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            break
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in (0, 1) or 0xD0 <= marker <= 0xD9:  # they have no segment
            at += 2
            continue
        if marker == 0xDA:
            if not framed:
                raise ImageRefused("corrupt", "the JPEG's pixels come before its frame header")
            return Parts(b"".join((*kept, data[at:])), orientation)
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        segment = data[at:end]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(segment) >= 9:
            height, width = struct.unpack_from(">HH", segment, 5)
            framed = True
            check_size((width, height))
            if width * height * data.count(b"\xff\xda") > _MAX_SCAN_PIXELS:
                raise ImageRefused("too_large", "it draws its pixels too many times over")
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            orientation = _orientation(segment[4:])
        if not (0xE1 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
            kept.append(segment)
        at = end
    _stop("it ends before its first pixel")


def _png(data: bytes) -> Parts:
    """The critical chunks and transparency; profiles, texts and the frames of an APNG stay out."""
    kept, orientation, at = [data[:8]], 1, 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        name = data[at + 4 : at + 8]
        if not name.isalpha():
            raise ImageRefused("corrupt", "a chunk of the PNG has no valid name")
        if end > len(data):
            break
        if name == b"IHDR" and end == at + 25:
            check_size(struct.unpack_from(">II", data, at + 8))
        if name == b"eXIf":
            orientation = _orientation(data[at + 8 : end - 4])
        if name[:1].isupper() or name == b"tRNS":
            kept.append(data[at:end])
        if name == b"IEND":
            return Parts(b"".join(kept), orientation)
        at = end
    _stop("the PNG ends before its last chunk")


def _gif(data: bytes) -> Parts:
    """Header, palette, the first frame and what says which of its colours is transparent."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    def blocks(at: int) -> int:
        while data[at]:
            at += 1 + data[at]
        return at + 1

    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        at = 13 + table(flags)
        kept = [data[:at]]
        while data[at] != 0x2C:
            if data[at] == 0x3B:
                _stop("the GIF ends before its first frame")
            end = blocks(at + 2) if data[at] == 0x21 else at + 1
            if data[at : at + 2] == b"\x21\xf9":
                kept.append(data[at:end])
            at = end
        x, y, columns, rows, flags = struct.unpack_from("<HHHHB", data, at + 1)
        check_size((max(width, x + columns), max(height, y + rows)))
        check_size((columns, rows))
        return Parts(b"".join((*kept, data[at : blocks(at + 11 + table(flags))], b";")))
    except (IndexError, struct.error):
        _stop("the GIF ends within its first frame")


def _bmp(data: bytes) -> Parts:
    """All of it, once the sides are known; a negative height only says that the top row is first."""
    try:
        width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
    except struct.error:
        _stop("the BMP ends within its header")
    if width < 0:
        raise ImageRefused("corrupt", f"the BMP says that it is {width} pixels wide")
    check_size((width, abs(height)))
    if data[14] != 12 and data[30:31] in (b"\1", b"\2") and len(data) > _MAX_RUN_BYTES:
        raise ImageRefused("too_large", f"a run-length BMP is read up to {_MAX_RUN_BYTES:,} bytes")
    return Parts(data)


def _webp(data: bytes) -> Parts:
    """All of it: the library leaves metadata alone, but takes memory for the canvas at once."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data) or len(data) < 30:
        _stop(f"the WEBP has {len(data)} of {end} bytes")
    kind, head = data[12:16], data[20:30]
    if kind == b"VP8X":
        bits = int.from_bytes(head[4:10], "little")
        check_size(((bits & 0xFFFFFF) + 1, (bits >> 24) + 1))
    elif kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        check_size(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
    elif kind == b"VP8 ":
        bits = int.from_bytes(head[6:10], "little")
        check_size((bits & 0x3FFF, bits >> 16 & 0x3FFF))
    at = 12
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return Parts(data, _orientation(data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return Parts(data)


def _tags(data: bytes, wanted: dict[int, int]) -> Iterator[tuple[int, int, bytes]]:
    """Tag, type and value of the wanted entries of a TIFF's first directory.

    `wanted` says how many items a tag may have; where that is one, only the first is given.
    Raises struct.error or OverflowError when the bytes end first.
    """
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    for _ in range(min(count, _MAX_PARTS)):
        tag, kind, items = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
        start, room = at + (12 if big else 8), 8 if big else 4
        at = start + room
        unit, most = _TIFF_TYPES.get(kind, ""), wanted.get(tag, 0)
        if not unit or not most or not items or (tag == 347 and kind not in (1, 7)):
            continue
        if items > most > 1:
            raise ImageRefused("corrupt", f"tag {tag} of the TIFF has {items} items")
        if items * struct.calcsize(unit) > room:
            (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, start)
        value = data[start : start + min(items, most) * struct.calcsize(unit)]
        if len(value) < min(items, most) * struct.calcsize(unit):
            raise struct.error(f"tag {tag} lies beyond the end")
        yield tag, kind, value


def _orientation(exif: bytes) -> int:
    """The orientation of an EXIF block, 1 (upright) where it is absent or broken."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        value = next((value for _, _, value in _tags(exif, {_ORIENTATION: 1})), b"\0")
    except (struct.error, OverflowError):
        return 1
    return int.from_bytes(value, "little" if exif[:2] == b"II" else "big")


def _tiff(data: bytes) -> Parts:
    """The first picture under a fresh directory with the tags that its pixels need, behind the rest."""
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    try:
        tags = {tag: (kind, value) for tag, kind, value in reversed([*_tags(data, _TIFF_TAGS)])}
    except (struct.error, OverflowError) as cause:
        raise ImageRefused("truncated", "the TIFF's directory lies beyond its end") from cause

    def numbers(tag: int) -> tuple[int, ...]:
        kind, value = tags.get(tag, (1, b"\1"))
        unit = _TIFF_TYPES[kind]
        return struct.unpack(f"{order}{len(value) // struct.calcsize(unit)}{unit}", value)

    if 256 not in tags or 257 not in tags:
        raise ImageRefused("corrupt", "the TIFF does not say its width and height")
    check_size((numbers(256)[0], numbers(257)[0]))
    check_size((numbers(322)[0], numbers(323)[0]))
    if numbers(277)[0] > 6:
        raise ImageRefused("unsupported_format", f"its pixels have {numbers(277)[0]} channels")
    strips = zip(numbers(273) + numbers(324), numbers(279) + numbers(325), strict=False)
    needs = max(offset + size for offset, size in strips)
    orientation = numbers(_ORIENTATION)[0]
    tags.pop(_ORIENTATION, None)  # Pillow would turn the picture too

    start = len(data) + len(data) % 2
    entry, room = order + ("HHQ" if big else "HHI"), 8 if big else 4
    behind = start + (16 + 20 * len(tags) if big else 6 + 12 * len(tags))
    directory, values = [struct.pack(order + ("Q" if big else "H"), len(tags))], b""
    for tag, (kind, value) in sorted(tags.items()):
        items = len(value) // struct.calcsize(_TIFF_TYPES[kind])
        directory.append(struct.pack(entry, tag, kind, items))
        if len(value) <= room:
            directory.append(value.ljust(room, b"\0"))
        else:
            directory.append(struct.pack(order + ("Q" if big else "I"), behind + len(values)))
            values += value + b"\0" * (len(value) % 2)
    head = struct.pack(
        order + ("HHHQ" if big else "HI"), *((43, 8, 0, start) if big else (42, start))
    )
    body = data[2 + len(head) : start].ljust(start - 2 - len(head), b"\0")
    payload = b"".join((data[:2], head, body, *directory, b"\0" * room, values))
    return Parts(payload, orientation, needs)


_ORIENTATION = 274
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 5: "Q", 7: "B", 16: "Q"}  # 5: two numbers, handed on whole
_TIFF_TAGS = {
    **dict.fromkeys((256, 257, 259, 262, 266, _ORIENTATION, 277, 278, 284, 292, 293, 317), 1),
    **dict.fromkeys((322, 323, 512, 513, 514, 515), 1),
    **dict.fromkeys((273, 279, 324, 325), _MAX_PARTS),  # where the strips and tiles lie
    **dict.fromkeys((258, 338, 339, 519, 520, 521, 529, 530, 532), 16),
    320: 3 << 16,  # palette
    347: 1 << 17,  # JPEG tables that all strips share
}
