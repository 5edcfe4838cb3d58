from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.plan.criterion import Criterion, choose_criterion
from headstart.plan.probe import (
    STRENGTHS,
    _blocks,
    _smoother_of_features,
    _standardise,
    kernel_probe,
    probe,
)

Float = NDArray[np.float64]
Int = NDArray[np.int64]
ACCURACY = Criterion("accuracy", "accuracy")


def refitted(x: Float, targets: Float, penalty: float, groups: Int) -> Float:
    """Ridge regression with a free intercept, fitted again without each group."""
    out = np.zeros_like(targets)
    for group in np.unique(groups):
        held = groups == group
        rest, mean, middle = x[~held], x[~held].mean(0), targets[~held].mean(0)
        gram = (rest - mean).T @ (rest - mean) + penalty * np.eye(x.shape[1])
        weight = np.linalg.solve(gram, (rest - mean).T @ (targets[~held] - middle))
        out[held] = (x[held] - mean) @ weight + middle
    return out


@pytest.mark.parametrize(("n", "d"), [(40, 12), (30, 60), (25, 25)])
@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("strength", [STRENGTHS[0], 0.1, STRENGTHS[-1]])
def test_left_out_predictions_equal_a_refit_without_the_group(
    n: int, d: int, together: int, strength: float
) -> None:
    rng = np.random.default_rng(n + d)
    raw = (rng.normal(size=(n, d)) * 3 + 5).astype(np.float32)
    raw[:, 2] = raw[:, 3]  # one feature twice, and one that never moves
    raw[:, 4] = 100.1
    targets = np.eye(3)[rng.integers(0, 3, n)]
    targets -= targets.mean(0)
    groups = np.arange(n) // together
    x = _standardise(raw)
    smoother = _smoother_of_features(x)
    _, left_out = smoother.predict(targets, strength, _blocks(groups))
    expected = refitted(x, targets, strength * smoother.scale, groups)
    np.testing.assert_allclose(left_out, expected, atol=1e-8)


def test_a_linear_kernel_scores_as_its_features() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = (rng.normal(size=(60, 8)) + np.eye(8)[labels] * 2).astype(np.float32)
    standard = _standardise(x)
    groups = np.arange(60) // 2
    by_features = probe(x, labels, groups, 3, ACCURACY)
    by_kernel = kernel_probe(standard @ standard.T + 7.0, labels, groups, 3, ACCURACY)
    assert (by_kernel.score, by_kernel.se) == (by_features.score, by_features.se)


@pytest.mark.parametrize(
    ("n", "d", "classes", "metric", "shares"),
    [
        (60, 200, 3, "accuracy", None),
        (200, 50, 2, "accuracy", None),
        (200, 50, 2, "accuracy", (0.3, 0.7)),
        (200, 50, 3, "balanced_accuracy", (0.1, 0.3, 0.6)),
    ],
)
def test_permuted_labels_score_at_chance(
    n: int, d: int, classes: int, metric: str, shares: tuple[float, ...] | None
) -> None:
    rng = np.random.default_rng(1)
    above = []
    for _ in range(12):
        labels = rng.permutation(np.arange(n) % classes)
        if shares is not None:
            labels = rng.choice(classes, n, p=shares)
        found = probe(
            rng.normal(size=(n, d)).astype(np.float32),
            labels,
            np.arange(n),
            classes,
            Criterion(metric, metric),
        )
        chance = np.bincount(labels).max() / n if metric == "accuracy" else 1 / classes
        above.append((found.score - chance) / found.se)
    assert abs(np.mean(above)) < 1.5
    assert np.median(np.abs(above)) < 3


def test_with_unequal_classes_accuracy_is_at_least_that_of_the_largest() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(200) % 4 == 0).astype(np.int64)  # 150 to 50
    weak = (rng.normal(size=(200, 20)) + 0.3 * labels[:, None]).astype(np.float32)
    found = probe(weak, labels, np.arange(200), 2, ACCURACY)
    assert found.score > 0.75


def test_copies_in_one_group_do_not_vouch_for_each_other() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40) % 2, 5)
    noise = np.repeat(rng.normal(size=(40, 300)), 5, axis=0).astype(np.float32)
    apart = probe(noise, labels, np.arange(200), 2, ACCURACY)
    together = probe(noise, labels, np.arange(200) // 5, 2, ACCURACY)
    assert apart.score == pytest.approx(1)  # five copies each: the label is found at the copy
    assert together.score < 0.5 + 0.2
    assert together.se == pytest.approx(np.sqrt(0.25 / 40), rel=0.15)  # forty draws, not 200


def test_a_single_group_of_all_images_teaches_nothing() -> None:
    labels = np.arange(20) % 2
    x = np.eye(2, dtype=np.float32)[labels]
    assert probe(x, labels, np.zeros(20, np.int64), 2, ACCURACY).score == pytest.approx(0.5)


def test_features_that_never_move_give_no_score_above_chance() -> None:
    labels = np.arange(30) % 3
    for value in (0.0, 100.1):
        x = np.full((30, 5), value, np.float32)
        assert probe(x, labels, np.arange(30), 3, ACCURACY).score <= 1 / 3


def test_a_feature_that_tells_the_classes_scores_one_whatever_its_scale() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    x = rng.normal(size=(40, 3)).astype(np.float32)
    x[:, 1] = 1000 + 0.01 * labels
    assert probe(x, labels, np.arange(40), 2, ACCURACY).score == pytest.approx(1)


@pytest.mark.parametrize("name", ["accuracy", "auc", "auc:b", "log_loss", "sens@spec=0.8"])
def test_any_criterion_can_drive_a_probe(name: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    x = (rng.normal(size=(200, 20)) + 0.4 * labels[:, None]).astype(np.float32)
    criterion = choose_criterion(name, labels, ["a", "b"])
    found = probe(x, labels, np.arange(200), 2, criterion)
    noise = probe(
        rng.normal(size=(200, 20)).astype(np.float32), labels, np.arange(200), 2, criterion
    )
    assert found.score > noise.score + 2 * found.se
    assert found.train_score >= found.score - 0.05
