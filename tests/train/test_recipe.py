from __future__ import annotations

import pytest

from headstart.errors import ArgumentError
from headstart.train.recipe import Machine, recipe_for, with_rate

CPU = Machine(threads=2)


@pytest.mark.parametrize("n", [2, 30, 150, 999, 1_000, 4_000, 60_000])
def test_every_schedule_sees_enough_to_be_judged(n: int) -> None:
    recipe = recipe_for("finetune", n, 160, CPU)
    seen = recipe.epochs * recipe.steps_per_epoch(n) * recipe.batch
    assert recipe.epochs >= 8
    assert seen >= 2_000 or recipe.epochs == 50
    assert n < 60 or recipe.epochs * n >= 3_000


def test_both_phases_have_the_same_loss() -> None:
    assert recipe_for("finetune", 500, 160, CPU).smoothing == 0


@pytest.mark.parametrize(("n", "few"), [(999, True), (1_000, False)])
def test_few_images_are_held_nearer_to_what_is_known(n: int, few: bool) -> None:
    recipe = recipe_for("finetune", n, 160, CPU)
    assert (recipe.augment.scale >= 0.5) == few
    assert (recipe.pull > 0) == few


@pytest.mark.parametrize("n", [100, 5_000, 50_000])
def test_statistics_rest_under_a_head_that_was_trained_on_them(n: int) -> None:
    assert recipe_for("finetune", n, 160, CPU).norm_eval
    assert recipe_for("partial", n, 160, CPU, through="b4").norm_eval


def test_a_norm_that_trains_sees_enough_at_once() -> None:
    recipe = recipe_for("scratch", 5_000, 160, CPU)
    assert not recipe.norm_eval and recipe.micro_batch >= 16


def test_random_weights_learn_their_statistics_and_longer() -> None:
    scratch, tuned = recipe_for("scratch", 900, 64, CPU), recipe_for("finetune", 900, 64, CPU)
    assert not scratch.norm_eval and scratch.pull == 0 and scratch.layer_decay == 1
    assert scratch.epochs > 5 * tuned.epochs
    assert scratch.augment.strength > tuned.augment.strength


def test_images_are_mixed_when_there_are_many_or_when_they_come_again_often() -> None:
    assert recipe_for("finetune", 20_000, 160, CPU).mix
    assert not recipe_for("finetune", 19_999, 160, CPU).mix
    assert recipe_for("finetune", 600, 160, CPU).mix
    assert not recipe_for("finetune", 600, 160, CPU, epochs=8).mix


def test_a_frozen_part_that_is_kept_sees_one_picture_at_a_time() -> None:
    assert not recipe_for("partial", 600, 160, CPU, through="b4").mix


def test_averages_span_a_tenth_of_the_run() -> None:
    recipe = recipe_for("finetune", 640, 160, CPU, epochs=10)
    assert 1 / (1 - recipe.ema) == pytest.approx(recipe.steps_per_epoch(640))


def test_the_head_is_no_faster_than_the_last_stage() -> None:
    recipe = with_rate(recipe_for("finetune", 640, 160, CPU), 1e-2)
    assert recipe.head_rate == recipe.rate == 1e-2


def test_epochs_fix_the_schedule() -> None:
    assert recipe_for("finetune", 640, 160, CPU, epochs=3).epochs == 3


def test_contradictions_are_refused() -> None:
    with pytest.raises(ArgumentError, match="--epochs"):
        recipe_for("finetune", 640, 160, CPU, epochs=0)
    with pytest.raises(ArgumentError, match="last frozen stage"):
        recipe_for("partial", 640, 160, CPU)
    with pytest.raises(ArgumentError, match="two images"):
        recipe_for("finetune", 1, 160, CPU)
