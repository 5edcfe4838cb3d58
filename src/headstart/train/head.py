"""The new head: one fully connected layer over C classes, trained on cached features.

N images, D feature width, C classes.

Softmax regression with an L2 penalty, minimised by L-BFGS from random weights U(+-1/sqrt(D)) drawn
from the seed. The problem is strictly convex in what matters, so every seed ends in the same
probabilities; features are standardised for the search and that is folded into the layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.parallel import one_blas_thread, ordered_map
from headstart.plan.criterion import Criterion, Value, difference
from headstart.train.adjust import adjust

Float = NDArray[np.float64]
Int = NDArray[np.int64]

STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
"""L2 per image, strongest first; 1/N is scikit-learn's default C = 1 on standardised features"""
MANY = 5_000
"""images above which the strength is first looked for on so many of them"""
GIVE_UP_AFTER = 2
"""weaker strengths in a row that did not lower the held-out loss end the search"""
BLOCK_ROWS = 32
WORTH_ROTATING = 0.7
"""images per feature below which the rotation pays for itself"""
COARSE = {"maxiter": 60, "gtol": 1e-4, "ftol": 1e-6, "maxcor": 10}
"""for the search, in float32: probabilities within a few thousandths of the minimum"""
TEMPERATURES = tuple(float(t) for t in np.geomspace(0.25, 16, 25))
PRECISE = {"maxiter": 3000, "ftol": 1e-16, "maxcor": 20}
"""for the shipped layer, in float64: two seeds agree to better than 1e-4 in probability"""


@dataclass(frozen=True, slots=True)
class Head:
    """A fully connected layer: logits = features @ weight.T + bias."""

    weight: NDArray[np.float32]  # [C, D]
    bias: NDArray[np.float32]  # [C]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, D] -> [N, C]"""
        return np.asarray(features @ self.weight.T + self.bias)


@dataclass(frozen=True, slots=True)
class HeadTask:
    """What a head is to learn, and how it is scored."""

    labels: Int  # [N] in 0..classes-1
    folds: Int  # [N] the fold in which an image is held out; groups are whole within folds
    groups: Int  # [N]
    classes: int
    criterion: Criterion


@dataclass(frozen=True, slots=True)
class HeadSearch:
    """What cross-validation found: the strength, and one held-out answer per image."""

    strength: float
    logits: Float  # [N, C] out of fold
    train_logits: Float  # [N, C] of the fold models on what they were trained on, averaged
    seconds: float


def train_head(
    features: NDArray[np.float32],
    labels: Int,
    classes: int,
    strength: float,
    seed: int,
    weighted: bool = False,
) -> Head:
    """Train the final layer on all given images, to convergence.

    Args:
        features: float32 [N, D]. labels: int [N] in 0..classes-1.
        strength: L2 penalty on the standardised weights, per image.
        weighted: every class counts the same in the loss, however many images it has.
    """
    import scipy.optimize  # noqa: F401 - before the limit: it brings a linear algebra of its own

    with one_blas_thread():
        space = Space(features)
        weights = class_weights(labels, classes) if weighted else None
        start = space.random_start(classes, seed)
        near = _minimise(space.rotated, labels, strength, start, weights)
        exact = space.rotated.astype(np.float64)
        return space.fold(_minimise(exact, labels, strength, near, weights, precise=True))


