"""Lay a heat map, which lives on the square that the network saw, over the picture it came from.

h w positions of the heat map, S side of the network's square in px, boxes as (left, top, right,
bottom) in px, fractions allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.data.images import Preprocess

Box = tuple[float, float, float, float]
RAMP = ((0.0, (36, 20, 84)), (0.35, (150, 33, 112)), (0.7, (240, 98, 48)), (1.0, (255, 240, 120)))
"""from nothing to most: dark to light in every kind of sight, and on paper"""
COVER = 0.72
"""how much of the picture the hottest place hides"""
UNSEEN = 0.45
"""brightness of what the network did not see"""


@dataclass(frozen=True, slots=True)
class Seen:
    """Which part of a picture the network saw, and where on its square that part lies."""

    picture: Box
    square: Box


def seen_part(width: int, height: int, pre: Preprocess) -> Seen:
    """Where the pixels of `fit_pixels` come from, for a picture of these sides; see `data.images`."""
    size = float(pre.size_px)
    if pre.fit == "squash":
        return Seen((0.0, 0.0, width, height), (0.0, 0.0, size, size))
    if pre.fit == "pad":
        longer = max(width, height)
        w, h = (max(1, (side * pre.size_px + longer // 2) // longer) for side in (width, height))
        left, top = (pre.size_px - w) // 2, (pre.size_px - h) // 2
        return Seen((0.0, 0.0, width, height), (left, top, left + w, top + h))
    shorter, resize = min(width, height), pre.resize_px
    ends = []
    for side in (width, height):
        new = (side * resize + shorter // 2) // shorter
        first = (new - resize) // 2 + (resize - pre.size_px) // 2
        ends.append((first * side / new, min(float(side), (first + pre.size_px) * side / new)))
    (left_, right), (top_, bottom) = ends
    return Seen((left_, top_, right, bottom), (0.0, 0.0, size, size))


def on_picture(
    heat: NDArray[np.float32],
    width: int,
    height: int,
    pre: Preprocess,
    rows: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Heat [h, w] over the network's square as [height, width] over the picture; unseen is NaN.

    Between positions it is interpolated linearly; position (i, j) stands at the middle of its cell.

    Args:
        rows: first and last + 1 of the picture's rows that are wanted; default: all.
    """
    seen = seen_part(width, height, pre)
    (x0, y0, x1, y1), (u0, v0, u1, v1) = seen.picture, seen.square
    first, last = (0, height) if rows is None else rows
    out = np.full((last - first, width), np.nan, dtype=np.float32)
    # Pixels whose middle was seen; at least one, also of a line of 1 px.
    left, right = _inside(x0, x1, width)
    top, bottom = _inside(y0, y1, height)
    top, bottom = max(top, first), min(bottom, last)
    if top < bottom:
        x = _positions(left, right, (x0, x1), (u0, u1), heat.shape[1] / pre.size_px)
        y = _positions(top, bottom, (y0, y1), (v0, v1), heat.shape[0] / pre.size_px)
        out[top - first : bottom - first, left:right] = _interpolated(heat, y, x)
    return out


def _inside(start: float, end: float, side: int) -> tuple[int, int]:
    first = min(side - 1, max(0, math.ceil(start - 0.5)))
    return first, max(first + 1, min(side, math.ceil(end - 0.5)))


def _positions(
    first: int, last: int, picture: tuple[float, float], square: tuple[float, float], scale: float
) -> NDArray[np.float64]:
    """Where the middles of some pixels lie among the middles of the heat map's cells."""
    share = (np.arange(first, last) + 0.5 - picture[0]) / (picture[1] - picture[0])
    on_square = square[0] + share * (square[1] - square[0])
    return np.asarray(on_square * scale - 0.5)


def _interpolated(
    heat: NDArray[np.float32], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Bilinear; beyond the outermost middles the outermost values."""

    def around(
        at: NDArray[np.float64], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        at = at.clip(0, count - 1)
        low = np.floor(at).astype(np.int64)
        return low, np.minimum(low + 1, count - 1), (at - low).astype(np.float32)

    (y0, y1, dy), (x0, x1, dx) = around(y, heat.shape[0]), around(x, heat.shape[1])
    across = heat[:, x0] * (1 - dx) + heat[:, x1] * dx
    found = across[y0] * (1 - dy)[:, None]
    found += across[y1] * dy[:, None]
    return np.asarray(found, dtype=np.float32)


def lay_over(picture: Image.Image, heat: NDArray[np.float32], pre: Preprocess) -> Image.Image:
    """The picture at its own size under the heat; what the network did not see is dark and grey.

    Args:
        picture: RGB. heat: [h, w] in 0..1 over the network's square.
    """
    width, height = picture.size
    out = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, 256):  # in strips: a photo of 50 megapixels would be 600 MB
        rows = slice(top, min(height, top + 256))
        pixels = np.asarray(picture.crop((0, rows.start, width, rows.stop))).astype(np.float32)
        grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
        hot = on_picture(heat, width, height, pre, (rows.start, rows.stop))
        unseen = np.isnan(hot)
        amount = np.nan_to_num(hot).clip(0, 1)
        # Where it is cold the picture is a little paler, so that heat is not lost on bright photos.
        base = 0.55 * pixels + 0.45 * (0.5 * grey[..., None] + 30)
        cover = (COVER * np.sqrt(amount))[..., None]
        mixed = (1 - cover) * base + cover * _coloured(amount)
        mixed[unseen] = (UNSEEN * grey[..., None] * np.ones(3, np.float32))[unseen]
        out[rows] = mixed.clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(out)


def ramp_picture() -> Image.Image:
    """The colours of the heat from nothing to most, as a strip."""
    colours = _coloured(np.linspace(0, 1, 64, dtype=np.float32)[None])
    return Image.fromarray(colours.round().astype(np.uint8))


def _coloured(amount: NDArray[np.float32]) -> NDArray[np.float32]:
    at = [stop for stop, _ in RAMP]
    channels = [np.interp(amount, at, [colour[c] for _, colour in RAMP]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
