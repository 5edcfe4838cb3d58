"""People who looked at the same images: their points beside the model's curve (Esteva et al. 2017).

N images, R readers. Their tables are read by `reader_table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.table import _three as three
from headstart.errors import ArgumentError, DataError
from headstart.judge.calibration import Floats
from headstart.judge.curves import Bools, every_point
from headstart.judge.grouped import CROSS_VALIDATED
from headstart.judge.influence import correlation
from headstart.judge.metrics import Metric
from headstart.judge.operating import (
    SENSITIVITY,
    SPECIFICITY,
    OperatingPoint,
    Scores,
    cross_fitted_calls,
)
from headstart.judge.proportions import difference, paired, share, share_of, stretched
from headstart.judge.reader_table import Answered, Rated, image_path
from headstart.judge.words import gap, percent

MEAN = "mean reader"


@dataclass(frozen=True, slots=True)
class Reader:
    """One point beside the curve, and the model's lead over it at the operating point.

    `ahead_*` are model - reader: paired on the same images (Tango's interval, which agrees with
    McNemar's test), or unpaired where only rates are known. `below_curve`: whether the model's curve
    has the higher sensitivity at the reader's specificity; None where the reader lacks one rate.
    """

    name: str
    sensitivity: Metric
    specificity: Metric
    ahead_sensitivity: Metric
    ahead_specificity: Metric
    paired: bool
    below_curve: bool | None


@dataclass(frozen=True, slots=True)
class ReaderStudy:
    """The readers, their mean, and how the model compares at a point that was chosen before.

    The comparison with the mean reader is the one to go by; single readers have 95 % intervals each,
    so among twenty one is left out by chance. `below` of `counted` readers lie below the curve: a
    description of this sample of readers and images, not a test. `deviation_*` is the standard
    deviation over readers.
    """

    name: str
    threshold: float
    readers: tuple[Reader, ...]
    mean: Reader
    deviation_sensitivity: float | None
    deviation_specificity: float | None
    below: int
    counted: int
    sentence: str


def reader_study(
    readings: Answered | tuple[Rated, ...],
    judged: Scores,
    paths: Sequence[str],
    point: OperatingPoint,
) -> ReaderStudy:
    """Compare the model, at a point that was chosen before, with every reader and their mean.

    Args:
        judged: the model's scores of the test images [N].
        paths: of these images [N]; how answers find their image.
        point: the operating point. One that is cross-fitted calls each image at the threshold that
            the others chose, and the intervals are `grouped.CROSS_VALIDATED` times as wide.

    Raises:
        ArgumentError: paths that do not fit the scores.
        DataError: answers for images that are not among the paths (three rows are shown).
    """
    if len(paths) != len(judged.score):
        raise ArgumentError(
            "Every image needs one path and one score",
            received=f"{len(paths)} paths, {len(judged.score)} scores",
        )
    if point.cross_fitted:
        calls = cross_fitted_calls(point.target, judged)
    else:
        calls = judged.score >= point.threshold
    if isinstance(readings, Answered):
        names, seen, said = _matrices(readings, paths)
        readers = [_paired_reader(n, judged, calls, seen[r], said[r]) for r, n in enumerate(names)]
        mean = _mean_of_answers(judged, calls, seen, said)
    else:
        readers = [_rated_reader(rated, judged, calls) for rated in readings]
        mean = _mean_of_rates(readings, judged, calls)
    if point.cross_fitted:
        readers, mean = [_less_sure(reader) for reader in readers], _less_sure(mean)
    counted = [r.below_curve for r in readers if r.below_curve is not None]
    return ReaderStudy(
        point.name,
        point.threshold,
        tuple(readers),
        mean,
        _deviation([r.sensitivity for r in readers]),
        _deviation([r.specificity for r in readers]),
        below=sum(counted),
        counted=len(counted),
        sentence=_sentence(point, mean, len(readers), sum(counted), len(counted)),
    )


def _less_sure(reader: Reader) -> Reader:
    """The model's answers are of a cross-validation; the reader's are not."""
    return replace(
        reader,
        ahead_sensitivity=stretched(reader.ahead_sensitivity, CROSS_VALIDATED),
        ahead_specificity=stretched(reader.ahead_specificity, CROSS_VALIDATED),
    )


def _matrices(readings: Answered, paths: Sequence[str]) -> tuple[list[str], Bools, Bools]:
    """Readers [R], whether each saw each image, and whether each called it [R, N]."""
    place = {image_path(path): i for i, path in enumerate(paths)}
    strangers = [[reader, path] for reader, path, _ in readings.rows if path not in place]
    if strangers:
        raise DataError(
            f"{len(strangers)} answers are for images that are not among the {len(paths)} judged",
            received=three(strangers),
            do="Paths are those of predictions.csv.",
        )
    names = list(dict.fromkeys(reader for reader, _, _ in readings.rows))
    seen = np.zeros((len(names), len(paths)), dtype=bool)
    said = np.zeros_like(seen)
    number = {name: r for r, name in enumerate(names)}
    for reader, path, called in readings.rows:
        seen[number[reader], place[path]] = True
        said[number[reader], place[path]] = called
    return names, seen, said


def _of(groups: NDArray[Any] | None, rows: Bools) -> NDArray[Any] | None:
    return None if groups is None else groups[rows]


def _paired_reader(name: str, judged: Scores, calls: Bools, seen: Bools, said: Bools) -> Reader:
    points, leads = [], []
    for rate, rows, sign in (
        (SENSITIVITY, seen & judged.inside, True),
        (SPECIFICITY, seen & ~judged.inside, False),
    ):
        groups = _of(judged.groups, rows)
        right, model = said[rows] == sign, calls[rows] == sign
        points.append(share(rate, right, groups))
        leads.append(paired(f"{rate}, model - reader", model, right, groups))
    below = _below(judged.score[seen], judged.inside[seen], *points)
    return Reader(name, points[0], points[1], leads[0], leads[1], True, below)


def _rated_reader(rated: Rated, judged: Scores, calls: Bools) -> Reader:
    nothing = np.zeros(0)
    points = [
        share_of(rate, value, nothing, n=n)
        for rate, value, n in (
            (SENSITIVITY, rated.sensitivity, rated.n_pos),
            (SPECIFICITY, rated.specificity, rated.n_neg),
        )
    ]
    return _unpaired(rated.reader, points, judged, calls)


def _mean_of_rates(readings: Sequence[Rated], judged: Scores, calls: Bools) -> Reader:
    """Whether the readers saw the same images is unknown, so their mean counts as one reader's."""
    nothing, many = np.zeros(0), len(readings)
    points = [
        share_of(rate, sum(values) / many, nothing, n=many / sum(1 / n for n in counts))
        for rate, values, counts in (
            (SENSITIVITY, [r.sensitivity for r in readings], [r.n_pos for r in readings]),
            (SPECIFICITY, [r.specificity for r in readings], [r.n_neg for r in readings]),
        )
    ]
    return _unpaired(MEAN, points, judged, calls)


def _unpaired(name: str, points: list[Metric], judged: Scores, calls: Bools) -> Reader:
    inside = judged.inside
    model = (
        share(SENSITIVITY, calls[inside], _of(judged.groups, inside)),
        share(SPECIFICITY, ~calls[~inside], _of(judged.groups, ~inside)),
    )
    leads = [
        difference(f"{mine.name}, model - reader", mine, theirs)
        for mine, theirs in zip(model, points, strict=True)
    ]
    below = _below(judged.score, inside, *points)
    return Reader(name, points[0], points[1], leads[0], leads[1], False, below)


def _mean_of_answers(judged: Scores, calls: Bools, seen: Bools, said: Bools) -> Reader:
    """The mean of the readers' rates; the images are the sample, these readers are not."""
    points, leads = [], []
    sides: tuple[tuple[str, Bools, bool], ...] = (
        (SENSITIVITY, judged.inside, True),
        (SPECIFICITY, ~judged.inside, False),
    )
    for rate, side, sign in sides:
        use = seen & side
        some = use.any(1)  # a reader without images of this side has no rate
        use, right, model = use[some], (said == sign)[some], (calls == sign)[None]
        weights = use / np.maximum(use.sum(1, keepdims=True), 1) / max(1, len(use))
        rows: Bools = np.asarray(use.any(0))
        groups, weights = _of(judged.groups, rows), weights[:, rows]
        theirs, one = _weighted(rate, right[:, rows], weights, groups, 1 / max(1, len(use)))
        mine, two = _weighted(rate, model[:, rows], weights, groups, 1.0)
        points.append(theirs)
        together = correlation(two, one, groups)
        leads.append(difference(f"{rate}, model - reader", mine, theirs, together))
    any_seen = seen.any(0)
    below = _below(judged.score[any_seen], judged.inside[any_seen], *points)
    return Reader(MEAN, points[0], points[1], leads[0], leads[1], True, below)


def _weighted(
    rate: str, right: Bools, weights: Floats, groups: NDArray[Any] | None, least: float
) -> tuple[Metric, Floats]:
    """A weighted mean over readers and images, and what each image adds to it.

    Args:
        right: [R, n] answers, or [1, n] the model's. weights: [R, n], their sum is 1.
        least: smallest design effect, 1 / R where the readers' answers are averaged.
    """
    if not weights.size:
        return Metric(rate, None, None, None, 0, "undefined: no image"), np.zeros(0)
    each = (right * weights).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    value = float(each.mean())
    n = 1 / float((weights.sum(0) ** 2).sum())
    influence = ((right - each) * weights).sum(0)
    return share_of(rate, value, influence * n, groups, n=n, least=least), influence


def _below(score: Floats, inside: Bools, sensitivity: Metric, specificity: Metric) -> bool | None:
    """Whether the model's curve on these images runs above the reader's point."""
    if sensitivity.value is None or specificity.value is None:
        return None
    if not 0 < inside.sum() < len(inside):
        return None
    _, found, quiet, _ = every_point(score, inside)
    # At one specificity the curve has many sensitivities; the best of them counts.
    best = np.flatnonzero(np.append(np.diff(quiet) != 0, True))
    at = float(np.interp(1 - specificity.value, 1 - quiet[best], found[best]))
    return bool(at > sensitivity.value + 1e-12)


def _deviation(points: Sequence[Metric]) -> float | None:
    values = [point.value for point in points if point.value is not None]
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _sentence(point: OperatingPoint, mean: Reader, readers: int, below: int, counted: int) -> str:
    leads = [
        f"its {rate} is {gap(lead)}"
        for rate, lead in (
            (SENSITIVITY, mean.ahead_sensitivity),
            (SPECIFICITY, mean.ahead_specificity),
        )
        if lead.value is not None
    ]
    how = "paired on the same images" if mean.paired else "unpaired"
    who = "one reader" if readers == 1 else f"the mean of {readers} readers"
    text = (
        f"{point.name}, at the threshold chosen before for a {point.target.rate} of "
        f"{percent(point.target.value)}: against {who} {' and '.join(leads)}, {how}."
    )
    return (
        f"{text} {below} of {counted} readers lie below the model's curve; this describes these "
        "readers and images and is no test."
    )


def to_json(study: ReaderStudy) -> dict[str, Any]:
    """Every field under its name; `descriptive` marks the count of readers below the curve."""
    rest = asdict(study)
    below, counted = rest.pop("below"), rest.pop("counted")
    return rest | {
        "below_curve": {"readers": below, "of": counted, "descriptive": True},
    }
