"""Shares of images, their differences and ratios, with intervals that have a width at 0 and at 1.

N images, some of them in groups (ten photos of one plant are no ten plants). Everything is a closed
form or a bisection on top of Wilson's score interval; `benchmarks/intervals.py` prints the coverage.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from headstart.judge.calibration import Floats
from headstart.judge.metrics import LEVEL, Metric, score_bounds

ONE_GROUP = "undefined: all images in one group"
ALIKE = 2.0
"""so many wrong answers that fill whole groups are taken as seen beforehand: where hardly an answer
is wrong, nothing can be seen of how much the images of one group share"""


def design_effect(between: float, within: float, wrong: float, whole: float) -> float:
    """How many images count as one: variance over groups against that over images (Kish 1965).

    The ratio is only as good as the number of wrong answers it was seen on, so it starts from
    `whole`, the ratio for groups whose images are all alike, with the weight of ALIKE answers.

    >>> design_effect(between=3.0, within=1.0, wrong=2.0, whole=5.0)
    4.0
    """
    seen = between / within if within > 0 else 0.0
    return (wrong * seen + ALIKE * whole) / (wrong + ALIKE)


def grouped_squares(residuals: Floats, groups: NDArray[Any] | None) -> tuple[float, float, int]:
    """Sum of squares over groups, the design effect of groups that are all alike, and their number.

    Without groups: the plain sum of squares, 1, and the number of images.
    """
    n = len(residuals)
    plain = float(residuals @ residuals)
    if groups is None or not n:
        return plain, 1.0, n
    number = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(number)
    if len(sizes) == n:
        return plain, 1.0, n
    sums = np.bincount(number, residuals)
    between = float(sums @ sums) * len(sizes) / max(1, len(sizes) - 1)
    return between, float((sizes.astype(np.float64) ** 2).sum() / n), len(sizes)


def quantile(level: float, whole: float, count: int) -> float:
    """Normal quantile; Student's with groups - 1 degrees of freedom where images come in groups."""
    if whole == 1.0:
        return float(ndtri((1 + level) / 2))
    return float(stdtrit(count - 1, (1 + level) / 2)) if count > 1 else np.inf


def share_of(
    name: str,
    value: float,
    residuals: Floats,
    groups: NDArray[Any] | None = None,
    n: float | None = None,
    level: float = LEVEL,
    least: float = 1.0,
) -> Metric:
    """Wilson's interval at the effective number of images (Korn & Graubard 1998).

    Args:
        value: the share.
        residuals: floats [N], what each image adds to n x (share - truth): answer - share.
        groups: group [N] of each image; None when every image is a draw of its own.
        n: images that the share is a mean of; N when not given.
        least: the smallest design effect; below 1 only for means of several answers per image.
    """
    many = len(residuals) if n is None else n
    if not many:
        return Metric(name, None, None, None, 0, "undefined: no image")
    between, whole, count = grouped_squares(residuals, groups)
    variance = many * value * (1 - value)
    effect = max(least, round(design_effect(between, variance, variance, whole), 9))
    z = quantile(level, whole, count)
    method = "Wilson"
    if whole > 1 or effect != 1:
        method += f" at {many / effect:.1f} effective images"
    if not np.isfinite(z):
        return Metric(name, value, 0.0, 1.0, round(many), ONE_GROUP)
    return Metric(name, value, *score_bounds(value, many / effect, z), round(many), method)


def share(
    name: str, hits: ArrayLike, groups: NDArray[Any] | None = None, level: float = LEVEL
) -> Metric:
    """Share of hits [N] (truth values) with its interval.

    >>> found = share("sensitivity", [True] * 58 + [False] * 2)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3), found.n
    (0.967, 0.886, 0.991, 60)
    """
    values = np.asarray(hits, dtype=np.float64)
    value = float(values.mean()) if len(values) else 0.0
    return share_of(name, value, values - value, groups, level=level)


