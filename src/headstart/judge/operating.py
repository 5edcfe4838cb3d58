"""Operating points: at a threshold that finds 95 % of one class, how many of the others stay quiet?

M held-out answers on which a threshold is chosen, N images on which it is judged. A class is called
where its score reaches the threshold; positives are the images of the class, negatives the others.

The threshold never sees the images that it is judged on. What was aimed at and what was reached are
two numbers, and both are told.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.split import development_folds
from headstart.errors import ArgumentError, DataError
from headstart.judge.calibration import Floats
from headstart.judge.grouped import CROSS_VALIDATED, wider
from headstart.judge.influence import CROSSED
from headstart.judge.metrics import LEVEL, Metric
from headstart.judge.proportions import ratio_bounds, share
from headstart.judge.words import interval, percent

SENSITIVITY, SPECIFICITY = "sensitivity", "specificity"
FOLDS = 10
"""parts of a cross-fitted threshold, when there are no other images to choose it on"""
CROSSING = ", each judged at the choice of the others"
"""how what a cross-fitted threshold was chosen on is told"""


@dataclass(frozen=True, slots=True)
class Target:
    """What the threshold is to reach: a sensitivity or a specificity, between 0 and 1."""

    rate: str
    value: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one class [N], whether an image is of the class [N], and its group [N] or None.

    `folds` [N] for a cross-fitted threshold (`crossing_folds`); None: dealt when needed.
    """

    score: Floats
    inside: NDArray[np.bool_]
    groups: NDArray[Any] | None = None
    folds: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold, what it was chosen for, and what it reached on images that did not choose it.

    `cross_fitted`: the judged images chose it themselves, each judged at the choice of the others;
    `threshold` is then that of all of them. `ppv` and `npv` are for the given `prevalence`; all three
    None when none was given. `needed` is the number of images (of different groups) of the target's
    side that could confirm the target without a miss, and `confirmable` whether there were as many to
    judge on.
    """

    name: str
    target: Target
    threshold: float
    chosen_on: str
    cross_fitted: bool
    sensitivity: Metric
    specificity: Metric
    prevalence: float | None
    ppv: Metric | None
    npv: Metric | None
    needed: int
    confirmable: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An operating point that these images cannot support: why, what there is, what is needed."""

    name: str
    target: Target
    reason: str
    at_hand: int
    needed: int
    sentence: str


def needed_for(value: float, level: float = LEVEL) -> int:
    """Images that must all be right before a rate of `value` can be stated (Wilks 1941).

    Were the rate lower, n right answers in a row would have a chance below value^n; so
    n >= log(1 - level) / log(value).

    >>> needed_for(0.95), needed_for(0.9), needed_for(0.99)
    (59, 29, 299)
    """
    return math.ceil(math.log(1 - level) / math.log(value))


def operating_point(
    name: str,
    target: Target,
    judged: Scores,
    held_out: Scores | None = None,
    prevalence: float | None = None,
) -> OperatingPoint | Refused:
    """Choose a threshold on held-out answers, and judge it on other images.

    Args:
        name: of the class (or classes) that is called.
        judged: the images that the threshold is judged on: the test part.
        held_out: pooled out-of-fold answers of the final recipe on the images that it learned from,
            on the same scale (shift and temperature applied). None: the judged images are dealt into
            ten folds, groups kept whole, and every fold is judged at the threshold that the other
            folds chose, with intervals `grouped.CROSS_VALIDATED` times as wide. For answers of a
            nested cross-validation, which has no other images.
        prevalence: share of the class where the model is to be used; for PPV and NPV.

    Returns:
        The point, or why there cannot be one: too few images of the class (or of the others, for a
        specificity) to choose the threshold on, or none to judge it on.

    Raises:
        ArgumentError: a rate or prevalence outside 0 to 1, shapes that do not fit, scores not finite.
    """
    _check(target, prevalence)
    for part in (judged, held_out):
        if part is not None:
            _check_scores(part)
    source = judged if held_out is None else held_out
    needed, at_hand = needed_for(target.value), _independent(source, target)
    side = name if target.rate == SENSITIVITY else f"not {name}"
    if at_hand < needed:
        where = "among the images to choose a threshold on"
        return _refused(name, target, f"only {at_hand} images of {side} {where}", at_hand, needed)
    if not 0 < judged.inside.sum() < len(judged.inside):
        return _one_sided(name, target, judged)
    threshold = choose_threshold(target, source)
    if held_out is not None:
        chosen_on = f"{len(source.score):,} held-out answers on images to learn from"
        return at_threshold(name, target, threshold, chosen_on, judged, prevalence)
    try:
        called = cross_fitted_calls(target, judged)
    except DataError as cause:  # groups tie one side together
        return _refused(name, target, cause.what, at_hand, needed)
    chosen_on = f"{len(source.score):,} held-out answers{CROSSING}"
    rates = _rates(judged, called, CROSS_VALIDATED)
    return _point(name, target, threshold, chosen_on, True, rates, prevalence, judged)


