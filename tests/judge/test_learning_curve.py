"""The curve finds a law that is there, its gain is right, and it is kept back where it fails."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headstart.judge.learning_curve import (
    SIZES as HOW_MANY,
)
from headstart.judge.learning_curve import (
    _order,
    choose_sizes,
    curve_json,
    fit_curve,
    learning_curve,
)
from headstart.plan.criterion import Criterion

ACCURACY = Criterion("accuracy", "accuracy")
SIZES = (50, 74, 110, 164, 244, 362, 538, 800)


def scores(law: tuple[float, float, float], noise: float, seed: int) -> np.ndarray:
    a, b, c = law
    rng = np.random.default_rng(seed)
    common = rng.normal(0, noise, (10, 1))  # a hard or an easy fold
    return a - b * np.array(SIZES) ** -c + common + rng.normal(0, noise / 3, (10, len(SIZES)))


def test_a_law_without_noise_is_found() -> None:
    found = fit_curve(SIZES, scores((0.95, 1.2, 0.5), 1e-6, 0), 1000, ACCURACY, 0)
    assert found.back_test is not None and found.back_test.holds
    assert found.a == pytest.approx(0.95, abs=2e-3)
    assert found.gain == pytest.approx(1.2 * (1000**-0.5 - 2000**-0.5), abs=1e-3)


def test_the_interval_covers_the_true_gain() -> None:
    true = 1.2 * (1000**-0.5 - 2000**-0.5)
    found = [fit_curve(SIZES, scores((0.95, 1.2, 0.5), 0.01, s), 1000, ACCURACY, s) for s in range(60)]  # fmt: skip
    shown = [f for f in found if f.gain is not None]
    assert len(shown) >= 50
    covered = [f.low <= true <= f.high for f in shown]  # type: ignore[operator]
    assert np.mean(covered) >= 0.9
    assert np.mean([f.high - f.low for f in shown]) < 0.03  # type: ignore[operator]


def test_a_curve_that_breaks_is_not_drawn() -> None:
    broken = scores((0.95, 1.2, 0.5), 0.002, 0)
    broken[:, -2:] -= 0.1  # from 500 images on the labels are worse
    found = fit_curve(SIZES, broken, 1000, ACCURACY, 0)
    assert found.back_test is not None and not found.back_test.holds
    assert found.gain is None and "No learning curve" in found.sentence


def test_a_curve_lost_in_noise_is_not_drawn() -> None:
    found = fit_curve(SIZES, np.random.default_rng(0).normal(0.5, 0.2, (10, 8)), 1000, ACCURACY, 0)
    assert found.gain is None


def test_no_accuracy_is_foretold_above_one_and_a_flat_curve_gains_nothing() -> None:
    steep = fit_curve(SIZES, scores((1.1, 1.9, 0.3), 1e-4, 0).clip(max=1), 1000, ACCURACY, 0)
    assert steep.a is None or steep.a <= 1
    flat = fit_curve(SIZES, scores((0.9, 0.0, 0.5), 1e-4, 0), 1000, ACCURACY, 0)
    assert flat.gain is not None and abs(flat.gain) < 1e-3


def test_every_part_holds_the_classes_in_their_shares_and_groups_whole() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 3)
    labels = rng.choice(3, 200, p=[0.7, 0.25, 0.05])[groups]
    order = _order(labels, groups, 1)
    assert sorted(order.tolist()) == list(range(600))
    assert (np.diff(groups[order]) != 0).sum() == 199
    for n in (30, 60, 120, 300):
        share = np.bincount(labels[order[:n]], minlength=3) / n
        assert np.abs(share - np.bincount(labels) / 600).max() <= 6 / n + 0.02
        assert (share > 0).all()


def test_cost_bounds_the_sizes_and_no_clock_does() -> None:
    whole, bounded = choose_sizes(20_000, 2000, 10, 1e9), choose_sizes(20_000, 2000, 10, 20)
    assert len(whole) == len(bounded) == HOW_MANY >= 6
    assert max(whole) == 16_000 and max(bounded) < 4_000
    assert choose_sizes(20_000, 2000, 10, 1e-6) == ()
    assert choose_sizes(60, 2000, 10, 60) == ()


def test_a_real_head_climbs_and_the_same_seed_climbs_the_same_way() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    x = rng.normal(0, 1, (500, 40)).astype(np.float32)
    x[:, :3] += 1.2 * np.eye(3, dtype=np.float32)[labels]
    groups = np.arange(500)
    found = learning_curve(x, labels, groups, ACCURACY, 0.03, 0)
    assert len(found.points) == 8 and found.points[-1].score > found.points[0].score + 0.1
    assert found == learning_curve(x, labels, groups, ACCURACY, 0.03, 0, workers=2)
    text = json.dumps(curve_json(found), allow_nan=False)
    assert json.loads(text)["points"][0]["n"] == found.points[0].n


def test_too_few_images_are_told() -> None:
    x = np.zeros((20, 4), np.float32)
    labels = np.arange(20) % 4
    found = learning_curve(x, labels, np.arange(20), ACCURACY, 0.1, 0)
    assert found.points == () and found.gain is None and "20 images are too few" in found.sentence
    many = np.zeros((500, 4), np.float32)
    found = learning_curve(many, np.arange(500) % 4, np.arange(500), ACCURACY, 0.1, 0, seconds=1e-9)
    assert found.points == () and "500 images cost over 1e-09 s" in found.sentence
