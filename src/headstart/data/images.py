"""The one image loader of every door: training scan, feature pass, predict, server, explanation.

A file is decided by its content, never by its name, and ends in pixels or in one `Reason`. Six
formats are read (JPEG, PNG, GIF, BMP, WEBP, TIFF), each by its own Pillow plugin and only after
everything was left out that no pixel needs: comments, profiles, previews, later frames. So no
metadata can blow up, and none can make Pillow warn, which could not be silenced for one thread.

What the pixels mean, whatever the file wore: 8-bit RGB, turned as the EXIF orientation says,
colour profiles ignored, the first frame of an animation, transparency laid over white, and grey
of more than 8 bits scaled by the rule of `_grey_to_8_bits`.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.data.containers import ImageRefused, Parts, Reason, check_size, reader
from headstart.errors import ArgumentError, show

__all__ = [
    "ImageInfo",
    "ImageRefused",
    "Preprocess",
    "Reason",
    "content_hash",
    "decode",
    "fit_pixels",
    "inspect",
    "load_image",
    "load_pixels",
    "read_bytes",
    "thumbnail",
]

Pixels = NDArray[np.uint8]

MAX_FILE_BYTES = 500_000_000
_TURNS = dict(enumerate((0, 3, 1, 5, 4, 6, 2), start=2))  # EXIF orientation -> Image.Transpose


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image of any size becomes `size_px` x `size_px`; bicubic with antialiasing throughout.

    Args:
        size_px: side of the square that the network sees.
        resize_px: shorter side before the centre crop; used by "crop" only.
        fit: "crop" keeps the proportions and loses the rim, "pad" keeps both and adds a border in
            the mean colour, "squash" keeps the rim and loses the proportions.
        mean, std: per channel, of values in 0..1; carried for the graph, not applied here.
        mirror: left and right change places in the end: a second view of the images to learn from.

    Raises:
        ArgumentError: for sides that cannot be.

    >>> Preprocess(size_px=32, resize_px=36).key()
    'v1-crop-36-32-298c5afe'
    """

    size_px: int = 224
    resize_px: int = 256
    fit: Literal["crop", "pad", "squash"] = "crop"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    mirror: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size_px <= 4096 or not self.size_px <= self.resize_px <= 8192:
            sides = f"size_px {self.size_px}, resize_px {self.resize_px}"
            do = "Use 1 <= size_px <= 4096 and size_px <= resize_px <= 8192."
            raise ArgumentError("The image sides do not fit together", received=sides, do=do)

    def key(self) -> str:
        """Short text for cache keys: equal exactly when pixels and normalisation are equal."""
        colours = hashlib.blake2b(repr((self.mean, self.std)).encode(), digest_size=4).hexdigest()
        view = "-mirror" if self.mirror else ""
        return f"v1-{self.fit}-{self.resize_px}-{self.size_px}-{colours}{view}"

    @property
    def decode_px(self) -> int:
        """Shorter side, in pixels, that a decoded image is brought to."""
        return self.resize_px if self.fit == "crop" else self.size_px

    @property
    def border(self) -> tuple[int, int, int]:
        """RGB of what "pad" adds: the mean colour, which the network sees as zeros."""
        red, green, blue = (min(255, max(0, round(value * 255))) for value in self.mean)
        return red, green, blue


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One readable file: sides in pixels as it is looked at, mode as stored, BLAKE2b of its bytes."""

    width: int
    height: int
    format: str
    mode: str
    bytes: int
    content_hash: str


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file of at most `MAX_FILE_BYTES`.

    Raises:
        ImageRefused: "unreadable" (absent, forbidden, a folder, a pipe, a device), "too_large".
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - a path of any kind; and before any open, which a pipe blocks
        if not stat.S_ISREG(status.st_mode):
            raise ImageRefused("unreadable", "it is not a regular file", path)
        if status.st_size > MAX_FILE_BYTES:
            raise ImageRefused("too_large", f"it has {status.st_size:,} bytes", path)
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.readall()
    except (OSError, ValueError) as cause:  # ValueError: a zero byte in the path
        detail = f"reading it failed: {getattr(cause, 'strerror', None) or cause}"
        raise ImageRefused("unreadable", detail, path) from cause


def content_hash(data: bytes) -> str:
    """32 hex digits that name the bytes of a file.

    >>> content_hash(b"")
    'cae66941d9efbd404e4d88758ea67670'
    """
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def decode(data: bytes, *, min_side_px: int | None, where: object = None) -> Image.Image:
    """The picture in the bytes of a file, mode RGB, upright, without metadata.

    Args:
        data: the whole file.
        min_side_px: the shorter side that will be needed; a JPEG is then decoded at 1/2, 1/4 or
            1/8 of its size as long as its shorter side stays at least twice that. None: full size.
        where: named in the error.

    Raises:
        ImageRefused: with the one reason. A file that ends too early is never shown in part.
    """
    return _decode(data, min_side_px, where)[0]


def inspect(
    path: str | os.PathLike[str], *, min_side_px: int | None
) -> tuple[ImageInfo, Image.Image]:
    """One read and one whole decode of a file: what it is, and its picture as `decode` gives it."""
    data = read_bytes(path)
    image, (width, height), kind, mode = _decode(data, min_side_px, path)
    return ImageInfo(width, height, kind, mode, len(data), content_hash(data)), image


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """The picture of a file at full size, mode RGB, upright; raises ImageRefused."""
    return decode(read_bytes(path), min_side_px=None, where=path)


def load_pixels(path: str | os.PathLike[str], pre: Preprocess) -> tuple[Pixels, str]:
    """uint8 [size_px, size_px, 3] of a file, and its content hash; raises ImageRefused."""
    data = read_bytes(path)
    image = decode(data, min_side_px=pre.decode_px, where=path)
    return fit_pixels(image, pre), content_hash(data)


def fit_pixels(image: Image.Image, pre: Preprocess) -> Pixels:
    """An RGB picture of any size as uint8 [size_px, size_px, 3].

    >>> fit_pixels(Image.new("RGB", (640, 480), "red"), Preprocess()).shape
    (224, 224, 3)
    """
    square = np.array(_fitted(image, pre))
    return np.ascontiguousarray(square[:, ::-1]) if pre.mirror else square


def _fitted(image: Image.Image, pre: Preprocess) -> Image.Image:
    size = pre.size_px
    if pre.fit == "crop":
        return _resize_and_crop(image, pre.resize_px, size)
    if pre.fit == "squash":
        return _resize_whole(image, (size, size))
    longer = max(image.size)
    width, height = (max(1, (side * size + longer // 2) // longer) for side in image.size)
    square = Image.new("RGB", (size, size), pre.border)
    square.paste(_resize_whole(image, (width, height)), ((size - width) // 2, (size - height) // 2))
    return square


def thumbnail(image: Image.Image, side_px: int, quality: int = 70) -> bytes:
    """The picture as WebP, longer side at most `side_px`, without metadata."""
    scale = min(1.0, side_px / max(image.size))
    sides = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    out = BytesIO()
    image.resize(sides, Image.Resampling.BICUBIC, reducing_gap=2.0).save(
        out, "WEBP", quality=quality
    )
    return out.getvalue()


def _resize_and_crop(image: Image.Image, resize_px: int, size: int) -> Image.Image:
    """The centre of the picture resized to a shorter side of `resize_px`.

    The central square of that side is made first, whatever is cropped from it: a larger crop then
    holds exactly the pixels of a smaller one, which a model that crops by itself relies on.
    """
    shorter = min(image.size)
    width, height = ((side * resize_px + shorter // 2) // shorter for side in image.size)
    left, top = (width - resize_px) // 2, (height - resize_px) // 2
    rim = (resize_px - size) // 2
    if image.size == (width, height):
        left, top = left + rim, top + rim
        return image.crop((left, top, left + size, top + size))
    x0, x1, start_x, end_x = _span(image.width, width, left, resize_px)
    y0, y1, start_y, end_y = _span(image.height, height, top, resize_px)
    if (x0, y0, x1, y1) != (0, 0, *image.size):
        image = image.crop((x0, y0, x1, y1))
    square = _bicubic(image, (resize_px, resize_px), (start_x, start_y, end_x, end_y))
    return square.crop((rim, rim, rim + size, rim + size))


def _span(side: int, new: int, first: int, size: int) -> tuple[int, int, float, float]:
    """What [first, first + size) of `new` pixels looks at on a side: pixels, and its ends within them."""
    start, end = first * side / new, min(float(side), (first + size) * side / new)
    # The kernel reaches over two pixels of the coarser grid.
    rim = 3 * math.ceil(max(1.0, side / new))
    low, high = max(0, math.floor(start) - rim), min(side, math.ceil(end) + rim)
    return low, high, start - low, end - low


def _resize_whole(image: Image.Image, sides: tuple[int, int]) -> Image.Image:
    """What shrinks shrinks first, then the rest grows: a long line is never widened as it is."""
    factors = (max(1, image.width // 16_384), max(1, image.height // 16_384))
    if factors != (1, 1):  # Pillow's table of weights is 32 times as long as the side, in bytes
        image = image.reduce(factors)
    small = (min(image.width, sides[0]), min(image.height, sides[1]))
    for new in (small, sides):
        if new != image.size:
            image = _bicubic(image, new, (0, 0, *image.size))
    return image


def _bicubic(
    image: Image.Image, sides: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    """Rows first, then columns: left to itself Pillow picks the order by cost, and the grey levels
    that overshoot and are clipped in between would depend on how much was cropped."""
    rows = (box[0], 0, box[2], image.height)
    image = image.resize((sides[0], image.height), Image.Resampling.BICUBIC, rows)
    return image.resize(sides, Image.Resampling.BICUBIC, (0, box[1], sides[0], box[3]))


def _decode(
    data: bytes, min_side_px: int | None, where: object
) -> tuple[Image.Image, tuple[int, int], str, str]:
    """RGB picture, upright sides before any draft, format, mode as stored."""
    parts = Parts(data)
    try:
        plugin, strip = reader(data)
        parts = strip(data)
        image = plugin(BytesIO(parts.payload))
        check_size(image.size)
        (width, height), kind, mode = image.size, str(image.format), image.mode
        if min_side_px is not None:
            image.draft(None, (2 * min_side_px, 2 * min_side_px))
        image.load()
        rgb = _to_rgb(image)
        if (turn := _TURNS.get(parts.orientation)) is not None:
            rgb = rgb.transpose(Image.Transpose(turn))
        rgb.info = {}
        upright = (height, width) if parts.orientation in (5, 6, 7, 8) else (width, height)
        return rgb, upright, kind, mode
    except ImageRefused as refused:
        raise ImageRefused(refused.reason, refused.detail, where) from refused.__cause__
    except Exception as cause:  # any: hostile bytes make plugins raise far more than OSError
        reason = _reason(cause)
        if reason == "corrupt" and parts.needs > len(data):
            reason = "truncated"
        detail = f"its pixels cannot be decoded: {show(cause) or type(cause).__name__}"
        raise ImageRefused(reason, detail, where) from cause


def _reason(cause: Exception) -> Reason:
    text = str(cause).lower()
    if isinstance(cause, (MemoryError, Image.DecompressionBombError)):
        return "too_large"
    if isinstance(cause, (EOFError, IndexError, struct.error)) or "truncated" in text:
        return "truncated"
    unread = ("supported", "cannot handle", "unknown pixel mode", "unknown data")
    if isinstance(cause, NotImplementedError) or any(sign in text for sign in unread):
        return "unsupported_format"
    return "corrupt"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_grey_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image if image.mode == "RGBA" else image.convert("RGBA")
    rgb = Image.new("RGB", image.size, "white")
    rgb.paste(layered, mask=layered)
    return rgb


def _grey_to_8_bits(grey: NDArray[Any]) -> Pixels:
    """Linear; black stays black, and white is the top of the smallest usual depth that holds the maximum.

    Integers: 8, 12 or 16 bits, since files of 16 bits often hold 12 and would come out black.
    Floats: 1 or 255. Anything else runs from its minimum to its maximum; what is not finite is 0.
    """
    tops = (1.0, 255.0) if grey.dtype.kind == "f" else (255.0, 4095.0, 65535.0)
    with np.errstate(all="ignore"):  # the range of two extreme floats may overflow
        values = grey.astype(np.float32)
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        top = next((top for top in tops if low >= 0 and high <= top), None)
        if top is None:
            values -= np.float32(low)
            top = max(high - low, 1e-30)
        values *= np.float32(255.0 / top)
        values += np.float32(0.5)
        return np.clip(values, 0, 255, out=values).astype(np.uint8)
