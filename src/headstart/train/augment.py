"""Training views: pure functions of (pixels, seed, epoch, index). No state, no global generator.

H W height and width in px, C colour channels.

A view of an image is the same whichever process, thread or resumed run makes it. The operations
are applied in the order of `OPERATIONS`; cropping and turning happen in one resampling, so
a view is resampled once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from headstart.errors import ArgumentError, nearest

Pixels = NDArray[np.uint8]

OPERATIONS = ("crop", "flip", "flip_vertical", "rotate90", "rotate", "colour", "grey", "erase")
ALIASES = {"color": "colour", "gray": "grey", "vflip": "flip_vertical", "hflip": "flip"}
ASPECT = 4 / 3
"""a crop is at most this much longer than wide (Szegedy et al. 2015)"""
ANGLE_DEG = 15.0
COLOUR = 0.3
"""brightness, contrast and saturation are multiplied by 1 +- this"""
GREY_SHARE, ERASE_SHARE = 0.2, 0.25
"""of the views; erasing after Zhong et al. 2020"""
ERASED = (0.02, 0.2)
"""share of the area that is erased"""
VIEW, MIX, ORDER = 1, 2, 3
"""streams of random numbers that must not meet"""


def parse_augment(text: str) -> tuple[str, ...] | None:
    """`--augment`: None for auto (the caller tests each operation), () for none, else a list.

    Raises:
        ArgumentError: an unknown operation; the nearest is offered.

    >>> parse_augment("flip, rotate")
    ('flip', 'rotate')
    """
    words = [word.strip().lower() for word in text.split(",")]
    if words == ["auto"]:
        return None
    if words == ["none"]:
        return ()
    names = [ALIASES.get(word, word) for word in words]
    for word, name in zip(words, names, strict=True):
        if name not in OPERATIONS:
            raise ArgumentError(
                "--augment: there is no such operation",
                received=word,
                do=nearest(word, OPERATIONS) or f"auto, none, or any of {', '.join(OPERATIONS)}.",
            )
    return tuple(name for name in OPERATIONS if name in names)


@dataclass(frozen=True, slots=True)
class Augment:
    """What is done to an image before the network sees it."""

    operations: tuple[str, ...] = ()
    scale: float = 0.5
    """smallest share of the area that a crop keeps"""
    strength: float = 1.0
    """of angle and colour: 1 as the constants say"""


def view(
    pixels: Pixels, augment: Augment, size_px: int, seed: int, epoch: int, index: int
) -> Pixels:
    """One training view uint8 [size_px, size_px, C] of an image [H, W, C]; H = W >= size_px.

    Args:
        index: the image's place in its data set; with seed and epoch it decides every draw.
    """
    # Every draw is made whether it is used or not: one operation more does not move the others.
    draws = np.random.default_rng((seed, VIEW, epoch, index)).random(20)
    operations = augment.operations
    if "crop" in operations or "rotate" in operations:
        pixels = _crop(pixels, augment, size_px, draws[:6])
    else:
        pixels = centre(pixels, size_px)
    if "flip" in operations and draws[6] < 0.5:
        pixels = pixels[:, ::-1]
    if "flip_vertical" in operations and draws[7] < 0.5:
        pixels = pixels[::-1]
    if "rotate90" in operations:
        pixels = np.rot90(pixels, int(draws[8] * 4))
    if "colour" in operations:
        pixels = _coloured(pixels, COLOUR * augment.strength, draws[9:12])
    if "grey" in operations and draws[12] < GREY_SHARE:
        pixels = np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels)).convert("L").convert("RGB")
        )
    if "erase" in operations and draws[13] < ERASE_SHARE:
        pixels = _erased(pixels, draws[14:18])
    return np.ascontiguousarray(pixels)


def centre(pixels: Pixels, size_px: int) -> Pixels:
    """The middle [size_px, size_px, C]: what the network sees when it serves."""
    top, left = ((side - size_px) // 2 for side in pixels.shape[:2])
    return pixels[top : top + size_px, left : left + size_px]


def mixed(one: Pixels, other: Pixels, seed: int, epoch: int, index: int) -> tuple[Pixels, float]:
    """Two views as one, and the share of the first: MixUp (Zhang et al. 2018, lambda ~ Beta(.2, .2))
    or CutMix (Yun et al. 2019, lambda ~ U(0, 1)), one as often as the other."""
    rng = np.random.default_rng((seed, MIX, epoch, index))
    if rng.random() < 0.5:
        share = float(rng.beta(0.2, 0.2))
        blend = one.astype(np.float32) * share + other.astype(np.float32) * (1 - share)
        return np.rint(blend).astype(np.uint8), share
    height, width = one.shape[:2]
    cut = math.sqrt(1 - rng.random())
    tall, wide = round(height * cut), round(width * cut)
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    out = one.copy()
    out[top : top + tall, left : left + wide] = other[top : top + tall, left : left + wide]
    return out, 1 - tall * wide / (height * width)


def partner(seed: int, epoch: int, index: int, n: int) -> int:
    """The image that another is mixed with."""
    return int(np.random.default_rng((seed, MIX, epoch, index, n)).integers(n))


def order(seed: int, epoch: int, n: int, count: int) -> NDArray[np.int64]:
    """The first `count` images of an epoch, shuffled; each of n once before any comes again."""
    rng = np.random.default_rng((seed, ORDER, epoch))
    rounds = [rng.permutation(n) for _ in range(-(-count // n))]
    return np.concatenate(rounds)[:count]


def _crop(pixels: Pixels, augment: Augment, size_px: int, draws: NDArray[np.float64]) -> Pixels:
    """A random part, perhaps turned, as a square of `size_px`."""
    height, width = pixels.shape[:2]
    share = augment.scale + (1 - augment.scale) * draws[0] if "crop" in augment.operations else 1.0
    longer = ASPECT ** (draws[1] - 0.5) if "crop" in augment.operations else 1.0
    wide = min(width, math.sqrt(share) * width * longer)
    tall = min(height, math.sqrt(share) * height / longer)
    left, top = draws[2] * (width - wide), draws[3] * (height - tall)
    image = Image.fromarray(pixels)
    if "rotate" not in augment.operations:
        box = (left, top, left + wide, top + tall)
        return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box))
    angle = math.radians((2 * draws[4] - 1) * ANGLE_DEG * augment.strength)
    matrix = _turn(
        angle, (left + wide / 2, top + tall / 2), (wide / size_px, tall / size_px), size_px
    )
    border = tuple(int(v) for v in pixels.reshape(-1, pixels.shape[2]).mean(0))
    return np.asarray(
        image.transform(
            (size_px, size_px),
            Image.Transform.AFFINE,
            matrix,
            Image.Resampling.BICUBIC,
            fillcolor=border,
        )
    )


def _turn(
    angle: float, middle: tuple[float, float], per_px: tuple[float, float], size_px: int
) -> Sequence[float]:
    """Six numbers that send a place in the view to its place in the image."""
    cos, sin = math.cos(angle), math.sin(angle)
    a, b = cos * per_px[0], -sin * per_px[1]
    d, e = sin * per_px[0], cos * per_px[1]
    half = size_px / 2
    return (a, b, middle[0] - (a + b) * half, d, e, middle[1] - (d + e) * half)


def _coloured(pixels: Pixels, reach: float, draws: NDArray[np.float64]) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for kind, draw in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), draws, strict=True
    ):
        image = kind(image).enhance(1 + (2 * float(draw) - 1) * reach)
    return np.asarray(image)


def _erased(pixels: Pixels, draws: NDArray[np.float64]) -> Pixels:
    """A rectangle in the image's mean colour."""
    height, width = pixels.shape[:2]
    area = (ERASED[0] + (ERASED[1] - ERASED[0]) * draws[0]) * height * width
    longer = 3.0 ** (2 * draws[1] - 1)
    tall = min(height, max(1, round(math.sqrt(area * longer))))
    wide = min(width, max(1, round(math.sqrt(area / longer))))
    top, left = int(draws[2] * (height - tall + 1)), int(draws[3] * (width - wide + 1))
    out = pixels.copy()
    out[top : top + tall, left : left + wide] = pixels.mean((0, 1)).astype(np.uint8)
    return out
