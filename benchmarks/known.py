"""What the benchmarks of judgement know of a set: labels, groups, features; and heads on these.

N images, D feature width.
"""

from __future__ import annotations

import csv
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sets import find, groups_of

from headstart.backbone.features import features
from headstart.backbone.graph import TapGraph, tap_graph
from headstart.data.check import check
from headstart.data.sources import Dataset, read
from headstart.data.split import FOLDS, development_folds
from headstart.plan.criterion import Criterion
from headstart.settings import DEFAULT_BACKBONE, threads
from headstart.train.head import HeadTask, Space, _minimise, search_head

MOST = 1500
ACCURACY = Criterion("accuracy", "accuracy")
WORK = Path(tempfile.gettempdir()) / f"headstart-judgement-{os.getpid()}"


@dataclass(frozen=True)
class Known:
    """A set's images: labels, groups and folds [N], features of the top and of all stages [N, D]."""

    name: str
    labels: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...]
    top: np.ndarray
    every: np.ndarray


_GRAPH: list[TapGraph] = []


def load(name: str, most: int = MOST, dataset: Dataset | None = None) -> Known:
    """A set of images through headstart's own pass, at most so many, in their shares per class."""
    dataset = dataset or read(find(name, WORK))
    rng = np.random.default_rng(0)
    labels = np.array([sample.label for sample in dataset.samples])
    place = np.empty(len(labels))
    for c in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == c))
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    picked = np.sort(np.argsort(place, kind="stable")[:most])
    dataset = replace(dataset, samples=tuple(dataset.samples[i] for i in picked))
    if not _GRAPH:
        _GRAPH.append(tap_graph(DEFAULT_BACKBONE, None, None, []))
    findings = check(dataset, threads(), _GRAPH[0].preprocess.decode_px)
    rows = [i for i, info in enumerate(findings.infos) if info is not None]
    samples = [dataset.samples[i] for i in rows]
    hashes = [findings.infos[i].content_hash for i in rows]
    paths = [dataset.locate(sample) for sample in samples]
    found = features(_GRAPH[0], paths, hashes, "cpu", threads())
    return Known(
        name,
        np.array([sample.label for sample in samples]),
        _groups(name, paths, hashes),
        dataset.classes,
        found.stage("head"),
        found.all_stages(),
    )


def _groups(name: str, paths: list[Path], hashes: list[str]) -> np.ndarray:
    """Lesion, patient or signer; copies count as one where nothing is known."""
    if name == "ham10000":
        root = paths[0].parents[1]
        with (root / "manifest.csv").open() as file:
            lesion = {row["path"]: row["lesion_id"] for row in csv.DictReader(file)}
        keys = [lesion[str(path.relative_to(root))] for path in paths]
    elif name == "malaria":  # C39P4thinF_...: the patient
        keys = [path.name.partition("thin")[0] for path in paths]
    elif name == "sign_digits":
        keys = [str(number) for number in groups_of(name, paths)]
    else:
        keys = hashes
    return np.unique(keys, return_inverse=True)[1]


# -- heads ---------------------------------------------------------------------------------------


def held_out(x: np.ndarray, labels: np.ndarray, folds: np.ndarray, strength: float) -> np.ndarray:
    """Held-out logits [N, C] at one strength: the search of `train.head` without the search."""
    space, classes = Space(x), int(labels.max()) + 1
    logits, layer = np.empty((len(x), classes)), space.random_start(classes, 0)
    for k in np.unique(folds):
        learn = folds != k
        weight, bias = _minimise(space.rotated[learn], labels[learn], strength, layer)
        logits[~learn] = space.rotated[~learn] @ weight + bias
    return logits


def answers(
    x: np.ndarray, labels: np.ndarray, learn: np.ndarray, ask: np.ndarray, strength: float
) -> np.ndarray:
    """Logits [n, C] of a head that learned from some rows, for others."""
    space, classes = Space(x[learn]), int(labels.max()) + 1
    start = space.random_start(classes, 0)
    head = space.fold(_minimise(space.rotated, labels[learn], strength, start))
    return head.logits(x[ask]).astype(np.float64)


def strength_of(x: np.ndarray, known: Known) -> float:
    """The strength that the head's own search takes, on every image of the set."""
    folds = development_folds(known.labels, known.groups, FOLDS, 1)
    task = HeadTask(known.labels, folds, known.groups, len(known.classes), ACCURACY)
    return search_head(x, task, 0, 1).strength


def said(values: list[float] | np.ndarray, scale: float = 1.0, digits: int = 3) -> str:
    """Mean ± standard error over draws."""
    v = scale * np.asarray(values)
    return f"{v.mean():.{digits}f} ± {v.std(ddof=1) / len(v) ** 0.5:.{digits}f}"
