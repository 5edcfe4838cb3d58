"""The score that drives every choice."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from headstart.errors import ArgumentError
from headstart.plan.criterion import (
    Criterion,
    chance,
    choose_criterion,
    difference,
    evaluate,
    mean_value,
)

CLASSES = ["cat", "dog", "owl"]


def drawn(n: int, classes: int, seed: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities [N, C] and labels [N] with some signal."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    labels[:classes] = np.arange(classes)
    logits = rng.normal(size=(n, classes)) + signal * np.eye(classes)[labels]
    return logits - np.log(np.exp(logits).sum(1, keepdims=True)), labels


def test_values_equal_scikit_learn() -> None:
    scores, labels = drawn(400, 3, 0)
    predicted = scores.argmax(1)
    asked = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "log_loss": -metrics.log_loss(labels, np.exp(scores)),
        "auc": np.mean([metrics.roc_auc_score(labels == c, scores[:, c]) for c in range(3)]),
        "auc:owl": metrics.roc_auc_score(labels == 2, scores[:, 2]),
    }
    for name, expected in asked.items():
        criterion = choose_criterion(name, labels, CLASSES)
        assert evaluate(criterion, scores, labels).value == pytest.approx(expected, abs=1e-9), name


def test_binary_auc_is_that_of_the_second_class() -> None:
    scores, labels = drawn(200, 2, 1)
    criterion = choose_criterion("auc", labels, ["a", "b"])
    expected = metrics.roc_auc_score(labels, scores[:, 1] - scores[:, 0])
    assert evaluate(criterion, scores, labels).value == pytest.approx(expected)


def test_sensitivity_is_read_at_the_asked_specificity() -> None:
    scores, labels = drawn(2000, 2, 2)
    found = evaluate(choose_criterion("sens@spec=0.9", labels, ["a", "b"]), scores, labels)
    specificity, sensitivity, _ = metrics.roc_curve(labels, scores[:, 1] - scores[:, 0])
    assert found.value == pytest.approx(np.interp(0.1, specificity, sensitivity), abs=0.01)


@pytest.mark.parametrize(
    "name", ["accuracy", "balanced_accuracy", "log_loss", "auc", "auc:owl", "sens@spec=0.8"]
)
def test_standard_errors_match_repeated_draws(name: str) -> None:
    classes = ["a", "b"] if "@" in name else CLASSES
    values, errors = [], []
    for seed in range(200):
        scores, labels = drawn(300, len(classes), seed)
        found = evaluate(choose_criterion(name, labels, classes), scores, labels)
        values.append(found.value)
        errors.append(found.se())
    # 200 draws know their own spread to 5 %; the threshold's slope is rougher.
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "log_loss", "auc"])
def test_errors_of_paired_differences_match_repeated_draws(name: str) -> None:
    gains, errors = [], []
    for seed in range(200):
        scores, labels = drawn(300, 3, seed)
        noise = np.random.default_rng(seed + 999).normal(0, 0.5, scores.shape)
        noisy = scores + noise
        noisy -= np.log(np.exp(noisy).sum(1, keepdims=True))
        criterion = choose_criterion(name, labels, CLASSES)
        gain, se = difference(
            evaluate(criterion, scores, labels), evaluate(criterion, noisy, labels)
        )
        gains.append(gain)
        errors.append(se)
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.2)
    assert np.mean(gains) > 0


def test_auto_turns_to_balanced_accuracy_when_classes_are_uneven() -> None:
    assert choose_criterion("auto", np.repeat([0, 1], [10, 30]), ["a", "b"]).name == "accuracy"
    assert (
        choose_criterion("auto", np.repeat([0, 1], [10, 31]), ["a", "b"]).name
        == "balanced_accuracy"
    )


@pytest.mark.parametrize("name", ["acuracy", "auc:cow", "sens@spec=2", "sens@spec=0.9"])
def test_unknown_metrics_are_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(ArgumentError):
        choose_criterion(name, np.array([0, 1, 2]), CLASSES)


def test_chance_is_what_the_class_frequencies_reach() -> None:
    labels = np.repeat([0, 1], [30, 10])
    constant = np.tile(np.log([0.75, 0.25]), (40, 1))
    for name in ("accuracy", "balanced_accuracy", "log_loss", "auc"):
        criterion = choose_criterion(name, labels, ["a", "b"])
        assert evaluate(criterion, constant, labels).value == pytest.approx(
            chance(criterion, labels)
        )


def test_a_class_with_one_image_gives_finite_errors() -> None:
    scores, labels = drawn(20, 3, 5)
    labels[labels == 0] = 1
    labels[0] = 0
    for name in ("balanced_accuracy", "auc"):
        assert np.isfinite(evaluate(Criterion(name, name), scores, labels).se())


def test_copies_in_one_group_do_not_make_a_score_surer() -> None:
    scores, labels = drawn(100, 3, 4)
    criterion = choose_criterion("balanced_accuracy", labels, CLASSES)
    once = evaluate(criterion, scores, labels)
    twice = evaluate(criterion, np.tile(scores, (2, 1)), np.tile(labels, 2))
    assert twice.se(np.tile(np.arange(100), 2)) == pytest.approx(once.se(), rel=0.05)
    assert twice.se() < 0.8 * once.se()


@pytest.mark.parametrize("name", ["auc", "sens@spec=0.9"])
@pytest.mark.parametrize("only", [0, 1])
def test_images_of_one_class_alone_score_chance_with_no_confidence(name: str, only: int) -> None:
    criterion = choose_criterion(name, np.array([0, 1]), ["a", "b"])
    found = evaluate(criterion, np.random.default_rng(0).normal(size=(9, 2)), np.full(9, only))
    assert found.value == pytest.approx(0.5 if name == "auc" else 0.1)
    assert found.se() == pytest.approx(0.5)


def test_the_error_over_groups_is_that_of_a_mean_of_group_means() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(7), 10)
    hits = rng.random(70) < np.repeat(rng.random(7), 10)
    value = mean_value(Criterion("accuracy", "accuracy"), hits.astype(float), np.zeros(70, int))
    means = hits.reshape(7, 10).mean(1)
    assert value.se(groups) == pytest.approx(means.std(ddof=1) / 7**0.5)
    assert value.se(np.arange(70)) == pytest.approx(value.se())


def test_one_group_says_nothing_of_others() -> None:
    value = mean_value(Criterion("accuracy", "accuracy"), np.arange(8.0), np.zeros(8, int))
    assert value.se(np.zeros(8, int)) == np.inf
