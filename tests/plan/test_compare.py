"""Equal strategies are called different in about 5 of 100 comparisons, all pairs taken together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.plan.compare import compare_pairs, images_needed, prefer, reached
from headstart.plan.criterion import Criterion, Value, evaluate

ACCURACY = Criterion("accuracy", "accuracy")


def answers(
    rng: np.random.Generator, rates: NDArray[Any], n: int, groups: NDArray[np.int64]
) -> dict[str, Value]:
    """Strategies that err on the same hard images more often than on others; groups are alike."""
    labels = rng.integers(0, 2, n)
    hard = rng.normal(size=len(np.unique(groups)))[groups]
    found = {}
    for k, rate in enumerate(rates):
        own = rng.normal(size=len(np.unique(groups)))[groups]
        right = (hard + own) / np.sqrt(2) < rate
        scores = np.zeros((n, 2))
        scores[np.arange(n), np.where(right, labels, 1 - labels)] = 1.0
        found[f"s{k}"] = evaluate(ACCURACY, scores, labels)
    return found


@pytest.mark.parametrize("images_of_a_group", [1, 3])
def test_equal_strategies_are_rarely_called_different(images_of_a_group: int) -> None:
    rng, wrong, repeats = np.random.default_rng(0), 0, 200
    groups = np.repeat(np.arange(120), images_of_a_group)
    for k in range(repeats):
        values = answers(rng, np.full(6, 0.9), len(groups), groups)
        wrong += any(pair.real for pair in compare_pairs(values, groups, seed=k).pairs)
    # 95 % of binomial(200, .05) lies between 4 and 17.
    assert 4 <= wrong <= 17


def test_every_interval_covers_its_true_difference_at_once() -> None:
    from scipy.stats import norm

    rng, held, repeats = np.random.default_rng(1), 0, 200
    rates = np.array([0.3, 0.6, 1.0, 1.2])
    truth = norm.cdf(rates)
    for k in range(repeats):
        values = answers(rng, rates, 200, np.arange(200))
        pairs = compare_pairs(values, np.arange(200), seed=k).pairs
        held += all(
            p.low <= truth[int(p.first[1])] - truth[int(p.second[1])] <= p.high for p in pairs
        )
    assert held / repeats >= 0.91


def test_a_large_difference_is_real_and_named() -> None:
    rng, groups = np.random.default_rng(0), np.arange(300)
    values = answers(rng, np.array([1.5, -0.5, -0.5]), 300, groups)
    found = compare_pairs(values, groups)
    assert [pair.real for pair in found.pairs] == [True, True, False]
    assert found.sentence.endswith("s0 is above s1 and s2; luck can explain the other 1.")


def test_those_that_beat_the_same_are_named_together() -> None:
    values = answers(np.random.default_rng(0), np.array([1.5, 1.5, -0.5]), 300, np.arange(300))
    assert "s0 and s1 are each above s2" in compare_pairs(values, np.arange(300)).sentence


def test_the_seed_decides_and_wider_is_wider() -> None:
    groups = np.arange(80)
    values = answers(np.random.default_rng(0), np.array([0.5, 0.8]), 80, groups)
    once, again = (compare_pairs(values, groups, seed=3) for _ in range(2))
    assert once == again
    wide = compare_pairs(values, groups, wider_by=1.5, seed=3).pairs[0]
    narrow = once.pairs[0]
    assert wide.high - wide.low == pytest.approx(1.5 * (narrow.high - narrow.low))


def test_two_strategies_with_the_same_answers_do_not_differ() -> None:
    groups = np.arange(50)
    one = answers(np.random.default_rng(0), np.array([0.5]), 50, groups)["s0"]
    found = compare_pairs({"a": one, "b": one}, groups)
    assert not found.pairs[0].real
    assert "No difference is real" in found.sentence


def test_the_simplest_within_one_standard_error_is_preferred_and_called_so() -> None:
    noise = np.random.default_rng(0).normal(size=(3, 100)) / 100
    values = {
        name: Value(score, row)
        for name, score, row in zip("abc", (0.5, 0.895, 0.9), noise, strict=True)
    }
    name, sentence = prefer(values, np.arange(100))
    assert name == "b"
    assert "preference, no difference" in sentence
    assert prefer({"c": values["c"], "b": values["b"]}, np.arange(100))[0] == "c"


def test_images_needed_lie_between_the_sizes_around_the_target() -> None:
    rng, sizes = np.random.default_rng(0), [10, 20, 40, 80]
    noise = rng.normal(size=(5, 200)) * 0.0005
    curve = [Value(v, row) for v, row in zip((0.5, 0.6, 0.7, 0.8), noise, strict=False)]
    found = images_needed(sizes, curve, Value(0.65, noise[4]), np.arange(200))
    assert found.n == pytest.approx(np.sqrt(20 * 40))
    assert found.low is not None and found.high is not None
    assert 15 < found.low < found.n < found.high < 60
    assert not found.at_most
    beyond = images_needed(sizes, curve, Value(0.95, noise[4]), np.arange(200))
    assert (beyond.n, beyond.low, beyond.high) == (None, None, None)
    below = images_needed(sizes, curve, Value(0.4, noise[4]), np.arange(200))
    assert below.at_most
    assert below.n == 10


def test_a_score_that_is_never_reached_is_said_to_be() -> None:
    assert reached([0.5, None, 0.6], [1.0, 1.0, 1.0], 4, 0.7) is None
    found = reached([0.5, None, 0.7], [1.0, 2.0, 3.0], 4, 0.7)
    assert found is not None
    assert (found.epoch, found.steps, found.seconds) == (3, 12, 6.0)
