"""Let rare classes have their say: logit adjustment.

N images, C classes.

A head trained on uneven classes answers with the frequent ones more often than balanced accuracy
would have it. Taking a share of the log of each class's frequency off its logit mends that without
training again (Menon et al. 2021, section 4.1). How large a share is chosen on held-out answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.plan.criterion import Criterion, Value, difference, evaluate, log_softmax

Float = NDArray[np.float64]
Int = NDArray[np.int64]

SHARES = (0.5, 1.0)
"""besides none: half-way, and as if all classes were equally frequent"""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What to take off the logits, and the criterion that is reached with it."""

    shift: Float  # [C]
    score: Value


def adjust(criterion: Criterion, logits: Float, labels: Int, groups: Int | None) -> Adjustment:
    """Choose the adjustment on held-out logits [N, C]; none unless the criterion is balanced.

    A larger share takes over when it is better by more than one standard error.

    >>> logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.55, 0.45]])
    >>> labels, balanced = np.array([0, 0, 0, 1, 1]), Criterion("balanced_accuracy", "balanced_accuracy")
    >>> adjust(balanced, logits, labels, None).score.value
    1.0
    """
    classes = logits.shape[1]
    best = Adjustment(np.zeros(classes), evaluate(criterion, log_softmax(logits), labels))
    if criterion.kind != "balanced_accuracy":
        return best
    counts = np.bincount(labels, minlength=classes)
    frequency = np.log(np.maximum(counts, 1) / len(labels))
    for share in SHARES:
        shift = share * frequency
        score = evaluate(criterion, log_softmax(logits - shift), labels)
        gain, se = difference(score, best.score, groups)
        if gain > se:
            best = Adjustment(shift, score)
    return best
