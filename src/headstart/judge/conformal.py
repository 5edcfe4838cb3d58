"""Prediction sets: all classes that an image may be, with a stated share of images covered.

N images, C classes, G groups of images.

Split conformal prediction (Vovk, Gammerman & Shafer 2005; Papadopoulos et al. 2002) on the score
1 - p(label) (Sadinle, Lei & Wasserman 2019): of calibration images, which the model did not learn
from, the threshold is the (1 - alpha) quantile of the scores, with one more score of infinity for
the image to come. Every class that scores below it is in the set. No model of the data is assumed,
only that the groups to come are drawn like those that were seen.

Per class, where every class has enough images (Vovk 2012), so that a rare class is covered as
often as a frequent one. Where images come in groups, the group is what is exchangeable: ten photos
of one plant are one draw. Each group then weighs one, shared by its images (Lee, Barber & Willett
2023). One image drawn from every group would do as well, but it throws images away and makes the
threshold depend on the draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import ArgumentError
from headstart.judge.calibration import Floats, Ints, check_inputs
from headstart.judge.grouped import CROSS_VALIDATED, wider
from headstart.judge.influence import CROSSED
from headstart.judge.metrics import Metric, wilson

SLACK = 1e-6
"""what a float32 graph may lose of a probability; a set is never the smaller for it"""
EXACT = "calibrated on images that the model did not learn from"
OUT_OF_FOLD = (
    "approximate: calibrated on held-out answers of models that learned from the other folds"
)


@dataclass(frozen=True, slots=True)
class SetRule:
    """Which classes are in an image's set: those with at least the `least` [C] probability.

    `coverage` is the share that is promised; `per_class` whether it is promised for every class by
    itself; `approximate` whether the promise is one of experience, not of a theorem.
    """

    coverage: float
    least: tuple[float, ...]
    per_class: bool
    approximate: bool
    n: int
    groups: int
    sentence: str


@dataclass(frozen=True, slots=True)
class SetsSeen:
    """What sets did on labelled images.

    `coverage` is the share of sets that hold the label, every group weighing one; `of_class` [C]
    the same for the images of a class; `size` the mean number of classes in a set, `single` the
    share of sets with exactly one.
    """

    promised: float
    coverage: Metric
    size: float
    single: float
    of_class: tuple[Metric, ...]


def fit_sets(
    labels: ArrayLike,
    probabilities: ArrayLike,
    coverage: float = 0.9,
    groups: ArrayLike | None = None,
    out_of_fold: bool = True,
) -> SetRule:
    """The rule whose sets hold the label of the given share of images to come.

    Args:
        labels: integers [N]. probabilities: floats [N, C], as the model ships them (temperature
            applied), of images that it did not learn from.
        groups: integers [N]; images of one group count as one draw.
        out_of_fold: the answers are those of a cross-validation. The guarantee is then 1 - 2 alpha
            (Vovk et al. 2018; Barber et al. 2021), in practice about 1 - alpha, and that is said.

    Raises:
        ArgumentError: see `check_inputs`; a coverage outside (0, 1), too few groups for it.

    >>> p = np.linspace(0.5, 0.99, 40)
    >>> rule = fit_sets([0] * 40, np.stack([p, 1 - p], 1), coverage=0.8)
    >>> rule.per_class, round(rule.least[0], 2), rule.least[0] == rule.least[1]
    (False, 0.59, True)
    """
    truth, p = check_inputs(labels, probabilities)
    unit = _units(groups, truth)
    if not 0 < coverage < 1:
        raise ArgumentError("A coverage lies between 0 and 1", received=coverage)
    needed = least_images(1 - coverage)
    total = len(np.unique(unit))
    if total < needed:
        raise ArgumentError(
            "Too few images for prediction sets of this coverage",
            received=f"{total} images (of a group one counts), coverage {coverage:g}",
            do=f"Ask for less, or calibrate on at least {needed} images.",
        )
    score = 1 - p[np.arange(len(truth)), truth]
    in_class = [truth == c for c in range(p.shape[1])]
    poorest = min(len(np.unique(unit[inside])) for inside in in_class)
    per_class = poorest >= needed
    if per_class:
        reach = [group_quantile(score[inside], unit[inside], coverage) for inside in in_class]
        why = f"each class by itself, the smallest has {poorest} independent images"
    else:
        reach = [group_quantile(score, unit, coverage)] * p.shape[1]
        why = f"all classes together: one has {poorest} independent images, {needed} are needed"
    least = tuple(max(0.0, float(1 - r - SLACK)) for r in reach)
    sentence = f"{_percent(coverage)} coverage, {why}; {OUT_OF_FOLD if out_of_fold else EXACT}."
    return SetRule(coverage, least, per_class, out_of_fold, len(truth), total, sentence)


def predict_sets(rule: SetRule, probabilities: ArrayLike) -> NDArray[np.bool_]:
    """Which classes are in each image's set, bool [N, C].

    A set is never empty: where no class reaches its threshold, the most probable one is in it.
    That can only raise the coverage.

    Raises:
        ArgumentError: probabilities of another number of classes.

    >>> rule = SetRule(0.9, (0.3, 0.3), False, True, 100, 100, "")
    >>> predict_sets(rule, [[0.6, 0.4], [0.9, 0.1]]).tolist()
    [[True, True], [True, False]]
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != len(rule.least):
        raise ArgumentError(
            "Probabilities do not fit the prediction sets",
            received=f"{list(p.shape)} for {len(rule.least)} classes",
        )
    inside = p >= np.array(rule.least)
    inside[np.arange(len(p)), p.argmax(1)] |= ~inside.any(1)
    return np.asarray(inside)


