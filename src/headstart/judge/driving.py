"""The score that drove every choice, beside the others, when it is not among them already.

N images, C classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from headstart.judge.evaluate import Evaluation
from headstart.judge.metrics import Metric
from headstart.plan.criterion import Criterion, evaluate, log_softmax

LEAST = 0.5
"""half an image more and less keeps the interval's scale finite where nothing or all is right"""


def with_driving(
    evaluation: Evaluation,
    criterion: Criterion,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> Evaluation:
    """Add the criterion to the scores of probabilities [N, C], unless a score has its name."""
    if criterion.name in {metric.name for metric in evaluation.metrics}:
        return evaluation
    if criterion.kind == "auc":
        assert criterion.positive is not None
        found = replace(evaluation.per_class[criterion.positive].auc, name=criterion.name)
    else:
        found = _at_specificity(criterion, probabilities, labels, evaluation.classes)
    return replace(evaluation, metrics=(*evaluation.metrics, found))


def _at_specificity(
    criterion: Criterion,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
) -> Metric:
    """Sensitivity where these very images have the asked specificity, its noise included."""
    n, positives = len(labels), int((labels == criterion.positive).sum())
    if positives in (0, n):
        return Metric(criterion.name, None, None, None, n, "undefined: one class absent")
    log_p = log_softmax(np.log(np.maximum(probabilities, 1e-300)))
    found = evaluate(criterion, log_p, labels)
    inner = min(max(found.value, LEAST / positives), 1 - LEAST / positives)
    # An extreme sensitivity shows no spread of its own, so it borrows that of its neighbour.
    se = max(found.se(), (inner * (1 - inner) / positives) ** 0.5)
    reach = 1.96 * se / (inner * (1 - inner))
    low, high = float(expit(logit(inner) - reach)), float(expit(logit(inner) + reach))
    low, high = min(low, found.value), max(high, found.value)
    method = (
        f"for {classes[criterion.positive or 0]}, at a threshold read from these images; influence "
        "function, logit scale"
    )
    return Metric(criterion.name, found.value, low, high, n, method)
