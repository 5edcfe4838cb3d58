"""Scores equal scikit-learn's; intervals cover what they promise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import norm
from sklearn import metrics as sk

from headstart.errors import ArgumentError
from headstart.judge.metrics import (
    Metric,
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

Array = NDArray[np.float64]
SCORES = (accuracy, balanced_accuracy, macro_f1, log_loss, auc)


def simulated(
    rng: np.random.Generator, labels: NDArray[np.int64], class_count: int, signal: float
) -> Array:
    """Calibrated probabilities [N, C] of a Gaussian one-hot signal."""
    evidence = rng.normal(size=(len(labels), class_count)) + signal * np.eye(class_count)[labels]
    return softmax(signal * evidence, axis=1)


def coarse(weights: Array) -> Array:
    """Probabilities with many ties."""
    return weights / weights.sum(axis=1, keepdims=True)


def cases() -> list[tuple[NDArray[np.int64], Array]]:
    found = []
    for seed, (n, c) in enumerate([(1, 2), (7, 2), (40, 3), (200, 2), (300, 12), (30, 20)]):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, c, n)
        found.append((labels, simulated(rng, labels, c, 1.0)))
        found.append((labels, coarse(rng.integers(1, 4, (n, c)).astype(float))))
    labels = np.array([0, 2, 2, 0, 0])  # class 1 and class 3 absent
    found.append((labels, simulated(np.random.default_rng(9), labels, 4, 0.5)))
    return found


def assert_like_sklearn(labels: NDArray[np.int64], p: Array) -> None:
    n, c = p.shape
    predicted, present = p.argmax(axis=1), np.unique(labels)
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.recall_score(
            labels, predicted, labels=present, average="macro", zero_division=0
        ),
        "macro_f1": sk.f1_score(labels, predicted, average="macro", zero_division=0),
        "log_loss": sk.log_loss(labels, p, labels=range(c)),
    }
    if len(present) > 1:
        columns = [1] if c == 2 else present
        expected["auc"] = np.mean([sk.roc_auc_score(labels == k, p[:, k]) for k in columns])
    for score in SCORES:
        found = score(labels, p)
        assert found.n == n
        if found.name not in expected:
            assert found.value is None and found.low is None and found.high is None
            assert found.method == "undefined: one class absent"
            continue
        assert found.value == pytest.approx(expected[found.name], abs=1e-9)
        if found.low is not None and found.high is not None:
            assert 0 <= found.low <= found.value <= found.high
            assert found.name == "log_loss" or found.high <= 1


@pytest.mark.parametrize("case", range(len(cases())))
def test_equal_to_sklearn(case: int) -> None:
    assert_like_sklearn(*cases()[case])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equal_to_sklearn_on_anything(data: st.DataObject) -> None:
    n, c = data.draw(st.integers(1, 25)), data.draw(st.integers(2, 5))
    labels = data.draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n))
    weights = data.draw(
        st.lists(
            st.lists(st.integers(1, 3), min_size=c, max_size=c),
            min_size=n,
            max_size=n,
        )
    )
    assert_like_sklearn(np.array(labels), coarse(np.array(weights, dtype=float)))


def test_macro_auc_and_confusion_equal_sklearn() -> None:
    labels, p = cases()[4]
    expected = sk.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    assert auc(labels, p).value == pytest.approx(expected, abs=1e-9)
    table = sk.confusion_matrix(labels, p.argmax(1), labels=range(3))
    assert (confusion(labels, p.argmax(1), 3) == table).all()


def test_log_loss_clips_like_sklearn() -> None:
    labels, p = [0, 1, 1], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    found = log_loss(labels, p)
    assert found.value == pytest.approx(sk.log_loss(labels, p), abs=1e-9)
    assert found.high is not None and np.isfinite(found.high)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_newcombe_1998_table_1(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_level_and_errors() -> None:
    assert wilson(8, 10, 0.99)[0] < wilson(8, 10)[0] < wilson(8, 10, 0.5)[0]
    for k, n in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ArgumentError):
            wilson(k, n)


def brute_force(labels: NDArray[np.int64], p: Array) -> tuple[Array, Array, float]:
    """AUCs, DeLong's variances and the variance of their mean, all pairs written out."""
    n, columns = len(labels), range(p.shape[1])
    areas, influences = [], []
    for c in columns:
        inside, outside = np.flatnonzero(labels == c), np.flatnonzero(labels != c)
        wins = np.array(
            [[(p[i, c] > p[j, c]) + (p[i, c] == p[j, c]) / 2 for j in outside] for i in inside]
        )
        area, influence = wins.mean(), np.zeros(n)
        m, r = wins.shape
        influence[inside] = (wins.mean(axis=1) - area) / np.sqrt(m * (m - 1))
        influence[outside] = (wins.mean(axis=0) - area) / np.sqrt(r * (r - 1))
        areas.append(area)
        influences.append(influence)
    covariance = np.array(influences) @ np.array(influences).T
    return np.array(areas), np.diag(covariance), float(covariance.mean())


