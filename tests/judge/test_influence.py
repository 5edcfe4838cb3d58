"""What one image adds to a score, and what its group makes of the interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from headstart.judge.influence import KINDS, WIDEST, correlation, influence, widening
from headstart.judge.metrics import accuracy, auc, balanced_accuracy, log_loss


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return softmax(rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[labels], axis=1), labels


def test_values_are_those_of_the_metrics_and_influences_sum_to_nothing() -> None:
    p, labels = drawn(0, 150)
    for score in (accuracy, balanced_accuracy, log_loss, auc):
        found = influence(score.__name__, p, labels)
        sign = -1 if score is log_loss else 1
        assert sign * found.value == pytest.approx(score(labels, p).value, abs=1e-9)
        assert abs(found.influence.sum()) < 1e-9


@pytest.mark.parametrize("name", KINDS)
def test_doubled_images_widen_by_the_root_of_two(name: str) -> None:
    p, labels = drawn(1, 2000)
    twice = np.repeat(np.arange(2000), 2)
    assert widening(name, p[twice], labels[twice], twice) == pytest.approx(2**0.5, rel=0.02)


def test_groups_of_one_widen_nothing_and_one_group_knows_nothing() -> None:
    p, labels = drawn(2, 60)
    assert widening("accuracy", p, labels, np.arange(60)) == 1.0
    assert widening("accuracy", p, labels, np.zeros(60)) == WIDEST


def test_no_mistake_does_not_make_groups_harmless() -> None:
    labels = np.arange(100) % 2
    p = np.eye(2)[labels] * 0.8 + 0.1
    assert widening("accuracy", p, labels, np.arange(100) // 5) > 2


def test_correlation_of_a_score_with_itself_is_one() -> None:
    p, labels = drawn(3, 80)
    moves = influence("accuracy", p, labels).influence
    assert correlation(moves, moves) == pytest.approx(1)
    assert correlation(moves, -moves, np.arange(80) // 4) == pytest.approx(-1)
    assert correlation(moves, np.zeros(80)) == 0
