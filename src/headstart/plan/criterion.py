"""The score that drives every choice, with its standard error and that of a paired difference.

N images, C classes.

Every criterion is a mean of per-image influences around its value, so its standard error, and that
of the difference of two candidates on the same images, follow from the influences alone:
value ± sqrt(sum influence²), difference ± sqrt(sum (influence₁ - influence₂)²). Images of one
group count as one draw: their influences are added up first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ArgumentError, nearest
from headstart.settings import METRICS

Float = NDArray[np.float64]
Int = NDArray[np.int64]

IMBALANCE = 3.0
"""with a largest class over this many times the smallest, accuracy gives way to balanced accuracy"""
SLOPE_REACH = 0.05
"""the slope of the ROC curve at an operating point is taken over this much specificity each way"""


@dataclass(frozen=True, slots=True)
class Criterion:
    """A score where larger is better (log loss is negated)."""

    name: str
    kind: str
    """accuracy, balanced_accuracy, auc, log_loss or sens@spec"""
    positive: int | None = None
    """the class of auc:CLASS and of sens@spec"""
    specificity: float | None = None

    @property
    def stratified(self) -> bool:
        """Whether the classes' frequencies do not count: every class weighs the same."""
        return self.kind in ("balanced_accuracy", "auc", "sens@spec")

    @property
    def unit(self) -> tuple[float, str]:
        """Factor and name for people: log loss is told in nats, the rest in points of a hundred."""
        return (1.0, "nats") if self.kind == "log_loss" else (100.0, "points")


@dataclass(frozen=True, slots=True)
class Value:
    """A criterion on N images: its value and every image's influence on it."""

    value: float
    influence: Float  # [N], sums to about zero

    def se(self, groups: Int | None = None) -> float:
        """Standard error over images, or over groups [N] of images: ten photos of one plant are no
        ten plants, and those of a single plant say nothing of others (infinite)."""
        return _spread(self.influence, groups)


def choose_criterion(asked: str, labels: Int, classes: Sequence[str]) -> Criterion:
    """The criterion that `--metric` names; auto looks at the imbalance.

    Raises:
        ArgumentError: no such metric or class; what there is is listed.

    >>> choose_criterion("auto", np.array([0] * 9 + [1]), ["a", "b"]).name
    'balanced_accuracy'
    """
    if asked == "auto":
        counts = np.bincount(labels, minlength=len(classes))
        uneven = counts.max() > IMBALANCE * max(1, int(counts.min()))
        asked = "balanced_accuracy" if uneven else "accuracy"
    if asked in ("accuracy", "balanced_accuracy", "auc", "log_loss"):
        return Criterion(asked, asked)
    if asked.startswith("auc:"):
        name = asked.removeprefix("auc:")
        if name not in classes:
            raise ArgumentError(
                "--metric names no class", received=name,
                do=f"{nearest(name, classes)} Classes: {', '.join(classes[:20])}.".strip(),
            )  # fmt: skip
        return Criterion(asked, "auc", positive=list(classes).index(name))
    point = re.fullmatch(r"sens@spec=(0?\.\d+|0|1(?:\.0*)?)", asked)
    if point is not None:
        if len(classes) != 2:
            raise ArgumentError(
                "--metric sens@spec needs exactly two classes", received=f"{len(classes)} classes"
            )
        return Criterion(asked, "sens@spec", positive=1, specificity=float(point[1]))
    raise ArgumentError(
        "There is no such metric", received=asked,
        do=f"{nearest(asked, METRICS)} Known: {', '.join(METRICS)}.".strip(),
    )  # fmt: skip


def evaluate(criterion: Criterion, scores: Float, labels: Int) -> Value:
    """The criterion of scores [N, C]: log probabilities, or any scores where log loss is not asked.

    >>> log_p = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> round(evaluate(Criterion("accuracy", "accuracy"), log_p, np.array([0, 1, 1])).value, 3)
    0.667
    """
    if criterion.kind == "log_loss":
        return mean_value(criterion, scores[np.arange(len(labels)), labels], labels)
    if criterion.kind == "auc":
        return _auc(scores, labels, criterion.positive)
    if criterion.kind == "sens@spec":
        assert criterion.positive is not None and criterion.specificity is not None
        margin = scores[:, criterion.positive] - np.delete(scores, criterion.positive, 1).max(1)
        return _sensitivity(margin, labels == criterion.positive, criterion.specificity)
    return mean_value(criterion, (scores.argmax(1) == labels).astype(np.float64), labels)


def scorer(criterion: Criterion) -> Callable[[NDArray[np.float32], Int], float]:
    """The criterion of logits [n, C] and labels [n]."""

    def score(logits: NDArray[np.float32], labels: Int) -> float:
        return evaluate(criterion, log_softmax(logits.astype(np.float64)), labels).value

    return score


def difference(better: Value, base: Value, groups: Int | None = None) -> tuple[float, float]:
    """Gain of one candidate over another on the same images, and its standard error."""
    return better.value - base.value, _spread(better.influence - base.influence, groups)


def halves(groups: Int) -> Int:
    """0 or 1 for every image [N], by group; the images of a single group are dealt in turn.

    >>> halves(np.array([7, 7, 9, 4])).tolist(), halves(np.array([5, 5, 5])).tolist()
    ([1, 1, 0, 0], [0, 1, 0])
    """
    number = np.unique(groups, return_inverse=True)[1]
    return np.asarray((number if number.any() else np.arange(len(groups))) % 2)


