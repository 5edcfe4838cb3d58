"""How good is the model on each part of the images: per camera, per site, per age?

N images, C classes, K values of the column. The worst value is named, and whether it is worse than
the rest by more than luck: of K values one is always the worst, so the intervals of the differences
hold for all K at once (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from headstart.errors import ArgumentError
from headstart.judge.calibration import Floats, Ints, check_inputs
from headstart.judge.grouped import wider
from headstart.judge.influence import CROSSED, GROUPED, widening
from headstart.judge.metrics import (
    LEVEL,
    Metric,
    accuracy,
    auc,
    balanced_accuracy,
    log_loss,
    macro_f1,
)
from headstart.judge.proportions import difference, share
from headstart.judge.words import gap, listed, named, score

LEAST = 20
"""images (of different groups) of a value; below, 80 % right has an interval of over 30 points"""
MOST_VALUES = 20
QUARTERS = 4
EMPTY = "(empty)"
SCORES = {f.__name__: f for f in (accuracy, balanced_accuracy, macro_f1, log_loss, auc)}


@dataclass(frozen=True, slots=True)
class Subgroup:
    """The scores of the images with one value, and its difference to all the others in one score.

    `difference` is value - others, its interval holding for all values of the column at once;
    `real` is whether it leaves out zero. Both None for a value with too few images to say.
    """

    value: str
    n: int
    metrics: tuple[Metric, ...]
    difference: Metric | None
    real: bool | None


@dataclass(frozen=True, slots=True)
class Subgroups:
    """Every value of a column, the largest first; `too_small` names those that nothing is said of.

    `worst` is None when fewer than two values could be compared, and `sentence` says why.
    """

    column: str
    metric: str
    subgroups: tuple[Subgroup, ...]
    too_small: tuple[str, ...]
    worst: str | None
    sentence: str


def subgroups(
    column: str,
    values: Sequence[object],
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: NDArray[Any] | None = None,
    metric: str = "accuracy",
    wider_by: float = 1.0,
) -> Subgroups:
    """Score every value of a column, and compare each with all other images.

    Numbers with more than 20 different values are cut at their quartiles; an empty cell is a value.
    A difference may come from other classes being frequent among these images, and then balanced
    accuracy says more than accuracy; it says nothing about causes.

    Args:
        values: the column's cell for each image [N]; compared as text.
        probabilities: floats [N, C]. labels: integers [N].
        groups: group [N] of each image, when images of one group are not independent.
        metric: accuracy, balanced_accuracy, macro_f1, log_loss or auc: what names the worst.
        wider_by: see `curves.class_curves`.

    Raises:
        ArgumentError: see `calibration.check_inputs`; values that do not fit; no such metric.

    >>> p, truth = np.full((60, 2), [0.7, 0.3]), [0] * 30 + [1] * 30
    >>> subgroups("camera", ["a"] * 30 + ["b"] * 30, p, truth).worst
    'b'
    """
    truth, p = check_inputs(labels, probabilities)
    if len(values) != len(truth) or metric not in SCORES:
        raise ArgumentError(
            "A column needs one value per image, and a metric that there is",
            where=column,
            received=f"{len(values)} values, {len(truth)} images, {metric}",
            do=f"Metrics: {', '.join(SCORES)}.",
        )
    cells = _named(values)
    names, counts = np.unique(cells, return_counts=True)
    if len(names) > MOST_VALUES:
        text = f"{column} has {len(names)} different values: too many to compare."
        return Subgroups(column, metric, (), (), None, text)
    images = _Images(p, truth, groups, wider_by)
    order = names[np.lexsort((names, -counts))]
    enough = [str(v) for v in order if _independent(cells == v, groups) >= LEAST]
    found = tuple(
        _subgroup(str(v), cells == v, images, metric, len(enough) if v in enough else 0)
        for v in order
    )
    small = tuple(s.value for s in found if s.value not in enough)
    compared = [s for s in found if s.difference is not None and s.difference.value is not None]
    if not compared or len(names) < 2:
        why = "no part of the images is large enough to compare with the others"
        text = f"{column}: {'all images have the same value' if len(names) < 2 else why}."
        return Subgroups(column, metric, found, small, None, text + _small_words(small))
    sign = -1.0 if metric == "log_loss" else 1.0
    worst = min(compared, key=lambda s: sign * _value(s.difference))
    text = _sentence(column, worst, metric, len(compared)) + _small_words(small)
    return Subgroups(column, metric, found, small, worst.value, text)


def part_scores(
    probabilities: Floats, labels: Ints, groups: NDArray[Any] | None, wider_by: float = 1.0
) -> tuple[Metric, ...]:
    """Every score of one part of the images: probabilities [n, C], labels [n], groups [n]."""
    images, every = _Images(probabilities, labels, groups, wider_by), np.ones(len(labels), bool)
    return tuple(images.score(name, every) for name in SCORES)


@dataclass(frozen=True, slots=True)
class _Images:
    """All images, and how much wider their intervals are."""

    p: Floats
    labels: Ints
    groups: NDArray[Any] | None
    wider_by: float

    def score(self, name: str, rows: NDArray[np.bool_], level: float = LEVEL) -> Metric:
        """One score of some images; at another level than 95 % by the ratio of normal quantiles,
        where it has no closed form."""
        p, labels = self.p[rows], self.labels[rows]
        groups = None if self.groups is None else self.groups[rows]
        if name == "accuracy":
            found = share(name, p.argmax(1) == labels, groups, level)
            return wider(found, self.wider_by, CROSSED)
        found = SCORES[name](labels, p)
        if groups is not None and found.value is not None:
            found = wider(found, widening(name, p, labels, groups), GROUPED)
        further = float(ndtri((1 + level) / 2) / ndtri((1 + LEVEL) / 2))
        return wider(wider(found, self.wider_by, CROSSED), further, "the level")


def _subgroup(
    value: str, rows: NDArray[np.bool_], images: _Images, metric: str, at_once: int
) -> Subgroup:
    """One value's scores, and its difference at a level that holds for `at_once` values together."""
    n = int(rows.sum())
    scores = tuple(images.score(name, rows) for name in SCORES)
    if not at_once or rows.all():
        return Subgroup(value, n, scores, None, None)
    level = 1 - (1 - LEVEL) / at_once
    one, two = images.score(metric, rows, level), images.score(metric, ~rows, level)
    found = difference(f"{metric}, {value} - others", one, two)
    if found.value is None or found.low is None or found.high is None:
        return Subgroup(value, n, scores, None, None)
    words = "" if at_once == 1 else f"; for {at_once} values at once"
    found = replace(found, n=len(rows), method=found.method + words)
    return Subgroup(value, n, scores, found, not _value(found, "low") <= 0 <= _value(found, "high"))


