"""Which differences between strategies are real? All pairs at once, on the same held-out images.

N images, G groups of images, P pairs, B resamples, S sizes.

Every score is a mean of per-image influences around its value (`plan.criterion`), so the difference
of two strategies on the same images has influences of its own. Resampled with random multipliers
they show how far the largest of all differences strays by luck alone (max-t; Westfall & Young 1993;
Chernozhukov, Chetverikov & Kato 2013): one critical value serves every pair, and in 95 of 100
comparisons of equal strategies no pair is called different.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.plan.criterion import Value
from headstart.plan.folds import LEAST_GROUPS

Float = NDArray[np.float64]
Int = NDArray[np.int64]

LEVEL = 0.95
RESAMPLES = 4_000
BLOCK = 500
"""resamples at once: bounds the memory"""


@dataclass(frozen=True, slots=True)
class Pair:
    """First minus second, with an interval that holds for all pairs at once."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    real: bool
    """the interval leaves out zero"""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Every pair of strategies; `critical` standard errors to each side make the intervals."""

    pairs: tuple[Pair, ...]
    critical: float
    sentence: str


@dataclass(frozen=True, slots=True)
class ImagesNeeded:
    """How many images make one curve equal to a target; None: more than there are.

    `low` and `high` are a 95 % interval over which images were held out; fewer than LEAST_GROUPS
    groups of them do not show one. `at_most`: already the smallest size was enough.
    """

    n: float | None
    low: float | None
    high: float | None
    at_most: bool


@dataclass(frozen=True, slots=True)
class Reached:
    """When a training first came up to a score."""

    epoch: int
    steps: int
    seconds: float


def compare_pairs(
    values: Mapping[str, Value], groups: Int, wider_by: float = 1.0, seed: int = 0
) -> Pairs:
    """Simultaneous 95 % intervals for the differences of all pairs of strategies.

    The multipliers are normal, and their critical value is carried over to Student's distribution
    with G - 1 degrees of freedom: on 40 to 300 images normal ones alone call equal strategies
    different too often (12 of 100 comparisons of six on 40 images).

    Args:
        values: by name, on the same N images in the same order.
        groups: int [N]; images of one group are one draw.
        wider_by: factor of every standard error, for what the images do not show: the luck of which
            images were learned from.

    >>> rng = np.random.default_rng(0)
    >>> noise = rng.normal(size=(2, 200)) / 200
    >>> good, bad = Value(0.9, noise[0]), Value(0.4, noise[1])
    >>> compare_pairs({"good": good, "bad": bad}, np.arange(200)).pairs[0].real
    True
    """
    assert len({len(value.influence) for value in values.values()}) <= 1, "not the same images"
    names = list(itertools.combinations(values, 2))
    if not names:
        return Pairs((), 0.0, "There is nothing to compare with.")
    gaps = [_gap(values[a], values[b]) for a, b in names]
    se = np.array([careful_se(gap, groups) for gap in gaps])
    moves = np.stack([gap.influence for gap in gaps])
    critical = _critical(_by_group(moves, groups), se, seed)
    pairs = []
    for (a, b), gap, spread in zip(names, gaps, se, strict=True):
        gain, reach = gap.value, critical * wider_by * float(spread)
        real = abs(gain) > reach > 0
        pairs.append(Pair(a, b, gain, gain - reach, gain + reach, real))
    return Pairs(tuple(pairs), critical, _sentence(pairs, groups))


def careful_se(value: Value, groups: Int) -> float:
    """Standard error over groups [N], never below that of single images: three sites with the same
    number of mistakes agree by luck.

    >>> alike = Value(0.9, np.array([0.05, -0.05, 0.05, -0.05]))
    >>> alike.se(np.array([0, 0, 1, 1])), round(careful_se(alike, np.array([0, 0, 1, 1])), 2)
    (0.0, 0.1)
    """
    return max(value.se(), value.se(groups))


def students(normal: float, draws: int) -> float:
    """How many standard errors, themselves known from so many draws, are as rare as these of a normal
    distribution.

    >>> [round(students(1.96, draws), 2) for draws in (3, 5, 50, 10_000)], students(1.96, 1)
    ([4.3, 2.78, 2.01, 1.96], inf)
    """
    from scipy.special import ndtr, stdtrit

    return float(stdtrit(draws - 1, ndtr(normal))) if draws > 1 else math.inf


def prefer(values: Mapping[str, Value], groups: Int, wider_by: float = 1.0) -> tuple[str, str]:
    """The one-standard-error rule (Breiman et al. 1984): a preference, never a difference.

    Args:
        values: by name, the simplest strategy first.

    Returns:
        the simplest strategy that is less than one standard error of their difference below the
        best, and a sentence.

    >>> rng = np.random.default_rng(0)
    >>> one, two = (Value(v, rng.normal(size=50) / 50) for v in (0.80, 0.81))
    >>> prefer({"simple": one, "costly": two}, np.arange(50))[0]
    'simple'
    """
    best = max(values, key=lambda name: values[name].value)
    for name, value in values.items():
        gap = _gap(values[best], value)
        if name == best or gap.value <= careful_se(gap, groups) * wider_by:
            break
    rest = (
        "it has the highest score and nothing simpler comes within one standard error of it"
        if name == best
        else f"the simplest that is within one standard error of the highest score ({best})"
    )
    return name, f"The one-standard-error rule prefers {name}: {rest}. A preference, no difference."


def images_needed(
    sizes: Sequence[int], curve: Sequence[Value], target: Value, groups: Int, seed: int = 0
) -> ImagesNeeded:
    """Where a learning curve comes up to a target that was scored on the same N held-out images.

    Between two sizes the curve is a straight line over the logarithm of the size. The interval comes
    from the same multipliers for the curve and the target, so it is a paired one; their spread is
    drawn, too, as it is known from G groups only.

    Args:
        sizes: S numbers of images, growing. curve: the score at each.

    >>> still = np.zeros(10)
    >>> curve = [Value(v, still) for v in (0.5, 0.7, 0.9)]
    >>> found = images_needed([10, 20, 40], curve, Value(0.7, still), np.arange(10))
    >>> found.n is not None and round(found.n)
    20
    """
    scores = np.array([value.value for value in curve])
    moves = np.stack([*(v.influence for v in curve), target.influence])
    n = _crossing(sizes, scores[None], np.array([target.value]))[0]
    at_most = bool(scores[0] >= target.value)
    draws, count = len(np.unique(groups)), len(groups)
    if draws < LEAST_GROUPS:
        return ImagesNeeded(float(n) if np.isfinite(n) else None, None, None, at_most)
    rng = np.random.default_rng(seed)
    ends = []
    # Never narrower than that of single images: groups that agree may do so by luck.
    for part in [groups] if draws == count else [groups, np.arange(count)]:
        drawn = _strays(_by_group(moves, part), count, draws, rng)
        found = _crossing(sizes, scores + drawn[:, :-1], target.value + drawn[:, -1])
        # Ranks, not interpolation: beyond the last size there is no number.
        low = np.quantile(found, (1 - LEVEL) / 2, method="lower")
        ends.append((low, np.quantile(found, (1 + LEVEL) / 2, method="higher")))
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    at, least, most = (float(end) if np.isfinite(end) else None for end in (n, low, high))
    return ImagesNeeded(at, least, most, at_most)


def saved_images(name: str, sizes: Sequence[int], needed: ImagesNeeded) -> str:
    """What a strategy saves against training from scratch on all images, in one sentence.

    >>> saved_images("head_top", [10, 40, 160], ImagesNeeded(40.0, 20.0, None, False))
    'head_top reaches with about 40 images what training from scratch reaches with all 160: 75% are \
saved (95 % interval of the number needed: 20 to more than 160).'
    """
    whole = sizes[-1]
    if len(sizes) == 1:
        return f"{name}: some class has too few images, or groups, to learn from a part of them."
    if needed.n is None:
        words = f"{name} does not come up to training from scratch even with all {whole:,} images"
        return f"{words}: none are saved{_range(needed, whole)}."
    saved = 1 - needed.n / whole
    if needed.at_most:
        return (
            f"{name} is level with training from scratch on all {whole:,} images, or above it, with "
            f"{sizes[0]:,} of them already: at least {saved:.0%} are saved{_range(needed, whole)}."
        )
    return (
        f"{name} reaches with about {needed.n:,.0f} images what training from scratch reaches with "
        f"all {whole:,}: {saved:.0%} are saved{_range(needed, whole)}."
    )


def reached(
    scores: Sequence[float | None], seconds: Sequence[float], per_epoch: int, target: float
) -> Reached | None:
    """The first epoch whose score comes up to a target; None: not in this schedule.

    Args:
        scores, seconds: of each epoch. per_epoch: steps.

    >>> reached([0.5, 0.7, 0.8], [2.0, 2.0, 2.0], 10, 0.7)
    Reached(epoch=2, steps=20, seconds=4.0)
    """
    for epoch, score in enumerate(scores, start=1):
        if score is not None and score >= target:
            return Reached(epoch, epoch * per_epoch, float(sum(seconds[:epoch])))
    return None


# -- the parts -----------------------------------------------------------------------------------


def _critical(moves: Float, se: Float, seed: int) -> float:
    """Standard errors that the largest of all differences strays by luck in 5 of 100 comparisons."""
    apart = se > 0  # two strategies with the same answers everywhere differ in nothing
    if not apart.any():
        return 0.0
    # Not by `se`, which of few groups is larger than their moves: those must spread by 1.
    scaled = moves[apart] / np.sqrt((moves[apart] ** 2).sum(1, keepdims=True))  # [P, G]
    rng = np.random.default_rng(seed)
    largest = np.concatenate(
        [
            np.abs(rng.standard_normal((BLOCK, moves.shape[1])) @ scaled.T).max(1)
            for _ in range(RESAMPLES // BLOCK)
        ]
    )
    return students(float(np.quantile(largest, LEVEL)), moves.shape[1])


def _gap(one: Value, other: Value) -> Value:
    return Value(one.value - other.value, one.influence - other.influence)


def _strays(moves: Float, n: int, draws: int, rng: np.random.Generator) -> Float:
    """How far scores stray by luck [B, S], together, of their moves [S, G] with G groups of n images.

    Args:
        draws: that their spread is known from.
    """
    count = moves.shape[1]
    drawn = np.concatenate(
        [rng.standard_normal((BLOCK, count)) @ moves.T for _ in range(RESAMPLES // BLOCK)]
    )
    # The influences hold n / (n - 1) of the images; groups are the draws.
    fewer = count / (count - 1) * (n - 1) / n
    spread = np.sqrt(rng.chisquare(draws - 1, (len(drawn), 1)) / (draws - 1))
    return np.asarray(drawn * np.sqrt(fewer) / spread)


def _by_group(moves: Float, groups: Int) -> Float:
    """Influences [P, N] added up by group: [P, G]."""
    number = np.unique(groups, return_inverse=True)[1]
    return np.stack([np.bincount(number, row) for row in moves]).astype(np.float64)


def _crossing(sizes: Sequence[int], curves: Float, targets: Float) -> Float:
    """Where each curve [B, S] first comes up to its target [B]; inf where it does not."""
    logs = np.log(np.asarray(sizes, np.float64))
    found = np.full(len(curves), np.inf)
    for k in reversed(range(1, len(logs))):
        before, after = curves[:, k - 1], curves[:, k]
        rises = (before < targets) & (after >= targets)
        share = (targets - before) / np.where(rises, after - before, 1.0)
        there = np.exp(logs[k - 1] + share * (logs[k] - logs[k - 1]))
        found = np.where(rises, there, found)
    return np.where(curves[:, 0] >= targets, float(sizes[0]), found)


def _range(needed: ImagesNeeded, whole: int) -> str:
    low, high = needed.low, needed.high
    if low is None or (low == high and needed.at_most):
        return ""
    end = f"more than {whole:,}" if high is None else f"{high:,.0f}"
    return f" (95 % interval of the number needed: {low:,.0f} to {end})"


def _sentence(pairs: Sequence[Pair], groups: Int) -> str:
    """Which differences are real, in one sentence."""
    n, draws = len(groups), len(np.unique(groups))
    above: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.real:
            first, second = pair.first, pair.second
            if pair.difference < 0:
                first, second = second, first
            above.setdefault(first, []).append(second)
    several = len(pairs) > 1
    if not above:
        each = f"each of the {len(pairs)} pairs" if several else "it"
        on = f"{n:,} held-out images" + (f" of {draws:,} groups" if draws < n else "")
        together = "all taken together " if several else ""
        return f"No difference can be shown: luck can explain {each} on {on}, {together}at 95 %."
    together = f"with the {len(pairs)} pairs taken together " if several else ""
    alike: dict[tuple[str, ...], list[str]] = {}
    for one, worse in above.items():
        alike.setdefault(tuple(worse), []).append(one)
    told = "; ".join(
        f"{_listed(better)} {'is' if len(better) == 1 else 'are each'} above {_listed(below)}"
        for below, better in alike.items()
    )
    rest = len(pairs) - sum(pair.real for pair in pairs)
    luck = f"; luck can explain the other {rest}" if rest else ""
    return f"Real, {together}at 95 %: {told}{luck}."


def _listed(names: Sequence[str]) -> str:
    """
    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
