"""An honest estimate without a test part: cross-validation with the whole selection nested inside.

Few images are too few to give a fifth of them away. So every image is held out in turn; all that is
chosen from the data (candidate, cut, penalty, temperature) is chosen again without it (Varma &
Simon 2006; Cawley & Talbot 2010). What is shipped is then learned from all images.

N images, C classes, R repeats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]

FOLDS = 5
SMALL_FOLDS_BELOW, SMALL_FOLDS = 300, 10
"""with very few images a fifth less to learn from shows: ten folds then"""


@dataclass(frozen=True, slots=True)
class NestedEstimate:
    """Held-out answers of every image, once per repeat."""

    probabilities: Float  # [R, N, C]
    chosen: tuple[tuple[str, int], ...]
    """candidates that the inner selections chose, and how often"""
    folds: int


def outer_folds(n: int, smallest_class: int) -> int:
    """How many outer folds: five, ten below 300 images, never more than the smallest class has."""
    wanted = SMALL_FOLDS if n < SMALL_FOLDS_BELOW else FOLDS
    return max(2, min(wanted, smallest_class))


def repeats_for(n: int) -> int:
    """How often the folds are drawn anew: the luck of one draw counts most when images are few."""
    return 3 if n < SMALL_FOLDS_BELOW else 2


def nested_estimate(
    draws: Iterable[Int],
    classes: int,
    learn: Callable[[Int], tuple[str, Callable[[Int], Float]]],
) -> NestedEstimate:
    """Hold every image out once per draw.

    Args:
        draws: fold numbers [N], one array per repeat; groups are whole.
        learn: given the positions of the images to learn from, does the whole selection on them and
            returns the candidate's name and a function from positions to probabilities [n, C].
    """
    repeats, names, folds = [], Counter[str](), 0
    for fold in draws:
        answers = np.full((len(fold), classes), np.nan)
        for k in np.unique(fold):
            name, predict = learn(np.flatnonzero(fold != k))
            held_out = np.flatnonzero(fold == k)
            answers[held_out] = predict(held_out)
            names[name] += 1
        folds = int(fold.max()) + 1
        assert not np.isnan(answers).any()
        repeats.append(answers)
    return NestedEstimate(np.stack(repeats), tuple(names.most_common()), folds)
