"""Which labels are likely wrong, and which images no model can use: a list for a person to look at.

N images, C classes, K candidates. Everything is judged from held-out answers, so no model defends
a label that it was taught.

The list holds the images whose likeliest class is not the label, ordered by the held-out
probability of the label (self-confidence: Northcutt, Jiang & Chuang 2021, section 4; Kuan & Mueller
2022). Of labels planted uniformly in trashnet it finds 93 % among the first tenth of the images, the
margin between the two classes 91 %, confident learning's class-wise thresholds 88 %; of labels
changed to the most confused class 83, 83 and 84 %. The mean of two candidates finds less than the
better one (benchmarks/judgement.py), so the other candidates are asked for reasons only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import ArgumentError
from headstart.files import csv_text
from headstart.judge.calibration import Floats, Ints, check_inputs

HEADER = ("path", "label", "suggested", "score", "reason")
LONGEST = 0.1
"""share of the images that a list names at most; nobody looks further"""
STRANGE = 0.2
"""part of the list that is kept for images unlike all others"""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One image worth a look. `suggested` is the same as `given` where the image itself is in doubt.

    `score` is one less the held-out probability of the label: 1 is as doubtful as can be.
    """

    index: int
    path: str
    given: str
    suggested: str
    score: float
    reason: str


def suggest(
    paths: Sequence[str],
    labels: ArrayLike,
    classes: Sequence[str],
    answers: ArrayLike,
    strange: ArrayLike | None = None,
    share: float = LONGEST,
) -> tuple[Suggestion, ...]:
    """The images worth a look, the likeliest label error first.

    After the label errors come images that are unlike all others, the strangest first.

    Args:
        paths: N names, as the data set has them. labels: integers [N]. classes: C names.
        answers: probabilities [K, N, C] of K candidates, the chosen one first, or [N, C] of it
            alone; all held out.
        strange: floats [N], what `unlike` says of each image when it is held out (above 1: flagged),
            or None.
        share: of the images are listed at most.

    Raises:
        ArgumentError: shapes that do not fit; see `check_inputs`.

    >>> found = suggest(["a.jpg", "b.jpg"], [0, 1], ["cat", "dog"], [[0.1, 0.9], [0.2, 0.8]], share=1)
    >>> found[0].path, found[0].suggested, found[0].reason
    ('a.jpg', 'dog', 'held-out answer: dog 90 %, cat 10 %')
    """
    every = _candidates(answers)
    truth, p = check_inputs(labels, every[0])
    if len(paths) != len(truth) or len(classes) != p.shape[1]:
        raise ArgumentError(
            "Paths, classes and answers do not fit together",
            received=f"{len(paths)} paths, {len(classes)} classes, answers {list(every.shape)}",
        )
    doubt, other = label_doubt(truth, p)
    far = np.zeros(len(truth)) if strange is None else np.asarray(strange, dtype=np.float64)
    wrong, odd = p.argmax(1) != truth, far > 1
    most = max(1, int(share * len(truth)))
    strangest = np.flatnonzero(odd & ~wrong)
    strangest = strangest[np.argsort(-far[strangest], kind="stable")][: int(STRANGE * most)]
    doubted = np.flatnonzero(wrong)
    doubted = doubted[np.argsort(-doubt[doubted], kind="stable")][: most - len(strangest)]
    found = []
    for i in [*doubted.tolist(), *strangest.tolist()]:
        reasons = _reasons(every[:, i], truth[i], int(other[i]), classes) if wrong[i] else []
        if odd[i]:
            reasons.append("unlike the other images: is it one of these classes at all?")
        given = classes[truth[i]]
        suggested = classes[other[i]] if wrong[i] else given
        why = "; ".join(reasons)
        found.append(Suggestion(i, paths[i], given, suggested, float(doubt[i]), why))
    return tuple(found)


def label_doubt(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Ints]:
    """One less the probability of the label [N], and the likeliest other class [N].

    Raises:
        ArgumentError: see `check_inputs`.

    >>> doubt, other = label_doubt([0, 0], [[0.1, 0.9], [0.8, 0.2]])
    >>> doubt.round(1).tolist(), other.tolist()
    ([0.9, 0.2], [1, 1])
    """
    truth, p = check_inputs(labels, probabilities)
    rows = np.arange(len(truth))
    others = p.copy()
    others[rows, truth] = -1
    return 1 - p[rows, truth], others.argmax(1)


def all_fail(labels: ArrayLike, answers: ArrayLike) -> NDArray[np.bool_]:
    """Images [N] on which no candidate names the label, bool; answers [K, N, C].

    >>> all_fail([0, 0], [[[0.1, 0.9], [0.1, 0.9]], [[0.2, 0.8], [0.7, 0.3]]]).tolist()
    [True, False]
    """
    every = _candidates(answers)
    return np.asarray((every.argmax(2) != np.asarray(labels)).all(0))


def expected_errors(labels: ArrayLike, probabilities: ArrayLike) -> int:
    """About how many labels are wrong, by confident learning (Northcutt et al. 2021, section 3.1).

    An image counts when a class other than its label is as probable as it is on average among the
    images that bear that class's name. It is a rough count: what a model gets wrong by itself counts
    too, so on hard data it is too large.

    Raises:
        ArgumentError: see `check_inputs`.

    >>> p = [[0.9, 0.1]] * 9 + [[0.95, 0.05]] + [[0.1, 0.9]] * 10
    >>> expected_errors([0] * 9 + [1] * 11, p)
    1
    """
    truth, p = check_inputs(labels, probabilities)
    rows = np.arange(len(truth))
    support = np.bincount(truth, minlength=p.shape[1])
    sure = np.bincount(truth, p[rows, truth], minlength=p.shape[1]) / np.maximum(support, 1)
    reached = np.where((p >= sure) & (support > 0), p, -1.0)
    return int(((reached.argmax(1) != truth) & (reached.max(1) >= 0)).sum())


def suggestions_csv(suggestions: Sequence[Suggestion]) -> str:
    """The list as CSV: correct the column `label` and give the file back (`relabel`).

    >>> suggestions_csv([Suggestion(0, "=a.jpg", "cat", "dog", 0.5, "why")]).splitlines()
    ['path,label,suggested,score,reason', "'=a.jpg,cat,dog,0.5,why"]
    """
    rows = [(s.path, s.given, s.suggested, round(s.score, 4), s.reason) for s in suggestions]
    return csv_text(HEADER, rows)


def _candidates(answers: ArrayLike) -> Floats:
    every = np.asarray(answers, dtype=np.float64)
    every = every[None] if every.ndim == 2 else every
    if every.ndim != 3 or not len(every):
        raise ArgumentError(
            "Answers are probabilities [K, N, C] of K candidates, or [N, C] of one",
            received=list(np.shape(answers)),
        )
    return every


def _reasons(answers: Floats, given: int, other: int, classes: Sequence[str]) -> list[str]:
    """Why a label is doubted, from the answers [K, C] of all candidates, the chosen one first."""
    p = answers[0]
    text = f"{classes[other]} {100 * p[other]:.0f} %, {classes[given]} {100 * p[given]:.0f} %"
    reasons = [f"held-out answer: {text}"]
    if len(answers) > 1:
        named = answers.argmax(1)
        votes = f"{(named == other).sum()} of {len(answers)} candidates say {classes[other]}"
        reasons.append(votes + (f", none says {classes[given]}" if (named != given).all() else ""))
    return reasons
