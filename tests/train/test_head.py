from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression

from headstart.judge.calibration import softmax
from headstart.plan.criterion import Criterion
from headstart.train.head import (
    STRENGTHS,
    Head,
    HeadSearch,
    HeadTask,
    _objective,
    cross_entropy,
    search_head,
    train_head,
)

Array = NDArray[np.float32]
Int = NDArray[np.int64]


def toy(n: int, d: int, classes: int, apart: float = 0.5, seed: int = 0) -> tuple[Array, Int]:
    """Features of many scales, one twice and one that never moves."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    x = rng.normal(size=(n, d)) + apart * rng.normal(size=(classes, d))[labels]
    x = x * rng.uniform(0.1, 5, d) + 10 * rng.normal(size=d)
    x[:, 1] = x[:, 0]
    x[:, 2] = 7.3
    return x.astype(np.float32), labels


def search(x: Array, labels: Int, folds: Int, classes: int, workers: int) -> HeadSearch:
    accuracy = Criterion("accuracy", "accuracy")
    task = HeadTask(labels, folds, np.arange(len(labels)), classes, accuracy)
    return search_head(x, task, 0, workers)


def answers(head: Head, x: Array) -> NDArray[np.float64]:
    return softmax(head.logits(x).astype(np.float64), 1.0)


def reference(x: Array, labels: Int, strength: float) -> NDArray[np.float64]:
    """scikit-learn's solution of the same problem."""
    spread = x.std(0, dtype=np.float64)
    z = (x - x.mean(0, dtype=np.float64)) / np.where(spread > 1e-5, spread, np.inf)
    # With two classes it fits one vector instead of two opposite halves: half the penalty.
    c = 1 / (strength * len(x)) * (2 if labels.max() == 1 else 1)
    model = LogisticRegression(C=c, tol=1e-9, max_iter=20_000).fit(z, labels)
    return np.asarray(model.predict_proba(z))


@pytest.mark.parametrize(("n", "d", "classes"), [(80, 20, 3), (60, 200, 3), (90, 30, 2)])
@pytest.mark.parametrize("strength", [STRENGTHS[0], 0.03, STRENGTHS[-1]])
def test_the_head_is_the_logistic_regression_of_its_penalty(
    n: int, d: int, classes: int, strength: float
) -> None:
    x, labels = toy(n, d, classes)
    ours = answers(train_head(x, labels, classes, strength, 0), x)
    np.testing.assert_allclose(ours, reference(x, labels, strength), atol=1e-3)


@pytest.mark.parametrize(("n", "d", "classes"), [(100, 40, 2), (60, 600, 3), (300, 20, 100)])
def test_two_seeds_end_in_the_same_probabilities(n: int, d: int, classes: int) -> None:
    x, labels = toy(n, d, classes)
    for strength in (1.0, STRENGTHS[-1]):
        one = train_head(x, labels, classes, strength, 0)
        two = train_head(x, labels, classes, strength, 1)
        assert np.abs(answers(one, x) - answers(two, x)).max() < 1e-4
        assert one.weight.shape == (classes, d)
        assert one.weight.dtype == one.bias.dtype == np.float32


def test_the_same_seed_gives_the_same_bytes() -> None:
    x, labels = toy(50, 80, 3)
    one, two = (train_head(x, labels, 3, 0.1, 7) for _ in range(2))
    assert one.weight.tobytes() == two.weight.tobytes()
    assert one.bias.tobytes() == two.bias.tobytes()


def test_the_rotation_of_few_images_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = toy(60, 150, 3)
    new, _ = toy(30, 150, 3, seed=1)
    rotated = train_head(x, labels, 3, 0.1, 0)
    monkeypatch.setattr("headstart.train.head.WORTH_ROTATING", 0.0)
    plain = train_head(x, labels, 3, 0.1, 0)
    for images in (x, new):
        np.testing.assert_allclose(answers(rotated, images), answers(plain, images), atol=1e-4)


def test_the_layer_reads_raw_features() -> None:
    x, labels = toy(80, 20, 3)
    scaled = x * np.float32(100) + np.float32(5)
    ours = answers(train_head(scaled, labels, 3, 0.1, 0), scaled)
    np.testing.assert_allclose(ours, answers(train_head(x, labels, 3, 0.1, 0), x), atol=1e-3)


def test_a_feature_that_never_moved_has_weight_zero() -> None:
    x, labels = toy(80, 20, 3)
    head = train_head(x, labels, 3, 0.1, 0)
    assert not head.weight[:, 2].any()
    moved = x.copy()
    moved[:, 2] = -1e6
    assert head.logits(moved).tobytes() == head.logits(x).tobytes()


@pytest.mark.parametrize("d", [5, 90])
def test_without_any_information_the_shares_of_the_classes_are_answered(d: int) -> None:
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    x = np.full((60, d), 3.7, np.float32)
    np.testing.assert_allclose(
        answers(train_head(x, labels, 3, 0.1, 0), x)[0], [1 / 6, 2 / 6, 3 / 6], atol=1e-3
    )
    found = search(x, labels, np.arange(60) % 5, 3, 1)
    assert np.isfinite(found.logits).all()