def at_threshold(
    name: str,
    target: Target,
    threshold: float,
    chosen_on: str,
    judged: Scores,
    prevalence: float | None = None,
) -> OperatingPoint | Refused:
    """Judge a threshold that was chosen before, on other images.

    Args:
        target: what it was chosen for. chosen_on: what it was chosen on, in words.

    Raises:
        ArgumentError: see `operating_point`.

    >>> new = Scores(np.array([0.9, 0.6, 0.2, 0.1]), np.array([True, True, False, False]))
    >>> point = at_threshold("cat", Target("sensitivity", 0.9), 0.7, "80 answers", new)
    >>> point.sensitivity.value, point.specificity.value
    (0.5, 1.0)
    """
    _check(target, prevalence)
    _check_scores(judged)
    if not 0 < judged.inside.sum() < len(judged.inside):
        return _one_sided(name, target, judged)
    rates = _rates(judged, judged.score >= threshold, 1.0)
    return _point(name, target, threshold, chosen_on, False, rates, prevalence, judged)


def choose_threshold(target: Target, source: Scores) -> float:
    """The highest threshold that finds the k-th positive (for a specificity: the lowest that leaves
    the k-th negative out), k = ceil(value (m + 1)) of m.

    A new positive falls at or above the k-th highest of m with a chance of at least k / (m + 1), so
    the target is met on average, not only on the images at hand.

    >>> scores = Scores(np.array([0.1, 0.2, 0.3, 0.9]), np.array([True, True, True, False]))
    >>> choose_threshold(Target("sensitivity", 0.5), scores)
    0.2
    """
    positive = target.rate == SENSITIVITY
    ranked = np.sort(source.score[source.inside == positive])
    k = min(len(ranked), math.ceil(target.value * (len(ranked) + 1) - 1e-9))
    if positive:
        return float(ranked[len(ranked) - k])
    return float(np.nextafter(ranked[k - 1], np.inf))


def crossing_folds(judged: Scores) -> NDArray[np.int64]:
    """At most ten folds [N] with groups kept whole and either side in more than one of them.

    Raises:
        DataError: groups tie the images of one side together.
    """
    n = len(judged.score)
    groups = np.arange(n) if judged.groups is None else _numbered(judged.groups)
    return development_folds(judged.inside.astype(np.int64), groups, FOLDS, seed=0)


def cross_fitted_calls(target: Target, judged: Scores) -> NDArray[np.bool_]:
    """Whether each image [N] is called at the threshold that the other folds' images chose.

    Raises:
        DataError: see `crossing_folds`.
    """
    folds = crossing_folds(judged) if judged.folds is None else judged.folds
    called = np.zeros(len(judged.score), dtype=bool)
    for fold in np.unique(folds):
        here = folds == fold
        others = Scores(judged.score[~here], judged.inside[~here])
        called[here] = judged.score[here] >= choose_threshold(target, others)
    return called


def predictive_values(
    sensitivity: Metric, specificity: Metric, prevalence: float
) -> tuple[Metric, Metric]:
    """PPV and NPV where a share `prevalence` of the images is positive (Bayes).

    PPV = p L / (p L + 1 - p) for the likelihood ratio L = sensitivity / (1 - specificity), and NPV
    likewise from (1 - sensitivity) / specificity. Both rise or fall with their ratio alone, so its
    interval (MOVER-R, Donner & Zou 2012, on the intervals of both rates) carries over. The prevalence
    is taken as known.

    >>> from headstart.judge.proportions import share
    >>> right, rest = share("sensitivity", [1] * 90 + [0] * 10), share("specificity", [1] * 90 + [0] * 10)
    >>> round(predictive_values(right, rest, 0.01)[0].value, 3)
    0.083
    """
    n = sensitivity.n + specificity.n
    method = f"at a prevalence of {prevalence:g}, MOVER on the likelihood ratio"

    def by_bayes(ratio: float) -> float:
        if not np.isfinite(ratio):
            return 1.0
        return prevalence * ratio / (prevalence * ratio + 1 - prevalence)

    def ratio(one: Metric, two: Metric) -> tuple[float, float, float]:
        assert one.value is not None and two.value is not None
        low, high = ratio_bounds(one, two)
        if one.value == two.value == 0:
            return low, 1.0, high
        return low, one.value / two.value if two.value > 0 else np.inf, high

    low, middle, high = (by_bayes(x) for x in ratio(sensitivity, _other(specificity)))
    ppv = Metric("ppv", middle, min(low, middle), max(high, middle), n, method)
    high, middle, low = (1 - by_bayes(x) for x in ratio(_other(sensitivity), specificity))
    return ppv, Metric("npv", middle, min(low, middle), max(high, middle), n, method)


def _rates(judged: Scores, called: NDArray[np.bool_], wider_by: float) -> tuple[Metric, Metric]:
    """Sensitivity and specificity."""
    inside, groups = judged.inside, judged.groups
    found = share(SENSITIVITY, called[inside], None if groups is None else groups[inside])
    quiet = share(SPECIFICITY, ~called[~inside], None if groups is None else groups[~inside])
    return wider(found, wider_by, CROSSED), wider(quiet, wider_by, CROSSED)


