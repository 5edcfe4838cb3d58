"""The new head: one fully connected layer over C classes, trained on cached features.

N images, D feature width, C classes.

Softmax regression with an L2 penalty, minimised by L-BFGS from random weights U(+-1/sqrt(D)) drawn
from the seed. The problem is strictly convex in what matters, so every seed ends in the same
probabilities; features are standardised for the search and that is folded into the layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]

STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
"""L2 per image, strongest first; 1/N is scikit-learn's default C = 1 on standardised features"""
GIVE_UP_AFTER = 2
"""weaker strengths in a row that did not lower the held-out loss end the search"""


@dataclass(frozen=True, slots=True)
class Head:
    """A fully connected layer: logits = features @ weight.T + bias."""

    weight: NDArray[np.float32]  # [C, D]
    bias: NDArray[np.float32]  # [C]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, D] -> [N, C]"""
        return np.asarray(features @ self.weight.T + self.bias)


@dataclass(frozen=True, slots=True)
class HeadSearch:
    """What cross-validation found: the strength, and one held-out answer per image."""

    strength: float
    logits: Float  # [N, C] out of fold
    train_logits: Float  # [N, C] of the fold models on what they were trained on, averaged
    seconds: float


def train_head(
    features: NDArray[np.float32], labels: Int, classes: int, strength: float, seed: int
) -> Head:
    """Train the final layer on all given images, to convergence.

    Args:
        features: float32 [N, D]. labels: int [N] in 0..classes-1.
        strength: L2 penalty on the standardised weights, per image.
    """
    space = _Space(features)
    start = space.random_start(classes, seed)
    solution = _minimise(space.rotated, labels, classes, strength, start, precise=True)
    return space.fold(solution)


def search_head(
    features: NDArray[np.float32], labels: Int, folds: Int, classes: int, seed: int
) -> HeadSearch:
    """Choose the strength by cross-validated log loss, warm-started from strong to weak.

    Args:
        folds: int [N], the fold in which an image is held out; groups are whole within folds.
    """
    began = time.perf_counter()
    # Scaling and rotation know no labels, so they are shared by the folds.
    space = _Space(features)
    count = int(folds.max()) + 1
    starts = [space.random_start(classes, seed) for _ in range(count)]
    best: tuple[float, float, Float, Float] | None = None
    worse = 0
    for strength in STRENGTHS:
        held_out = np.empty((len(labels), classes))
        fitted = np.zeros((len(labels), classes))
        for k in range(count):
            train, test = folds != k, folds == k
            x = space.rotated
            starts[k] = _minimise(x[train], labels[train], classes, strength, starts[k])
            weight, bias = starts[k]
            held_out[test] = x[test] @ weight + bias
            fitted[train] += (x[train] @ weight + bias) / (count - 1)
        loss = float(cross_entropy(held_out, labels).mean())
        if best is None or loss < best[0]:
            best, worse = (loss, strength, held_out, fitted), 0
        else:
            worse += 1
            if worse == GIVE_UP_AFTER:
                break
    assert best is not None
    return HeadSearch(best[1], best[2], best[3], time.perf_counter() - began)


def cross_entropy(logits: Float, labels: Int) -> Float:
    """Negative log probability of the label, per image [N]."""
    top = logits.max(1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    return np.asarray(total - logits[np.arange(len(labels)), labels])


Layer = tuple[Float, Float]
"""(weight [R, C], bias [C]) in the rotated space"""


class _Space:
    """Standardised features, rotated onto their own span: at most N numbers per image.

    The L2 penalty does not see a rotation, and the best weights lie in the span of the images, so
    the solution is the same and the search costs N x min(N, D) instead of N x D.
    """

    def __init__(self, features: NDArray[np.float32]) -> None:
        self.mean = features.mean(0, dtype=np.float64)
        spread = features.std(0, dtype=np.float64)
        # A feature that never moves keeps weight zero.
        self.inverse = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6)
        x = ((features - self.mean) * self.inverse).astype(np.float32)
        n, d = x.shape
        self.basis: NDArray[np.float32] | None = None  # [D, R]
        if n < d:
            values, vectors = np.linalg.eigh((x @ x.T).astype(np.float64))
            keep = values > values[-1] * 1e-7
            scaled = vectors[:, keep] / np.sqrt(values[keep])
            self.basis = x.T @ scaled.astype(np.float32)
            x = (vectors[:, keep] * np.sqrt(values[keep])).astype(np.float32)
        self.rotated = x
        self.width = d

    def random_start(self, classes: int, seed: int) -> Layer:
        """The new layer's random weights, seen from the rotated space."""
        rng = np.random.default_rng(seed)
        bound = 1 / np.sqrt(self.width)
        weight = rng.uniform(-bound, bound, (self.width, classes))
        bias = rng.uniform(-bound, bound, classes)
        if self.basis is not None:
            weight = self.basis.T.astype(np.float64) @ weight
        return weight, bias

    def fold(self, layer: Layer) -> Head:
        """Rotation and standardisation folded into one layer on raw features."""
        weight, bias = layer
        if self.basis is not None:
            weight = self.basis.astype(np.float64) @ weight
        weight = weight * self.inverse[:, None]  # [D, C]
        bias = bias - self.mean @ weight
        return Head(weight.T.astype(np.float32), bias.astype(np.float32))


def _minimise(
    x: NDArray[np.float32], labels: Int, classes: int, strength: float, start: Layer,
    precise: bool = False,
) -> Layer:  # fmt: skip
    """Minimise mean cross-entropy + strength / 2 * |weight|^2 by L-BFGS."""
    from scipy.optimize import minimize

    n, width = x.shape
    if precise:
        x = x.astype(np.float64)  # type: ignore[assignment]
    rows = np.arange(n)

    def loss(flat: Float) -> tuple[float, Float]:
        weight = flat[: width * classes].reshape(width, classes)
        logits = (x @ weight.astype(x.dtype)).astype(np.float64) + flat[width * classes :]
        logits -= logits.max(1, keepdims=True)
        exp = np.exp(logits)
        total = exp.sum(1, keepdims=True)
        value = (np.log(total[:, 0]) - logits[rows, labels]).mean()
        error = exp / total
        error[rows, labels] -= 1
        error /= n
        slope = (x.T @ error.astype(x.dtype)).astype(np.float64) + strength * weight
        gradient = np.concatenate([slope.ravel(), error.sum(0)])
        return float(value + strength / 2 * (weight**2).sum()), gradient

    options = {"maxiter": 2000, "gtol": 1e-7, "ftol": 1e-14, "maxcor": 20} if precise else {
        "maxiter": 100, "gtol": 1e-4, "ftol": 1e-6, "maxcor": 10,
    }  # fmt: skip
    flat = np.concatenate([start[0].ravel(), start[1]])
    found = minimize(loss, flat, jac=True, method="L-BFGS-B", options=options).x
    return found[: width * classes].reshape(width, classes), found[width * classes :]


Trainer = Callable[[NDArray[np.float32], Int], Head]