@pytest.mark.parametrize(("n", "c", "ties"), [(30, 2, False), (30, 2, True), (45, 4, True)])
def test_delong_equals_all_pairs(n: int, c: int, ties: bool) -> None:
    rng = np.random.default_rng(n + c)
    labels = rng.integers(0, c, n)
    p = coarse(rng.integers(1, 4, (n, c)) + 2.0 * np.eye(c)[labels] * rng.integers(0, 2, (n, 1)))
    if not ties:
        p = simulated(rng, labels, c, 1.0)
    area, variance, mean_variance = brute_force(labels, p)
    found = one_vs_rest(labels, p)
    np.testing.assert_allclose(found.area, area, atol=1e-12)
    np.testing.assert_allclose(found.variance, variance, atol=1e-12)
    assert found.mean_variance == pytest.approx(mean_variance, abs=1e-12)


def test_delong_variance_is_the_covariance_formula() -> None:
    """S10 / m + S01 / n of DeLong, DeLong & Clarke-Pearson 1988, with sample variances."""
    labels, p = cases()[6]
    x, y = p[labels == 1, 1], p[labels == 0, 1]
    wins = (x[:, None] > y) + (x[:, None] == y) / 2
    expected = wins.mean(1).var(ddof=1) / len(x) + wins.mean(0).var(ddof=1) / len(y)
    assert one_vs_rest(labels, p).variance[1] == pytest.approx(expected, abs=1e-12)


def test_two_classes_are_the_mean_of_both_views() -> None:
    labels, p = cases()[6]
    parts, found = one_vs_rest(labels, p), auc(labels, p)
    low, high = class_auc_bounds(parts)
    assert parts.mean_variance == pytest.approx(parts.variance[1])
    assert (found.low, found.high) == pytest.approx((low[1], high[1]))


def test_perfect_scores_keep_a_width() -> None:
    labels = np.repeat([0, 1, 2], 10)
    p = np.eye(3)[labels] * 0.9 + 0.1 / 3
    for score in SCORES[:3] + SCORES[4:]:
        found = score(labels, p)
        assert found.value == pytest.approx(1) and found.high == pytest.approx(1)
        assert found.low is not None and 0.7 < found.low < 0.95
    wrong = np.roll(p, 1, axis=1)
    for score in SCORES[:3]:
        found = score(labels, wrong)
        assert found.value == 0 and found.low == 0
        assert found.high is not None and 0.05 < found.high < 0.3


def test_a_class_without_images_may_have_any_f1() -> None:
    """Nine of ten images right, the tenth taken for a class that is not there."""
    labels = np.repeat([0, 1], 5)
    p = np.eye(3)[[0, 0, 0, 0, 0, 1, 1, 1, 1, 2]]
    found, seen = macro_f1(labels, p), macro_f1(labels, np.eye(3)[labels])
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.value < 0.64 and found.high > 0.97
    assert seen.value == 1 and seen.high == 1


def test_auc_mirrors() -> None:
    labels, p = cases()[6]
    found, mirror = auc(labels, p), auc(labels, p[:, ::-1])
    ends = (found.value, found.low, found.high)
    assert None not in ends and None not in (mirror.value, mirror.low, mirror.high)
    assert [1 - float(v or 0) for v in (mirror.value, mirror.high, mirror.low)] == pytest.approx(
        [float(v or 0) for v in ends]
    )
    worst = auc([0, 0, 1, 1], [[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.8, 0.2]])
    assert (worst.value, worst.low) == (0, 0) and worst.high is not None and worst.high > 0.2


def test_a_lone_image_does_not_narrow_the_auc() -> None:
    rng = np.random.default_rng(4)
    labels = np.array([1] + [0] * 50)
    found = auc(labels, simulated(rng, labels, 2, 1.0))
    assert found.low is not None and found.high is not None and found.high - found.low > 0.5