def class_weights(labels: Int, classes: int) -> Float:
    """A weight per image [N], mean 1, that gives every class the same sum.

    >>> class_weights(np.array([0, 0, 0, 1]), 2).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    counts = np.bincount(labels, minlength=classes)
    return np.asarray(len(labels) / ((counts > 0).sum() * counts[labels]))


def search_head(
    features: NDArray[np.float32], task: HeadTask, seed: int, workers: int, weighted: bool = False
) -> HeadSearch:
    """Choose the strength by cross-validation, warm-started from strong to weak.

    A weaker penalty takes over when the criterion is clearly better (two standard errors), or when
    the log loss is lower and the criterion not clearly worse: few images count few hits, and the
    loss tells strengths apart long before their hits do. Of more than MANY images that many choose
    first: with all of them the search begins one step before that strength, for more images ask for
    weaker ones (the best falls as 1/N).

    Args:
        features: float32 [N, D]. weighted: see `train_head`.
    """
    import scipy.optimize  # noqa: F401 - before the limit: it brings a linear algebra of its own

    began = time.perf_counter()
    strengths: tuple[float, ...] = STRENGTHS
    if len(task.labels) > MANY:
        # Any of them: groups are whole within folds already.
        some = np.sort(np.random.default_rng(seed).permutation(len(task.labels))[:MANY])
        first = search_head(features[some], _part(task, some), seed, workers, weighted).strength
        strengths = STRENGTHS[max(0, STRENGTHS.index(first) - 1) :]
    # Scaling and rotation know no labels, so they are shared by the folds.
    with one_blas_thread():
        space = Space(features)
    labels, folds, groups = task.labels, task.folds, task.groups
    count = int(folds.max()) + 1
    starts = [space.random_start(task.classes, seed) for _ in range(count)]
    weights = class_weights(labels, task.classes) if weighted else None
    best: tuple[float, Value, float, Float, Float] | None = None
    worse = 0
    for strength in strengths:

        def solve(k: int, strength: float = strength, starts: list[Layer] = starts) -> Layer:
            train = folds != k
            x, y = space.rotated[train], labels[train]
            return _minimise(x, y, strength, starts[k], None if weights is None else weights[train])

        with one_blas_thread():
            starts = list(ordered_map(solve, range(count), workers))
        held_out = np.empty((len(labels), task.classes))
        fitted = np.zeros((len(labels), task.classes))
        for k, (weight, bias) in enumerate(starts):
            answers = space.rotated @ weight.astype(np.float32) + bias
            held_out[folds == k] = answers[folds == k]
            fitted[folds != k] += answers[folds != k] / (count - 1)
        loss = float(cross_entropy(held_out, labels).mean())
        score = adjust(task.criterion, held_out, labels, groups).score
        if best is None or takes_over(loss, score, best[0], best[1], groups):
            best, worse = (loss, score, strength, held_out, fitted), 0
        else:
            worse += 1
            if worse == GIVE_UP_AFTER:
                break
    assert best is not None
    return HeadSearch(best[2], best[3], best[4], time.perf_counter() - began)


def _part(task: HeadTask, some: Int) -> HeadTask:
    folds = np.unique(task.folds[some], return_inverse=True)[1]
    return replace(task, labels=task.labels[some], folds=folds, groups=task.groups[some])


def takes_over(loss: float, score: Value, least: float, best: Value, groups: Int) -> bool:
    gain, se = difference(score, best, groups)
    return gain > 2 * se or (loss < least and gain >= -2 * se)


def cross_entropy(logits: Float, labels: Int) -> Float:
    """Negative log probability of the label, per image [N]."""
    top = logits.max(1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    return np.asarray(total - logits[np.arange(len(labels)), labels])


def tempered_loss(logits: Float, labels: Int) -> float:
    """Mean cross-entropy of logits [N, C] at the temperature, of a few, that suits them best.

    Compares networks that are sure of themselves with others that are not: what temperature would
    mend afterwards must not count now.

    >>> logits = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    >>> bool(np.isclose(tempered_loss(logits, np.array([0, 1, 1])),
    ...                 tempered_loss(4 * logits, np.array([0, 1, 1])), atol=0.01))
    True
    """
    return min(float(cross_entropy(logits / t, labels).mean()) for t in TEMPERATURES)


Layer = tuple[Float, Float]
"""(weight [R, C], bias [C]) in the rotated space"""


class Space:
    """Standardised features; few images are rotated to their principal axes: at most N numbers each.

    The L2 penalty does not see a rotation, and the best weights lie in the span of the images, so
    the solution is the same, but the search costs N x N instead of N x D. (Scaling the axes
    by their expected curvature was tried and made L-BFGS slower: docs/log.md.)
    """

    def __init__(self, features: NDArray[np.float32]) -> None:
        self.mean = features.mean(0, dtype=np.float64)
        spread = features.std(0, dtype=np.float64)
        # A feature that never moves keeps weight zero.
        moves = spread > 1e-6 * np.maximum(1, np.abs(self.mean))
        self.inverse = np.divide(1.0, spread, out=np.zeros_like(spread), where=moves)
        x = ((features - self.mean) * self.inverse).astype(np.float32)
        n, self.width = x.shape
        self.basis: NDArray[np.float32] | None = None  # [D, R]
        self.rotated = x  # [N, R]
        if n < WORTH_ROTATING * self.width:
            wide = x.astype(np.float64)
            values, vectors = np.linalg.eigh(wide @ wide.T)
            keep = values > max(values[-1], 1e-300) * 1e-12  # the rest is rounding
            self.basis = (wide.T @ (vectors[:, keep] / np.sqrt(values[keep]))).astype(np.float32)
            self.rotated = (vectors[:, keep] * np.sqrt(values[keep])).astype(np.float32)

    def random_start(self, classes: int, seed: int) -> Layer:
        """The new layer's random weights, seen from the rotated space."""
        rng = np.random.default_rng(seed)
        bound = 1 / np.sqrt(self.width)
        weight = rng.uniform(-bound, bound, (self.width, classes))
        bias = rng.uniform(-bound, bound, classes)
        return weight if self.basis is None else self.basis.T @ weight, bias

    def fold(self, layer: Layer) -> Head:
        """Rotation and standardisation folded into one layer on raw features."""
        weight, bias = layer
        weight = weight if self.basis is None else self.basis @ weight
        weight = weight * self.inverse[:, None]  # [D, C]
        bias = bias - self.mean @ weight
        return Head(weight.T.astype(np.float32), bias.astype(np.float32))


