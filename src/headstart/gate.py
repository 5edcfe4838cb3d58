"""The data gate: what the images themselves say about the data set, once their features are known.

Near-duplicates, the same picture under two labels, leaks between given splits, files that give the
class away, classes that are one class, extreme imbalance, overlap with the source's own classes.

N images, K source classes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.duplicates import propose_by_features
from headstart.backbone.features import Features
from headstart.backbone.graph import HEAD, TapGraph
from headstart.data.check import Findings, inner_classes
from headstart.data.near import NearDuplicates, near_duplicates, propose_by_hash
from headstart.data.shortcuts import Shortcut, find_shortcuts
from headstart.data.sources import Dataset
from headstart.errors import show
from headstart.plan.evidence import source_probabilities

Int = NDArray[np.int64]

EXTREME_IMBALANCE = 20
"""a largest class this many times the smallest is said aloud"""
OVERLAP_SHARE = 0.5
"""share of a class's images that one source class must win for the two to be called alike"""
OVERLAP_IMAGES = 2_000
IMAGENET_CLASSES = 1_000


@dataclass(frozen=True, slots=True)
class NearPaths:
    """Two files that show the same picture."""

    paths: tuple[str, str]
    kind: str
    score: float
    conflict: bool
    """they lie under two classes"""
    leak: bool
    """they lie on both sides of the user's own split"""