@pytest.mark.parametrize("score", SCORES)
def test_invariant_to_names_and_order(score: Callable[..., Metric]) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 120)
    p = simulated(rng, labels, 5, 1.2)
    renamed, order = rng.permutation(5), rng.permutation(120)
    moved = np.empty_like(p)
    moved[:, renamed] = p
    one, two = score(labels, p), score(renamed[labels][order], moved[order])
    assert (one.value, one.low, one.high) == pytest.approx((two.value, two.low, two.high))


def holds(metric: Metric, truth: float) -> bool:
    assert metric.low is not None and metric.high is not None
    return metric.low - 1e-12 <= truth <= metric.high + 1e-12


def signal_for(target: float, class_count: int) -> tuple[float, dict[str, float]]:
    """The signal at which accuracy is the target, and all true scores there."""
    rng = np.random.default_rng(0)
    labels = np.arange(60_000) % class_count
    noise, low, high = rng.normal(size=(len(labels), class_count)), 0.0, 8.0
    for _ in range(14):
        signal = (low + high) / 2
        evidence = noise + signal * np.eye(class_count)[labels]
        value = float((evidence.argmax(1) == labels).mean())
        low, high = (signal, high) if value < target else (low, signal)
    p = softmax(signal * evidence, axis=1)
    return signal, {f(labels, p).name: float(f(labels, p).value or 0) for f in SCORES[:4]}


@pytest.mark.parametrize("class_count", [2, 4])
def test_coverage_of_classification_scores(class_count: int) -> None:
    """The bar: on average .94, nowhere below .90, each method by itself."""
    rng, draws = np.random.default_rng(class_count), 100
    covered: dict[str, list[float]] = {}
    for target in (0.7, 0.9, 0.97):
        signal, truth = signal_for(target, class_count)
        for n in (80, 150, 600):
            labels = np.arange(n) % class_count
            hits: dict[str, int] = {}
            for _ in range(draws):
                p = simulated(rng, labels, class_count, signal)
                for score in SCORES[:4]:
                    found = score(labels, p)
                    hits[found.name] = hits.get(found.name, 0) + holds(found, truth[found.name])
            for name, count in hits.items():
                covered.setdefault(name, []).append(count / draws)
    for name, shares in covered.items():
        assert np.mean(shares) >= 0.94 and min(shares) >= 0.90, (name, shares)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_coverage_of_auc(share: float) -> None:
    rng, draws, covered = np.random.default_rng(6), 150, []
    for target in (0.7, 0.9, 0.97):
        gap = np.sqrt(2) * norm.ppf(target)
        for n in (80, 150, 600):
            labels = (np.arange(n) < share * n).astype(int)
            hits = 0
            for _ in range(draws):
                chance = norm.cdf(rng.normal(size=n) + gap * labels)
                p = np.stack([1 - chance, chance], axis=1)
                hits += holds(auc(labels, p), target)
            covered.append(hits / draws)
    assert np.mean(covered) >= 0.94 and min(covered) >= 0.90, covered


def test_coverage_of_mean_auc_and_skewed_classes() -> None:
    rng, draws = np.random.default_rng(7), 200
    sizes = [80, 30, 10]
    labels = np.repeat([0, 1, 2], sizes)
    large = np.repeat([0, 1, 2], [400 * s for s in sizes])
    for signal in (1.0, 2.5):
        p = simulated(rng, large, 3, signal)
        truth = {f.__name__: float(f(large, p).value or 0) for f in SCORES}
        for score in SCORES:
            hits = sum(
                holds(score(labels, simulated(rng, labels, 3, signal)), truth[score.__name__])
                for _ in range(draws)
            )
            assert hits / draws >= 0.90, (score.__name__, signal, hits / draws)


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        ([], np.empty((0, 2))),
        ([0], [[1.0]]),
        ([0, 1], [[0.5, 0.5]]),
        ([2], [[0.5, 0.5]]),
        ([-1], [[0.5, 0.5]]),
        ([0.5], [[0.5, 0.5]]),
        (["a"], [[0.5, 0.5]]),
        ([0], [[np.nan, 0.5]]),
        ([0], [[3.0, -2.0]]),
        ([0], [[0.5, 0.9]]),
        ([0], [0.5, 0.5]),
    ],
)
def test_refuses_what_cannot_be_scored(labels: object, probabilities: object) -> None:
    for score in SCORES:
        with pytest.raises(ArgumentError):
            score(labels, probabilities)  # type: ignore[arg-type]
