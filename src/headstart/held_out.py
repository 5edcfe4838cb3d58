"""Images that were held out: what `headstart evaluate` must know of a run, how often a test part was
scored on this machine.

n images, C classes.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import RunFolderError
from headstart.files import write_json
from headstart.guarding import Guard
from headstart.judge.complete import ChosenOn
from headstart.learning import Learned, Prepared
from headstart.plan.folds import verifying_folds
from headstart.run import csv_cell, csv_text, read_json
from headstart.settings import cache_dir

LEARNED_FROM = "learned_from.json"
HELD_OUT = "held_out.csv"
HELD_COLUMNS = ("path", "label", "group", "content")


def count_test_use(hashes: Iterable[str]) -> int:
    """How often this set of test images was scored on this machine, this time included.

    A test part that is looked at again and again turns into training data; the count says so.
    """
    digest = hashlib.blake2b("".join(sorted(hashes)).encode(), digest_size=16).hexdigest()
    path = cache_dir() / "test_sets" / f"{digest}.json"
    count = 1
    with contextlib.suppress(RunFolderError, KeyError, TypeError, ValueError):  # absent or damaged
        count = int(read_json(path)["scored"]) + 1
    write_json(path, {"scored": count})
    return count


def several(groups: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The groups [N], or None where every image is one of its own."""
    return None if len(np.unique(groups)) == len(groups) else groups


def held_out_csv(prepared: Prepared, guarded: Guard) -> str:
    """held_out.csv: what `headstart evaluate` chooses thresholds on, one row per image to learn from."""
    held, dataset, dev = guarded.held, prepared.dataset, prepared.development
    answers = zip(held.positions, held.labels, held.groups, held.probabilities, strict=True)
    rows = [
        [
            dataset.samples[prepared.split.train[position]].path,
            dataset.classes[label],
            group,
            dev.hashes[position],
            *(round(float(x), 9) for x in row),
        ]
        for position, label, group, row in answers
    ]
    return csv_text([*HELD_COLUMNS, *(f"p_{name}" for name in dataset.classes)], rows)


def read_held_out(folder: Path, classes: Sequence[str]) -> ChosenOn | None:
    """The answers in held_out.csv of a run; None where there is no such file, or one of other classes."""
    file = folder / HELD_OUT
    if not file.is_file():
        return None
    with file.open(newline="", encoding="utf-8") as text:
        header, *rows = csv.reader(text)
    if header != [*HELD_COLUMNS, *(csv_cell(f"p_{name}") for name in classes)] or not rows:
        return None
    column = {csv_cell(name): c for c, name in enumerate(classes)}
    _, names, groups, _, *p = zip(*rows, strict=True)
    answers = np.array(p, dtype=np.float64).T
    labels = np.array([column[name] for name in names])
    return ChosenOn(answers, labels, several(np.array(groups, dtype=np.int64)))


def learned_from_json(prepared: Prepared, learned: Learned, refit_all: bool) -> dict[str, Any]:
    """learned_from.json: the contents of the images that the model in this run has learned from."""
    dev = prepared.development
    left_out = -1
    if learned.held_out is not None and learned.steps is not None and not learned.steps.refit:
        # The network that the first of the verifying folds has judged is shipped.
        left_out = verifying_folds(dev.labels, dev.folds)[0]
    contents = [dev.hashes[i] for i in np.flatnonzero(dev.folds != left_out)]
    if refit_all:
        infos = [prepared.findings.infos[i] for i in prepared.split.test]
        contents += [info.content_hash for info in infos if info is not None]
    return {"contents": sorted(set(contents))}


def read_learned_from(folder: Path) -> frozenset[str] | None:
    """Contents of the images that a run's model has learned from; None where that is not told."""
    file = folder / LEARNED_FROM
    return frozenset(map(str, read_json(file).get("contents") or ())) if file.is_file() else None
