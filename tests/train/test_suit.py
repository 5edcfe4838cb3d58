"""An augmentation that turns one class into another is not used; a harmless one is."""

from __future__ import annotations

import numpy as np

from headstart.plan.criterion import Criterion
from headstart.train.suit import TESTED, suitable

ACCURACY = Criterion("accuracy", "accuracy")


def half_bright(n: int, upright: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [n, 36, 36, 3] one half of which is bright: which half is the class."""
    labels = np.arange(n) % 2
    squares = np.full((n, 36, 36, 3), 60, np.uint8)
    for i, label in enumerate(labels):
        half = slice(0, 18) if label else slice(18, 36)
        squares[(i, half) if upright else (i, slice(None), half)] = 190
    return squares, labels


def by_half(upright: bool):  # type: ignore[no-untyped-def]
    def logits(pixels: np.ndarray) -> np.ndarray:
        axis = 1 if upright else 2
        first, second = np.array_split(pixels.astype(float), 2, axis=axis)
        margin = (first.mean((1, 2, 3)) - second.mean((1, 2, 3))) / 20
        return np.stack([-margin, margin], axis=1).astype(np.float32)

    return logits


def used(upright: bool) -> set[str]:
    squares, labels = half_bright(40, upright)
    found = suitable(by_half(upright), squares, labels, np.arange(40), ACCURACY, 32, 0)
    assert [row.operation for row in found] == list(TESTED)
    return {row.operation for row in found if row.used}


def test_what_swaps_the_classes_is_not_used() -> None:
    left_or_right, top_or_bottom = used(upright=False), used(upright=True)
    assert "flip" not in left_or_right and "flip_vertical" in left_or_right
    assert "flip" in top_or_bottom and "flip_vertical" not in top_or_bottom
    assert "rotate90" not in left_or_right | top_or_bottom
    assert {"rotate", "colour"} <= left_or_right & top_or_bottom
