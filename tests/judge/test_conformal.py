"""Prediction sets keep their promise, also where images come in groups, and survive the JSON."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from headstart.errors import ArgumentError
from headstart.judge.calibration import softmax
from headstart.judge.conformal import (
    SetRule,
    fit_sets,
    group_quantile,
    judge_sets,
    predict_sets,
    sets_from_json,
    sets_to_json,
)

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(rng: np.random.Generator, groups: int, photos: int, shares: list[float]) -> Drawn:
    """Labels, probabilities, groups; the photos of one group are nearly as easy as each other.

    Hard groups have twenty times the photos of easy ones, so plain images mislead.
    """
    hard = rng.random(groups) < 0.3
    number = np.repeat(np.arange(groups), np.where(hard, photos, max(1, photos // 20)))
    labels = rng.choice(len(shares), groups, p=shares)[number]
    logits = rng.normal(0, 1, (len(number), len(shares)))
    logits[np.arange(len(number)), labels] += np.where(hard[number], 0.5, 4.0)
    logits += 2 * rng.normal(0, 1, (groups, len(shares)))[number]
    return labels, softmax(logits), number


@pytest.mark.parametrize("photos", [1, 20])
def test_coverage_is_what_was_promised(photos: int) -> None:
    rng, covered = np.random.default_rng(0), []
    for _ in range(150):
        rule = fit_sets(*_pick(draw(rng, 60, photos, [0.5, 0.3, 0.2])), out_of_fold=False)
        labels, p, groups = draw(rng, 200, photos, [0.5, 0.3, 0.2])
        value = judge_sets(rule, labels, p, groups).coverage.value
        assert value is not None
        covered.append(value)
    se = np.std(covered) / len(covered) ** 0.5
    assert np.mean(covered) >= 0.9 - 2 * se
    assert np.mean(covered) <= 0.96  # sets that hold everything would cover, too


def _pick(drawn: Drawn) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    labels, p, groups = drawn
    return labels, p, 0.9, groups


def test_without_the_groups_the_promise_would_be_broken_or_the_sets_too_large() -> None:
    """The check above can fail: images as draws of their own give another threshold."""
    rng = np.random.default_rng(1)
    labels, p, groups = draw(rng, 400, 20, [0.5, 0.5])
    knowing, ignorant = fit_sets(labels, p, 0.9, groups), fit_sets(labels, p, 0.9)
    fresh = draw(rng, 4000, 20, [0.5, 0.5])
    right, wrong = (judge_sets(r, *fresh).coverage.value for r in (knowing, ignorant))
    assert abs(right - 0.9) < 0.03  # type: ignore[operator]
    assert abs(wrong - 0.9) > 0.04  # type: ignore[operator]


def test_a_rare_class_is_covered_like_a_frequent_one() -> None:
    rng = np.random.default_rng(2)
    labels, p, _ = draw(rng, 3000, 1, [0.9, 0.1])
    p = softmax(np.log(p) + np.array([3.0, 0.0]))  # a model that hardly ever names the rare class
    rule = fit_sets(labels[:1000], p[:1000])
    assert rule.per_class
    seen = judge_sets(rule, labels[1000:], p[1000:])
    for metric in seen.of_class:
        assert metric.low is not None and metric.high is not None
        assert metric.low <= 0.93 and metric.high >= 0.87
    pooled = SetRule(0.9, (group_quantile_of(labels, p),) * 2, False, True, 1000, 1000, "")
    rare = judge_sets(pooled, labels[1000:], p[1000:]).of_class[1].value
    assert rare is not None and rare < 0.8


def group_quantile_of(labels: np.ndarray, p: np.ndarray) -> float:
    some = np.arange(1000)
    return 1 - group_quantile(1 - p[some, labels[some]], some, 0.9)


def test_too_few_images_of_one_class_are_calibrated_together() -> None:
    rng = np.random.default_rng(3)
    labels, p, _ = draw(rng, 60, 1, [0.5, 0.5])
    labels[:60] = 0
    labels[:8] = 1
    rule = fit_sets(labels, p)
    assert not rule.per_class and "8 independent images, 9 are needed" in rule.sentence
    labels[8] = 1
    assert fit_sets(labels, p).per_class
    copies = np.arange(60)
    copies[8] = 7  # the ninth is a copy of the eighth
    assert not fit_sets(labels, p, groups=copies).per_class


@pytest.mark.parametrize(("n", "coverage", "rank"), [(9, 0.9, 9), (19, 0.95, 19), (100, 0.9, 91)])
def test_the_quantile_is_the_order_statistic_of_the_textbook(
    n: int, coverage: float, rank: int
) -> None:
    scores = np.random.default_rng(n).permutation(n).astype(float) + 1
    assert group_quantile(scores, np.arange(n), coverage) == rank
    assert group_quantile(scores[: rank - 1], np.arange(rank - 1), 1 - 1 / (n + 2)) == np.inf


def test_copies_of_an_image_change_nothing() -> None:
    rng = np.random.default_rng(4)
    labels, p, groups = draw(rng, 80, 1, [0.5, 0.5])
    often = np.repeat(np.arange(80), rng.integers(1, 9, 80))
    once, many = fit_sets(labels, p, 0.8, groups), fit_sets(labels[often], p[often], 0.8, often)
    assert many.least == once.least and many.groups == once.groups == 80


def test_a_set_is_never_empty_and_more_coverage_never_makes_it_smaller() -> None:
    rng = np.random.default_rng(5)
    labels, p, _ = draw(rng, 500, 1, [0.4, 0.3, 0.3])
    sets = [predict_sets(fit_sets(labels, p, c), p) for c in (0.3, 0.6, 0.9, 0.98)]
    assert all(inside.any(1).all() for inside in sets)
    for small, large in pairwise(sets):
        assert (small <= large).all()


def test_out_of_fold_scores_are_called_approximate() -> None:
    labels, p = np.array([0, 1] * 20), np.tile([[0.8, 0.2], [0.3, 0.7]], (20, 1))
    assert "approximate" in fit_sets(labels, p).sentence
    assert "approximate" not in fit_sets(labels, p, out_of_fold=False).sentence


def test_json_there_and_back_is_the_same_rule() -> None:
    rng = np.random.default_rng(6)
    labels, p, groups = draw(rng, 200, 3, [0.5, 0.5])
    rule = fit_sets(labels, p, 0.9, groups)
    text = json.dumps(sets_to_json(rule), allow_nan=False)
    assert sets_from_json(json.loads(text), classes=2) == rule


@pytest.mark.parametrize(
    "change", [{"least": [0.1]}, {"least": [0.1, 2.0]}, {"least": [0.1, float("nan")]}, {"coverage": 1}]
)  # fmt: skip
def test_stored_values_that_no_rule_has_are_refused(change: dict[str, object]) -> None:
    stored = sets_to_json(SetRule(0.9, (0.2, 0.3), True, True, 10, 10, ""))
    with pytest.raises(ArgumentError, match="do not fit the model"):
        sets_from_json(stored | change, classes=2)


def test_mistakes_are_named() -> None:
    p = np.tile([[0.8, 0.2], [0.3, 0.7]], (20, 1))
    labels = np.array([0, 1] * 20)
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        fit_sets(labels, p, 1.0)
    with pytest.raises(ArgumentError, match="at least 99 images"):
        fit_sets(labels, p, 0.99)
    with pytest.raises(ArgumentError, match="needs a group"):
        fit_sets(labels, p, 0.9, np.arange(3))
    with pytest.raises(ArgumentError, match="do not fit the prediction sets"):
        predict_sets(fit_sets(labels, p), np.ones((2, 3)) / 3)