def _minimise(
    x: NDArray[np.float32] | Float,
    labels: Int,
    strength: float,
    start: Layer,
    weights: Float | None = None,
    precise: bool = False,
) -> Layer:
    """Minimise (weighted) mean cross-entropy + strength / 2 * |weight|^2 by L-BFGS; x is [N, R]."""
    from scipy.optimize import minimize

    width, classes = x.shape[1], len(start[1])
    # How far a slope leaves the weights from the minimum grows as the penalty weakens.
    options = PRECISE | {"gtol": 3e-7 * min(1.0, 10 * strength**0.5)} if precise else COARSE
    flat = np.concatenate([start[0].ravel(), start[1]])
    loss = _objective(x, labels, classes, strength, weights)
    found = minimize(loss, flat, jac=True, method="L-BFGS-B", options=options).x
    return found[: width * classes].reshape(width, classes), found[width * classes :]


def _objective(
    x: NDArray[np.float32] | Float,
    labels: Int,
    classes: int,
    strength: float,
    weights: Float | None,
) -> Callable[[Float], tuple[float, Float]]:
    """The penalised loss and its slope at flat weights and biases [R * C + C]."""
    n, width = x.shape
    is_label = np.eye(classes, dtype=bool)[labels]
    # Blocks of rows that stay in the processor's cache between the way there and the way back,
    # small enough for the linear algebra to multiply them as they lie: half the time, same sums.
    small = width >= 500 and BLOCK_ROWS * width * classes < 1_000_000
    step = BLOCK_ROWS if small else n
    blocks = [slice(i, i + step) for i in range(0, n, step)]

    def loss(flat: Float) -> tuple[float, Float]:
        weight = flat[: width * classes].reshape(width, classes)
        bias = flat[width * classes :]
        as_x: Any = weight.astype(x.dtype)
        value, slope, slope_of_bias = 0.0, np.zeros((classes, width)), np.zeros(classes)
        for block in blocks:
            error = (x[block] @ as_x) + bias  # [B, C] logits, in float64
            error -= error.max(1, keepdims=True)
            each = -error[is_label[block]]
            np.exp(error, out=error)
            total = error.sum(1, keepdims=True)
            each += np.log(total)[:, 0]
            error /= total
            error -= is_label[block]
            if weights is not None:
                each *= weights[block]
                error *= weights[block, None]
            value += each.sum()
            slope += error.T.astype(x.dtype) @ x[block]
            slope_of_bias += error.sum(0)
        flat_slope = (slope.T / n + strength * weight).ravel()
        penalty = strength / 2 * float((weight**2).sum())
        return float(value) / n + penalty, np.concatenate([flat_slope, slope_of_bias / n])

    return loss
