"""An honest estimate without a test part: cross-validation with the whole selection nested inside.

Few images are too few to give a fifth of them away. So every image is held out in turn; all that is
chosen from the data (candidate, cut, penalty, temperature) is chosen again without it (Varma &
Simon 2006; Cawley & Talbot 2010). What is shipped is then learned from all images.

Where the images come from a few sites, the sites are the folds: what a model is worth at a site that
it has not seen.

N images, C classes, R repeats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.parallel import one_blas_thread, ordered_map

Float = NDArray[np.float64]
Int = NDArray[np.int64]

REPEATS = 2
"""the luck of one draw of the folds is halved"""
FOLDS = 5
MORE_FOLDS = ((600, 10),)
"""(below so many images, folds): with few images a fifth less to learn from shows in the score; twenty
folds below 150 images took twice as long and were no nearer (docs/log.md)"""


@dataclass(frozen=True, slots=True)
class NestedEstimate:
    """Held-out answers of every image, once per repeat."""

    probabilities: Float  # [R, N, C]
    chosen: tuple[tuple[str, int], ...]
    """candidates that the inner selections chose, and how often"""
    folds: int


def outer_folds(n: int) -> int:
    """How many outer folds: five, ten below 600 images.

    >>> outer_folds(900), outer_folds(599)
    (5, 10)
    """
    return next((folds for below, folds in MORE_FOLDS if n < below), FOLDS)


def nested_estimate(
    draws: Sequence[Int],
    classes: int,
    learn: Callable[[Int], tuple[str, Callable[[Int], Float]]],
    workers: int = 1,
    ties: Int | None = None,
) -> NestedEstimate:
    """Hold every image out once per draw.

    Args:
        draws: fold numbers [N], one array per repeat; groups are whole.
        workers: rounds that run side by side.
        ties: [N] equal numbers show the same picture: where folds do not keep them together, what is
            tied to a held-out image is not learned from.
        learn: given the positions of the images to learn from, does the whole selection on them and
            returns the candidate's name and a function from positions to probabilities [n, C].
    """
    rounds = [(r, int(k)) for r, fold in enumerate(draws) for k in np.unique(fold)]

    def one_round(place: tuple[int, int]) -> tuple[str, Float]:
        r, k = place
        others = draws[r] != k
        if ties is not None:
            others &= ~np.isin(ties, ties[~others])
        name, predict = learn(np.flatnonzero(others))
        return name, predict(np.flatnonzero(draws[r] == k))

    answers = np.full((len(draws), len(draws[0]), classes), np.nan)
    names = Counter[str]()
    with one_blas_thread():
        for (r, k), (name, held_out) in zip(
            rounds, ordered_map(one_round, rounds, workers), strict=True
        ):
            answers[r, draws[r] == k] = held_out
            names[name] += 1
    assert not np.isnan(answers).any()
    return NestedEstimate(answers, tuple(names.most_common()), int(draws[0].max()) + 1)
