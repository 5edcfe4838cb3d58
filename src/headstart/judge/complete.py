"""Everything about one set of answers beyond its scores: curves, operating points, parts of the data.

N images, M held-out answers, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

from headstart.errors import ArgumentError, DataError, nearest, show
from headstart.judge import curves, operating, subgroups
from headstart.judge.calibration import check_inputs
from headstart.judge.curves import Curve, against_rest, class_curves, group_curve
from headstart.judge.grouped import CROSS_VALIDATED
from headstart.judge.operating import (
    SENSITIVITY,
    SPECIFICITY,
    OperatingPoint,
    Refused,
    Scores,
    Target,
    crossing_folds,
    needed_for,
    operating_point,
)
from headstart.judge.subgroups import Subgroups

TARGETS = (Target(SENSITIVITY, 0.90), Target(SENSITIVITY, 0.95), Target(SPECIFICITY, 0.95))
MOST_CLASSES = 20
"""with more, a curve and three thresholds for each would be read by nobody"""


Unseen = Literal["unseen"]


@dataclass(frozen=True, slots=True)
class ChosenOn:
    """Pooled out-of-fold answers of the final recipe on the images that it learned from.

    probabilities [M, C], with the same shift and temperature as the judged ones; labels [M];
    groups [M] or None.
    """

    probabilities: ArrayLike
    labels: ArrayLike
    groups: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """Columns, each with one value per image, and what counts as one draw [N]; None: the groups.

    Where the groups are a few sites, the sites are parts themselves, and their images are the draws.
    """

    columns: Mapping[str, Sequence[object]]
    units: NDArray[Any] | None = None
    metric: str = "accuracy"
    """the score that names the worst part; see `subgroups.subgroups`"""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Curves and operating points of every class against the rest, and the parts of the images.

    `notes` says what was left out, and why.
    """

    curves: tuple[Curve, ...]
    operating: tuple[OperatingPoint | Refused, ...]
    subgroups: tuple[Subgroups, ...]
    notes: tuple[str, ...]


def complete(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    groups: NDArray[Any] | None = None,
    chosen_on: ChosenOn | Unseen | None = None,
    prevalence: Mapping[str, float] | None = None,
    by: Mapping[str, Sequence[object]] | Parts | None = None,
    together: Mapping[str, Sequence[str]] | None = None,
) -> Judgement:
    """Curves, operating points and parts of the data for probabilities [N, C] and labels [N].

    Args:
        classes: C names in column order.
        groups: group [N] of each image, when images of one group are not independent.
        chosen_on: what thresholds are chosen on, when the images are a test part. None: the answers
            are those of a cross-validation; thresholds are cross-fitted, and every interval is
            `grouped.CROSS_VALIDATED` times as wide. "unseen": the images are new to the model, but
            there are no others to choose thresholds on; only what is cross-fitted is wider.
        prevalence: share of each class where the model is to be used, for those whose PPV and NPV
            are wanted.
        by: columns, each with one value per image.
        together: classes that count as one, by a name for them; they come after the classes.

    Raises:
        ArgumentError: see `calibration.check_inputs` and the steps; a prevalence of no class.

    >>> p, truth = [[0.9, 0.1], [0.3, 0.7]] * 100, [0, 1] * 100
    >>> found = complete(p, truth, ["cat", "dog"], by={"camera": ["a", "b"] * 100})
    >>> len(found.curves), len(found.operating), found.subgroups[0].column
    (2, 6, 'camera')
    """
    truth, p = check_inputs(labels, probabilities)
    shares = prevalences(prevalence or {}, classes)
    wider_by = CROSS_VALIDATED if chosen_on is None else 1.0
    asked = by if isinstance(by, Parts) else Parts(by or {})
    units = groups if asked.units is None else asked.units
    parts = tuple(
        subgroups.subgroups(column, values, p, truth, units, asked.metric, wider_by)
        for column, values in asked.columns.items()
    )
    told = sides(classes, together or {})
    grouped = dict(list(told.items())[len(classes) :])
    notes: tuple[str, ...] = ()
    if len(classes) > MOST_CLASSES:
        told = grouped
        notes = (f"No curves and operating points of single classes: {len(classes)} are too many.",)
    points = [
        point
        for name, columns in told.items()
        for point in _points(
            name,
            Scores(*against_rest(p, truth, columns), groups),
            chosen_on,
            columns,
            _share(shares, [classes[c] for c in columns]),
        )
    ]
    drawn = () if notes else class_curves(p, truth, classes, groups, wider_by)
    drawn += tuple(
        group_curve(p, truth, columns, name, groups, wider_by) for name, columns in grouped.items()
    )
    return Judgement(drawn, tuple(points), parts, notes)


