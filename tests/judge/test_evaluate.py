"""The record of an evaluation and its JSON."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn import metrics as sk

from headstart.errors import ArgumentError
from headstart.judge.calibration import Temperature
from headstart.judge.evaluate import Evaluation, evaluate, per_class, resolvable, to_json

NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auc")


def drawn(seed: int, n: int, c: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, c, n)
    return softmax(rng.normal(size=(n, c)) + 1.5 * np.eye(c)[labels], axis=1), labels


def named(c: int) -> list[str]:
    return [f"class {k}" for k in range(c)]


def strict(found: Evaluation) -> dict[str, object]:
    text = json.dumps(to_json(found), allow_nan=False)
    loaded = json.loads(text)
    assert loaded == to_json(found)
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(("n", "c"), [(1, 2), (1, 3), (2, 2), (40, 2), (200, 7), (30, 50)])
def test_json_keeps_the_contract(n: int, c: int) -> None:
    p, labels = drawn(n, n, c)
    found = strict(evaluate(p, labels, named(c), "test part"))
    assert set(found) == {
        "n", "protocol", "protocols", "metrics", "per_class", "confusion", "classes", "calibration",
        "resolvable",
    }  # fmt: skip
    metrics, rows, table = found["metrics"], found["per_class"], found["confusion"]
    assert isinstance(metrics, list) and isinstance(rows, list)
    assert tuple(m["name"] for m in metrics) == NAMES
    assert all(set(m) == {"name", "value", "low", "high", "n", "method"} for m in metrics)
    assert [row["name"] for row in rows] == named(c)
    assert np.array(table).shape == (c, c) and np.sum(table) == n == found["n"]


def test_absent_class_is_none_with_a_reason() -> None:
    p = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]])
    found = evaluate(p, [0, 1, 1], named(3), "test part")
    absent = found.per_class[2]
    assert absent.support == 0
    for metric in (absent.precision, absent.recall, absent.f1, absent.auc):
        assert metric.value is None and metric.low is None and metric.high is None
        assert metric.method.startswith("undefined: ")
    strict(found)


def test_one_class_only() -> None:
    p, _ = drawn(0, 20, 2)
    found = evaluate(p, np.zeros(20, dtype=int), named(2), "test part")
    assert found.metrics[-1].value is None and found.metrics[0].value is not None
    assert found.per_class[0].auc.value is None
    strict(found)


def test_all_sure_and_all_wrong() -> None:
    labels = np.array([0, 1] * 10)
    for p, score in ((np.eye(2)[labels], 1.0), (np.eye(2)[1 - labels], 0.0)):
        found = evaluate(p, labels, named(2), "test part")
        strict(found)
        assert found.metrics[0].value == score


@pytest.mark.parametrize("c", [2, 6])
def test_per_class_equals_sklearn(c: int) -> None:
    p, labels = drawn(3, 150, c)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, p.argmax(1), labels=range(c), zero_division=0
    )
    for k, row in enumerate(per_class(labels, p)):
        area = sk.roc_auc_score(labels == k, p[:, k])
        metrics = (row.precision, row.recall, row.f1, row.auc)
        assert [m.value for m in metrics] == pytest.approx(
            [precision[k], recall[k], f1[k], area], abs=1e-9
        )
        assert row.index == k and row.support == support[k]
        for m in metrics:
            assert m.low is not None and m.value is not None and m.high is not None
            assert 0 <= m.low <= m.value <= m.high <= 1


def test_per_class_f1_covers() -> None:
    rng, draws, hits = np.random.default_rng(5), 300, np.zeros(3)
    cells = np.array([[0.45, 0.03, 0.02], [0.03, 0.25, 0.02], [0.01, 0.01, 0.18]])
    truth = 2 * np.diag(cells) / (cells.sum(0) + cells.sum(1))
    for _ in range(draws):
        cell = rng.choice(9, size=120, p=cells.ravel())
        for k, row in enumerate(per_class(cell // 3, np.eye(3)[cell % 3])):
            assert row.f1.low is not None and row.f1.high is not None
            hits[k] += row.f1.low <= truth[k] <= row.f1.high
    assert hits.mean() / draws >= 0.94 and hits.min() / draws >= 0.90


def test_temperature_and_protocol_are_written_down() -> None:
    p, labels = drawn(1, 30, 2)
    warm = Temperature(1.4, 0.7, 0.6, False, "better")
    found = to_json(evaluate(p, labels, named(2), "5-fold cross-validation", warm))
    assert found["protocol"] == "5-fold cross-validation"
    assert found["calibration"]["temperature"] == 1.4
    assert set(found["calibration"]) == {
        "ece", "rms_debiased", "brier", "temperature", "sentence", "held_out_log_loss",
        "reliability",
    }  # fmt: skip
    assert sum(row["n"] for row in found["calibration"]["reliability"]) == 30


def test_float32_input_is_fine_and_names_must_fit() -> None:
    p, labels = drawn(2, 500, 10)
    one = evaluate(p.astype(np.float32), labels.astype(np.int16), named(10), "test part")
    two = evaluate(p, labels, named(10), "test part")
    assert one.metrics[3].value == pytest.approx(two.metrics[3].value, abs=1e-6)
    with pytest.raises(ArgumentError, match="class name"):
        evaluate(p, labels, named(9), "test part")


@pytest.mark.parametrize(("n", "c", "limit_s"), [(10_000, 1000, 3), (100_000, 10, 5)])
def test_is_fast(n: int, c: int, limit_s: float) -> None:
    p, labels = drawn(0, n, c)
    start = time.process_time()
    evaluate(p, labels, named(c), "test part")
    assert time.process_time() - start < limit_s


# -- what the images can show ------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "accuracy"), [(100, 0.7), (300, 0.9), (2000, 0.95)])
def test_mcnemars_test_finds_the_resolvable_difference_in_four_of_five_draws(
    n: int, accuracy: float
) -> None:
    found = resolvable(n, accuracy)
    assert found.points is not None
    gain, discordance = found.points / 100, found.discordance
    shares = [(discordance + gain) / 2, (discordance - gain) / 2, 1 - discordance]
    better, worse, _ = np.random.default_rng(n).multinomial(n, shares, 20_000).T
    statistic = (better - worse) ** 2 / np.maximum(better + worse, 1)
    assert 0.79 < (statistic > 3.8415).mean() < 0.845


@pytest.mark.parametrize(("n", "accuracy"), [(100, 0.7), (300, 0.9), (2000, 0.95)])
def test_two_samples_find_the_unpaired_difference_in_four_of_five_draws(
    n: int, accuracy: float
) -> None:
    found = resolvable(n, accuracy)
    assert found.points is not None and found.unpaired_points is not None
    level = (accuracy * n + 2) / (n + 4)
    rng = np.random.default_rng(n)
    a = rng.binomial(n, level, 20_000) / n
    b = rng.binomial(n, level - found.unpaired_points / 100, 20_000) / n
    pooled = (a + b) / 2
    z = np.abs(a - b) / np.sqrt(np.maximum(2 * pooled * (1 - pooled) / n, 1e-12))
    assert (z > 1.96).mean() == pytest.approx(0.80, abs=0.025)
    assert found.unpaired_points > found.points


def test_more_images_resolve_more_and_a_perfect_score_does_not_resolve_everything() -> None:
    points = [resolvable(n, 0.9).points or 100 for n in (1, 5, 10, 30, 100, 1000, 10**6)]
    assert points == sorted(points, reverse=True)
    assert (resolvable(100, 1.0).points or 0) > 5
    assert resolvable(2, 0.5).points is None
    assert "cannot show any difference" in resolvable(2, 0.5).sentence
    told = resolvable(60, 0.85)
    assert told.points == pytest.approx(13, abs=0.5)
    assert told.sentence == (
        "With 60 images, two models must differ by about 13 points of accuracy before a test is "
        "likely to show it."
    )
    assert "by about 1.1 points" in resolvable(2000, 0.97).sentence


@pytest.mark.parametrize(("n", "accuracy"), [(0, 0.5), (10, 1.5), (10, float("nan"))])
def test_impossible_scores_resolve_nothing(n: int, accuracy: float) -> None:
    with pytest.raises(ArgumentError):
        resolvable(n, accuracy)


def test_every_figure_of_the_record_has_one_protocol() -> None:
    p, labels = drawn(0, 40, 3)
    warm = Temperature(1.2, 0.5, 0.4, False, "it helps")
    found = to_json(evaluate(p, labels, named(3), "test part", warm))
    first, second = found["protocols"]
    assert first["protocol"] == found["protocol"] == "test part"
    assert second["figures"] == ["calibration.temperature", "calibration.held_out_log_loss"]
    named_ones = {f.split(".")[-1] for row in found["protocols"] for f in row["figures"]}
    assert set(found["calibration"]) - named_ones == {"sentence"}
    assert {"metrics", "per_class", "confusion"} < named_ones
    assert len(to_json(evaluate(p, labels, named(3), "test part"))["protocols"]) == 1
