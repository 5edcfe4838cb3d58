"""What the source's classes say of the new ones, with groups of images as the draws."""

from __future__ import annotations

import numpy as np

from headstart.plan.evidence import source_evidence


def test_groups_of_images_alike_are_the_draws() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 10)
    labels = rng.integers(0, 2, 20)[group]
    source = rng.dirichlet(np.ones(8), 20)[group]  # copies of 20 images, unlike any class
    source[:, 0] += 0.2 * labels
    source /= source.sum(1, keepdims=True)
    plain = source_evidence(source, labels, group % 5, 2)
    found = source_evidence(source, labels, group % 5, 2, group)
    assert found.explained == plain.explained
    assert found.se > 2.5 * plain.se  # copies ten times: the root of ten
    one_each = source_evidence(source[::10], labels[::10], np.arange(20) % 5, 2)
    each = source_evidence(source[::10], labels[::10], np.arange(20) % 5, 2, np.arange(20))
    assert each == one_each


def test_a_single_group_claims_nothing() -> None:
    labels = np.arange(60) % 2
    source = np.eye(4)[labels] * 0.9 + 0.025
    folds, alone = np.arange(60) // 2 % 5, np.zeros(60, np.int64)
    assert "they know much" in source_evidence(source, labels, folds, 2).sentence
    found = source_evidence(source, labels, folds, 2, alone)
    assert found.sentence.endswith(
        "of the labels: images of one group do not show what they know of these classes."
    )
