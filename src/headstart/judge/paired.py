"""Two runs on the same test images: which differences are real?

N images that both runs were judged on, C classes. Everything is paired by path: an image that is
hard for both runs says nothing about their difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from headstart.data.table import _read as read_rows
from headstart.data.table import _three as three
from headstart.errors import DataError, show
from headstart.files import csv_cell
from headstart.judge.calibration import Floats, Ints, check_inputs
from headstart.judge.evaluate import Resolvable, resolvable
from headstart.judge.grouped import wider
from headstart.judge.influence import CROSSED, GROUPED, correlation, influence, widening
from headstart.judge.metrics import LEVEL, Metric, accuracy, auc, balanced_accuracy, log_loss
from headstart.judge.proportions import difference, paired, stretched
from headstart.judge.words import gap, listed, named

SCORES = (accuracy, balanced_accuracy, log_loss, auc)
PROBABILITY = "p_"


@dataclass(frozen=True, slots=True)
class Answers:
    """One run's answers: paths [N], labels [N], probabilities [N, C] in the order of `classes`."""

    paths: tuple[str, ...]
    labels: Ints
    probabilities: Floats
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One score of both runs, and first - second with its 95 % interval.

    `together` has the interval that holds for all scores at once (Bonferroni); `real`: whether that
    leaves out zero.
    For the log loss a negative difference speaks for the first run.
    """

    metric: str
    first: Metric
    second: Metric
    difference: Metric
    together: Metric
    real: bool


@dataclass(frozen=True, slots=True)
class OnlyRight:
    """Paths of the common images that one run gets right and the other does not, in the order of the
    first run; `both` and `neither` are counts of the rest."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    both: int
    neither: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on `n` common images; `left_out` are those that only one of them was judged on."""

    names: tuple[str, str]
    n: int
    left_out: tuple[int, int]
    differences: tuple[Difference, ...]
    resolvable: Resolvable
    sentence: str


def read_answers(file: Path) -> Answers:
    """Read a run's predictions.csv.

    Raises:
        DataError: no such file, columns missing, labels that are no class, or probabilities that are
            no numbers (three rows are shown).
        ArgumentError: probabilities that are no probabilities; see `calibration.check_inputs`.
    """
    header, rows = read_rows(file)
    columns = [i for i, name in enumerate(header) if name.startswith(PROBABILITY)]
    if not {"path", "label"} <= set(header) or len(columns) < 2:
        raise DataError(
            "The table holds no predictions",
            where=file,
            received=", ".join(header),
            do="Give the predictions.csv of a run: path, label and p_CLASS for every class.",
        )
    classes = tuple(header[i].removeprefix(PROBABILITY) for i in columns)
    number = {csv_cell(name): c for c, name in enumerate(classes)}
    path, label = header.index("path"), header.index("label")
    strange = [row for row in rows if row[label] not in number]
    if strange:
        raise DataError(
            f"{len(strange)} labels are the name of no class", where=file, received=three(strange)
        )
    try:
        p = np.array([[float(row[i]) for i in columns] for row in rows])
    except ValueError as cause:
        raise DataError(
            f"A probability is no number ({cause})", where=file, received=three(rows)
        ) from cause
    labels, p = check_inputs([number[row[label]] for row in rows], p)
    return Answers(tuple(row[path] for row in rows), labels, p, classes)


def compare(
    first: Answers,
    second: Answers,
    names: tuple[str, str] = ("the first run", "the second run"),
    groups: NDArray[Any] | None = None,
    wider_by: float = 1.0,
) -> Comparison:
    """Compare two runs on the images that both were judged on.

    Accuracy: Tango's score interval, which agrees with McNemar's test. The others: MOVER from the
    intervals of both scores, with the correlation of the two estimates from what each image adds to
    them (for the AUC, DeLong et al. 1988). It covers which images were drawn, not the luck of
    training: the same recipe with another seed differs too.

    Args:
        groups: group [N] of each of the first run's images, when images of one group are not
            independent.
        wider_by: see `curves.class_curves`.

    Raises:
        DataError: other classes, no common image, a path twice, or two labels for one image.

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8]] * 30)
    >>> one = Answers(tuple(map(str, range(60))), np.array([0, 1] * 30), p, ("a", "b"))
    >>> [d.metric for d in compare(one, one).differences if d.real]
    []
    """
    rows, others, columns = _matched(first, second, names)
    labels = first.labels[rows]
    p, q = first.probabilities[rows], second.probabilities[np.ix_(others, columns)]
    tied = None if groups is None else np.asarray(groups)[rows]
    each = [_difference(score, p, q, labels, tied, wider_by) for score in SCORES]
    found = tuple(d for d in each if d is not None)
    left_out = len(first.paths) - len(rows), len(second.paths) - len(rows)
    right = float(((p.argmax(1) == labels).mean() + (q.argmax(1) == labels).mean()) / 2)
    least = resolvable(len(rows), right)
    sentence = _sentence(names, len(rows), left_out, found, least)
    return Comparison(names, len(rows), left_out, found, least, sentence)


def _difference(
    score: Callable[[Ints, Floats], Metric],
    p: Floats,
    q: Floats,
    labels: Ints,
    groups: NDArray[Any] | None,
    wider_by: float,
) -> Difference | None:
    one, two = score(labels, p), score(labels, q)
    if one.low is None or two.low is None:
        return None
    name = one.name
    if groups is not None:
        one = wider(one, widening(name, p, labels, groups), GROUPED)
        two = wider(two, widening(name, q, labels, groups), GROUPED)
    together = 1 - (1 - LEVEL) / len(SCORES)
    if name == "accuracy":
        hits = p.argmax(1) == labels, q.argmax(1) == labels
        found, strict = (paired(name, *hits, groups, level) for level in (LEVEL, together))
    else:
        moves = influence(name, p, labels).influence, influence(name, q, labels).influence
        shared = correlation(*moves, groups)
        found = difference(name, one, two, shared)
        further = float(ndtri((1 + together) / 2) / ndtri((1 + LEVEL) / 2))
        strict = difference(name, wider(one, further, ""), wider(two, further, ""), shared)
    one, two = wider(one, wider_by, CROSSED), wider(two, wider_by, CROSSED)
    found, strict = stretched(found, wider_by), stretched(strict, wider_by)
    assert strict.low is not None and strict.high is not None
    return Difference(name, one, two, found, strict, real=not strict.low <= 0 <= strict.high)


def only_right(
    first: Answers,
    second: Answers,
    names: tuple[str, str] = ("the first run", "the second run"),
) -> OnlyRight:
    """Which of the common images each run gets right that the other does not.

    Raises:
        DataError: as `compare`.

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> one = Answers(("a", "b", "c"), np.array([0, 1, 1]), p, ("x", "y"))
    >>> two = Answers(("a", "b", "c"), np.array([0, 1, 1]), 1 - p, ("x", "y"))
    >>> only_right(one, two)
    OnlyRight(first=('a', 'b'), second=('c',), both=0, neither=0)
    """
    rows, others, columns = _matched(first, second, names)
    labels = first.labels[rows]
    one = first.probabilities[rows].argmax(1) == labels
    two = second.probabilities[np.ix_(others, columns)].argmax(1) == labels
    paths = np.array(first.paths, dtype=object)[rows]
    return OnlyRight(
        tuple(paths[one & ~two]),
        tuple(paths[two & ~one]),
        int((one & two).sum()),
        int((~one & ~two).sum()),
    )


def _matched(
    first: Answers, second: Answers, names: tuple[str, str]
) -> tuple[list[int], list[int], list[int]]:
    """Rows of both runs with the same path, and the second's columns in the order of the first's."""
    if sorted(first.classes) != sorted(second.classes):
        apart = sorted(set(first.classes) ^ set(second.classes))
        raise DataError(
            "The two runs tell apart different classes",
            where=" and ".join(names),
            received=", ".join(map(show, apart[:10])),
        )
    for answers, name in zip((first, second), names, strict=True):
        twice = [path for path, count in Counter(answers.paths).items() if count > 1]
        if twice:
            raise DataError(
                f"{len(twice)} paths have more than one row",
                where=name,
                received=", ".join(map(show, twice[:3])),
            )
    place = {path: i for i, path in enumerate(second.paths)}
    rows = [i for i, path in enumerate(first.paths) if path in place]
    others = [place[first.paths[i]] for i in rows]
    if not rows:
        raise DataError(
            "The two runs were judged on no common image",
            where=" and ".join(names),
            received=f"{', '.join(map(show, first.paths[:3]))} | {', '.join(map(show, second.paths[:3]))}",
            do="Give both runs the same test part, with paths relative to the same folder.",
        )
    columns = [second.classes.index(name) for name in first.classes]
    relabelled = [
        first.paths[i]
        for i, j in zip(rows, others, strict=True)
        if first.classes[first.labels[i]] != second.classes[second.labels[j]]
    ]
    if relabelled:
        raise DataError(
            f"{len(relabelled)} images have another label in the other run",
            where=" and ".join(names),
            received=", ".join(map(show, relabelled[:3])),
            do="Judge both runs on the same labels.",
        )
    return rows, others, columns


def _sentence(
    names: tuple[str, str],
    n: int,
    left_out: tuple[int, int],
    found: Sequence[Difference],
    least: Resolvable,
) -> str:
    real = [d for d in found if d.real]
    text = f"On {n:,} common images"
    if any(left_out):
        text += f" ({left_out[0]:,} and {left_out[1]:,} were left out, being of one run only)"
    if not real:
        words = listed([named(d.metric) for d in found])
        text += (
            f", luck of the draw can explain every difference between {names[0]} and {names[1]} in "
            f"{words}."
        )
    else:
        told = [f"{named(d.metric)} {gap(d.difference, d.metric == 'log_loss')}" for d in real]
        text += f", {names[0]} against {names[1]}: real differences are {listed(told)}, also when all {len(found)} scores are taken together."
        rest = [named(d.metric) for d in found if not d.real]
        if rest:
            text += f" Luck of the draw can explain those in {listed(rest)}."
    return f"{text} {least.sentence}"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Every field under its name."""
    return asdict(comparison)
