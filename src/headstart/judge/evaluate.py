"""Everything that is said about a classifier on one set of labelled images, in one record.

Shapes: `N` images, `C` classes, `B` bins. Nothing here draws a random number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

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


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The record as plain lists, numbers and None, which strict JSON can hold.

    Keys: n, protocol, classes, metrics [{name, value, low, high, n, method}], per_class
    [{name, support, precision, recall, f1, auc}, each score as in metrics], confusion [C][C],
    calibration {ece, rms_debiased, brier, temperature, sentence, held_out_log_loss, reliability
    [{confidence, accuracy, n}]}.

    >>> found = evaluate([[0.9, 0.1], [0.2, 0.8]], [0, 1], ["cat", "dog"], "test part")
    >>> to_json(found)["per_class"][1]["name"], to_json(found)["confusion"]
    ('dog', [[1, 0], [0, 1]])
    """
    return {
        "n": evaluation.n,
        "protocol": evaluation.protocol,
        "classes": list(evaluation.classes),
        "metrics": [asdict(metric) for metric in evaluation.metrics],
        "per_class": [_class_json(c, evaluation.classes[c.index]) for c in evaluation.per_class],
        "confusion": [list(row) for row in evaluation.confusion],
        "calibration": _calibration_json(evaluation.calibration),
    }


def _calibration_json(calibration: Calibration) -> dict[str, Any]:
    found, bins = calibration.temperature, calibration.reliability
    return {
        "ece": calibration.ece,
        "rms_debiased": calibration.rms_debiased,
        "brier": calibration.brier,
        "temperature": None if found is None else found.value,
        "sentence": "" if found is None else f"Temperature {found.value:.2f}, {found.reason}.",
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
