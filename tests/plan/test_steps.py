"""Minutes become steps: what fits is planned, what does not is said, and nothing is cut short."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.plan.steps import Images, Offer, Speed, Way, plan_steps, training_s

PARTIAL = Offer(Way("partial@b4", "partial", 160, "b4", 12), Speed(200.0, 600.0, 220.0), 8, 4)
SMALL = Offer(Way("finetune@160px", "finetune", 160, None, 12), Speed(50.0, 150.0), 8)
LARGE = Offer(Way("finetune@224px", "finetune", 224, None, 12), Speed(25.0, 75.0), 8)
OFFERS = [LARGE, PARTIAL, SMALL]
TESTED = Images(800, (160,) * 5, held_out=True)
NESTED = Images(400, (80,) * 5, held_out=False)


def names(left_s: float, images: Images = TESTED) -> list[str]:
    return [one.way.name for one in plan_steps(OFFERS, images, left_s, 20.0).planned]


def test_the_costliest_way_that_fits_is_planned_as_a_fold_and_a_refit() -> None:
    cost = training_s(SMALL, 640, 160) + training_s(SMALL, 800, 0)
    left = (cost + 20.0) / 0.9
    assert names(left + 1)[-1] == "finetune@160px"


def test_where_no_whole_schedule_fits_the_longest_that_does_is_planned() -> None:
    cost = training_s(SMALL, 640, 160) + training_s(SMALL, 800, 0)
    left = (cost + 20.0) / 0.9
    (nearly,) = plan_steps([SMALL], TESTED, left - 1, 20.0).planned
    assert nearly.way.epochs == SMALL.way.epochs - 1
    (half,) = plan_steps([LARGE, SMALL], TESTED, left - 60, 20.0).planned
    assert half.way.name == "finetune@160px"  # not the larger input, for a shorter time
    assert SMALL.least_epochs < half.way.epochs < SMALL.way.epochs


def test_with_no_time_nothing_is_planned_and_every_way_is_told() -> None:
    steps = plan_steps(OFFERS, TESTED, 30.0, 20.0)
    assert steps.planned == ()
    assert steps.seconds == 0.0
    assert len(steps.left_out) == len(OFFERS)


def test_ways_come_in_order_of_cost() -> None:
    assert names(10_000.0) == ["partial@b4", "finetune@160px", "finetune@224px"]


def test_where_the_folds_are_the_estimate_more_of_them_come_first() -> None:
    one_fold = training_s(SMALL, 320, 80)
    left = (training_s(SMALL, 400, 0) + 3.5 * one_fold + 20.0) / 0.9
    steps = plan_steps([SMALL, PARTIAL], NESTED, left, 20.0)
    assert steps.planned[-1].way.name == "finetune@160px"
    assert steps.planned[-1].folds == 3
    assert all(one.folds == 3 for one in steps.planned)


def test_many_images_are_not_learned_from_twice() -> None:
    many = replace(TESTED, learn=12_000, folds=(2_400,) * 5)
    steps = plan_steps([SMALL], many, 1e6, 20.0)
    assert not steps.refit
    assert steps.seconds < training_s(SMALL, 9_600, 2_400) + 21.0


@given(st.floats(0.0, 5_000.0), st.booleans())
def test_the_plan_never_exceeds_the_time(left_s: float, held_out: bool) -> None:
    images = replace(TESTED, held_out=held_out)
    steps = plan_steps(OFFERS, images, left_s, 20.0)
    assert steps.seconds <= 0.9 * left_s + 1e-6
    # Every way is planned once, or told once.
    planned = [one.way.name for one in steps.planned]
    left_out = [sentence.split()[0] for sentence in steps.left_out]
    assert sorted(planned + left_out) == sorted(offer.way.name for offer in OFFERS)


def test_few_images_are_judged_on_several_folds() -> None:
    few = Images(60, (12,) * 5, held_out=True, judges=5)
    steps = plan_steps([SMALL, PARTIAL], few, 1e5, 20.0)
    assert [one.folds for one in steps.planned] == [5, 5]
    one_fold = training_s(SMALL, 48, 12)
    assert steps.planned[-1].verify_s == pytest.approx(5 * one_fold)
