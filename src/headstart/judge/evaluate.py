"""Everything that is said about a classifier on one set of labelled images, in one record.

Shapes: `N` images, `C` classes, `B` bins. Nothing here draws a random number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from headstart.errors import ArgumentError
from headstart.judge.calibration import (
    Reliability,
    Temperature,
    brier,
    calibration_error,
    check_inputs,
    reliability,
)
from headstart.judge.metrics import (
    ONE_CLASS_ABSENT,
    Metric,
    OneVsRest,
    accuracy,
    auc,
    balanced_accuracy,
    class_auc_bounds,
    confusion,
    log_loss,
    macro_f1,
    one_vs_rest,
    wilson,
)

TEST_LEVEL, POWER = 0.05, 0.80
ERRORS_IN_COMMON = 0.5
"""correlation of the errors of two models on the same images, where nothing better is known"""
OTHER_IMAGES = "cross-fitted on held-out answers of the images that the model learned from"


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """The scores of one class; `index` is its column, `support` its number of images."""

    index: int
    support: int
    precision: Metric
    recall: Metric
    f1: Metric
    auc: Metric


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far the probabilities can be believed; see `calibration` for each number.

    `temperature` is the one already applied to the probabilities, None when none was looked for.
    """

    ece: float
    rms_debiased: float
    brier: float
    temperature: Temperature | None
    reliability: Reliability


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of one set of images; `confusion` is [C][C] with rows = truth."""

    n: int
    protocol: str
    classes: tuple[str, ...]
    metrics: tuple[Metric, ...]
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Resolvable:
    """The smallest difference in accuracy that so many test images can show, in points of a hundred.

    `points`: two models on the same images, of which `discordance` are right for one of them only;
    `unpaired_points`: two models, each on as many images of its own. None: not even a perfect and a
    useless model could be told apart.
    """

    points: float | None
    unpaired_points: float | None
    discordance: float
    sentence: str


def evaluate(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    protocol: str,
    temperature: Temperature | None = None,
) -> Evaluation:
    """Score probabilities floats [N, C] against labels integers [N].

    Args:
        classes: the C names in column order; a class may be absent from the labels.
        protocol: where the images come from, in words ("test part", "5-fold cross-validation").
        temperature: the one already applied to the probabilities, to be written down.

    Raises:
        ArgumentError: see `check_inputs`, or names that do not fit the columns.

    >>> found = evaluate([[0.9, 0.1], [0.2, 0.8]], [0, 1], ["cat", "dog"], "test part")
    >>> [m.name for m in found.metrics]
    ['accuracy', 'balanced_accuracy', 'macro_f1', 'log_loss', 'auc']
    """
    truth, p = check_inputs(labels, probabilities)
    if len(classes) != p.shape[1]:
        raise ArgumentError(
            "Every column of probabilities needs one class name",
            received=f"{len(classes)} names, {p.shape[1]} columns",
        )
    parts = one_vs_rest(truth, p)
    scores = (accuracy, balanced_accuracy, macro_f1, log_loss)
    counts = confusion(truth, p.argmax(1), p.shape[1])
    return Evaluation(
        n=len(truth),
        protocol=protocol,
        classes=tuple(classes),
        metrics=(*(score(truth, p) for score in scores), auc(truth, p, parts)),
        per_class=per_class(truth, p, parts),
        confusion=tuple(tuple(row) for row in counts.tolist()),
        calibration=Calibration(
            ece=calibration_error(truth, p),
            rms_debiased=calibration_error(truth, p, debiased=True),
            brier=brier(truth, p),
            temperature=temperature,
            reliability=reliability(truth, p),
        ),
    )


def per_class(
    labels: ArrayLike, probabilities: ArrayLike, parts: OneVsRest | None = None
) -> tuple[ClassMetrics, ...]:
    """Precision, recall, F1 and one-vs-rest AUC of each of the C classes, in class order.

    Precision and recall have Wilson's interval. F1 is 2 J / (1 + J) of the proportion
    J = hits / (truths or predictions), so Wilson's interval for J carries over (Hand, Christen &
    Kirielle 2021 on F*). The AUC's is the one of `metrics.auc`. A score without a denominator is
    None and its method says why.

    Args:
        parts: what `one_vs_rest` returned for the same arguments, to save the sorting.

    Raises:
        ArgumentError: see `check_inputs`.

    >>> first, second = per_class([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> first.precision.value, first.recall.value, second.support
    (0.5, 1.0, 2)
    """
    truth, p = check_inputs(labels, probabilities)
    counts = confusion(truth, p.argmax(1), p.shape[1])
    truths, guesses, hits = (
        column.tolist() for column in (counts.sum(1), counts.sum(0), np.diagonal(counts))
    )
    areas = _class_aucs(parts or one_vs_rest(truth, p), len(truth))
    absent = Metric("auc", None, None, None, len(truth), ONE_CLASS_ABSENT)
    return tuple(
        ClassMetrics(
            index=c,
            support=truths[c],
            precision=_proportion("precision", hits[c], guesses[c], "never predicted"),
            recall=_proportion("recall", hits[c], truths[c], "no image of this class"),
            f1=_class_f1(hits[c], truths[c] + guesses[c]),
            auc=areas.get(c, absent),
        )
        for c in range(p.shape[1])
    )


def over_repeats(repeats: Sequence[Evaluation]) -> Evaluation:
    """One evaluation from repeats of a cross-validation over the same images.

    Scores and the ends of their intervals are means over the repeats; classes, confusion matrix and
    calibration are those of the first repeat, whose answers are the ones that are stored.
    """
    first = repeats[0]
    if len(repeats) == 1:
        return first

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    metrics = tuple(
        replace(
            rows[0],
            value=mean([m.value for m in rows]),
            low=mean([m.low for m in rows]),
            high=mean([m.high for m in rows]),
            method=f"{rows[0].method}; mean of {len(rows)} repeats",
        )
        for rows in zip(*(evaluation.metrics for evaluation in repeats), strict=True)
    )
    return replace(first, metrics=metrics)


def resolvable(n: int, accuracy: float) -> Resolvable:
    """What n images can show about two models near this accuracy: 80 % power, two-sided 5 % level.

    On the same images, McNemar's test (1947): with the discordance psi, the share of images that
    only one of the two gets right, a difference d needs (Connor 1987)

        n = [z_.975 sqrt(psi) + z_.80 sqrt(psi - d^2)]^2 / d^2

    images; the true power is then 80 to 84 % (simulated). psi is unknown before the second model is, so it is stated: 2 a (1 - a) (1 - r) for the
    accuracy a and errors of correlation r = 0.5; at least d, since a difference needs images to
    differ on. On images of their own: two independent proportions, a and a - d (Fleiss, Levin &
    Paik 2003, section 4.2). The accuracy is drawn in by two hits and two misses (Agresti & Coull
    1998), or a model without a mistake would resolve anything. Images of one group count as if
    they were independent, and the luck of the training images is not in it: both make it larger.

    Raises:
        ArgumentError: no image, or an accuracy outside 0 to 1.

    >>> found = resolvable(100, 0.9)
    >>> round(found.points, 1), round(found.unpaired_points, 1)
    (8.8, 15.5)
    """
    if n < 1 or not 0 <= accuracy <= 1:
        raise ArgumentError(
            "A difference needs at least one image and an accuracy between 0 and 1",
            received=f"{n} images, accuracy {accuracy}",
        )
    level = (accuracy * n + 2) / (n + 4)
    discordance = 2 * level * (1 - level) * (1 - ERRORS_IN_COMMON)
    paired = _least_difference(lambda d: _mcnemar_excess(n, d, max(discordance, d)), 1.0)
    apart = _least_difference(lambda d: _two_samples_excess(n, level, d), level)
    return Resolvable(
        points=None if paired is None else 100 * paired,
        unpaired_points=None if apart is None else 100 * apart,
        discordance=discordance if paired is None else max(discordance, paired),
        sentence=_resolvable_sentence(n, paired),
    )


def _mcnemar_excess(n: int, d: float, discordance: float) -> float:
    """How far a difference lies above what McNemar's test needs on n images; rises with d."""
    error, miss = float(ndtri(1 - TEST_LEVEL / 2)), float(ndtri(POWER))
    needed = error * discordance**0.5 + miss * (discordance - d**2) ** 0.5
    return float(n**0.5 * d - needed)


def _two_samples_excess(n: int, level: float, d: float) -> float:
    """The same for two samples of n images with accuracies `level` and `level` - d."""
    error, miss = float(ndtri(1 - TEST_LEVEL / 2)), float(ndtri(POWER))
    low, middle = level - d, level - d / 2
    needed = error * (2 * middle * (1 - middle)) ** 0.5
    needed += miss * (level * (1 - level) + low * (1 - low)) ** 0.5
    return float(n**0.5 * d - needed)


def _least_difference(excess: Callable[[float], float], most: float) -> float | None:
    """Where `excess` turns positive in (0, most], by bisection; None when it never does."""
    if excess(most) < 0:
        return None
    low, high = 0.0, most
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return high


def _resolvable_sentence(n: int, paired: float | None) -> str:
    images = f"{n:,} image{'' if n == 1 else 's'}"
    if paired is None:
        return f"{images} cannot show any difference between two models."
    points = f"{100 * paired:.1f}" if paired < 0.1 else f"{100 * paired:.0f}"
    return (
        f"With {images}, two models must differ by about {points} points of accuracy before a test "
        "is likely to show it."
    )


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The record as plain lists, numbers and None, which strict JSON can hold.

    Keys: n, protocol, protocols [{figures, protocol}] (what each figure is an estimate from), classes,
    metrics [{name, value, low, high, n, method}], per_class [{name, support, precision, recall, f1,
    auc}, each score as in metrics], confusion [C][C], calibration {ece, rms_debiased, brier,
    temperature, sentence, held_out_log_loss, reliability [{confidence, accuracy, n}]}, resolvable
    {points, unpaired_points, discordance, sentence}.

    >>> found = evaluate([[0.9, 0.1], [0.2, 0.8]], [0, 1], ["cat", "dog"], "test part")
    >>> to_json(found)["per_class"][1]["name"], to_json(found)["confusion"]
    ('dog', [[1, 0], [0, 1]])
    """
    accuracy = next(m.value for m in evaluation.metrics if m.name == "accuracy")
    assert accuracy is not None
    return {
        "n": evaluation.n,
        "protocol": evaluation.protocol,
        "protocols": _protocols(evaluation),
        "classes": list(evaluation.classes),
        "metrics": [asdict(metric) for metric in evaluation.metrics],
        "per_class": [_class_json(c, evaluation.classes[c.index]) for c in evaluation.per_class],
        "confusion": [list(row) for row in evaluation.confusion],
        "calibration": _calibration_json(evaluation.calibration),
        "resolvable": asdict(resolvable(evaluation.n, accuracy)),
    }


def _protocols(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Which images each figure of the record was estimated from."""
    judged = ["metrics", "per_class", "confusion"]
    judged += [f"calibration.{name}" for name in ("ece", "rms_debiased", "brier", "reliability")]
    rows: list[dict[str, Any]] = [{"figures": judged, "protocol": evaluation.protocol}]
    if evaluation.calibration.temperature is not None:
        figures = ["calibration.temperature", "calibration.held_out_log_loss"]
        rows.append({"figures": figures, "protocol": OTHER_IMAGES})
    return rows


def _calibration_json(calibration: Calibration) -> dict[str, Any]:
    found, bins = calibration.temperature, calibration.reliability
    return {
        "ece": calibration.ece,
        "rms_debiased": calibration.rms_debiased,
        "brier": calibration.brier,
        "temperature": None if found is None else found.value,
        "sentence": "" if found is None else found.reason,
        "held_out_log_loss": None if found is None else [found.nll_before, found.nll_after],
        "reliability": [
            {"confidence": confidence, "accuracy": accuracy, "n": n}
            for confidence, accuracy, n in zip(
                bins.confidence, bins.accuracy, bins.count, strict=True
            )
        ],
    }


def _class_json(scores: ClassMetrics, name: str) -> dict[str, Any]:
    fields = asdict(scores)
    del fields["index"]  # the position in the list
    return {"name": name, **fields}


def _class_aucs(parts: OneVsRest, n: int) -> dict[int, Metric]:
    """The AUC of every class that has one, by column."""
    low, high = class_auc_bounds(parts)
    return {
        int(c): Metric("auc", float(a), float(x), float(y), n, "DeLong joined with Newcombe 5")
        for c, a, x, y in zip(parts.classes, parts.area, low, high, strict=True)
    }


def _proportion(name: str, k: int, n: int, empty: str) -> Metric:
    if n == 0:
        return Metric(name, None, None, None, 0, f"undefined: {empty}")
    return Metric(name, k / n, *wilson(k, n), n, "Wilson")


def _class_f1(hits: int, both: int) -> Metric:
    """F1 = 2 hits / (truths + predictions), by way of J = hits / (truths or predictions)."""
    if both == 0:
        why = "undefined: no image of this class and never predicted"
        return Metric("f1", None, None, None, 0, why)
    low, high = (2 * j / (1 + j) for j in wilson(hits, both - hits))
    value = 2 * hits / both
    return Metric(
        "f1", value, min(low, value), max(high, value), both - hits, "Wilson on the Jaccard index"
    )