@pytest.mark.parametrize("width", [6, 600])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_slope_is_that_of_the_loss(width: int, kind: type, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(70, width)).astype(kind)
    labels = rng.integers(0, 3, 70)
    weights = rng.uniform(0.2, 2, 70) if weighted else None
    loss = _objective(x, labels, 3, 0.1, weights)
    flat = rng.normal(size=3 * width + 3) * 0.1
    step = 1e-4 if kind is np.float32 else 1e-6
    off = check_grad(lambda f: loss(f)[0], lambda f: loss(f)[1], flat, epsilon=step)
    assert off < 100 * step
    logits = x.astype(np.float64) @ flat[:-3].reshape(width, 3) + flat[-3:]
    penalty = 0.05 * (flat[:-3] ** 2).sum()
    each = cross_entropy(logits, labels) * (1.0 if weights is None else weights)
    expected = each.mean() + penalty
    assert loss(flat)[0] == pytest.approx(expected, rel=1e-6)


def test_on_noise_the_strongest_penalty_is_found() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 150)
    x = rng.normal(size=(150, 300)).astype(np.float32)
    found = search(x, labels, np.arange(150) % 5, 4, 1)
    assert found.strength == STRENGTHS[0]
    # Hardly worse than saying nothing: log(4).
    assert cross_entropy(found.logits, labels).mean() < np.log(4) + 0.05


def test_on_clear_classes_a_weak_penalty_is_found_and_held_out_answers_are_right() -> None:
    x, labels = toy(150, 30, 3, apart=3.0)
    found = search(x, labels, np.arange(150) % 5, 3, 2)
    assert found.strength < 0.1
    assert (found.logits.argmax(1) == labels).all()


def test_the_search_does_not_depend_on_the_number_of_workers() -> None:
    x, labels = toy(90, 40, 3)
    one, two = (search(x, labels, np.arange(90) % 5, 3, workers) for workers in (1, 2))
    assert one.strength == two.strength
    assert one.logits.tobytes() == two.logits.tobytes()


def test_held_out_answers_come_from_a_layer_that_did_not_see_the_image() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    x = rng.normal(size=(80, 400)).astype(np.float32)
    found = search(x, labels, np.arange(80) % 4, 2, 1)
    assert (found.train_logits.argmax(1) == labels).mean() > 0.95
    assert (found.logits.argmax(1) == labels).mean() < 0.7


def test_a_class_that_is_absent_from_a_fold_is_survived() -> None:
    x, labels = toy(60, 10, 2, apart=2.0)
    folds = np.arange(60) % 5
    labels = labels.copy()
    labels[folds == 0] = 2  # all of class 2 are held out together
    found = search(x, labels, folds, 3, 1)
    assert np.isfinite(found.logits).all()
    assert np.isfinite(cross_entropy(found.logits, labels)).all()
    assert (found.logits[folds == 0].argmax(1) != 2).all()


def test_cross_entropy_of_extreme_logits_is_finite() -> None:
    logits = np.array([[1e4, 0.0], [0.0, 1e4]])
    np.testing.assert_allclose(cross_entropy(logits, np.array([0, 0])), [0, 1e4])


def test_a_weighted_head_is_that_of_a_set_with_rare_images_repeated() -> None:
    x, labels = toy(60, 8, 2, apart=0.3)
    few = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:10]])
    repeated = np.concatenate([few, np.tile(few[-10:], 2)])  # 30 to 30
    space = x[repeated]  # one scale for both
    weighted = train_head(np.concatenate([space, space]), np.tile(labels[repeated], 2), 2, 0.03, 0)
    plain = train_head(space, labels[repeated], 2, 0.03, 0, weighted=True)
    np.testing.assert_allclose(answers(plain, space), answers(weighted, space), atol=1e-4)
    rare = train_head(x[few], labels[few], 2, 0.03, 0, weighted=True)
    common = train_head(x[few], labels[few], 2, 0.03, 0)
    assert answers(rare, x[few])[:, 1].mean() > answers(common, x[few])[:, 1].mean() + 0.1


def test_a_part_of_many_images_finds_the_strength_that_all_of_them_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, labels = toy(900, 30, 3, apart=0.4)
    folds = np.arange(900) % 5
    whole = search(x, labels, folds, 3, workers=1)
    monkeypatch.setattr("headstart.train.head.MANY", 300)
    found = search(x, labels, folds, 3, workers=1)
    assert found.strength == whole.strength
    loss = cross_entropy(found.logits, labels).mean()
    assert loss == pytest.approx(cross_entropy(whole.logits, labels).mean(), abs=1e-3)


def test_a_part_of_a_few_large_groups_holds_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = toy(90, 6, 3)
    monkeypatch.setattr("headstart.train.head.MANY", 25)
    sites = np.arange(90) // 30  # any one of them alone would fill the part
    task = HeadTask(y, sites, sites, 3, Criterion("accuracy", "accuracy"))
    assert search_head(x, task, 0, 1).logits.shape == (90, 3)
