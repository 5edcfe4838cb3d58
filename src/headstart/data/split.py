"""Draw the test part and the folds: stratified, grouped, a function of the seed and the names.

N images. Copies of one image (equal content) and images of one group never lie on two sides of a
split or of a fold.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.data.check import Findings
from headstart.data.sources import Dataset
from headstart.errors import DataError, show

FOLDS = 5
TEST_SHARE = 5
"""One fifth of the images is the test part when the user gives none."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which sample does what. Indices point into `dataset.samples`."""

    train: NDArray[np.int64]  # [N_train], the development part
    test: NDArray[np.int64]  # [N_test]
    left_out: dict[int, str]
    """sample index -> reason (refused, or a copy of a test image)"""
    fold: NDArray[np.int64]  # [N_train] fold of each development image
    group: NDArray[np.int64]  # [N_train] equal numbers must stay together
    protocol: str

    @property
    def folds(self) -> int:
        """How many folds there are."""
        return int(self.fold.max()) + 1


def split(dataset: Dataset, findings: Findings, seed: int) -> Split:
    """Keep the user's own test part, or hold out a fifth; then fold the development part.

    Raises:
        DataError: a class is too small to be split, named with what to do.
    """
    groups = _groups(dataset, findings)
    labels = np.array([sample.label for sample in dataset.samples])
    left_out = {i: "unreadable" for i, info in enumerate(findings.infos) if info is None}
    usable = np.array([i for i in range(len(labels)) if i not in left_out], dtype=np.int64)
    if dataset.has_test:
        test = np.array([i for i in usable if dataset.samples[i].split == "test"], dtype=np.int64)
        test_groups = set(groups[test].tolist())
        train_list = []
        for i in usable:
            if dataset.samples[i].split == "test":
                continue
            if int(groups[i]) in test_groups:
                left_out[int(i)] = "copy of a test image"
            else:
                train_list.append(i)
        train = np.array(train_list, dtype=np.int64)
        _demand(dataset, labels[train], least=2, where="training part")
        if not len(test):
            raise DataError("No image of the test part can be read", where=dataset.root)
        protocol = "given test part"
    else:
        _demand(dataset, labels[usable], least=3, where="data", groups=groups[usable])
        held_out = _hold_out(labels[usable], groups[usable], seed)
        train, test = usable[~held_out], usable[held_out]
        protocol = f"hold-out of 1/{TEST_SHARE}, stratified"
    smallest = min(_groups_per_class(labels[train], groups[train]).values())
    folds = max(2, min(FOLDS, smallest))
    fold = assign_folds(labels[train], groups[train], folds, seed + 1)
    return Split(train, test, left_out, fold, groups[train], protocol)


def assign_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int
) -> NDArray[np.int64]:
    """A fold number per image, stratified by label, groups kept whole.

    Args:
        labels: int [N]. groups: int [N].
        folds: how many; lowered by the caller when the smallest class has fewer groups.

    Returns:
        int [N] in 0..folds-1.

    >>> labels = np.array([0, 0, 1, 1, 0, 1])
    >>> assign_folds(labels, np.arange(6), 3, seed=0).tolist().count(0)
    2
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    alone = len(np.unique(groups)) == len(groups)
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(
        folds, shuffle=True, random_state=seed
    )
    assigned = np.zeros(len(labels), dtype=np.int64)
    rows = np.zeros(len(labels))
    with warnings.catch_warnings():
        # A class with fewer members than folds is allowed here: some folds then lack it.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for k, (_, part) in enumerate(splitter.split(rows, labels, None if alone else groups)):
            assigned[part] = k
    return assigned


def _hold_out(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """One fifth of the images, at least one group of every class; bool [N]."""
    held_out = assign_folds(labels, groups, TEST_SHARE, seed) == 0
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        if not held_out[labels == label].any():
            held_out |= groups == rng.choice(groups[labels == label])
    return np.asarray(held_out)


def _groups(dataset: Dataset, findings: Findings) -> NDArray[np.int64]:
    """One number per sample; equal for equal content or equal group (union of both)."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    keys = []
    for i, (sample, info) in enumerate(zip(dataset.samples, findings.infos, strict=True)):
        key = f"content:{info.content_hash}" if info is not None else f"refused:{i}"
        if sample.group is not None:
            parent[root(key)] = root(f"group:{sample.group}")
        keys.append(key)
    roots = [root(key) for key in keys]
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in roots], dtype=np.int64)


def _groups_per_class(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> Counter[int]:
    pairs = {(int(label), int(group)) for label, group in zip(labels, groups, strict=True)}
    return Counter(label for label, _ in pairs)


def _demand(
    dataset: Dataset,
    labels: NDArray[np.int64],
    least: int,
    where: str,
    groups: NDArray[np.int64] | None = None,
) -> None:
    """Every class must have `least` different images."""
    groups = np.arange(len(labels)) if groups is None else groups
    counts = _groups_per_class(labels, groups)
    poor = [(name, counts[c]) for c, name in enumerate(dataset.classes) if counts[c] < least]
    if poor:
        names = ", ".join(f"{show(name)} ({n})" for name, n in poor[:5])
        more = f" and {len(poor) - 5} more" if len(poor) > 5 else ""
        raise DataError(
            f"A class has too few readable, different images in the {where}: at least {least} are "
            "needed",
            where=dataset.root,
            received=names + more,
            do="Add images to it, or move its folder away.",
        )


def rows(dataset: Dataset, split: Split) -> list[Sequence[object]]:
    """The rows of split.csv: path, label, split, group, fold; one per sample."""
    place: dict[int, tuple[str, object, object]] = {
        int(i): ("train", int(g), int(f))
        for i, g, f in zip(split.train, split.group, split.fold, strict=True)
    }
    place |= {int(i): ("test", "", "") for i in split.test}
    return [
        (sample.path, dataset.classes[sample.label], *place.get(i, ("left out", "", "")))
        for i, sample in enumerate(dataset.samples)
    ]