def _point(
    name: str,
    target: Target,
    threshold: float,
    chosen_on: str,
    cross_fitted: bool,
    rates: tuple[Metric, Metric],
    prevalence: float | None,
    judged: Scores,
) -> OperatingPoint:
    """What was reached, with predictive values where there is a prevalence, and its sentence."""
    ppv, npv = (None, None) if prevalence is None else predictive_values(*rates, prevalence)
    needed, there = needed_for(target.value), _independent(judged, target)
    point = OperatingPoint(
        name, target, threshold, chosen_on, cross_fitted, *rates, prevalence, ppv, npv, needed,
        confirmable=there >= needed, sentence="",
    )  # fmt: skip
    return replace(point, sentence=_sentence(point, there))


def _sentence(point: OperatingPoint, there: int) -> str:
    name, target, found, quiet = point.name, point.target, point.sensitivity, point.specificity
    assert found.value is not None and quiet.value is not None
    chosen_on = point.chosen_on + ("," if point.chosen_on.endswith(CROSSING) else "")
    text = (
        f"Call it {name} from a probability of {told(point.threshold)} on (chosen on {chosen_on} "
        f"for a {target.rate} of {percent(target.value)}): {percent(found.value)} of the images of "
        f"{name} are found ({SENSITIVITY}: {interval(found)}, {found.n:,} images), and "
        f"{percent(quiet.value)} of the others stay quiet ({SPECIFICITY}: {interval(quiet)}, "
        f"{quiet.n:,} images)."
    )
    if not point.confirmable:
        text += (
            f" {there} images cannot confirm {percent(target.value)}: {point.needed} would have to "
            "be right without a miss."
        )
    if point.ppv is not None and point.npv is not None and point.prevalence is not None:
        assert point.ppv.value is not None and point.npv.value is not None
        text += (
            f" Where {percent(point.prevalence)} of the images are {name}, "
            f"{percent(point.ppv.value)} of the calls are right ({interval(point.ppv)}), and "
            f"{percent(point.npv.value)} of the others ({interval(point.npv)})."
        )
    return text


def told(threshold: float) -> str:
    """A threshold in three digits; in more where fewer would read as all or nothing.

    >>> told(0.70041), told(0.99962)
    ('0.700', '0.9996')
    """
    texts = (f"{threshold:#.{digits}g}" for digits in range(3, 18))
    return next((text for text in texts if 0 < float(text) < 1), f"{threshold:.17g}")


def _one_sided(name: str, target: Target, judged: Scores) -> Refused:
    reason = "the images to judge it on are all of one side"
    at_hand, needed = int(judged.inside.sum()), needed_for(target.value)
    return _refused(name, target, reason, at_hand, needed)


def _refused(name: str, target: Target, reason: str, at_hand: int, needed: int) -> Refused:
    sentence = (
        f"{name}: no threshold for a {target.rate} of {percent(target.value)}, for there are "
        f"{reason}; it takes {needed} to state {percent(target.value)} even without a miss."
    )
    if not reason.startswith("only"):
        sentence = f"{name}: no threshold for a {target.rate} of {percent(target.value)}: {reason}."
    return Refused(name, target, reason, at_hand, needed, sentence)


def _other(metric: Metric) -> Metric:
    """1 - rate."""
    assert metric.value is not None and metric.low is not None and metric.high is not None
    return Metric(
        metric.name, 1 - metric.value, 1 - metric.high, 1 - metric.low, metric.n, metric.method
    )


def _independent(scores: Scores, target: Target) -> int:
    """Images of the target's side; those of one group count once."""
    side = scores.inside == (target.rate == SENSITIVITY)
    return int(side.sum()) if scores.groups is None else len(np.unique(scores.groups[side]))


def _numbered(groups: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(np.unique(groups, return_inverse=True)[1], dtype=np.int64)


def _check(target: Target, prevalence: float | None) -> None:
    if target.rate not in (SENSITIVITY, SPECIFICITY) or not 0 < target.value < 1:
        raise ArgumentError(
            "A target is a sensitivity or a specificity between 0 and 1",
            received=f"{target.rate} {target.value}",
        )
    if prevalence is not None and not 0 < prevalence < 1:
        raise ArgumentError("A prevalence lies between 0 and 1", received=prevalence)


def _check_scores(part: Scores) -> None:
    shapes = {np.shape(part.score), np.shape(part.inside)}
    shapes |= set() if part.groups is None else {np.shape(part.groups)}
    if len(shapes) != 1 or np.ndim(part.score) != 1 or not np.isfinite(part.score).all():
        raise ArgumentError(
            "Every image needs one finite score, one truth and one group",
            received=f"shapes {sorted(shapes)}",
        )


def to_json(found: OperatingPoint | Refused) -> dict[str, Any]:
    """Every field under its name, and `refused`: whether there is no such point."""
    return {"refused": isinstance(found, Refused), **asdict(found)}
