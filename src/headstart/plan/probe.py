"""How much a stage's features know about the classes: a ridge probe with exact leave-one-out.

N images, D feature width, C classes, L strengths of regularisation.

Ridge regression to one-hot targets has its leave-one-out predictions in closed form, so one
eigendecomposition scores a stage at every strength: an honest estimate in a fraction of a second.
Images of one group are left out together (block form), or copies would vouch for each other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]

STRENGTHS = np.logspace(-4, 1.5, 12)
"""multiples of the mean eigenvalue times D; spans 'almost none' to 'almost only the mean'"""
MAX_IMAGES = 4_000
"""a probe needs no more: its standard error is then below 0.8 points"""


@dataclass(frozen=True, slots=True)
class Probe:
    """Leave-one-out score of one feature set, with the standard error over images or groups."""

    score: float
    se: float
    train_score: float
    seconds: float


def image_weights(labels: Int, metric: str) -> Float:
    """Weights [N] that sum to 1 such that sum(weights * correct) is the metric.

    >>> image_weights(np.array([0, 0, 0, 1]), "balanced_accuracy").round(3).tolist()
    [0.167, 0.167, 0.167, 0.5]
    """
    if metric == "accuracy":
        return np.full(len(labels), 1 / len(labels))
    counts = np.bincount(labels)
    present = (counts > 0).sum()
    return np.asarray(1 / (present * counts[labels]))


def weighted_score(
    correct: NDArray[np.bool_], labels: Int, metric: str, groups: Int | None = None
) -> tuple[float, float]:
    """The metric and its standard error from one yes/no per image.

    The variance is that of a mean within each class for balanced accuracy, over all for accuracy.
    """
    weights = image_weights(labels, metric)
    values = correct.astype(np.float64)
    return float((weights * values).sum()), weighted_se(values, labels, metric, groups)


def weighted_se(values: Float, labels: Int, metric: str, groups: Int | None = None) -> float:
    """Standard error of sum(weights * values) over images; labels decide the strata.

    With groups, images of one group count as one draw: ten photos of a plant are no ten plants.
    """
    weights = image_weights(labels, metric)
    strata = labels if metric != "accuracy" else np.zeros_like(labels)
    counts = np.bincount(strata)
    means = np.bincount(strata, values) / np.maximum(counts, 1)
    # n - 1 in the denominator; a class with one image has no spread of its own to show.
    correction = counts / np.maximum(counts - 1, 1)
    parts = weights * (values - means[strata]) * np.sqrt(correction[strata])
    if groups is not None:
        number = np.unique(groups, return_inverse=True)[1]
        parts = np.asarray(np.bincount(number, parts), np.float64)
    return float(np.sqrt((parts**2).sum()))


def probe(
    features: NDArray[np.float32], labels: Int, groups: Int, classes: int, metric: str
) -> Probe:
    """Score features [N, D] by leave-one-group-out ridge regression at its best strength.

    Source: leave-one-out of linear smoothers, Golub, Heath & Wahba 1979; block form by Cook &
    Weisberg 1982, section 2.
    """
    began = time.perf_counter()
    smoother = _smoother_of_features(_standardise(features))
    return _best(smoother, labels, groups, classes, metric, began)


def kernel_probe(kernel: Float, labels: Int, groups: Int, classes: int, metric: str) -> Probe:
    """The same score for similarities [N, N] of images instead of their features."""
    began = time.perf_counter()
    smoother = _smoother_of_kernel(
        kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    )
    return _best(smoother, labels, groups, classes, metric, began)


def _best(
    smoother: _Smoother, labels: Int, groups: Int, classes: int, metric: str, began: float
) -> Probe:
    targets = np.eye(classes)[labels]
    shares = targets.mean(0)
    targets -= shares
    # Accuracy goes by the likeliest class; for balanced accuracy a class's share shall not count.
    prior = shares if metric == "accuracy" else np.zeros(classes)
    blocks = _blocks(groups)
    weights = image_weights(labels, metric)
    best: tuple[float, NDArray[np.bool_], float] | None = None
    for strength in STRENGTHS[::-1]:  # strongest first: ties keep the simpler one
        fitted, left_out = smoother.predict(targets, float(strength), blocks)
        correct = (left_out + prior).argmax(1) == labels
        score = float((weights * correct).sum())
        if best is None or score > best[0] + 1e-9:  # equal scores may differ in rounding
            train = float((weights * ((fitted + prior).argmax(1) == labels)).sum())
            best = (score, correct, train)
    assert best is not None
    score, se = weighted_score(best[1], labels, metric, groups)
    return Probe(score, se, best[2], time.perf_counter() - began)


def _standardise(features: NDArray[np.float32]) -> Float:
    """Mean 0 and variance 1 per feature, in float64; one that never moves becomes zero."""
    x = features.astype(np.float64)
    mean = x.mean(0)
    x -= mean
    spread = np.sqrt((x**2).mean(0))
    moves = spread > 1e-6 * np.maximum(1, np.abs(mean))
    return np.asarray(np.divide(x, spread, out=np.zeros_like(x), where=moves))


def _blocks(groups: Int) -> list[Int]:
    """Index lists of the groups with more than one image."""
    order = np.argsort(groups, kind="stable")
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    return [order[s : s + c] for s, c in zip(starts, counts, strict=True) if c > 1]


def _smoother_of_features(x: Float) -> _Smoother:
    """Of centred features [N, D], by whichever of N and D is smaller."""
    if len(x) <= x.shape[1]:
        return _smoother_of_kernel(x @ x.T)
    values, vectors = _directions(x.T @ x)
    return _Smoother(values, (x @ vectors) / np.sqrt(values))


def _smoother_of_kernel(centred: Float) -> _Smoother:
    return _Smoother(*_directions(centred))


def _directions(symmetric: Float) -> tuple[Float, Float]:
    """Eigenvalues and vectors; what is only rounding is no direction and is left out."""
    values, vectors = np.linalg.eigh(symmetric)
    keep = values > max(values[-1], 1e-300) * 1e-12
    return values[keep], vectors[:, keep]


class _Smoother:
    """The ridge smoother H = U diag(e / (e + strength)) U^T + 1/N of centred features."""

    def __init__(self, values: Float, u: Float) -> None:
        self.values, self.u, self.n = values, u, len(u)
        self.scale = float(values.sum()) / self.n  # mean squared length of an image's features

    def predict(self, targets: Float, strength: float, blocks: list[Int]) -> tuple[Float, Float]:
        """Fitted and leave-one-group-out predictions, both [N, C], for centred targets [N, C]."""
        shrink = self.values / (self.values + strength * self.scale)
        shrunk = self.u * shrink  # [N, rank]
        fitted = shrunk @ (self.u.T @ targets)
        own = (shrunk * self.u).sum(1) + 1 / self.n  # [N] the diagonal of H
        left_out = targets - (targets - fitted) / np.maximum(1 - own, 1e-12)[:, None]
        for block in blocks:
            if len(block) == self.n:  # nothing is left to learn from
                return fitted, np.zeros_like(targets)
            h = shrunk[block] @ self.u[block].T + 1 / self.n
            residual = np.linalg.solve(np.eye(len(block)) - h, targets[block] - fitted[block])
            left_out[block] = targets[block] - residual
        return fitted, left_out
