"""Equal strategies are called different in about 5 of 100 comparisons, all pairs taken together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.plan.compare import (
    ImagesNeeded,
    compare_pairs,
    images_needed,
    prefer,
    reached,
    saved_images,
)
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


def test_three_sites_rarely_call_equal_strategies_different() -> None:
    rng, wrong, repeats = np.random.default_rng(0), 0, 600
    groups = np.repeat(np.arange(3), 40)
    for k in range(repeats):
        sites = rng.normal(size=(2, 3))[:, groups] + rng.normal(size=(2, 120))
        moves = (sites - sites.mean(1, keepdims=True)) / 120 * np.sqrt(120 / 119)
        values = {
            name: Value(float(site.mean()), move)
            for name, site, move in zip("ab", sites, moves, strict=True)
        }
        wrong += compare_pairs(values, groups, seed=k).pairs[0].real
    # 95 % of binomial(600, .05) lies between 20 and 41.
    assert 20 <= wrong <= 41


def test_sites_that_agree_by_luck_make_no_difference_real() -> None:
    """At each of three sites one is right on 20 images, the other on 19."""
    groups, labels = np.repeat(np.arange(3), 20), np.zeros(60, np.int64)
    right = np.ones((60, 2)) * [1.0, 0.0]
    wrong = np.where((np.arange(60) % 20 == 0)[:, None], 1 - right, right)
    values = {k: evaluate(ACCURACY, v, labels) for k, v in (("all", right), ("most", wrong))}
    assert values["most"].se(groups) < 1e-9
    (pair,) = compare_pairs(values, groups).pairs
    assert not pair.real
    assert pair.high - pair.low > 0.1
    # .05 below the target, at a standard error of .03 that is known from three sites.
    found = images_needed([10, 40], [values["most"]] * 2, values["all"], groups)
    assert (found.n, found.low, found.high) == (None, 10, None)


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
    assert found.sentence == (
        "No difference can be shown: luck can explain it on 50 held-out images, at 95 %."
    )


def test_nothing_shown_is_said_with_the_images_and_groups_that_could_have_shown_it() -> None:
    groups = np.arange(30)
    values = answers(np.random.default_rng(0), np.full(3, 0.9), 30, groups)
    assert compare_pairs(values, groups).sentence == (
        "No difference can be shown: luck can explain each of the 3 pairs on 30 held-out images, "
        "all taken together at 95 %."
    )
    assert "on 30 held-out images of 10 groups" in compare_pairs(values, groups // 3).sentence
    alone = compare_pairs(values, 0 * groups)  # a single site shows no spread at all
    assert not any(pair.real for pair in alone.pairs)
    assert all(pair.low == -np.inf and pair.high == np.inf for pair in alone.pairs)


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


def test_few_groups_make_the_number_of_images_needed_less_sure() -> None:
    rng, sizes, covered, repeats = np.random.default_rng(0), [10, 20, 40, 80, 160], 0, 300
    groups = np.repeat(np.arange(3), 30)
    for k in range(repeats):
        sites = 0.02 * rng.normal(size=(6, 3))[:, groups]
        means = sites.mean(1)
        moves = (sites - means[:, None]) / 90 * np.sqrt(90 / 89)
        curve = [Value(0.5 + 0.1 * i + means[i], moves[i]) for i in range(5)]
        target = Value(0.65 + means[5], moves[5])
        found = images_needed(sizes, curve, target, groups, seed=k)
        assert found.low is not None
        covered += found.low <= np.sqrt(20 * 40) <= (found.high or np.inf)
    assert covered / repeats >= 0.93


def test_one_site_does_not_show_how_many_images_are_needed() -> None:
    still = np.zeros(20)
    curve = [Value(0.5, still), Value(0.9, still)]
    found = images_needed([10, 40], curve, Value(0.7, still), np.zeros(20, np.int64))
    assert found.n == pytest.approx(20)
    assert (found.low, found.high) == (None, None)


def test_what_is_saved_is_said_with_its_interval_or_that_nothing_is() -> None:
    never = ImagesNeeded(None, None, None, at_most=False)
    assert "none are saved" in saved_images("head_top", [10, 160], never)
    first = ImagesNeeded(10.0, 10.0, 10.0, at_most=True)
    assert "at least 94% are saved" in saved_images("head_top", [10, 160], first)
    some = ImagesNeeded(40.0, 20.0, None, at_most=False)
    words = saved_images("head_top", [10, 160], some)
    assert "75% are saved (95 % interval of the number needed: 20 to more than 160)" in words
    assert "too few images, or groups" in saved_images("head_top", [160], some)


def test_a_score_that_is_never_reached_is_said_to_be() -> None:
    assert reached([0.5, None, 0.6], [1.0, 1.0, 1.0], 4, 0.7) is None
    found = reached([0.5, None, 0.7], [1.0, 2.0, 3.0], 4, 0.7)
    assert found is not None
    assert (found.epoch, found.steps, found.seconds) == (3, 12, 6.0)
