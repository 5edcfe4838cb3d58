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

from headstart.plan.criterion import Criterion, Value, evaluate, log_softmax

Float = NDArray[np.float64]
Int = NDArray[np.int64]

STRENGTHS = np.logspace(-4, 1.5, 12)
"""multiples of the mean eigenvalue times D; spans 'almost none' to 'almost only the mean'"""
SHARPNESS = 2.0 ** np.arange(0, 7)
"""ridge answers are no log probabilities; for the log loss they are multiplied by one of these"""
MAX_IMAGES = 4_000
"""a probe needs no more: its standard error is then below 0.8 points"""


@dataclass(frozen=True, slots=True)
class Probe:
    """Leave-one-out score of one feature set, with the standard error over images or groups."""

    score: float
    se: float
    train_score: float
    seconds: float


def probe(
    features: NDArray[np.float32], labels: Int, groups: Int, classes: int, criterion: Criterion
) -> Probe:
    """Score features [N, D] by leave-one-group-out ridge regression at its best strength.

    Source: leave-one-out of linear smoothers, Golub, Heath & Wahba 1979; block form by Cook &
    Weisberg 1982, section 2.
    """
    began = time.perf_counter()
    smoother = _smoother_of_features(_standardise(features))
    return _best(smoother, labels, groups, classes, criterion, began)


def kernel_probe(
    kernel: Float, labels: Int, groups: Int, classes: int, criterion: Criterion
) -> Probe:
    """The same score for similarities [N, N] of images instead of their features."""
    began = time.perf_counter()
    smoother = _smoother_of_kernel(
        kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    )
    return _best(smoother, labels, groups, classes, criterion, began)


def _best(
    smoother: _Smoother, labels: Int, groups: Int, classes: int, criterion: Criterion, began: float
) -> Probe:
    targets = np.eye(classes)[labels]
    shares = targets.mean(0)
    targets -= shares
    # Where every class weighs the same, a class's share shall not count.
    prior = np.zeros(classes) if criterion.stratified else shares
    blocks = _blocks(groups)
    best: tuple[Value, float] | None = None
    for strength in STRENGTHS[::-1]:  # strongest first: ties keep the simpler one
        fitted, left_out = smoother.predict(targets, float(strength), blocks)
        found = _score(criterion, left_out + prior, labels)
        if best is None or found.value > best[0].value + 1e-9:  # equal but for rounding
            best = (found, _score(criterion, fitted + prior, labels).value)
    assert best is not None
    seconds = time.perf_counter() - began
    return Probe(best[0].value, best[0].se(groups), best[1], seconds)


def _score(criterion: Criterion, answers: Float, labels: Int) -> Value:
    if criterion.kind != "log_loss":
        return evaluate(criterion, answers, labels)
    tried = [evaluate(criterion, log_softmax(answers * by), labels) for by in SHARPNESS]
    return max(tried, key=lambda value: value.value)


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