def _points(
    name: str,
    judged: Scores,
    chosen_on: ChosenOn | Unseen | None,
    columns: Sequence[int],
    share: float | None,
) -> list[OperatingPoint | Refused]:
    """The thresholds of one side, chosen on other images where there are any, else cross-fitted."""
    before = None
    if isinstance(chosen_on, ChosenOn):
        truth, p = check_inputs(chosen_on.labels, chosen_on.probabilities)
        before = Scores(*against_rest(p, truth, columns), chosen_on.groups)
    elif judged.inside.sum() >= needed_for(TARGETS[0].value):
        with contextlib.suppress(DataError):  # each point says so itself
            judged = replace(judged, folds=crossing_folds(judged))
    return [operating_point(name, target, judged, before, share) for target in TARGETS]


def _share(shares: Mapping[str, float], names: Sequence[str]) -> float | None:
    """The prevalence of classes taken together, where that of each is known."""
    return sum(shares[name] for name in names) if set(names) <= set(shares) else None


def sides(
    classes: Sequence[str], together: Mapping[str, Sequence[str]]
) -> dict[str, tuple[int, ...]]:
    """What is told apart from the rest: every class, then classes that count as one; their columns.

    Raises:
        ArgumentError: a name that a class has, no such class, or all of them.

    >>> sides(["a", "b", "c"], {"either": ["a", "c"]})
    {'a': (0,), 'b': (1,), 'c': (2,), 'either': (0, 2)}
    """
    found: dict[str, tuple[int, ...]] = {name: (c,) for c, name in enumerate(classes)}
    for name, some in together.items():
        strange = [one for one in some if one not in classes]
        if strange:
            raise ArgumentError(
                "No such class to take together with others",
                received=f"{show(name)}={show(strange[0])}",
                do=f"{nearest(strange[0], classes)} Classes: "
                f"{', '.join(map(show, classes[:20]))}.".strip(),
            )
        columns = tuple(sorted({classes.index(one) for one in some}))
        if name in classes or not 0 < len(columns) < len(classes):
            raise ArgumentError(
                "Classes taken together need a name of their own, and others beside them",
                received=f"{show(name)}: {', '.join(map(show, some))}",
            )
        found[name] = columns
    return found


def prevalences(prevalence: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """The prevalence of every class that has one; of two classes the other has the rest.

    Raises:
        ArgumentError: a prevalence of no class; the nearest one is offered.

    >>> prevalences({"cat": 0.25}, ["cat", "dog"])
    {'cat': 0.25, 'dog': 0.75}
    """
    strange = [name for name in prevalence if name not in classes]
    if strange:
        raise ArgumentError(
            "--prevalence names a class that is not in the data",
            received=", ".join(map(show, strange[:3])),
            do=f"{nearest(strange[0], classes)} Classes: {', '.join(map(show, classes[:20]))}.".strip(),
        )
    shares = {name: float(share) for name, share in prevalence.items()}
    if len(classes) == 2 and len(shares) == 1:
        ((name, share),) = shares.items()
        shares[next(c for c in classes if c != name)] = 1 - share
    return shares


def to_json(judgement: Judgement) -> dict[str, Any]:
    """curves, operating, subgroups and notes; each as its own module's `to_json`."""
    return {
        "curves": [curves.to_json(found) for found in judgement.curves],
        "operating": [operating.to_json(found) for found in judgement.operating],
        "subgroups": [subgroups.to_json(found) for found in judgement.subgroups],
        "notes": list(judgement.notes),
    }