def judge_sets(
    rule: SetRule, labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike | None = None
) -> SetsSeen:
    """How often the sets held the label of images that took no part in the rule, and their size.

    The interval is Wilson's with the number of groups as the number of draws: a mean over groups
    varies at most as much as that many single images.

    Raises:
        ArgumentError: see `check_inputs` and `predict_sets`.

    >>> rule = SetRule(0.9, (0.3, 0.3), False, True, 100, 100, "")
    >>> seen = judge_sets(rule, [1, 1], [[0.6, 0.4], [0.9, 0.1]])
    >>> seen.coverage.value, seen.size, seen.single
    (0.5, 1.5, 0.5)
    """
    truth, p = check_inputs(labels, probabilities)
    return _seen(rule.coverage, predict_sets(rule, p), truth, _units(groups, truth))


def cross_judged_sets(
    labels: ArrayLike,
    probabilities: ArrayLike,
    folds: ArrayLike,
    groups: ArrayLike | None = None,
    coverage: float = 0.9,
) -> SetsSeen:
    """`judge_sets` where there are no further images: each fold by the rule of the other folds.

    Answers of a cross-validation lean on each other, so the intervals are wider
    (`grouped.CROSS_VALIDATED`).

    Args:
        folds: integers [N]; groups are whole within folds.

    Raises:
        ArgumentError: see `fit_sets`; one fold only.

    >>> p = np.linspace(0.01, 0.99, 40)
    >>> seen = cross_judged_sets([0] * 40, np.stack([p, 1 - p], 1), np.arange(40) % 2, coverage=0.8)
    >>> round(seen.coverage.value, 2)
    0.82
    """
    truth, p = check_inputs(labels, probabilities)
    unit, fold = _units(groups, truth), np.asarray(folds)
    if fold.shape != truth.shape or len(np.unique(fold)) < 2:
        raise ArgumentError(
            "Every image needs a fold, and there must be two", received=f"folds {list(fold.shape)}"
        )
    inside = np.empty(p.shape, dtype=bool)
    for k in np.unique(fold):
        held, others = fold == k, fold != k
        inside[held] = predict_sets(
            fit_sets(truth[others], p[others], coverage, unit[others]), p[held]
        )
    seen = _seen(coverage, inside, truth, unit)
    return replace(
        seen,
        coverage=wider(seen.coverage, CROSS_VALIDATED, CROSSED),
        of_class=tuple(wider(one, CROSS_VALIDATED, CROSSED) for one in seen.of_class),
    )