def difference(name: str, a: Metric, b: Metric, correlation: float = 0.0) -> Metric:
    """a - b from the intervals of both: MOVER (Newcombe 1998, method 10; Zou & Donner 2008).

    Args:
        correlation: of the two estimates; 0 for scores of different images.

    >>> found = difference("difference", share("a", [1] * 56 + [0] * 14), share("b", [1] * 48 + [0] * 32))
    >>> round(found.value, 4), round(found.low, 4), round(found.high, 4)
    (0.2, 0.0524, 0.3339)
    """
    n = min(a.n, b.n)
    if a.value is None or b.value is None:
        return Metric(name, None, None, None, n, a.method if a.value is None else b.method)
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Metric(name, a.value - b.value, None, None, n, "interval undefined")
    d = a.value - b.value

    def reach(one: float, two: float) -> float:
        return float(np.sqrt(max(0.0, one**2 - 2 * correlation * one * two + two**2)))

    low = d - reach(a.value - a.low, b.high - b.value)
    high = d + reach(a.high - a.value, b.value - b.low)
    method = "MOVER" if correlation == 0 else f"MOVER, correlation {correlation:.2f}"
    return Metric(name, d, low, high, n, method)


def stretched(metric: Metric, factor: float) -> Metric:
    """A difference whose interval is so many times as long to each side.

    >>> stretched(Metric("difference", 0.1, -0.1, 0.2, 50, "MOVER"), 2.0).high
    0.3
    """
    if factor == 1.0 or metric.value is None or metric.low is None or metric.high is None:
        return metric
    low = metric.value - factor * (metric.value - metric.low)
    high = metric.value + factor * (metric.high - metric.value)
    words = f"{metric.method}, {factor:.2f} times as wide"
    return replace(metric, low=round(low, 12), high=round(high, 12), method=words)


def paired(
    name: str,
    first: ArrayLike,
    second: ArrayLike,
    groups: NDArray[Any] | None = None,
    level: float = LEVEL,
) -> Metric:
    """Difference of two shares of hits [N] on the same images: Tango's score interval (1998).

    Without groups it leaves out 0 exactly when McNemar's test, uncorrected, is significant. With
    groups the counts are divided by the design effect of the differences.

    >>> found = paired("difference", [1] * 40 + [1] * 9 + [0] * 3 + [0] * 8, [1] * 40 + [0] * 9 + [1] * 3 + [0] * 8)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.1, -0.015, 0.222)
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    n = len(a)
    if not n:
        return Metric(name, None, None, None, 0, "undefined: no image")
    ahead, behind = int((a & ~b).sum()), int((b & ~a).sum())
    steps = a.astype(np.float64) - b
    value = (ahead - behind) / n
    between, whole, count = grouped_squares(steps - value, groups)
    within = ahead + behind - n * value**2
    effect = max(1.0, design_effect(between, within, within, whole))
    z = quantile(level, whole, count)
    if not np.isfinite(z):
        return Metric(name, value, -1.0, 1.0, n, ONE_GROUP)
    parts = ahead / effect, behind / effect, n / effect
    high = _tango(*parts, z)
    low = -_tango(parts[1], parts[0], parts[2], z)
    method = "Tango" if whole == 1 else f"Tango at {n / effect:.1f} effective images"
    return Metric(name, value, min(low, value), max(high, value), n, method)


def _tango(ahead: float, behind: float, n: float, z: float) -> float:
    """The largest difference that (ahead, behind) of n images do not contradict, by bisection."""
    low, high = (ahead - behind) / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        centre = -ahead - behind + (2 * n - ahead + behind) * middle
        root = max(0.0, centre**2 + 8 * n * behind * middle * (1 - middle))
        worse = (root**0.5 - centre) / (4 * n)  # most likely share of "only the second is right"
        variance = max(0.0, n * (2 * worse + middle * (1 - middle)))
        inside = n * middle - (ahead - behind) < z * variance**0.5
        low, high = (middle, high) if inside else (low, middle)
    return high


def ratio_bounds(a: Metric, b: Metric) -> tuple[float, float]:
    """Bounds of a / b for shares of different images: MOVER-R (Donner & Zou 2012).

    b may be 0 (the upper bound is then infinite) and each may be 1.
    """
    assert a.value is not None and a.low is not None and a.high is not None
    assert b.value is not None and b.low is not None and b.high is not None
    product = a.value * b.value
    below = a.low * (2 * a.value - a.low)
    root = np.sqrt(max(0.0, product**2 - below * b.high * (2 * b.value - b.high)))
    low = below / (product + root) if product + root > 0 else 0.0
    above = b.low * (2 * b.value - b.low)
    root = np.sqrt(max(0.0, product**2 - a.high * (2 * a.value - a.high) * above))
    return float(low), float((product + root) / above) if above > 0 else np.inf
