"""The network is trained only where a gain could be there and be seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headstart.plan.worth import Standing, worth_training

SOME = Standing(800, 40, 0.85, 0.012, 1.0, 0.5, "small", "different")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 40}, "that takes 50 images"),
        ({"smallest_class": 4}, "5 of every class"),
        ({"score": 0.985}, "a gain could not be measured"),
        ({"se": 0.08}, "a gain could not be measured"),
        ({"score": -0.01, "se": 0.001, "best_possible": 0.0, "baseline": -1.0}, "could not be"),
    ],
)
def test_nothing_is_trained_where_nothing_could_be_gained(change: dict, words: str) -> None:
    worth = worth_training(replace(SOME, **change))
    assert worth.strategies == ()
    assert words in worth.reason


def test_random_weights_are_tried_only_where_pre_training_may_not_help() -> None:
    assert "scratch" not in worth_training(SOME).strategies
    level = worth_training(replace(SOME, baseline=0.85))
    assert "scratch" in level.strategies
    assert level.reason.endswith("random weights are worth a try, too, if the budget allows.")
    large = replace(SOME, size_verdict="large")
    assert "scratch" in worth_training(large).strategies
    assert "scratch" not in worth_training(replace(large, similarity="similar")).strategies