def _seen(coverage: float, inside: NDArray[np.bool_], truth: Ints, unit: Ints) -> SetsSeen:
    """What sets [N, C] did."""
    held = inside[np.arange(len(truth)), truth].astype(np.float64)
    size = inside.sum(1)
    classes = [_share(f"coverage:{c}", held, unit, truth == c) for c in range(inside.shape[1])]
    everywhere = np.ones(len(truth), dtype=bool)
    return SetsSeen(
        promised=coverage,
        coverage=_share("coverage", held, unit, everywhere),
        size=float(size.mean()),
        single=float((size == 1).mean()),
        of_class=tuple(classes),
    )


def least_images(rate: float) -> int:
    """How many images, each a draw of its own, a quantile takes that the given share lies above;
    with fewer it is infinite.

    >>> least_images(0.1), least_images(0.05)
    (9, 19)
    """
    return int(np.ceil(1 / rate - 1 - 1e-9))


def group_quantile(scores: Floats, groups: Ints, coverage: float) -> float:
    """The smallest score with at least the given weight at or below it, of scores [N].

    Every group weighs 1 / (G + 1), shared by its images; the rest lies at infinity, for the group
    to come. With groups of one this is the score of rank ceil((N + 1) coverage).

    >>> group_quantile(np.arange(1.0, 10.0), np.arange(9), 0.9)
    9.0
    >>> group_quantile(np.array([1.0, 5.0, 5.0, 5.0]), np.array([0, 1, 1, 1]), 0.5)
    5.0
    """
    weight = group_weights(groups)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(weight[order]) / (weight.sum() + 1)
    place = int(np.searchsorted(reached, coverage - 1e-9))
    return float(scores[order[place]]) if place < len(scores) else float("inf")


def group_weights(groups: Ints) -> Floats:
    """A weight per image [N]: every group weighs one, shared by its images.

    >>> group_weights(np.array([4, 7, 7])).tolist()
    [1.0, 0.5, 0.5]
    """
    _, number, count = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / count[number])


def sets_to_json(rule: SetRule) -> dict[str, Any]:
    """The rule as plain numbers and text, for headstart.json; `sets_from_json` reads it back."""
    return asdict(rule) | {"least": list(rule.least)}


def sets_from_json(stored: Mapping[str, Any], classes: int) -> SetRule:
    """The rule that `sets_to_json` wrote.

    Raises:
        ArgumentError: a value that no rule has, or thresholds for another number of classes.
        KeyError: an entry is missing.

    >>> rule = SetRule(0.9, (0.25, 0.5), True, False, 100, 80, "as said")
    >>> sets_from_json(sets_to_json(rule), classes=2) == rule
    True
    """
    least = tuple(float(value) for value in stored["least"])
    coverage = float(stored["coverage"])
    sane = len(least) == classes and all(0 <= value <= 1 for value in least) and 0 < coverage < 1
    if not sane:
        raise ArgumentError(
            "The stored prediction sets do not fit the model",
            received=f"{len(least)} thresholds for {classes} classes, coverage {coverage:g}",
        )
    flags = bool(stored["per_class"]), bool(stored["approximate"])
    n, groups = int(stored["n"]), int(stored["groups"])
    return SetRule(coverage, least, *flags, n, groups, str(stored["sentence"]))


def _units(groups: ArrayLike | None, labels: Ints) -> Ints:
    if groups is None:
        return np.arange(len(labels))
    found = np.asarray(groups)
    if found.shape != labels.shape:
        raise ArgumentError("Every image needs a group", received=f"groups {list(found.shape)}")
    return np.asarray(np.unique(found, return_inverse=True)[1], dtype=np.int64)


def _share(name: str, held: Floats, groups: Ints, some: NDArray[np.bool_]) -> Metric:
    """Mean over groups of the share of their images that are covered."""
    n = int(some.sum())
    if not n:
        return Metric(name, None, None, None, 0, "undefined: no image of this class")
    weight = group_weights(groups[some])
    value, draws = float(np.average(held[some], weights=weight)), round(float(weight.sum()))
    method = "Wilson" if draws == n else f"Wilson, {draws} groups count as one draw each"
    return Metric(name, value, *wilson(value * draws, draws), n, method)


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