def _named(values: Sequence[object]) -> NDArray[np.str_]:
    """The values as text, numbers of many different values as the quarter that they lie in."""
    text = np.array([EMPTY if v is None else str(v).strip() or EMPTY for v in values])
    if len(np.unique(text)) <= MOST_VALUES:
        return text
    try:
        number = np.array([np.nan if t == EMPTY else float(t) for t in text])
    except ValueError:
        return text
    known = np.isfinite(number)
    if not known.any():
        return text
    ends = np.quantile(number[known], np.linspace(0, 1, QUARTERS + 1), method="higher")
    quarter = np.clip(np.searchsorted(ends[1:], number, side="left"), 0, QUARTERS - 1)
    found = np.full(len(text), EMPTY, dtype=object)
    for q in range(QUARTERS):
        rows = known & (quarter == q)
        if rows.any():
            found[rows] = f"{number[rows].min():g} to {number[rows].max():g}"
    return found.astype(str)


def _independent(rows: NDArray[np.bool_], groups: NDArray[Any] | None) -> int:
    return int(rows.sum()) if groups is None else len(np.unique(groups[rows]))


def _value(metric: Metric | None, end: str = "value") -> float:
    assert metric is not None
    found = getattr(metric, end)
    assert isinstance(found, float)
    return found


def _sentence(column: str, worst: Subgroup, metric: str, compared: int) -> str:
    assert worst.difference is not None
    found = next(m for m in worst.metrics if m.name == metric)
    end = "highest" if metric == "log_loss" else "lowest"
    text = (
        f"{column}: the {end} {named(metric)} is that of {worst.value}, {score(found)} on {worst.n:,} images; "
        f"against all others {gap(worst.difference, metric == 'log_loss')}"
    )
    at_once = f", which holds for the {compared} values at once" if compared > 1 else ""
    verdict = (
        "more than luck of the draw explains"
        if worst.real
        else "which luck of the draw can explain"
    )
    return f"{text}{at_once}: {verdict}."


def _small_words(small: Sequence[str]) -> str:
    return f" Too few images to say: {listed(list(small))}." if small else ""


def to_json(found: Subgroups) -> dict[str, Any]:
    """Every field under its name."""
    return asdict(found)
