"""Which folds judge a network that was trained, and how many of them it takes.

N images to learn from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]

VERIFYING = "verifying folds"
"""how the protocol of an estimate begins that they have made"""

LEAST_HELD_OUT, LEAST_GROUPS = 60, 3
"""images, and groups of them, that judge: on 24 images the choice of rate and mixture was luck, and a
single site does not show how much sites differ"""


def verifying_folds(labels: Int, folds: Int) -> tuple[int, ...]:
    """Folds in the order in which they verify: those with the most classes, then the nearest to its
    fair share; a fold of more than half of the images comes last.

    Args:
        labels, folds: of every image [N].

    >>> verifying_folds(np.array([0, 0, 1, 1, 0, 1]), np.array([0, 0, 0, 0, 1, 1]))
    (1, 0)
    """
    count = int(folds.max()) + 1
    fair = len(folds) / count

    def rank(k: int) -> tuple[bool, int, float]:
        inside = folds == k
        classes = len(np.unique(labels[inside]))
        return bool(inside.sum() > len(folds) / 2), -classes, abs(float(inside.sum()) - fair)

    return tuple(sorted(range(count), key=rank))


def folds_to_judge(folds: Int, groups: Int, order: Sequence[int], images: int | None = None) -> int:
    """How many folds hold enough images and groups together, in this order; all, when all do not.

    Args:
        folds, groups: of every image [N]; groups are whole within folds.
        images: that are enough, LEAST_HELD_OUT unless told.

    >>> each = np.arange(120)
    >>> [folds_to_judge(each % k, each, range(k)) for k in (2, 5, 10)]
    [1, 3, 5]
    >>> folds_to_judge(each // 30, each // 30, range(4))
    3
    """
    enough = LEAST_HELD_OUT if images is None else images
    for count in range(1, len(order)):
        held = np.isin(folds, order[:count])
        if held.sum() >= enough and len(np.unique(groups[held])) >= LEAST_GROUPS:
            return count
    return len(order)
