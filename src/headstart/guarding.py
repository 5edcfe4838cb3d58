"""What goes out beside an answer: a set of classes that holds the right one, and a word of warning.

Both are calibrated on held-out answers of the images that the model learned from; where there are
too few of them, or none that the network has not seen, that is said and the model goes without.

M held-out images, N judged ones, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.judge.conformal import (
    SetRule,
    SetsSeen,
    cross_judged_sets,
    fit_sets,
    judge_sets,
    least_images,
    sets_to_json,
)
from headstart.judge.metrics import Metric
from headstart.judge.unlike import RATE, Unlike, false_alarms, fit_unlike, held_out_strangeness
from headstart.judge.words import percent, score
from headstart.learning import Learned, OutOfFold, Prepared, out_of_fold, read
from headstart.opening import say

NO_WARNING = "No warning of images unlike the training's (column `unlike`)"
COVERAGE = 0.9
"""share of images whose set is to hold the right class"""


@dataclass(frozen=True, slots=True)
class Guard:
    """The rule for prediction sets and the bank of known images; or, for each, why it is missing."""

    held: OutOfFold
    sets: SetRule | None
    unlike: Unlike | None
    no_sets: str
    no_unlike: str
    strange: NDArray[np.float64] | None
    """[M] how unlike the others each held-out image is (above 1: flagged)"""


def guard(prepared: Prepared, learned: Learned, seed: int) -> Guard:
    """Calibrate prediction sets, and the distance from which an image is unlike the training's."""
    held = out_of_fold(prepared, learned)
    rule, no_sets = None, ""
    if few := too_few(held.groups, 1 - COVERAGE):  # a model without sets is still a model
        no_sets = f"No prediction sets (column `set`): they take {few}"
    else:
        rule = fit_sets(held.labels, held.probabilities, COVERAGE, held.groups)
    unlike, strange, no_unlike = _unlike(prepared, learned, held, seed)
    for sentence in filter(None, (no_sets, no_unlike)):
        say(sentence)
    return Guard(held, rule, unlike, no_sets, no_unlike, strange)


def too_few(groups: NDArray[np.int64], rate: float) -> str:
    """What is missing for a quantile that the given share lies above; empty when nothing is.

    >>> too_few(np.arange(6), 0.1), too_few(np.arange(9), 0.1)
    ('9 different images, here are 6.', '')
    >>> too_few(np.array([0, 0, 1]), 0.1)
    '9 different images, here are 2 (of a group, or of copies, one counts).'
    """
    total, needed = len(np.unique(groups)), least_images(rate)
    if total >= needed:
        return ""
    counted = " (of a group, or of copies, one counts)" if total < len(groups) else ""
    return f"{needed} different images, here {'is' if total == 1 else 'are'} {total}{counted}."


def _unlike(
    prepared: Prepared, learned: Learned, held: OutOfFold, seed: int
) -> tuple[Unlike | None, NDArray[np.float64] | None, str]:
    """A tuned network has pulled the images that it learned from together, so that their features
    say nothing about new ones; only those of a fold that it never saw can be a bank."""
    if learned.held_out is not None:
        refitted = learned.steps is None or learned.steps.refit
        folds = np.unique(prepared.development.folds[held.positions])
        if refitted or len(folds) > 1:
            why = (
                f"{NO_WARNING}: the network learned from all images, so there are none whose features "
                "tell how far a new one may lie."
            )
            return None, None, why
    if few := too_few(held.groups, RATE):
        return None, None, f"{NO_WARNING}: that takes {few}"
    rows = prepared.development.rows[held.positions]
    features = np.asarray(read(prepared, learned.verified.chosen, rows), dtype=np.float32)
    images = features, held.labels, held.groups, held.folds
    found = fit_unlike(*images, seed=seed)
    return found, held_out_strangeness(found, *images, seed=seed), ""


def sets_json(
    guarded: Guard,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    folds: NDArray[np.int64] | None,
    classes: Sequence[str],
) -> dict[str, Any]:
    """`sets` of evaluation.json: the rule, and what its sets did on the judged images [N].

    Args:
        folds: [N] of held-out answers: each fold is judged by the rule of the others. None: the
            images took no part in the rule.
    """
    if guarded.sets is None:
        return {"sentence": guarded.no_sets}
    if folds is None:
        seen = judge_sets(guarded.sets, labels, probabilities, groups)
    elif few := _too_few_beside(groups, folds):
        sentence = (
            f"{guarded.sets.sentence} How often they hold the right class is not known: that takes, "
            f"beside every fold, {few}"
        )
        return sets_to_json(guarded.sets) | {"sentence": sentence, "seen": None}
    else:
        seen = cross_judged_sets(labels, probabilities, folds, groups, COVERAGE)
    stored = sets_to_json(guarded.sets)
    return stored | {"sentence": sets_sentence(seen), "seen": seen_json(seen, classes)}


def _too_few_beside(groups: NDArray[np.int64], folds: NDArray[np.int64]) -> str:
    """What is missing to judge every fold by the rule of the others; empty when nothing is."""
    short = (too_few(groups[folds != k], 1 - COVERAGE) for k in np.unique(folds))
    return next(filter(None, short), "")


def sets_sentence(seen: SetsSeen) -> str:
    """What sets did, in words."""
    return (
        f"Prediction sets for {percent(seen.promised)} coverage held the right class for "
        f"{score(seen.coverage)} of the images; {seen.size:.1f} classes on average, one class for "
        f"{percent(seen.single)}."
    )


def seen_json(seen: SetsSeen, classes: Sequence[str]) -> dict[str, Any]:
    """What sets did, as plain numbers; `of_class` with names."""
    rows = [
        {"class": name, **asdict(share)} for name, share in zip(classes, seen.of_class, strict=True)
    ]
    return asdict(seen) | {"of_class": rows}


def unlike_json(
    guarded: Guard,
    features: NDArray[np.float32] | None,
    groups: NDArray[np.int64],
) -> dict[str, Any]:
    """`unlike` of evaluation.json: how often images like the training's are flagged.

    Args:
        features: [N, D] of a test part; None: the share is that of held-out images.
    """
    known = guarded.unlike
    if known is None:
        return {"sentence": guarded.no_unlike}
    if features is None:
        found = Metric(
            "false_alarms", known.false_alarms, None, None, known.n, "threshold of the other folds"
        )
    else:
        found = false_alarms(known, features, groups)
    return {
        "rate": known.rate,
        "n": known.n,
        "groups": known.groups,
        "false_alarms": asdict(found),
        "sentence": flagged_sentence(found, known.rate),
    }


def flagged_sentence(found: Metric, rate: float) -> str:
    """What share of the images was called unlike, in words."""
    return f"{score(found)} of these images are called unlike the training's; {percent(rate)} is aimed at."
