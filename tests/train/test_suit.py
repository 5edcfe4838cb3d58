"""An augmentation that turns one class into another is not used; a harmless one is."""

from __future__ import annotations

import numpy as np

from headstart.plan.criterion import Criterion
from headstart.train.head import HeadTask
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


def quarters(pixels: np.ndarray) -> np.ndarray:
    """Mean brightness of the four quarters, [n, 4]."""
    n, side = len(pixels), pixels.shape[1] // 2
    parts = pixels[:, : 2 * side, : 2 * side].astype(np.float32)
    return parts.reshape(n, 2, side, 2, side, 3).mean((2, 4, 5)).reshape(n, 4)


def used(upright: bool) -> set[str]:
    squares, labels = half_bright(40, upright)
    groups = np.arange(40)
    task = HeadTask(labels, groups // 2 % 4, groups, 2, ACCURACY)
    found = suitable(quarters, squares, task, 32, 0, 1)
    assert [row.operation for row in found] == list(TESTED)
    return {row.operation for row in found if row.used}


def test_what_swaps_the_classes_is_not_used() -> None:
    left_or_right, top_or_bottom = used(upright=False), used(upright=True)
    assert "flip" not in left_or_right and "flip_vertical" in left_or_right
    assert "flip" in top_or_bottom and "flip_vertical" not in top_or_bottom
    assert {"rotate", "colour"} <= left_or_right & top_or_bottom


def test_what_only_looks_strange_is_used() -> None:
    """A head that has never seen a picture upside down fails on it; learning from it does no harm."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    squares = np.full((60, 36, 36, 3), 60, np.uint8)
    squares[labels == 1, :9, :9] = 190  # a corner is bright or not
    squares = np.clip(squares + rng.integers(-20, 20, squares.shape), 0, 255).astype(np.uint8)
    task = HeadTask(labels, np.arange(60) // 2 % 5, np.arange(60), 2, ACCURACY)
    found = {row.operation: row.used for row in suitable(quarters, squares, task, 32, 0, 1)}
    assert found["flip"] and found["flip_vertical"] and found["rotate90"]
