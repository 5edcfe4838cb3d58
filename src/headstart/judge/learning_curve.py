"""What more images would bring: the score of the frozen head at growing sizes, and a power law.

N images, D feature width, C classes, S sizes, J draws, B resamples.

Each draw holds a fold of whole groups out and learns from growing parts of the rest, classes in
their shares and groups one after the other. The means follow score(n) = a - b n^-c (Cortes et al. 1993; Hestness et al. 2017);
for a given c the rest is a straight line, so the best c of a grid is found without a start value.
The curve is shown only when its own back-test holds: fitted to sizes of at most half, it must
foretell the score at the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.split import FOLDS, assign_folds
from headstart.judge.calibration import Floats, Ints
from headstart.parallel import one_blas_thread, ordered_map
from headstart.plan.criterion import Criterion, evaluate, log_softmax
from headstart.train.head import Space, _minimise

SIZES, DRAWS = 8, 10
PER_CLASS = 2
"""images of every class that the smallest part holds at least, on average"""
REACH = 16
"""the smallest part is this many times smaller than the largest"""
STEPS = 60
NOMINAL_FLOPS = 1.2e10
"""per second, of one core on matrices of this size; a fixed figure, so that equal data give equal curves"""
DECAYS = np.geomspace(0.05, 2.0, 60)
RESAMPLES = 400
TRUSTED = 0.5
"""the back-test's interval may reach this share of the whole climb each way, or LEAST_REACH"""
LEAST_REACH = 0.02
FINE = 0.005
"""half a point off is near enough, however little the draws differ"""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Mean score of heads that learned from n images, with the standard error over draws."""

    n: int
    score: float
    se: float


@dataclass(frozen=True, slots=True)
class BackTest:
    """The curve through sizes up to half, asked for the score at the whole."""

    n: int
    foretold: float
    low: float
    high: float
    seen: float
    holds: bool


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """score(n) = a - b n^-c, and what twice the images would gain; None where it is not shown.

    `gain`, `low`, `high` are in units of the criterion, from `n` images to 2 n.
    """

    criterion: str
    n: int
    points: tuple[CurvePoint, ...]
    a: float | None
    b: float | None
    c: float | None
    back_test: BackTest | None
    gain: float | None
    low: float | None
    high: float | None
    sentence: str


def learning_curve(
    features: NDArray[np.float32],
    labels: Ints,
    groups: Ints,
    criterion: Criterion,
    strength: float,
    seed: int,
    seconds: float = 30.0,
    workers: int = 1,
) -> LearningCurve:
    """The learning curve of a softmax head on frozen features, if it can be trusted.

    Args:
        features: float32 [N, D] that the head reads. labels, groups: int [N].
        strength: L2 penalty per image that was found for all of them, as in `train.head`; one
            strength for every size is a little too strong for the small ones.
        seconds: what it may cost on one core at a nominal speed; fewer images are used where all
            would cost more. No clock is read.

    Returns:
        the curve; without a, b, c and gain, and with the reason, where there are too few images or
        the back-test fails.
    """
    classes, facts = int(labels.max()) + 1, (len(labels), features.shape[1])
    sizes = choose_sizes(*facts, classes, seconds)
    if not sizes:
        few = not choose_sizes(*facts, classes, np.inf)
        why = f"are too few for {SIZES} sizes of them" if few else f"cost over {seconds:g} s"
        return _untold(
            criterion, len(labels), (), None, f"No learning curve: {len(labels)} images {why}."
        )
    import scipy.optimize  # noqa: F401 - before the limit: it brings a linear algebra of its own

    with one_blas_thread():
        space = Space(features)  # knows no labels, so it is shared by all parts
    x, y = space.rotated, labels

    def one_draw(k: int) -> list[float]:
        fold = assign_folds(y, groups, FOLDS, seed + 7919 * (k // FOLDS + 1)) == k % FOLDS
        order = np.flatnonzero(~fold)[_order(y[~fold], groups[~fold], seed + k)]
        layer, scores = space.random_start(classes, seed), []
        for n in sizes:
            layer = _minimise(x[order[:n]], y[order[:n]], strength, layer)
            logits = np.asarray(x[fold] @ layer[0] + layer[1], dtype=np.float64)
            scores.append(evaluate(criterion, log_softmax(logits), y[fold]).value)
        return scores

    with one_blas_thread():
        scores = np.array(list(ordered_map(one_draw, range(DRAWS), workers)))
    return fit_curve(sizes, scores, len(labels), criterion, seed)


def choose_sizes(n: int, width: int, classes: int, seconds: float) -> tuple[int, ...]:
    """Growing numbers of images, in equal ratios, whose heads cost at most so many nominal seconds.

    >>> choose_sizes(1000, 1280, 5, seconds=60)
    (50, 74, 110, 164, 244, 362, 538, 800)
    >>> choose_sizes(40, 1280, 5, seconds=60)
    ()
    """
    most = n - -(-n // FOLDS)
    # Two products of [n, D] with [D, C] per step; the sizes add up to a few times the largest.
    per_image = 4.0 * width * max(2, classes) * STEPS * DRAWS / NOMINAL_FLOPS

    def sizes_up_to(top: int) -> tuple[int, ...]:
        least = max(top // REACH, PER_CLASS * classes)
        found = np.geomspace(least, top, SIZES).round().astype(int).tolist() if least < top else []
        return tuple(found) if len(set(found)) == SIZES and least * 4 <= top else ()

    while most >= 1 and per_image * sum(sizes_up_to(most)) > seconds:
        most = int(0.9 * most)
    return sizes_up_to(most)


def fit_curve(
    sizes: Sequence[int], scores: Floats, n: int, criterion: Criterion, seed: int
) -> LearningCurve:
    """The power law through scores [J, S] at S sizes, its back-test, and the gain from n to 2 n.

    Draws overlap, so their spread is multiplied by sqrt(1 + J n_test / n_train) (Nadeau & Bengio
    2003) in every interval.
    """
    at = np.array(sizes, dtype=np.float64)
    widening = float(np.sqrt(1 + len(scores) / (FOLDS - 1)))
    se = widening * scores.std(0, ddof=1) / len(scores) ** 0.5
    points = tuple(
        CurvePoint(int(s), float(m), float(e)) for s, m, e in zip(at, scores.mean(0), se, strict=True)
    )  # fmt: skip
    resamples = _resampled(scores, widening, seed)
    top = _ceiling(criterion)
    half = at <= at[-1] / 2
    early = _power_law(at[half], resamples[:, half], top)
    foretold = _value(early, at[-1])
    test = _back_test(int(at[-1]), foretold, resamples[:, -1], float(np.ptp(scores.mean(0))))
    if not test.holds:
        why = (
            f"No learning curve is drawn: the scores of up to {int(at[half][-1])} images foretell "
            f"{test.low:.3f} to {test.high:.3f} at {test.n}"
        )
        inside = test.low <= test.seen <= test.high
        why += ", too wide a range to go by" if inside else f", and {test.seen:.3f} was seen"
        return _untold(criterion, n, points, test, f"{why}.")
    whole = _power_law(at, resamples, top)
    gains = _value(whole, 2.0 * n) - _value(whole, float(n))
    gain = float(gains[0])
    low, high = (float(np.quantile(gains[1:], q)) for q in (0.025, 0.975))
    low, high = min(low, gain), max(high, gain)
    unit, name = criterion.unit
    sentence = (
        f"Twice as many images like these would gain about {unit * gain:.1f} {name} of "
        f"{criterion.name} ({unit * low:.1f} to {unit * high:.1f})."
    )
    if criterion.kind == "log_loss":
        sentence = f"Twice as many images like these would lower the log loss by about {gain:.3f} ({low:.3f} to {high:.3f})."
    a, b, c = (float(part[0]) for part in whole)
    return LearningCurve(criterion.name, n, points, a, b, c, test, gain, low, high, sentence)


def curve_json(curve: LearningCurve) -> dict[str, Any]:
    """The record as plain lists, numbers and None, for strict JSON."""
    return asdict(curve) | {"points": [asdict(point) for point in curve.points]}


def _untold(
    criterion: Criterion,
    n: int,
    points: tuple[CurvePoint, ...],
    test: BackTest | None,
    sentence: str,
) -> LearningCurve:
    nothing = (None, None, None)
    return LearningCurve(criterion.name, n, points, *nothing, test, *nothing, sentence)


# -- drawing and learning ------------------------------------------------------------------------


def _order(labels: Ints, groups: Ints, seed: int) -> Ints:
    """An order of images [N] whose every beginning holds the classes in their shares, groups whole.

    One group of every class comes first: a head cannot learn a class that it never saw.
    """
    rng = np.random.default_rng(seed)
    names, first = np.unique(groups, return_index=True)
    of_group = labels[first]  # a group of several classes counts for one of them
    place = np.empty(len(names))
    for c in np.unique(of_group):
        mine = rng.permutation(np.flatnonzero(of_group == c))
        place[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
        place[mine[0]] -= 2
    return np.argsort(place[np.searchsorted(names, groups)], kind="stable")


# -- the power law -------------------------------------------------------------------------------


def _power_law(sizes: Floats, scores: Floats, top: float) -> tuple[Floats, Floats, Floats]:
    """a, b, c [B] of the least squares fit to scores [B, S], with b >= 0 and a <= top."""
    best = np.full(len(scores), np.inf)
    a, b, c = np.zeros(len(scores)), np.zeros(len(scores)), np.full(len(scores), DECAYS[0])
    mean = scores.mean(1)
    for decay in DECAYS:
        t = -(sizes**-decay)
        spread = t - t.mean()
        slope = np.maximum(0.0, (scores - mean[:, None]) @ spread / (spread @ spread))
        level = mean - slope * t.mean()
        over = level > top  # no accuracy above 1: then the line starts there
        slope = np.where(over, np.maximum(0.0, (scores - top) @ t / (t @ t)), slope)
        level = np.where(over, top, level)
        error = ((scores - level[:, None] - slope[:, None] * t) ** 2).sum(1)
        better = error < best
        best = np.where(better, error, best)
        a, b, c = np.where(better, level, a), np.where(better, slope, b), np.where(better, decay, c)
    return a, b, c


def _value(law: tuple[Floats, Floats, Floats], n: float) -> Floats:
    a, b, c = law
    return np.asarray(a - b * n**-c)


def _resampled(scores: Floats, widening: float, seed: int) -> Floats:
    """[1 + B, S] mean scores: as seen, then of resampled draws, spread wider around what was seen."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(scores), (RESAMPLES, len(scores)))
    mean = scores.mean(0)
    around = (scores[picks].mean(1) - mean) * widening
    return np.concatenate([mean[None], mean + around])


def _back_test(n: int, foretold: Floats, seen: Floats, climb: float) -> BackTest:
    """Whether the score at the whole lies where the smaller sizes foretold it, narrowly enough."""
    off = foretold - seen  # both move with the draws, so their difference is what is tested
    reach = max(2 * float(off[1:].std()), FINE)
    middle = float(foretold[0])
    holds = abs(float(off[0])) <= reach <= max(LEAST_REACH, TRUSTED * climb)
    return BackTest(n, middle, middle - reach, middle + reach, float(seen[0]), bool(holds))


def _ceiling(criterion: Criterion) -> float:
    return 0.0 if criterion.kind == "log_loss" else 1.0
