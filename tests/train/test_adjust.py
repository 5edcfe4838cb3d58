"""Rare classes get their say, and only where the criterion asks for it."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.plan.criterion import Criterion
from headstart.train.adjust import adjust
from headstart.train.head import HeadTask, search_head

BALANCED = Criterion("balanced_accuracy", "balanced_accuracy")


def uneven(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping classes, 9 to 1: features [n, 5] and labels [n]."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 10 == 0).astype(np.int64)
    return (rng.normal(size=(n, 5)) + 1.0 * labels[:, None]).astype(np.float32), labels


def test_balanced_accuracy_gains_and_unseen_images_agree() -> None:
    x, labels = uneven(4000, 0)
    seen = np.arange(4000) < 1000
    task = HeadTask(labels[seen], np.arange(1000) // 10 % 5, np.arange(1000), 2, BALANCED)
    search = search_head(x[seen], task, 0, 1)
    found = adjust(BALANCED, search.logits, labels[seen], None)
    assert found.shift[0] > found.shift[1]
    from headstart.train.head import train_head

    logits = train_head(x[seen], labels[seen], 2, search.strength, 0).logits(x[~seen])
    truth = labels[~seen]

    def score(answers: np.ndarray) -> float:
        return float(np.mean([(answers.argmax(1) == c)[truth == c].mean() for c in (0, 1)]))

    assert score(logits - found.shift) > score(logits) + 0.1


@pytest.mark.parametrize("name", ["accuracy", "auc", "log_loss"])
def test_other_criteria_leave_the_answers_alone(name: str) -> None:
    x, labels = uneven(200, 1)
    logits = np.stack([x.sum(1), -x.sum(1)], axis=1).astype(np.float64)
    assert not adjust(Criterion(name, name), logits, labels, None).shift.any()


def test_even_classes_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    logits = rng.normal(size=(300, 3)) + np.eye(3)[labels]
    assert not adjust(BALANCED, logits, labels, None).shift.any()