@dataclass(frozen=True, slots=True)
class Gate:
    """What was found beyond the single files."""

    near: tuple[NearPaths, ...]
    ties: tuple[tuple[int, ...], ...]
    """samples that show the same picture: they stay together in every split"""
    near_sentence: str
    shortcuts: tuple[Shortcut, ...]
    twin_classes: tuple[tuple[str, ...], ...]
    imbalance: str
    """a sentence, or empty"""
    overlap: tuple[tuple[str, str, float], ...]
    """(class, source class, share of its images)"""
    inner: str
    """a sentence, where the classes may be one level deeper; or empty"""

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence per finding that a person should act on."""
        found = [shortcut.sentence for shortcut in self.shortcuts]
        if conflicts := sum(pair.conflict for pair in self.near):
            found.append(f"{_pairs(conflicts)} the same picture under two labels.")
        if leaks := sum(pair.leak for pair in self.near):
            found.append(f"{_pairs(leaks)} one picture on both sides of the given split.")
        found += [
            f"These classes may be one: {', '.join(map(show, t))}." for t in self.twin_classes
        ]
        return tuple(
            text for text in (self.inner, *found, self.imbalance, self.near_sentence) if text
        )


def _pairs(n: int) -> str:
    return "1 pair of files shows" if n == 1 else f"{n:,} pairs of files show"


def look_closer(
    dataset: Dataset,
    findings: Findings,
    graph: TapGraph,
    features: Features,
    rows: Int,
    workers: int,
) -> Gate:
    """Everything that needs the whole set at once.

    Args:
        rows: the samples [N] that the features' rows belong to: all readable ones, in order.
    """
    near, ties = _near(dataset, findings, features, rows, workers)
    labels = np.array([dataset.samples[i].label for i in rows])
    infos = [info for info in findings.infos if info is not None]
    contents: dict[str, int] = {}
    groups = np.array([contents.setdefault(i.content_hash, len(contents)) for i in infos])
    counts = np.bincount(labels, minlength=len(dataset.classes))
    return Gate(
        near=_as_paths(dataset, near, ties[1]),
        ties=ties[0],
        near_sentence=near.sentence,
        inner=inner_classes(dataset),
        shortcuts=find_shortcuts(infos, labels, groups, dataset.classes),
        twin_classes=twin_classes(dataset.classes),
        imbalance=_imbalance(dataset.classes, counts),
        overlap=_overlap(dataset.classes, graph, features, labels),
    )


def twin_classes(classes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Classes whose names differ only in case, spaces, hyphens or the spelling of accents.

    >>> twin_classes(["Cat", "cat ", "dog"])
    (('Cat', 'cat '),)
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        folded = unicodedata.normalize("NFKC", name).casefold()
        alike["".join(c for c in folded if c not in " _-.\t")].append(name)
    return tuple(tuple(names) for names in alike.values() if len(names) > 1)


Ties = tuple[tuple[tuple[int, ...], ...], Int]


def _near(
    dataset: Dataset, findings: Findings, features: Features, rows: Int, workers: int
) -> tuple[NearDuplicates, Ties]:
    """Near-duplicates among different contents; ties as samples, and the sample of each content."""
    first: dict[str, int] = {}
    for position, i in enumerate(rows.tolist()):
        info = findings.infos[i]
        assert info is not None
        first.setdefault(info.content_hash, position)
    unique = np.array(list(first.values()), dtype=np.int64)
    prints = [findings.prints[i] for i in rows[unique].tolist()]
    known = [p for p in prints if p is not None]
    assert len(known) == len(prints)
    proposed = np.concatenate(
        [
            propose_by_hash(known, workers),
            propose_by_features(features.stage(HEAD, unique), workers=workers),
        ]
    )
    found = near_duplicates(known, proposed, workers)
    ties = tuple(tuple(int(rows[unique[k]]) for k in group) for group in found.components)
    return found, (ties, rows[unique])


def _as_paths(dataset: Dataset, near: NearDuplicates, sample_of: Int) -> tuple[NearPaths, ...]:
    trusted = {k for group in near.components for k in group}
    pairs = []
    for pair in near.pairs:
        if pair.first not in trusted:
            continue
        a, b = (dataset.samples[int(sample_of[k])] for k in (pair.first, pair.second))
        leak = (a.split == "test") != (b.split == "test")
        pairs.append(NearPaths((a.path, b.path), pair.kind, pair.score, a.label != b.label, leak))
    return tuple(pairs)


def _imbalance(classes: Sequence[str], counts: Int) -> str:
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    if counts[largest] <= EXTREME_IMBALANCE * max(1, int(counts[smallest])):
        return ""
    return (
        f"Extreme imbalance: {counts[largest]:,} images of {show(classes[largest])}, "
        f"{counts[smallest]:,} of {show(classes[smallest])}."
    )


def _overlap(
    classes: Sequence[str], graph: TapGraph, features: Features, labels: Int
) -> tuple[tuple[str, str, float], ...]:
    """New classes whose images mostly get one and the same source class."""
    names = source_class_names(graph)
    some = np.linspace(0, len(labels) - 1, min(len(labels), OVERLAP_IMAGES)).astype(np.int64)
    source = source_probabilities(graph, features.stage(HEAD, some))
    if source is None or names is None:
        return ()
    return alike(source.argmax(1), labels[some], classes, names)


def alike(
    best: Int, labels: Int, classes: Sequence[str], names: Sequence[str]
) -> tuple[tuple[str, str, float], ...]:
    """Classes most of whose images get one source class that no other class gets most of.

    One that wins for several classes knows none of them: all digits look like a worm.

    Args:
        best: source class [N] that each image looks like most. labels: its own class [N].
        names: of the K source classes.

    >>> alike(np.array([2, 2, 2, 0, 1, 1]), np.array([0, 0, 0, 0, 1, 1]), ["a", "b"], "xyz")
    (('a', 'z', 0.75), ('b', 'y', 1.0))
    """
    found = []
    for c, name in enumerate(classes):
        if not (labels == c).any():
            continue
        winners = np.bincount(best[labels == c], minlength=len(names))
        share = float(winners.max() / winners.sum())
        if share >= OVERLAP_SHARE:
            found.append((name, int(winners.argmax()), share))
    wins = Counter(winner for _, winner, _ in found)
    return tuple((name, names[k], share) for name, k, share in found if wins[k] == 1)


def source_class_names(graph: TapGraph) -> list[str] | None:
    """Names of ImageNet's classes in the order of the outputs, from timm's own lists; else None."""
    if graph.source_classes != IMAGENET_CLASSES:
        return None
    spec = find_spec("timm")  # found, not imported: that would load torch
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "data" / "_info"
    try:
        synsets = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
        lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    lemma = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return [lemma.get(synset, synset).split(",")[0] for synset in synsets]
