"""A threshold never sees the images it is judged on, and nothing is stated that cannot be."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from headstart.errors import ArgumentError
from headstart.files import strict
from headstart.judge.metrics import Metric, wilson
from headstart.judge.operating import (
    FOLDS,
    OperatingPoint,
    Refused,
    Scores,
    Target,
    at_threshold,
    choose_threshold,
    cross_fitted_calls,
    crossing_folds,
    needed_for,
    operating_point,
    predictive_values,
    to_json,
    told,
)
from headstart.judge.proportions import share

SENSITIVE, SPECIFIC = Target("sensitivity", 0.95), Target("specificity", 0.95)


def drawn(seed: int, n: int, part: float = 0.5, gap: float = 2.0) -> Scores:
    rng = np.random.default_rng(seed)
    inside = rng.random(n) < part
    return Scores(norm.cdf(rng.normal(size=n) + gap * inside - 1), inside)


def point(found: OperatingPoint | Refused) -> OperatingPoint:
    assert isinstance(found, OperatingPoint)
    return found


def ends(metric: Metric | None) -> tuple[float, float, float]:
    assert metric is not None
    assert metric.low is not None and metric.value is not None and metric.high is not None
    return metric.low, metric.value, metric.high


def test_59_positives_state_95_percent_without_a_miss() -> None:
    assert needed_for(0.95) == 59
    for value in (0.8, 0.9, 0.95, 0.99):
        n = needed_for(value)
        assert value**n <= 0.05 < value ** (n - 1)


def test_the_realised_rates_are_counted_on_the_judged_images_alone() -> None:
    held_out, judged = drawn(0, 800), drawn(1, 300)
    found = point(operating_point("lesion", SENSITIVE, judged, held_out))
    called = judged.score >= found.threshold
    hits, positives = int(called[judged.inside].sum()), int(judged.inside.sum())
    assert found.sensitivity.value == hits / positives
    assert ends(found.sensitivity)[::2] == pytest.approx(wilson(hits, positives))
    quiet, negatives = int((~called[~judged.inside]).sum()), int((~judged.inside).sum())
    assert ends(found.specificity)[::2] == pytest.approx(wilson(quiet, negatives))
    other = point(operating_point("lesion", SENSITIVE, drawn(2, 250), held_out))
    assert other.threshold == found.threshold


@pytest.mark.parametrize("target", [SENSITIVE, SPECIFIC, Target("sensitivity", 0.9)])
def test_the_target_is_met_on_average_by_images_that_did_not_choose(target: Target) -> None:
    rates = []
    for seed in range(400):
        threshold = choose_threshold(target, drawn(seed, 160))
        distance = norm.ppf(threshold) + 1
        above = target.rate == "sensitivity"
        rates.append(norm.sf(distance - 2) if above else norm.cdf(distance))
    assert target.value - 0.003 <= np.mean(rates) <= target.value + 0.012


def test_too_few_positives_are_refused_with_the_number_needed() -> None:
    judged = drawn(1, 300)
    for n in (40, 100):
        held_out = drawn(0, n)
        found = operating_point("lesion", SENSITIVE, judged, held_out)
        assert isinstance(found, Refused)
        assert found.at_hand == held_out.inside.sum() and found.needed == 59
        assert "59" in found.sentence and str(found.at_hand) in found.sentence
        assert to_json(found)["refused"] is True
    assert isinstance(operating_point("lesion", SENSITIVE, drawn(1, 60)), Refused)


def test_a_specificity_needs_negatives() -> None:
    many = Scores(np.linspace(0, 1, 130), np.arange(130) >= 58)
    found = operating_point("x", SPECIFIC, drawn(0, 100), many)
    assert isinstance(found, Refused) and found.at_hand == 58
    more = Scores(np.linspace(0, 1, 130), np.arange(130) >= 59)
    assert isinstance(operating_point("x", SPECIFIC, drawn(0, 100), more), OperatingPoint)


def test_images_of_one_group_count_once_towards_the_number_needed() -> None:
    held_out = drawn(0, 400)
    tied = replace(held_out, groups=np.arange(400) // 10)
    found = operating_point("lesion", SENSITIVE, drawn(1, 200), tied)
    assert isinstance(found, Refused) and found.at_hand <= 40


def test_a_small_test_part_is_judged_and_said_to_confirm_nothing() -> None:
    found = point(operating_point("lesion", SENSITIVE, drawn(1, 60), drawn(0, 400)))
    assert not found.confirmable and found.needed == 59
    assert "cannot confirm 95 %" in found.sentence
    assert point(operating_point("lesion", SENSITIVE, drawn(1, 300), drawn(0, 400))).confirmable


def test_nothing_to_judge_on_is_refused() -> None:
    one_side = Scores(np.linspace(0, 1, 20), np.ones(20, dtype=bool))
    found = operating_point("lesion", SENSITIVE, one_side, drawn(0, 400))
    assert isinstance(found, Refused) and "one side" in found.reason


def test_the_threshold_of_a_fold_does_not_see_its_images() -> None:
    judged = drawn(3, 200)
    called = cross_fitted_calls(SENSITIVE, judged)
    folds = crossing_folds(judged)
    for fold in range(FOLDS):
        here = folds == fold
        probe = np.flatnonzero(here & ~judged.inside)[0]
        moved = judged.score.copy()
        moved[here & judged.inside] = 0.0  # seen, they would pull the threshold to the floor
        again = cross_fitted_calls(SENSITIVE, Scores(moved, judged.inside))
        assert again[probe] == called[probe]
        assert not again[here & judged.inside].any()


def test_cross_fitting_keeps_groups_whole_and_says_so() -> None:
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(150), 4)
    inside = groups % 2 == 0
    lucky = rng.random(150)[groups]
    found = point(
        operating_point("x", Target("sensitivity", 0.9), Scores(lucky + inside, inside, groups))
    )
    assert "held-out answers" in found.chosen_on and "others" in found.chosen_on
    assert found.threshold == choose_threshold(
        Target("sensitivity", 0.9), Scores(lucky + inside, inside)
    )


def test_predictive_values_are_bayes_and_equal_the_counts_at_their_own_prevalence() -> None:
    right, quiet = (
        share("sensitivity", [1] * 45 + [0] * 5),
        share("specificity", [1] * 80 + [0] * 20),
    )
    ppv, npv = predictive_values(right, quiet, 50 / 150)
    assert ends(ppv)[1] == pytest.approx(45 / 65) and ends(npv)[1] == pytest.approx(80 / 85)
    for metric in predictive_values(right, quiet, 0.01):
        low, value, high = ends(metric)
        assert 0 <= low < value < high <= 1


def test_predictive_values_of_a_perfect_test_keep_a_width() -> None:
    ppv, npv = predictive_values(share("a", [1] * 60), share("b", [1] * 60), 0.1)
    assert ends(ppv)[1:] == (1, 1) and 0.4 < ends(ppv)[0] < 0.95
    assert ends(npv)[1:] == (1, 1) and 0.98 < ends(npv)[0] < 1
    useless = predictive_values(share("a", [0] * 60), share("b", [1] * 60), 0.1)
    assert ends(useless[0])[0] == 0 and ends(useless[0])[2] == 1


def test_a_lower_prevalence_lowers_the_ppv() -> None:
    held_out, judged = drawn(0, 800), drawn(1, 300)
    values = [
        ends(point(operating_point("x", SENSITIVE, judged, held_out, p)).ppv)[1]
        for p in (0.5, 0.1, 0.01)
    ]
    assert values == sorted(values, reverse=True)
    without = point(operating_point("x", SENSITIVE, judged, held_out))
    assert without.ppv is None and without.npv is None


def test_coverage_of_predictive_values() -> None:
    rng, draws, truth = np.random.default_rng(5), 300, 0.1 * 0.9 / (0.1 * 0.9 + 0.9 * 0.03)
    held = 0
    for _ in range(draws):
        rates = share("a", rng.random(75) < 0.9), share("b", rng.random(75) < 0.97)
        low, _, high = ends(predictive_values(*rates, 0.1)[0])
        held += low <= truth <= high
    assert held / draws >= 0.92


def test_groups_and_cross_validation_widen() -> None:
    held_out, judged = drawn(0, 800), drawn(1, 300)
    plain = point(operating_point("x", SENSITIVE, judged, held_out)).specificity
    tied = replace(judged, groups=np.arange(300) // 5)
    grouped = point(operating_point("x", SENSITIVE, tied, held_out)).specificity
    crossed = point(operating_point("x", SENSITIVE, judged)).specificity
    assert ends(grouped)[0] < ends(plain)[0]
    assert "1.30 times as wide" in crossed.method


def test_json_and_sentence_say_what_was_reached() -> None:
    found = point(operating_point("lesion", SENSITIVE, drawn(1, 300), drawn(0, 800), 0.02))
    read = json.loads(json.dumps(strict(to_json(found)), allow_nan=False))
    assert read["refused"] is False and read["target"] == {"rate": "sensitivity", "value": 0.95}
    assert read["sensitivity"]["n"] == found.sensitivity.n
    assert f"{round(100 * ends(found.specificity)[1])} %" in found.sentence
    assert found.sentence.startswith(
        f"Call it lesion from a probability of {told(found.threshold)} on (chosen on 800 held-out "
        "answers on images to learn from for a sensitivity of 95 %): "
    )
    assert "of the images of lesion are found (sensitivity: 95 % interval" in found.sentence
    assert "Where 2 % of the images are lesion" in found.sentence


def test_a_threshold_that_was_chosen_before_is_judged_as_it_is() -> None:
    judged, held_out = drawn(1, 300), drawn(0, 800)
    chosen = point(operating_point("x", SENSITIVE, judged, held_out))
    again = at_threshold("x", SENSITIVE, chosen.threshold, chosen.chosen_on, judged)
    assert again == chosen
    other = point(at_threshold("x", SENSITIVE, 0.9, "120 answers", judged, 0.1))
    assert (other.threshold, other.chosen_on, other.cross_fitted) == (0.9, "120 answers", False)
    assert other.sensitivity.value == np.mean(judged.score[judged.inside] >= 0.9)
    assert other.ppv is not None
    alone = Scores(judged.score, np.ones(300, dtype=bool))
    assert "all of one side" in at_threshold("x", SENSITIVE, 0.9, "", alone).sentence


@pytest.mark.parametrize("threshold", [0.99996, 1 - 1e-12, 0.7])
def test_a_threshold_below_one_is_never_told_as_one(threshold: float) -> None:
    assert 0 < float(told(threshold)) < 1
    assert float(told(threshold)) == pytest.approx(threshold, rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 95.0])
def test_refuses_targets_and_prevalences_outside_0_to_1(value: float) -> None:
    with pytest.raises(ArgumentError):
        operating_point("x", Target("sensitivity", value), drawn(0, 100))
    with pytest.raises(ArgumentError):
        operating_point("x", SENSITIVE, drawn(0, 100), prevalence=value)


def test_refuses_scores_that_do_not_fit() -> None:
    bad = Scores(np.array([0.1, np.nan]), np.array([True, False]))
    with pytest.raises(ArgumentError, match="finite"):
        operating_point("x", SENSITIVE, bad)
    with pytest.raises(ArgumentError, match="finite"):
        operating_point("x", SENSITIVE, Scores(np.zeros(3), np.zeros(2, dtype=bool)))
    with pytest.raises(ArgumentError):
        operating_point("x", Target("precision", 0.9), drawn(0, 100))
