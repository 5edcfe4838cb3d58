"""Intervals know that images of one group are not independent."""

from __future__ import annotations

import numpy as np

from headstart.judge.evaluate import Evaluation, evaluate
from headstart.judge.grouped import CROSS_VALIDATED, cross_validated, widened, wider
from headstart.judge.influence import GROUPED, widening
from headstart.judge.metrics import Metric


def judged(seed: int, plants: int = 40, photos: int = 10) -> tuple[Evaluation, Evaluation]:
    """Two classes; a whole plant is easy or hard: without groups, and with them."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(plants), photos)
    labels = groups % 2
    right = rng.random(plants)[groups] < 0.8
    p = np.full((len(labels), 2), 0.3)
    p[np.arange(len(labels)), np.where(right, labels, 1 - labels)] = 0.7
    found = evaluate(p, labels, ["a", "b"], "test part")
    return found, widened(found, p, labels, groups)


def accuracy(evaluation: Evaluation) -> tuple[float, float]:
    metric = evaluation.metrics[0]
    assert metric.name == "accuracy" and metric.low is not None and metric.high is not None
    return metric.low, metric.high


def test_the_interval_covers_what_other_plants_would_show() -> None:
    plain = wide = 0
    for seed in range(200):
        without, knowing = judged(seed)
        plain += accuracy(without)[0] <= 0.8 <= accuracy(without)[1]
        wide += accuracy(knowing)[0] <= 0.8 <= accuracy(knowing)[1]
    assert plain < 0.7 * 200
    assert wide >= 0.92 * 200


def alike(seed: int, plants: int, photos: int, rho: float) -> tuple[Metric, Metric]:
    """Accuracy where photos of a plant are right together (correlation rho): without, with groups."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(plants), photos)
    labels = groups % 2
    chance = rng.beta(0.8 * (1 / rho - 1), 0.2 * (1 / rho - 1), plants)[groups]
    right = rng.random(len(groups)) < chance
    p = np.full((len(labels), 2), 0.3)
    p[np.arange(len(labels)), np.where(right, labels, 1 - labels)] = 0.7
    found = evaluate(p, labels, ["a", "b"], "test part")
    factor = widening("accuracy", p, labels, groups)
    after = widened(found, p, labels, groups).metrics[0]
    assert after == wider(found.metrics[0], factor, GROUPED)
    return found.metrics[0], after


def test_few_groups_get_an_interval_that_knows_how_few_they_are() -> None:
    """The spread over eight plants is a guess: taken as it is, it covers 82 % (of 300 draws)."""
    covered = 0
    for seed in range(200):
        _, after = alike(seed, plants=8, photos=10, rho=0.6)
        assert after.low is not None and after.high is not None
        covered += after.low <= 0.8 <= after.high
    assert covered >= 0.92 * 200


def test_without_groups_nothing_changes() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    p = rng.dirichlet([1, 1], 80)
    found = evaluate(p, labels, ["a", "b"], "test part")
    assert widened(found, p, labels, np.arange(80)) is found


def test_values_stay_and_no_interval_becomes_narrower() -> None:
    without, knowing = judged(3)
    for before, after in zip(without.metrics, knowing.metrics, strict=True):
        assert after.value == before.value
        assert after.low <= before.low and after.high >= before.high  # type: ignore[operator]
        assert "one draw" in after.method or after == before


def test_a_cross_validated_score_is_less_sure_than_that_of_a_test_part() -> None:
    found, _ = judged(0)
    again = cross_validated(found)
    low, high = accuracy(found)
    assert accuracy(again)[1] - accuracy(again)[0] > (CROSS_VALIDATED - 0.05) * (high - low)
    assert again.metrics[0].value == found.metrics[0].value
    assert all(
        0 <= m.low <= m.high for m in again.metrics if m.low is not None and m.high is not None
    )
