"""Intervals of shares, differences and ratios: published values, references, coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from headstart.judge.metrics import Metric, wilson
from headstart.judge.proportions import (
    design_effect,
    difference,
    paired,
    ratio_bounds,
    share,
    stretched,
)


def ends(metric: Metric) -> tuple[float, float]:
    assert metric.low is not None and metric.high is not None
    return metric.low, metric.high


def hits(k: int, n: int) -> list[int]:
    return [1] * k + [0] * (n - k)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ],
)
def test_unpaired_equals_newcombe_1998_method_10(
    a: tuple[int, int], b: tuple[int, int], low: float, high: float
) -> None:
    found = difference("difference", share("a", hits(*a)), share("b", hits(*b)))
    assert ends(found) == pytest.approx((low, high), abs=6e-5)


def test_without_groups_a_share_has_wilsons_interval() -> None:
    for k, n in ((0, 20), (7, 20), (20, 20)):
        assert ends(share("share", hits(k, n))) == pytest.approx(wilson(k, n), abs=1e-12)
        alone = share("share", hits(k, n), np.arange(n))
        assert ends(alone) == pytest.approx(wilson(k, n), abs=1e-12)


def score_statistic(b: int, c: int, n: int, d: float) -> float:
    """(d observed - d) over its error at the most likely table of difference d, found by search."""

    def loss(q: float) -> float:  # q: share where only the second is right
        rest = 1 - 2 * q - d
        terms = ((b, q + d), (c, q), (n - b - c, rest))
        return -sum(k * np.log(max(p, 1e-300)) for k, p in terms if k)

    low, high = max(0.0, -d), (1 - d) / 2
    q = float(
        minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    )
    return ((b - c) / n - d) / np.sqrt((2 * q + d - d**2) / n)


@pytest.mark.parametrize(("b", "c", "n"), [(9, 3, 60), (1, 7, 25), (12, 12, 100), (20, 1, 21)])
def test_paired_ends_where_the_score_statistic_is_196(b: int, c: int, n: int) -> None:
    first = [1] * b + [0] * c + [1] * (n - b - c)
    second = [0] * b + [1] * c + [1] * (n - b - c)
    low, high = ends(paired("difference", first, second))
    assert abs(score_statistic(b, c, n, low)) == pytest.approx(1.959964, abs=1e-3)
    assert abs(score_statistic(b, c, n, high)) == pytest.approx(1.959964, abs=1e-3)


def test_paired_leaves_out_zero_exactly_when_mcnemar_is_significant() -> None:
    for b in range(25):
        for c in range(25):
            first = [1] * b + [0] * c + [1] * 30
            second = [0] * b + [1] * c + [1] * 30
            low, high = ends(paired("difference", first, second))
            significant = b + c > 0 and (b - c) ** 2 / (b + c) > 1.959964**2
            assert (not low <= 0 <= high) == significant, (b, c)


def test_equal_answers_and_no_mistake_keep_a_width() -> None:
    low, high = ends(paired("difference", [1] * 50, [1] * 50))
    assert -0.1 < low < -0.05 and 0.05 < high < 0.1
    assert ends(difference("d", share("a", [1] * 50), share("b", [1] * 50)))[0] < -0.05


def test_mirrored_answers_mirror_the_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(40) < 0.8, rng.random(40) < 0.6
    low, high = ends(paired("d", a, b))
    assert ends(paired("d", b, a)) == pytest.approx((-high, -low), abs=1e-12)


def test_groups_that_are_all_alike_count_once() -> None:
    values, groups = np.repeat([1, 0, 1, 1, 0, 1, 1, 1, 0, 1] * 4, 5), np.repeat(np.arange(40), 5)
    low, high = ends(share("share", values, groups))
    wide_low, wide_high = wilson(28, 40)
    assert low <= wide_low + 0.01 and high >= wide_high - 0.01
    assert high - low > 2 * (wilson(140, 200)[1] - wilson(140, 200)[0])


def test_no_mistake_in_groups_says_no_more_than_one_image_per_group() -> None:
    groups = np.repeat(np.arange(20), 5)
    low, _ = ends(share("share", [1] * 100, groups))
    assert low <= wilson(20, 20)[0]
    one_miss = ends(share("share", [1] * 99 + [0], groups))[0]
    assert one_miss < 0.9  # one miss does not show that groups do not matter


def test_all_images_in_one_group_say_nothing() -> None:
    assert ends(share("share", [1, 0, 1], np.zeros(3))) == (0, 1)
    assert ends(paired("d", [1, 0, 1], [1, 1, 1], np.zeros(3))) == (-1, 1)
    assert share("share", []).value is None


def test_grouped_coverage() -> None:
    rng, draws = np.random.default_rng(2), 200
    for p in (0.7, 0.95):
        held = 0
        for _ in range(draws):
            groups = np.repeat(np.arange(30), 5)
            values = rng.random(150) < rng.beta(p, 1 - p, 30)[groups]
            low, high = ends(share("share", values, groups))
            held += low <= p <= high
        assert held / draws >= 0.92, p


def test_design_effect_starts_at_groups_that_are_alike_and_follows_the_data() -> None:
    assert design_effect(0.0, 0.0, wrong=0.0, whole=5.0) == 5.0
    assert design_effect(1.0, 1.0, wrong=1e9, whole=5.0) == pytest.approx(1.0)


def test_ratio_bounds_equal_fieller_like_search() -> None:
    """MOVER-R is where the difference a - r b, by MOVER, has an end at zero."""
    a, b = share("a", hits(45, 50)), share("b", hits(8, 60))
    low, high = ratio_bounds(a, b)

    def end(r: float, lower: bool) -> float:
        assert a.value and b.value
        (al, ah), (bl, bh) = ends(a), ends(b)
        d = a.value - r * b.value
        if lower:
            return d - np.hypot(a.value - al, r * (bh - b.value))
        return d + np.hypot(ah - a.value, r * (b.value - bl))

    assert end(low, lower=True) == pytest.approx(0, abs=1e-9)
    assert end(high, lower=False) == pytest.approx(0, abs=1e-9)


def test_ratio_to_nothing_has_a_finite_floor_and_no_ceiling() -> None:
    low, high = ratio_bounds(share("a", hits(45, 50)), share("b", hits(0, 60)))
    assert 5 < low < 30 and high == np.inf
    assert ratio_bounds(share("a", hits(0, 50)), share("b", hits(9, 60)))[0] == 0


def test_stretching_keeps_the_value() -> None:
    found = stretched(Metric("d", -0.1, -0.3, 0.05, 50, "MOVER"), 1.3)
    assert (found.value, found.low, found.high) == (-0.1, -0.36, 0.095)
