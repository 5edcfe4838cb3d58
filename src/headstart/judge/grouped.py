"""Wider intervals where images come in groups: ten photos of one plant are no ten plants.

N images, C classes. The intervals of `metrics` take images as independent. Where they are not, the
variance over groups is compared with that over images (the design effect, Kish 1965, section 5.4),
and the interval is widened by its root. It is never made narrower. With few groups that variance is
itself a guess, so it starts from that of groups whose images are all alike, and Student's quantile
takes the place of the normal one (`influence.widening`): simulated at correlations of .2 and .6
within groups, intervals cover .980 and .970 on average, .960 and .947 at worst; by the ratio of the
two standard errors alone it was .948 and .922, .926 and .811.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headstart.judge.evaluate import Evaluation
from headstart.judge.influence import GROUPED, widening
from headstart.judge.metrics import Metric

CROSS_VALIDATED = 1.3
"""105 of 120 plain intervals covered what unseen images showed (three sets, 100 and 300 images:
benchmarks/README.md); a normal spread that 1.96 covers so often is 1.28 times as wide"""


def widened(
    evaluation: Evaluation,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
) -> Evaluation:
    """The scores of probabilities [N, C] with intervals that know the groups [N] of the images."""
    if len(np.unique(groups)) == len(groups):
        return evaluation

    def widen(metric: Metric) -> Metric:
        factor = widening(metric.name, probabilities, labels, groups)
        return wider(metric, factor, GROUPED)

    return replace(evaluation, metrics=tuple(widen(metric) for metric in evaluation.metrics))


def wider(metric: Metric, factor: float, why: str) -> Metric:
    """A score whose interval is so many times as wide; never narrower, never outside its range.

    >>> wider(Metric("accuracy", 0.8, 0.7, 0.9, 100, "Wilson"), 1.5, "reason").low
    0.65
    """
    if factor <= 1.0 or metric.value is None or metric.low is None or metric.high is None:
        return metric
    top = np.inf if metric.name == "log_loss" else 1.0
    return replace(
        metric,
        low=max(0.0, round(metric.value - factor * (metric.value - metric.low), 12)),
        high=min(float(top), round(metric.value + factor * (metric.high - metric.value), 12)),
        method=f"{metric.method}; {factor:.2f} times as wide, for {why}",
    )


def cross_validated(evaluation: Evaluation) -> Evaluation:
    """The scores of a nested cross-validation, with intervals that know its further noise: answers of
    one fold share a model, and another draw of training images would have made another one (Bates,
    Hastie & Tibshirani 2023)."""
    why = "answers of a cross-validation lean on each other"
    metrics = tuple(wider(metric, CROSS_VALIDATED, why) for metric in evaluation.metrics)
    return replace(evaluation, metrics=metrics)
