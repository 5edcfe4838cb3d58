"""Can the class be told without looking at the picture? Then a network will learn that instead.

Size, shape, format and colour mode of the files are given to a small tree, cross-validated. When it
beats guessing, the data set has a shortcut: scans of one class from another machine, photos of one
class saved by another program. (Bytes per pixel are left out: they measure texture, which is seen.)

N images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.data.images import ImageInfo

Int = NDArray[np.int64]

SUSPECT_GAIN = 0.10
"""Balanced accuracy above guessing, in units of what is left to gain, from which it is said. Chosen
so that sets without a shortcut (permuted labels) stay below in simulation: tests."""
FOLDS = 5
LEAVES = 16
LEAST_IN_LEAF = 5


@dataclass(frozen=True, slots=True)
class Shortcut:
    """One property of the files that predicts the class."""

    property: str
    score: float
    """balanced accuracy of the cross-validated tree on this property alone"""
    guessing: float
    sentence: str


def find_shortcuts(
    infos: Sequence[ImageInfo], labels: Int, groups: Int, classes: Sequence[str]
) -> tuple[Shortcut, ...]:
    """Properties of the files that tell the classes apart, strongest first.

    Args:
        infos: one per image. labels, groups: int [N]; a group is held out as a whole.
    """
    tables = {
        "image size": np.array([(i.width, i.height) for i in infos], dtype=float),
        "shape (width to height)": np.array([[i.width / i.height] for i in infos]),
        "file format": _codes([i.format for i in infos]),
        "colour mode": _codes([i.mode for i in infos]),
    }
    present = np.unique(labels)
    guessing = 1 / len(present)
    found = []
    for name, table in tables.items():
        if len(np.unique(table, axis=0)) < 2:
            continue  # the same for all files: it can tell nothing
        score, se = _cross_validate(table, labels, groups)
        gain = (score - guessing) / (1 - guessing)
        if gain >= SUSPECT_GAIN and score > guessing + 3 * se:
            sentence = (
                f"The {name} alone predicts the class with a balanced accuracy of {score:.0%} "
                f"(guessing: {guessing:.0%}). A network may learn this instead of what the pictures "
                "show; scores on such data say little about pictures from elsewhere."
            )
            found.append(Shortcut(name, score, guessing, sentence))
    return tuple(sorted(found, key=lambda shortcut: -shortcut.score))


def _codes(words: Sequence[str]) -> NDArray[np.float64]:
    """One column per word, [N, words]."""
    known = sorted(set(words))
    return np.array([[word == other for other in known] for word in words], dtype=float)


def _cross_validate(table: NDArray[np.float64], labels: Int, groups: Int) -> tuple[float, float]:
    """Balanced accuracy of a small tree on held-out groups, and its standard error."""
    from sklearn.tree import DecisionTreeClassifier

    from headstart.data.split import assign_folds

    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    folds = assign_folds(labels, groups, max(2, min(FOLDS, smallest)), seed=0)
    correct = np.zeros(len(labels))
    for k in np.unique(folds):
        tree = DecisionTreeClassifier(
            max_leaf_nodes=LEAVES,
            min_samples_leaf=min(LEAST_IN_LEAF, smallest),
            class_weight="balanced",
            random_state=0,
        )
        tree.fit(table[folds != k], labels[folds != k])
        correct[folds == k] = tree.predict(table[folds == k]) == labels[folds == k]
    recalls = [correct[labels == c] for c in np.unique(labels)]
    variance = sum(r.var() / max(1, len(r) - 1) for r in recalls) / len(recalls) ** 2
    return float(np.mean([r.mean() for r in recalls])), float(np.sqrt(variance))
