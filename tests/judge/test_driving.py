"""The score that drove the choices is always among those that are reported."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.judge.driving import with_driving
from headstart.judge.evaluate import evaluate
from headstart.plan.criterion import choose_criterion

NAMES = ["no", "yes"]


def drawn(n: int, seed: int, signal: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    margin = rng.normal(size=n) + signal * labels
    p = 1 / (1 + np.exp(-(margin - signal / 2)))
    return np.stack([1 - p, p], axis=1), labels


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "auc", "auc:yes", "sens@spec=0.9"])
def test_the_driving_score_is_among_the_scores_once(name: str) -> None:
    p, labels = drawn(200, 0)
    found = evaluate(p, labels, NAMES, "test part")
    again = with_driving(found, choose_criterion(name, labels, NAMES), p, labels)
    assert [m.name for m in again.metrics].count(name) == 1
    metric = next(m for m in again.metrics if m.name == name)
    assert metric.low is not None and metric.low < metric.value < metric.high


def test_sensitivity_at_a_specificity_covers_what_many_images_show() -> None:
    criterion = choose_criterion("sens@spec=0.9", np.array([0, 1]), NAMES)
    from scipy.stats import norm

    truth = norm.sf(norm.ppf(0.9) - 1.5)
    covered = 0
    for seed in range(200):
        p, labels = drawn(200, seed)
        metric = with_driving(evaluate(p, labels, NAMES, ""), criterion, p, labels).metrics[-1]
        covered += metric.low <= truth <= metric.high
    assert covered >= 0.9 * 200


def test_one_class_alone_has_no_such_score() -> None:
    p, labels = drawn(40, 0)
    criterion = choose_criterion("sens@spec=0.9", labels, NAMES)
    some = labels == 0
    found = with_driving(
        evaluate(p[some], labels[some], NAMES, ""), criterion, p[some], labels[some]
    )
    assert found.metrics[-1].value is None


def test_a_perfect_score_keeps_an_interval() -> None:
    p, labels = drawn(60, 0, signal=50.0)
    criterion = choose_criterion("sens@spec=0.9", labels, NAMES)
    found = with_driving(evaluate(p, labels, NAMES, ""), criterion, p, labels).metrics[-1]
    assert found.value == 1.0
    assert found.low < 0.99
