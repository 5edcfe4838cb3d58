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
    assert "flip" not in left_or_right and "flip" in top_or_bottom
    assert "flip_vertical" not in top_or_bottom
    assert {"rotate", "colour"} <= left_or_right & top_or_bottom


def spots(n: int, side_px: int, places: int | None) -> tuple[np.ndarray, HeadTask]:
    """Noise in which a bright spot tells class 1: anywhere, or in the first of the places."""
    rng = np.random.default_rng(2)
    labels = np.arange(n) % 2
    squares = np.full((n, 36, 36, 3), 60, np.uint8)
    for i in np.flatnonzero(labels):
        down, right = rng.integers(0, places or 36 - side_px, 2)
        squares[i, down : down + side_px, right : right + side_px] = 190
    squares = np.clip(squares + rng.integers(-10, 10, squares.shape), 0, 255).astype(np.uint8)
    groups = np.arange(n)
    return squares, HeadTask(labels, groups // 2 % 5, groups, 2, ACCURACY)


def test_what_is_rarely_met_must_help() -> None:
    """Upside down does no harm where a corner tells the class; it teaches nothing either."""
    squares, task = spots(60, 9, places=1)
    found = {row.operation: row for row in suitable(quarters, squares, task, 32, 0, 1)}
    assert found["flip"].used and found["flip_vertical"].gain == 0
    assert not found["flip_vertical"].used and not found["rotate90"].used


def test_what_is_rarely_met_is_used_where_it_helps() -> None:
    """A spot can be anywhere: turned pictures show it where the others did not."""
    squares, task = spots(120, 4, places=None)
    found = {row.operation: row for row in suitable(sixty_four, squares, task, 32, 0, 1)}
    for name in ("flip_vertical", "rotate90"):
        assert found[name].gain > found[name].se > 0 and found[name].used


def sixty_four(pixels: np.ndarray) -> np.ndarray:
    """Mean brightness of 8 x 8 fields, [n, 64]."""
    n = len(pixels)
    return pixels.astype(np.float32).reshape(n, 8, 4, 8, 4, 3).mean((2, 4, 5)).reshape(n, 64)
