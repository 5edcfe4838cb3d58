"""Which augmentations suit these images: tested, not assumed.

A digit that is mirrored is another sign, a stain that is recoloured another finding; a photo of a
shirt is neither. So the start, a head on the frozen network that has never seen an augmented image,
looks at held-out images as they are and as each operation leaves them. An operation that costs
more than one standard error of the paired difference is not used.

n held-out images, S side in px of what was decoded, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.plan.criterion import Criterion, difference, evaluate, log_softmax
from headstart.train.augment import Augment, centre, view

Pixels = NDArray[np.uint8]
Int = NDArray[np.int64]

TESTED = ("flip", "flip_vertical", "rotate90", "rotate", "colour")
"""beside the crop, which is always used when nothing is asked for"""
IMAGES = 160
ROUNDING = 1e-9
"""one image lost is exactly one standard error, but for the last digit"""


@dataclass(frozen=True, slots=True)
class Suited:
    """What an operation does to the start's score on held-out images."""

    operation: str
    gain: float
    se: float
    used: bool


def suitable(
    logits_of: Callable[[Pixels], NDArray[np.float32]],
    squares: Pixels,
    labels: Int,
    groups: Int,
    criterion: Criterion,
    size_px: int,
    seed: int,
) -> tuple[Suited, ...]:
    """Test each operation alone.

    Args:
        logits_of: the start: pixels uint8 [n, size_px, size_px, 3] to logits [n, C].
        squares: held-out images uint8 [n, S, S, 3], S >= size_px. labels, groups: [n].
    """

    def score(pixels: list[Pixels]) -> NDArray[np.float64]:
        return log_softmax(logits_of(np.stack(pixels)).astype(np.float64))

    plain = evaluate(criterion, score([centre(s, size_px) for s in squares]), labels)
    found = []
    for operation in TESTED:
        seen = [_done(s, operation, size_px, seed, i) for i, s in enumerate(squares)]
        gain, se = difference(evaluate(criterion, score(seen), labels), plain, groups)
        found.append(Suited(operation, gain, se, gain >= -se - ROUNDING))
    return tuple(found)


def _done(square: Pixels, operation: str, size_px: int, seed: int, index: int) -> Pixels:
    small = centre(square, size_px)
    if operation == "flip":
        return np.ascontiguousarray(small[:, ::-1])
    if operation == "flip_vertical":
        return np.ascontiguousarray(small[::-1])
    if operation == "rotate90":
        return np.ascontiguousarray(np.rot90(small, 1 + index % 3))
    return view(square, Augment((operation,)), size_px, seed, 0, index)
