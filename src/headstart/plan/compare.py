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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.plan.criterion import Value, difference

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

    `low` and `high` are a 95 % interval over which images were held out. `at_most`: already the
    smallest size was enough.
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
    told = [difference(values[a], values[b], groups) for a, b in names]
    moves = np.stack([values[a].influence - values[b].influence for a, b in names])
    se = np.array([spread for _, spread in told])
    critical = _critical(_by_group(moves, groups), se, seed)
    pairs = []
    for (a, b), (gain, _), spread in zip(names, told, se, strict=True):
        reach = critical * wider_by * float(spread)
        real = abs(gain) > reach > 0
        pairs.append(Pair(a, b, gain, gain - reach, gain + reach, real))
    return Pairs(tuple(pairs), critical, _sentence(pairs, len(np.unique(groups))))


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
        gap, se = difference(values[best], value, groups)
        if name == best or gap <= se * wider_by:
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
    from the same multipliers for the curve and the target, so it is a paired one.

    Args:
        sizes: S numbers of images, growing. curve: the score at each.

    >>> still = np.zeros(10)
    >>> curve = [Value(v, still) for v in (0.5, 0.7, 0.9)]
    >>> found = images_needed([10, 20, 40], curve, Value(0.7, still), np.arange(10))
    >>> found.n is not None and round(found.n)
    20
    """
    scores = np.array([value.value for value in curve])
    moves = _by_group(np.stack([*(v.influence for v in curve), target.influence]), groups)
    n = _crossing(sizes, scores[None], np.array([target.value]))[0]
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [rng.standard_normal((BLOCK, moves.shape[1])) @ moves.T for _ in range(RESAMPLES // BLOCK)]
    )
    found = _crossing(sizes, scores + drawn[:, :-1], target.value + drawn[:, -1])
    # Ranks, not interpolation: beyond the last size there is no number.
    low = np.quantile(found, (1 - LEVEL) / 2, method="lower")
    high = np.quantile(found, (1 + LEVEL) / 2, method="higher")
    at, least, most = (float(end) if np.isfinite(end) else None for end in (n, low, high))
    return ImagesNeeded(at, least, most, at_most=bool(scores[0] >= target.value))


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
    from scipy.special import ndtr
    from scipy.stats import t

    apart = se > 0  # two strategies with the same answers everywhere differ in nothing
    if not apart.any():
        return 0.0
    scaled = moves[apart] / se[apart, None]  # [P, G]
    rng = np.random.default_rng(seed)
    largest = np.concatenate(
        [
            np.abs(rng.standard_normal((BLOCK, moves.shape[1])) @ scaled.T).max(1)
            for _ in range(RESAMPLES // BLOCK)
        ]
    )
    normal = float(np.quantile(largest, LEVEL))
    return float(t.ppf(ndtr(normal), max(1, moves.shape[1] - 1)))


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


def _sentence(pairs: Sequence[Pair], draws: int) -> str:
    """Which differences are real, in one sentence."""
    above: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.real:
            first, second = pair.first, pair.second
            if pair.difference < 0:
                first, second = second, first
            above.setdefault(first, []).append(second)
    many = f"the {len(pairs)} pairs" if len(pairs) > 1 else "the pair"
    if not above:
        return (
            f"No difference is real: luck can explain each of {many} on {draws:,} held-out draws, "
            "all taken together at 95 %."
        )
    alike: dict[tuple[str, ...], list[str]] = {}
    for one, worse in above.items():
        alike.setdefault(tuple(worse), []).append(one)
    told = "; ".join(
        f"{_listed(better)} {'is' if len(better) == 1 else 'are each'} above {_listed(below)}"
        for below, better in alike.items()
    )
    rest = len(pairs) - sum(pair.real for pair in pairs)
    luck = f"; luck can explain the other {rest}" if rest else ""
    return f"Real, with {many} taken together at 95 %: {told}{luck}."


def _listed(names: Sequence[str]) -> str:
    """
    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
