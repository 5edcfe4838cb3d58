"""Which augmentations suit these images: tested, not assumed.

A digit that is mirrored is another sign, a stain that is recoloured another finding; a photo of a
shirt is neither. So a head on the frozen network learns once from the images as they are, and once
from them and what an operation makes of them. It answers for images that were held out, as they
are. What hardly changes a picture is used unless it costs more than one standard error of the paired
difference; what stands it on its head only when it gains as much.

n images, S side in px of what was decoded, D feature width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.parallel import ordered_map
from headstart.plan.criterion import difference, evaluate, log_softmax
from headstart.train.augment import Augment, centre, view
from headstart.train.head import HeadTask, search_head, train_head

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]

TESTED = ("flip", "flip_vertical", "rotate90", "rotate", "colour")
"""beside the crop, which is always used when nothing is asked for"""
UNUSUAL = ("flip_vertical", "rotate90")
"""they make pictures that are rarely met: without a gain they only slow learning (docs/log.md)"""
IMAGES = 300
ROUNDING = 1e-9
"""one image lost is exactly one standard error, but for the last digit"""


@dataclass(frozen=True, slots=True)
class Suited:
    """What learning from an operation's images does to the score on held-out images."""

    operation: str
    gain: float
    se: float
    used: bool


def suitable(
    features_of: Callable[[Pixels], Features],
    squares: Pixels,
    task: HeadTask,
    size_px: int,
    seed: int,
    workers: int,
) -> tuple[Suited, ...]:
    """Test each operation alone.

    Args:
        features_of: the frozen network: pixels uint8 [n, size_px, size_px, 3] to [n, D].
        squares: images to learn from, uint8 [n, S, S, 3], S >= size_px. task: their labels, folds.
    """
    plain = features_of(np.stack([centre(s, size_px) for s in squares]))
    strength = search_head(plain, task, seed, workers).strength

    def held_out(more: Features | None) -> NDArray[np.float64]:
        """Log probabilities [n, C] of every image by a head that has not seen its fold."""
        found = np.zeros((len(plain), task.classes))

        def answer(fold: int) -> None:
            inside, others = task.folds == fold, task.folds != fold
            x, labels = plain[others], task.labels[others]
            if more is not None:
                x, labels = np.concatenate([x, more[others]]), np.concatenate([labels, labels])
            head = train_head(x, labels, task.classes, strength, seed)
            found[inside] = head.logits(plain[inside])

        for _ in ordered_map(answer, [int(k) for k in np.unique(task.folds)], workers):
            pass
        return log_softmax(found)

    before = evaluate(task.criterion, held_out(None), task.labels)
    rows = []
    for operation in TESTED:
        seen = np.stack([_done(s, operation, size_px, seed, i) for i, s in enumerate(squares)])
        after = evaluate(task.criterion, held_out(features_of(seen)), task.labels)
        gain, se = difference(after, before, task.groups)
        least = se if operation in UNUSUAL else -se
        used = gain >= least - ROUNDING and (gain > 0 or operation not in UNUSUAL)
        rows.append(Suited(operation, gain, se, used))
    return tuple(rows)


def _done(square: Pixels, operation: str, size_px: int, seed: int, index: int) -> Pixels:
    small = centre(square, size_px)
    if operation == "flip":
        return np.ascontiguousarray(small[:, ::-1])
    if operation == "flip_vertical":
        return np.ascontiguousarray(small[::-1])
    if operation == "rotate90":
        return np.ascontiguousarray(np.rot90(small, 1 + index % 3))
    return view(square, Augment((operation,)), size_px, seed, 0, index)
