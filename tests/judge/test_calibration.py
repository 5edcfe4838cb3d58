"""Temperature, calibration error, reliability, Brier."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special
from sklearn import metrics as sk

from headstart.errors import ArgumentError
from headstart.judge.calibration import (
    brier,
    calibration_error,
    fit_temperature,
    predicted_loss_ratio,
    reliability,
    softmax,
)


def drawn(seed: int, n: int, c: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits [N, C] and labels drawn from their softmax: calibrated as they are."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, c))
    p = special.softmax(logits, axis=1)
    labels = (rng.random((n, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return logits, labels


def test_softmax_is_stable_and_scaled() -> None:
    logits = np.array([[1e4, 0.0, -1e4], [0.1, 0.2, 0.3]], dtype=np.float32)
    p = softmax(logits, 2.0)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p, special.softmax(logits.astype(float) / 2, axis=1), atol=1e-15)
    with pytest.raises(ArgumentError):
        softmax(logits, 0.0)


@pytest.mark.parametrize("planted", [0.4, 2.5, 6.0])
def test_recovers_a_planted_temperature(planted: float) -> None:
    logits, labels = drawn(1, 4000, 5)
    found = fit_temperature(logits * planted, labels, np.arange(4000) % 5)
    assert not found.kept_at_one
    assert found.value == pytest.approx(planted, rel=0.06)
    assert found.nll_after < found.nll_before
    own = special.log_softmax(logits * planted, axis=1)[np.arange(4000), labels]
    assert found.nll_before == pytest.approx(-own.mean())


@pytest.mark.parametrize("seed", range(8))
def test_stays_at_one_when_calibrated(seed: int) -> None:
    logits, labels = drawn(seed, 300, 3)
    found = fit_temperature(logits, labels, np.arange(300) % 5)
    assert found.kept_at_one and found.value == 1
    assert found.nll_before == found.nll_after
    assert "needs no correction" in found.reason or "left as it is" in found.reason


def test_a_gain_of_less_than_two_standard_errors_is_not_taken() -> None:
    """On so few images the luck of the draw gains as much, and costs it on other images."""
    logits, labels = drawn(2, 150, 3)
    found = fit_temperature(1.5 * logits, labels, np.arange(150) % 5)
    gain, error = (float(x) for x in re.findall(r"(?:loss|error) (\d\.\d+)", found.reason))
    assert error < gain < 2 * error
    assert re.fullmatch(
        r"Its confidence needs no correction: a temperature of \d\.\d{3} would bring nothing "
        r"measurable \(cross-fitted loss \S+ lower, standard error \S+\)\.",
        found.reason,
    )
    assert found.value == 1
    logits, labels = drawn(12, 150, 3)
    taken = fit_temperature(1.5 * logits, labels, np.arange(150) % 5)
    assert taken.value > 1.5
    assert taken.reason.startswith("It was too sure of itself; a temperature of 1.")


def grouped(seed: int, groups: int, alike: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Calibrated logits [300, 2] and labels; this share of a group's images are one another's copies."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), 300 // groups)
    copies = rng.random(300) < alike
    z = np.where(copies, rng.normal(0, 2, groups)[group], rng.normal(0, 2, 300))
    u = np.where(copies, rng.random(groups)[group], rng.random(300))
    return np.stack([-z / 2, z / 2], axis=1), (u < special.expit(z)).astype(np.int64)


@pytest.mark.parametrize(("groups", "alike"), [(30, 1.0), (3, 0.3)])
def test_ten_images_alike_are_no_ten_reasons_to_correct_the_confidence(
    groups: int, alike: float
) -> None:
    group = np.repeat(np.arange(groups), 300 // groups)
    taken = {"as images": 0, "as groups": 0}
    for seed in range(60):
        logits, labels = grouped(seed, groups, alike)
        folds = group % 5
        taken["as images"] += not fit_temperature(logits, labels, folds).kept_at_one
        taken["as groups"] += not fit_temperature(logits, labels, folds, group).kept_at_one
    assert taken["as images"] > taken["as groups"] == 0


def test_many_groups_still_show_a_planted_temperature_and_one_shows_none() -> None:
    group = np.repeat(np.arange(60), 5)
    logits, labels = grouped(0, 60, 0.5)
    found = fit_temperature(3 * logits, labels, group % 5, group)
    assert found.value > 1.5
    alone = fit_temperature(3 * logits, labels, group % 5, 0 * group)
    assert alone.kept_at_one and "one group" in alone.reason
    each = np.arange(300)
    plain = fit_temperature(3 * logits, labels, group % 5)
    assert fit_temperature(3 * logits, labels, group % 5, each) == plain
    with pytest.raises(ArgumentError, match="needs a group"):
        fit_temperature(logits, labels, group % 5, [1])


def test_stays_at_one_without_mistakes_or_folds() -> None:
    logits, labels = drawn(2, 60, 3)
    sure = 0.1 * np.eye(3)[labels]
    found = fit_temperature(sure, labels, np.arange(60) % 3)
    assert found.kept_at_one and "mistakes" in found.reason
    found = fit_temperature(5 * logits, labels, np.zeros(60, dtype=int))
    assert found.kept_at_one and "one fold" in found.reason


def test_shift_of_logits_changes_nothing() -> None:
    logits, labels = drawn(5, 500, 4)
    folds = np.arange(500) % 5
    one = fit_temperature(3 * logits, labels, folds)
    two = fit_temperature(3 * logits + 1e3, labels, folds)
    assert one.value == pytest.approx(two.value, rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels", "folds"),
    [
        ([[0.0, np.inf]], [0], [0]),
        ([[0.0, 1.0]], [2], [0]),
        ([[0.0, 1.0]], [1], [0, 1]),
        ([0.0, 1.0], [1], [0]),
        ([[0.0]], [0], [0]),
    ],
)
def test_refuses_what_does_not_fit(logits: object, labels: object, folds: object) -> None:
    with pytest.raises(ArgumentError):
        fit_temperature(logits, labels, folds)  # type: ignore[arg-type]


def test_reliability_has_equal_masses() -> None:
    logits, labels = drawn(3, 600, 4)
    p = special.softmax(logits, axis=1)
    found = reliability(labels, p, bins=15)
    assert found.count == (40,) * 15
    assert list(found.confidence) == sorted(found.confidence)
    shares = np.average(found.accuracy, weights=found.count)
    assert shares == pytest.approx((p.argmax(1) == labels).mean())


def test_ties_share_a_bin_so_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    top = rng.choice([0.6, 0.7, 0.9], 50)
    p, labels = np.stack([top, 1 - top], axis=1), rng.integers(0, 2, 50)
    order = rng.permutation(50)
    one, two = reliability(labels, p), reliability(labels[order], p[order])
    assert len(one.count) == 3 and sum(one.count) == 50
    assert one.count == two.count
    assert one.accuracy == pytest.approx(two.accuracy)
    with pytest.raises(ArgumentError):
        reliability(labels, p, bins=0)


def test_calibration_error_by_hand() -> None:
    p = np.array([[0.6, 0.4]] * 4 + [[0.9, 0.1]] * 4)
    labels = np.array([0, 0, 0, 1, 0, 0, 1, 1])
    assert calibration_error(labels, p, bins=2) == pytest.approx((0.15 + 0.4) / 2)
    squared = (0.15**2 - 0.1875 / 3 + 0.4**2 - 0.25 / 3) / 2
    assert calibration_error(labels, p, 2, debiased=True) == pytest.approx(np.sqrt(squared))


def test_debiased_error_vanishes_where_the_plain_one_does_not() -> None:
    plain, debiased = [], []
    for seed in range(30):
        logits, labels = drawn(seed, 300, 3)
        p = special.softmax(logits, axis=1)
        plain.append(calibration_error(labels, p))
        debiased.append(calibration_error(labels, p, debiased=True))
    assert np.mean(plain) > 0.05 > np.mean(debiased)
    logits, labels = drawn(1, 5000, 3)
    assert calibration_error(labels, special.softmax(4 * logits, axis=1), debiased=True) > 0.1


@pytest.mark.parametrize("c", [2, 5])
def test_brier_equals_sklearn(c: int) -> None:
    logits, labels = drawn(c, 200, c)
    p = special.softmax(logits, axis=1)
    assert brier(labels, p) == pytest.approx(((p - np.eye(c)[labels]) ** 2).sum(1).mean())
    if c == 2:
        assert brier(labels, p) == pytest.approx(2 * sk.brier_score_loss(labels, p[:, 1]))


def test_predicted_loss_ratio_grows_with_mistakes() -> None:
    p = special.softmax(drawn(7, 100, 4)[0] * 3, axis=1)
    few, some, many = (predicted_loss_ratio(p, k) for k in (0, 30, 60))
    assert few <= some < many
    losses = -np.log(p)
    mean, square = (p * losses).sum(1).mean(), (p * losses**2).sum(1).mean()
    assert (1 - p.max(axis=1)).mean() > 1 / 102, "the untempered case is meant"
    assert few == pytest.approx((square - mean**2) / mean)
