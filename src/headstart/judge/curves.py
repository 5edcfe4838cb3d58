"""ROC and precision-recall curves of one class, or of several as one, against the rest.

Shapes: `N` images, `C` classes. A class is called where its score reaches the threshold. The score
of several classes is the sum of their probabilities (Esteva et al. 2017: malignant against benign).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from headstart.errors import ArgumentError
from headstart.judge.calibration import Floats, check_inputs
from headstart.judge.grouped import wider
from headstart.judge.influence import CROSSED, GROUPED
from headstart.judge.metrics import (
    LEVEL,
    ONE_CLASS_ABSENT,
    Metric,
    hanley_mcneil,
    outer_bounds,
    per_image,
    placements_of,
    score_bounds,
)
from headstart.judge.proportions import ONE_GROUP, design_effect, grouped_squares, quantile

Bools = NDArray[np.bool_]

MOST_POINTS = 128
"""of each curve; both keep the same thresholds, so up to twice as many are stored"""


@dataclass(frozen=True, slots=True)
class Curve:
    """Sensitivity, specificity and precision at falling thresholds, and the areas below.

    The first point lies above every score (threshold inf, null in JSON): nothing is called, and the
    precision is 1 by convention. Sensitivity is the recall of the precision-recall curve.
    """

    name: str
    n: int
    positives: int
    threshold: tuple[float, ...]
    sensitivity: tuple[float, ...]
    specificity: tuple[float, ...]
    precision: tuple[float, ...]
    auc: Metric
    average_precision: Metric


def class_curves(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    groups: NDArray[Any] | None = None,
    wider_by: float = 1.0,
) -> tuple[Curve, ...]:
    """The curves of every class against the others, in class order.

    Args:
        probabilities: floats [N, C]. labels: integers [N]. classes: C names.
        groups: group [N] of each image, when images of one group are not independent.
        wider_by: what the intervals of the areas are widened by for noise that these answers do not
            show: `grouped.CROSS_VALIDATED` where they are of a cross-validation.

    Raises:
        ArgumentError: see `calibration.check_inputs`, or names that do not fit the columns.

    >>> found = class_curves([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1], ["cat", "dog"])
    >>> found[1].name, found[1].auc.value, found[1].sensitivity
    ('dog', 1.0, (0.0, 0.5, 1.0, 1.0))
    """
    _, p = check_inputs(labels, probabilities)
    if len(classes) != p.shape[1]:
        raise ArgumentError(
            "Every column of probabilities needs one class name",
            received=f"{len(classes)} names, {p.shape[1]} columns",
        )
    return tuple(
        group_curve(p, labels, [c], name, groups, wider_by) for c, name in enumerate(classes)
    )


def group_curve(
    probabilities: ArrayLike,
    labels: ArrayLike,
    columns: Sequence[int],
    name: str,
    groups: NDArray[Any] | None = None,
    wider_by: float = 1.0,
) -> Curve:
    """The curves of the classes in `columns` as one against all others: sum of probabilities.

    Raises:
        ArgumentError: see `calibration.check_inputs`; no column, a column twice, or all of them.

    >>> p = [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.3, 0.4, 0.3]]
    >>> group_curve(p, [0, 2, 1], [1, 2], "malignant").auc.value
    1.0
    """
    truth, p = check_inputs(labels, probabilities)
    scores, inside = against_rest(p, truth, columns)
    return curve(name, scores, inside, groups, wider_by)


def against_rest(p: Floats, labels: NDArray[Any], columns: Sequence[int]) -> tuple[Floats, Bools]:
    """Scores [N] of some classes as one, and whether an image [N] is of one of them."""
    chosen = sorted(set(columns))
    whole = 0 < len(chosen) < p.shape[1] and 0 <= chosen[0] and chosen[-1] < p.shape[1]
    if not whole or len(chosen) != len(columns):
        raise ArgumentError(
            "One side of a curve needs some of the classes, each once, and not all of them",
            received=f"columns {list(columns)} of {p.shape[1]}",
        )
    return p[:, chosen].sum(1), np.isin(labels, chosen)


def curve(
    name: str,
    scores: ArrayLike,
    inside: ArrayLike,
    groups: NDArray[Any] | None = None,
    wider_by: float = 1.0,
) -> Curve:
    """The curves of any score [N] where larger means that an image is inside [N].

    Raises:
        ArgumentError: no image, shapes that do not fit, or scores that are not finite.

    >>> found = curve("lesion", [0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    >>> found.auc.value, round(found.average_precision.value, 4)
    (0.75, 0.8333)
    """
    s, positive = np.asarray(scores, dtype=np.float64), np.asarray(inside, dtype=bool)
    if s.ndim != 1 or s.shape != positive.shape or not len(s) or not np.isfinite(s).all():
        raise ArgumentError(
            "Every image needs one finite score and one truth",
            received=f"scores {list(s.shape)}, truths {list(positive.shape)}",
        )
    threshold, sensitivity, specificity, precision = every_point(s, positive)
    kept = np.union1d(_thinned(sensitivity, specificity), _thinned(sensitivity, precision))

    def part(values: Floats) -> tuple[float, ...]:
        return tuple(values[kept].tolist())

    return Curve(
        name,
        len(s),
        int(positive.sum()),
        part(threshold),
        part(sensitivity),
        part(specificity),
        part(precision),
        auc=wider(area_of(s, positive, groups), wider_by, CROSSED),
        average_precision=wider(average_precision(s, positive, groups), wider_by, CROSSED),
    )


def every_point(s: Floats, inside: Bools) -> tuple[Floats, Floats, Floats, Floats]:
    """Thresholds from inf down, and sensitivity, specificity and precision at each: every point.

    The rate of a side without images is undefined: NaN.
    """
    n, m = len(s), int(inside.sum())
    order = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.append(np.diff(s[order]) != 0, True))
    found = np.append(0, np.cumsum(inside[order])[last])
    called = np.append(0, last + 1)
    unknown = np.full(len(found), np.nan)
    return (
        np.append(np.inf, s[order][last]),
        found / m if m else unknown,
        1 - (called - found) / (n - m) if n > m else unknown,
        np.where(called > 0, found / np.maximum(called, 1), 1.0),
    )


def _thinned(x: Floats, y: Floats) -> NDArray[np.int64]:
    """At most MOST_POINTS + 2 points of a curve, evenly along its length, both ends included."""
    length = np.cumsum(np.abs(np.diff(x, prepend=x[:1])) + np.abs(np.diff(y, prepend=y[:1])))
    if len(x) <= MOST_POINTS or not np.isfinite(length[-1]):
        return np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(np.int64))
    wanted = np.linspace(0, length[-1], MOST_POINTS)
    inner = np.minimum(np.searchsorted(length, wanted, side="left"), len(x) - 1)
    return np.union1d(inner, [0, len(x) - 1])


def area_of(s: Floats, inside: Bools, groups: NDArray[Any] | None = None) -> Metric:
    """Area under the ROC curve; the interval is that of `metrics.auc`, groups as one draw.

    Groups: DeLong's influences are added up within a group (Obuchowski 1997), and the design effect
    that results widens both parts of the interval.
    """
    n, m = len(s), int(inside.sum())
    if m in (0, n):
        return Metric("auc", None, None, None, n, ONE_CLASS_ABSENT)
    placed = placements_of(s, inside)
    value = min(1.0, float(placed[inside].mean()))
    influence = (placed - value) * np.where(inside, per_image(m), per_image(n - m))
    between, whole, count = grouped_squares(influence, groups)
    within = float(influence @ influence)
    wrong = min(m, n - m) * value * (1 - value)
    effect = max(1.0, round(design_effect(between, within, wrong, whole), 9))
    if whole > 1 and count == 1:
        return Metric("auc", value, 0.0, 1.0, n, ONE_GROUP)
    # The bounds use the normal quantile; Student's comes in through the variance.
    effect *= (quantile(LEVEL, whole, count) / quantile(LEVEL, 1.0, n)) ** 2
    sides = np.asarray(float(m)), np.asarray(float(n - m))
    low, high = outer_bounds(
        np.asarray(value),
        np.asarray(within * effect),
        lambda at: np.asarray(effect * hanley_mcneil(at, *sides)),
    )
    method = "DeLong joined with Newcombe 5" + _grouped_words(effect)
    return Metric("auc", value, float(low), float(high), n, method)


def average_precision(s: Floats, inside: Bools, groups: NDArray[Any] | None = None) -> Metric:
    """Mean precision at the scores of the positives: the area under the precision-recall curve.

    Interval: the outer bounds of two. One is the delta method on the logit scale, from the influence
    of every image (its own precision, and what its presence does to that of those ranked below). It
    has no width where nothing went wrong; the other, a score interval as if the area were a share of
    the positives (after Boyd, Eng & Page 2013, who take the logit interval of that share), has.
    """
    n, m = len(s), int(inside.sum())
    if m in (0, n):
        return Metric("average_precision", None, None, None, n, ONE_CLASS_ABSENT)
    value, influence = precision_influence(s, inside)
    between, whole, count = grouped_squares(influence, groups)
    within = float(influence @ influence)
    effect = max(1.0, round(design_effect(between, within, m * value * (1 - value), whole), 9))
    if whole > 1 and count == 1:
        return Metric("average_precision", value, 0.0, 1.0, n, ONE_GROUP)
    z = quantile(LEVEL, whole, count)
    low, high = score_bounds(value, m / effect, z)
    if 0 < value < 1:
        half = z * (within * effect) ** 0.5 / (value * (1 - value))
        low = min(low, float(expit(logit(value) - half)))
        high = max(high, float(expit(logit(value) + half)))
    method = "influence function on the logit scale joined with a score interval over positives"
    return Metric(
        "average_precision",
        value,
        min(low, value),
        max(high, value),
        n,
        method + _grouped_words(effect),
    )


def precision_influence(s: Floats, inside: Bools) -> tuple[float, Floats]:
    """The average precision, and the influence of every image [N] on it: its slope in the weight of
    the image (the influences sum to zero)."""
    n = len(s)
    order = np.argsort(-s, kind="stable")
    ranked, hit = s[order], inside[order]
    first = np.flatnonzero(np.append(True, np.diff(ranked) != 0))
    block = np.repeat(np.arange(len(first)), np.diff(np.append(first, n)))
    called = np.append(first[1:], n).astype(np.float64)  # images at or above, per block of ties
    precision = np.cumsum(hit)[called.astype(np.int64) - 1] / called
    hits = np.bincount(block, hit)
    m = int(inside.sum())
    value = float((hits * precision).sum() / m)
    # Of a positive, and of a negative: the sum over the positives at its score and below.
    raises = np.cumsum((hits * (1 - precision) / called)[::-1])[::-1]
    lowers = np.cumsum((hits * precision / called)[::-1])[::-1]
    ranked_influence = np.where(hit, precision[block] - value + raises[block], -lowers[block]) / m
    influence = np.empty(n)
    influence[order] = ranked_influence
    return value, influence


def _grouped_words(effect: float) -> str:
    if effect == 1.0:
        return ""
    return f"; {effect**0.5:.2f} times as wide, for {GROUPED}"


def to_json(found: Curve) -> dict[str, Any]:
    """The curve as plain lists; rates are rounded to six digits, thresholds are not.

    >>> to_json(curve("dog", [0.2, 0.7], [False, True]))["threshold"]
    [None, 0.7, 0.2]
    """

    def plain(values: Sequence[float], digits: int | None = None) -> list[float | None]:
        return [
            None if not np.isfinite(v) else v if digits is None else round(v, digits)
            for v in values
        ]

    return {
        "name": found.name,
        "n": found.n,
        "positives": found.positives,
        "threshold": plain(found.threshold),
        "sensitivity": plain(found.sensitivity, 6),
        "specificity": plain(found.specificity, 6),
        "precision": plain(found.precision, 6),
        "auc": asdict(found.auc),
        "average_precision": asdict(found.average_precision),
    }