def overlap(used: int, folds: int) -> float:
    """How much wider standard errors are where training sets share images and are drawn once, for
    answers from J of K folds (Nadeau & Bengio 2003).

    >>> round(overlap(1, 5), 3), round(overlap(5, 5), 3)
    (1.118, 1.5)
    """
    return math.sqrt(1 + used / max(1, folds - 1))


def as_text(score: float, metric: str) -> str:
    """A score for a sentence; candidates' log loss is negated, so that larger is better.

    >>> as_text(0.913, "accuracy"), as_text(-0.25, "log_loss")
    ('91.3%', 'a log loss of 0.250')
    """
    return f"a log loss of {-score:.3f}" if metric == "log_loss" else f"{score:.1%}"


def mean_value(criterion: Criterion, values: Float, labels: Int) -> Value:
    """The mean of one number per image [N], where classes weigh as in the criterion."""
    return _mean(values, labels if criterion.stratified else np.zeros_like(labels))


def log_softmax(logits: Float) -> Float:
    """Log probabilities [N, C]."""
    low = logits - logits.max(1, keepdims=True)
    return np.asarray(low - np.log(np.exp(low).sum(1, keepdims=True)))


def chance(criterion: Criterion, labels: Int) -> float:
    """The value of knowing nothing but how frequent the classes are."""
    shares = np.bincount(labels)[np.unique(labels)] / len(labels)
    if criterion.kind == "accuracy":
        return float(shares.max())
    if criterion.kind == "balanced_accuracy":
        return 1 / len(shares)
    if criterion.kind == "log_loss":
        return float((shares * np.log(shares)).sum())
    return 0.5 if criterion.kind == "auc" else 1 - (criterion.specificity or 0.0)


def _spread(influence: Float, groups: Int | None) -> float:
    if groups is None:
        return float(np.sqrt((influence**2).sum()))
    summed = np.bincount(np.unique(groups, return_inverse=True)[1], influence)
    n, count = len(influence), len(summed)
    if count == 1 < n:
        return math.inf  # one site does not show how much sites differ
    # Groups are the draws: G / (G - 1) in place of the n / (n - 1) that influences hold already.
    fewer = 1.0 if count == n else count / (count - 1) * (n - 1) / n
    return float(np.sqrt((summed**2).sum() * fewer))


def _mean(values: Float, strata: Int) -> Value:
    """Mean over strata of the means within; one stratum is the plain mean."""
    counts = np.bincount(strata)
    present = (counts > 0).sum()
    means = np.bincount(strata, values) / np.maximum(counts, 1)
    # n - 1 in the variance; a stratum of one image has no spread of its own to show.
    correction = np.sqrt(counts / np.maximum(counts - 1, 1))
    influence = (values - means[strata]) * correction[strata] / (present * counts[strata])
    return Value(float(means[counts > 0].mean()), influence)


def _auc(scores: Float, labels: Int, positive: int | None) -> Value:
    """One class against the rest, or the mean over classes; influences of DeLong et al. 1988."""
    columns = np.unique(labels) if positive is None else np.array([positive])
    if positive is None and scores.shape[1] == 2:
        columns = np.array([1])
    columns = columns[[0 < (labels == c).sum() < len(labels) for c in columns]]
    if not len(columns):
        return _unknown(len(labels), 0.5)
    value, influence = 0.0, np.zeros(len(labels))
    for c in columns:
        inside = labels == c
        margin = (
            scores[:, c] - np.delete(scores, c, 1).max(1) if scores.shape[1] == 2 else scores[:, c]
        )
        above = _share_below(margin[inside], margin[~inside])  # of every positive: negatives below
        below = 1 - _share_below(margin[~inside], margin[inside])  # of every negative
        area = float(above.mean())
        value += area / len(columns)
        influence[inside] += (above - area) / (max(1, inside.sum() - 1) * len(columns))
        influence[~inside] += (below - area) / (max(1, (~inside).sum() - 1) * len(columns))
    return Value(value, influence)


def _unknown(n: int, value: float) -> Value:
    """Chance, and no idea how far off: the images hold one class only."""
    return Value(value, np.full(n, 0.5 / n**0.5))


def _share_below(values: Float, others: Float) -> Float:
    """For every value the share of `others` below it, ties counting half."""
    ranked = np.sort(others)
    low = np.searchsorted(ranked, values, "left")
    high = np.searchsorted(ranked, values, "right")
    return (low + high) / (2 * len(ranked))


def _sensitivity(margin: Float, positive: NDArray[np.bool_], specificity: float) -> Value:
    """Sensitivity at the threshold with this specificity; the threshold's own noise included."""
    negatives, positives = np.sort(margin[~positive]), margin[positive]
    if not len(negatives) or not len(positives):
        return _unknown(len(margin), 1 - specificity)

    def at(level: float) -> tuple[float, float]:
        threshold = np.quantile(negatives, min(1.0, max(0.0, level)), method="higher")
        return float(threshold), float((positives > threshold).mean())

    threshold, value = at(specificity)
    slope = (at(specificity + SLOPE_REACH)[1] - at(specificity - SLOPE_REACH)[1]) / (
        2 * SLOPE_REACH
    )
    influence = np.zeros(len(margin))
    influence[positive] = ((positives > threshold) - value) / max(1, len(positives) - 1)
    under = margin[~positive] <= threshold
    influence[~positive] = -slope * (under - under.mean()) / max(1, len(negatives) - 1)
    return Value(value, influence)
