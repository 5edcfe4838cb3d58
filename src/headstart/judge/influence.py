"""What each image adds to a score: how it moves with that of other runs, and with its group.

N images, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.judge.calibration import Floats, Ints
from headstart.judge.metrics import LEVEL
from headstart.judge.proportions import design_effect, grouped_squares, quantile
from headstart.plan.criterion import Criterion, Value, evaluate, log_softmax

GROUPED = "images of one group count as one draw"
CROSSED = "answers of a cross-validation lean on each other"
KINDS = ("accuracy", "balanced_accuracy", "auc", "log_loss")
"""the scores with influences of their own; any other is taken to move as accuracy does"""
WIDEST = 1e6
"""in place of infinity, for images that are all of one group"""


def influence(name: str, p: Floats, labels: Ints) -> Value:
    """A score of probabilities [N, C] (log loss negated) and every image's influence on it [N]."""
    kind = name if name in KINDS else "accuracy"
    return evaluate(
        Criterion(kind, kind), log_softmax(np.log(np.maximum(p, np.finfo(np.float64).eps))), labels
    )


def widening(name: str, p: Floats, labels: Ints, groups: NDArray[Any]) -> float:
    """How many times as wide a score's interval must be for groups [N]; at least 1.

    The root of the design effect, which starts from that of groups whose images are all alike
    (`proportions.design_effect`), times what Student's quantile is above the normal one.
    """
    moves = influence(name, p, labels).influence
    between, whole, count = grouped_squares(moves, groups)
    if whole == 1.0:
        return 1.0
    if count == 1:
        return WIDEST
    right = float((p.argmax(1) == labels).mean())
    wrong = len(labels) * right * (1 - right)
    effect = max(1.0, design_effect(between, float(moves @ moves), wrong, whole))
    return float(effect**0.5 * quantile(LEVEL, whole, count) / quantile(LEVEL, 1.0, count))


def correlation(one: Floats, two: Floats, groups: NDArray[Any] | None = None) -> float:
    """Correlation of two estimates on the same images, from their influences [N]; 0 if unknown."""
    if groups is not None:
        number = np.unique(groups, return_inverse=True)[1]
        one = np.asarray(np.bincount(number, one), dtype=np.float64)
        two = np.asarray(np.bincount(number, two), dtype=np.float64)
    scale = float(np.sqrt((one @ one) * (two @ two)))
    return min(1.0, max(-1.0, float(one @ two) / scale)) if scale > 0 else 0.0
