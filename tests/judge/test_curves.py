"""Curves and their areas equal scikit-learn's; intervals cover; few points are stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import norm
from sklearn import metrics as sk

from headstart.errors import ArgumentError
from headstart.files import strict
from headstart.judge.curves import (
    MOST_POINTS,
    Curve,
    area_of,
    class_curves,
    curve,
    every_point,
    group_curve,
    precision_influence,
    to_json,
)
from headstart.judge.metrics import auc


def drawn(
    seed: int, n: int, classes: int = 3
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[str]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    p = softmax(rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels], axis=1)
    return labels, p, [f"class {c}" for c in range(classes)]


def assert_areas_like_sklearn(inside: NDArray[np.bool_], scores: NDArray[np.float64]) -> None:
    found = curve("x", scores, inside)
    if inside.all() or not inside.any():
        assert found.auc.value is None and found.average_precision.value is None
        return
    assert found.auc.value == pytest.approx(sk.roc_auc_score(inside, scores), abs=1e-9)
    precision = sk.average_precision_score(inside, scores)
    assert found.average_precision.value == pytest.approx(precision, abs=1e-9)
    for metric in (found.auc, found.average_precision):
        assert metric.value is not None and metric.low is not None and metric.high is not None
        assert 0 <= metric.low <= metric.value <= metric.high <= 1


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_areas_equal_sklearn_on_anything_with_ties(rows: list[tuple[int, bool]]) -> None:
    assert_areas_like_sklearn(np.array([r[1] for r in rows]), np.array([r[0] / 4 for r in rows]))


def test_every_class_and_every_group_of_classes_equals_sklearn() -> None:
    labels, p, names = drawn(0, 300, 4)
    for c, found in enumerate(class_curves(p, labels, names)):
        assert found.auc.value == pytest.approx(sk.roc_auc_score(labels == c, p[:, c]), abs=1e-9)
    for columns in ([0, 2], [1, 2, 3], [3]):
        found = group_curve(p, labels, columns, "some")
        inside = np.isin(labels, columns)
        assert_areas_like_sklearn(inside, p[:, columns].sum(1))
        assert found == curve("some", p[:, columns].sum(1), inside)


def test_points_equal_sklearn() -> None:
    labels, p, _ = drawn(1, 200)
    inside, scores = labels == 1, p[:, 1].round(2)
    threshold, sensitivity, specificity, precision = every_point(scores, inside)
    fpr, tpr, levels = sk.roc_curve(inside, scores, drop_intermediate=False)
    np.testing.assert_allclose(sensitivity, tpr, atol=1e-12)
    np.testing.assert_allclose(1 - specificity, fpr, atol=1e-12)
    np.testing.assert_allclose(threshold[1:], levels[1:], atol=1e-12)
    expected, recall, _ = sk.precision_recall_curve(inside, scores)
    np.testing.assert_allclose(precision[1:], expected[:-1][::-1], atol=1e-12)
    np.testing.assert_allclose(sensitivity[1:], recall[:-1][::-1], atol=1e-12)


def test_the_interval_of_a_class_is_that_of_the_metrics() -> None:
    labels, p, names = drawn(2, 120, 2)
    found, expected = class_curves(p, labels, names)[1].auc, auc(labels, p)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_few_points_are_kept_and_none_strays() -> None:
    rng = np.random.default_rng(3)
    inside = rng.random(20_000) < 0.3
    scores = rng.normal(size=20_000) + inside
    found = curve("x", scores, inside)
    assert len(found.threshold) <= 2 * MOST_POINTS + 2
    _, sensitivity, specificity, _ = every_point(scores, inside)
    at = np.interp(1 - specificity, 1 - np.array(found.specificity), found.sensitivity)
    assert np.abs(at - sensitivity).max() < 2 / MOST_POINTS
    assert found.sensitivity[0] == 0 and found.sensitivity[-1] == 1
    assert found.threshold[0] == np.inf and np.all(np.diff(found.threshold) < 0)


def test_a_perfect_ranking_keeps_a_width() -> None:
    found = curve("x", np.arange(40.0), np.arange(40) >= 20)
    for metric in (found.auc, found.average_precision):
        assert metric.value == pytest.approx(1) and metric.low is not None
        assert 0.7 < metric.low < 0.95


@pytest.mark.parametrize("ties", [False, True])
def test_influences_on_the_average_precision_are_its_slopes_in_the_weights(ties: bool) -> None:
    rng = np.random.default_rng(4)
    inside = rng.random(40) < 0.4
    scores = rng.normal(size=40) + 1.2 * inside
    scores = scores.round(0) if ties else scores
    value, influence = precision_influence(scores, inside)
    assert value == pytest.approx(sk.average_precision_score(inside, scores), abs=1e-12)
    step = 1e-6
    for i in range(40):
        weights = np.ones(40)
        weights[i] += step
        moved = sk.average_precision_score(inside, scores, sample_weight=weights)
        assert (moved - value) / step == pytest.approx(influence[i], abs=1e-5)


@pytest.mark.parametrize("target", [0.7, 0.97])
def test_area_coverage_with_groups(target: float) -> None:
    """Ten photos each of 40 lesions: the plain interval fails, that of the groups holds."""
    rng, draws = np.random.default_rng(5), 100
    plain = grouped = 0
    groups = np.repeat(np.arange(40), 10)
    inside = groups % 2 == 0
    for _ in range(draws):
        noise = np.sqrt(0.6) * rng.normal(size=40)[groups] + np.sqrt(0.4) * rng.normal(size=400)
        scores = noise + np.sqrt(2) * norm.ppf(target) * inside
        for given_groups in (None, groups):
            found = area_of(scores, inside, given_groups)
            assert found.low is not None and found.high is not None
            held = found.low <= target <= found.high
            plain += held and given_groups is None
            grouped += held and given_groups is not None
    assert plain / draws < 0.85
    assert grouped / draws >= 0.9


def test_groups_never_narrow_and_groups_of_one_change_nothing() -> None:
    labels, p, names = drawn(6, 150)
    plain = class_curves(p, labels, names)
    assert class_curves(p, labels, names, np.arange(150)) == plain
    for one, two in zip(plain, class_curves(p, labels, names, np.arange(150) // 5), strict=True):
        for name in ("auc", "average_precision"):
            narrow, wide = getattr(one, name), getattr(two, name)
            assert wide.value == narrow.value
            assert wide.low <= narrow.low and wide.high >= narrow.high


def test_cross_validated_areas_are_wider() -> None:
    labels, p, names = drawn(7, 150)
    for one, two in zip(
        class_curves(p, labels, names), class_curves(p, labels, names, wider_by=1.3), strict=True
    ):
        assert two.auc.low is not None and one.auc.low is not None and two.auc.low < one.auc.low
        assert "1.30 times as wide" in two.auc.method


def test_json_is_strict_and_says_what_the_curve_says() -> None:
    labels, p, names = drawn(8, 60)
    found = class_curves(p, labels, names)[0]
    read = json.loads(json.dumps(strict(to_json(found)), allow_nan=False))
    assert read["threshold"][0] is None
    assert read["sensitivity"] == pytest.approx(list(found.sensitivity), abs=1e-6)
    assert read["auc"]["value"] == found.auc.value


def test_a_class_without_images_has_no_sensitivity() -> None:
    found = class_curves([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], [0, 1], ["a", "b", "c"])[2]
    assert isinstance(found, Curve) and found.auc.value is None
    assert np.isnan(found.sensitivity).all() and not np.isnan(found.specificity).any()
    assert to_json(found)["sensitivity"][0] is None


@pytest.mark.parametrize("columns", [[], [0, 1, 2], [0, 0], [3], [-1]])
def test_refuses_sides_that_are_none(columns: list[int]) -> None:
    labels, p, _ = drawn(9, 20)
    with pytest.raises(ArgumentError, match="One side of a curve"):
        group_curve(p, labels, columns, "x")


def test_refuses_names_that_do_not_fit() -> None:
    labels, p, names = drawn(9, 20)
    with pytest.raises(ArgumentError, match="one class name"):
        class_curves(p, labels, names[:2])


def test_refuses_scores_that_do_not_fit() -> None:
    for scores, inside in (([], []), ([0.1], [True, False]), ([np.nan, 0.1], [True, False])):
        with pytest.raises(ArgumentError, match="one finite score"):
            curve("x", scores, inside)
