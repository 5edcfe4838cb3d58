"""A head with one hidden layer of ReLUs, trained on cached features.

N images, D feature width, H hidden width, C classes, R axes of the rotated features, M members.

The penalty does not see a rotation, so few images are rotated to their principal axes as for the
linear head. Its loss has many minima, so several members start from different random weights and
their logits are averaged, which is one wider layer again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.parallel import one_blas_thread, ordered_map
from headstart.train.adjust import adjust
from headstart.train.head import (
    Float,
    HeadSearch,
    HeadTask,
    Int,
    Space,
    cross_entropy,
    takes_over,
)

Array = NDArray[np.float32]

STRENGTHS = (0.1, 0.03, 0.01, 0.003, 0.001)
"""L2 per image on both layers, strongest first"""
MEMBERS = 3
OPTIONS = {"maxiter": 60, "gtol": 1e-4, "ftol": 1e-5, "maxcor": 10}


@dataclass(frozen=True, slots=True)
class MlpHead:
    """Two fully connected layers: logits = relu(features @ hidden.T + its bias) @ weight.T + bias."""

    hidden_weight: Array  # [H, D]
    hidden_bias: Array  # [H]
    weight: Array  # [C, H]
    bias: Array  # [C]

    def logits(self, features: Array) -> Array:
        """[N, D] -> [N, C]"""
        hidden = np.maximum(features @ self.hidden_weight.T + self.hidden_bias, 0)
        return np.asarray(hidden @ self.weight.T + self.bias)


def train_mlp(
    features: Array, labels: Int, classes: int, width: int, strength: float, seed: int
) -> MlpHead:
    """Train the members on all given images and join them into one hidden layer.

    Args:
        features: float32 [N, D]. labels: int [N] in 0..classes-1.
        width: H of all members together. strength: L2 penalty on both layers, per image.
    """
    import scipy.optimize  # noqa: F401 - before the limit: it brings a linear algebra of its own

    with one_blas_thread():
        space = Space(features)
        nets = [
            _minimise(space.rotated, labels, strength, start)
            for start in _starts(space, classes, width, seed)
        ]
    first = np.concatenate([net[0] for net in nets], axis=1)  # [R, H]
    first = first if space.basis is None else space.basis @ first
    first = first * space.inverse[:, None]  # [D, H] on raw features
    hidden_bias = np.concatenate([net[1] for net in nets]) - space.mean @ first
    second = np.concatenate([net[2] for net in nets]) / len(nets)  # [H, C]
    bias = sum((net[3] for net in nets), np.zeros(classes)) / len(nets)
    parts = (first.T, hidden_bias, second.T, bias)
    return MlpHead(*(np.ascontiguousarray(part, dtype=np.float32) for part in parts))


def search_mlp(features: Array, task: HeadTask, width: int, seed: int, workers: int) -> HeadSearch:
    """Choose the strength by cross-validation as `train.head.search_head` does.

    Args:
        features: float32 [N, D]. width: H of all members together.
    """
    import scipy.optimize  # noqa: F401 - before the limit: it brings a linear algebra of its own

    began = time.perf_counter()
    with one_blas_thread():
        space = Space(features)
    labels, folds = task.labels, task.folds
    count = int(folds.max()) + 1
    best = None
    for strength in STRENGTHS:

        def solve(job: tuple[int, Net], strength: float = strength) -> Float:
            k, start = job
            train = folds != k
            return _answers(
                space.rotated, _minimise(space.rotated[train], labels[train], strength, start)
            )

        starts = _starts(space, task.classes, width, seed)
        jobs = [(k, start) for k in range(count) for start in starts]
        with one_blas_thread():
            found = list(ordered_map(solve, jobs, workers))
        held_out = np.zeros((len(labels), task.classes))
        fitted = np.zeros((len(labels), task.classes))
        for (k, _), answers in zip(jobs, found, strict=True):
            held_out[folds == k] += answers[folds == k] / len(starts)
            fitted[folds != k] += answers[folds != k] / (len(starts) * (count - 1))
        loss = float(cross_entropy(held_out, labels).mean())
        score = adjust(task.criterion, held_out, labels, task.groups).score
        if best is None or takes_over(loss, score, best[0], best[1], task.groups):
            best = (loss, score, strength, held_out, fitted)
        else:
            break
    assert best is not None
    return HeadSearch(best[2], best[3], best[4], time.perf_counter() - began)


Net = tuple[Float, Float, Float, Float]
"""(weight [R, H], bias [H], weight [H, C], bias [C]) of one member in the rotated space"""


def _starts(space: Space, classes: int, width: int, seed: int) -> list[Net]:
    """Random weights by He et al. 2015, section 2.2; a Gaussian is the same in every rotation."""
    rng = np.random.default_rng(seed)
    axes = space.rotated.shape[1]
    sizes = [width // MEMBERS + (i < width % MEMBERS) for i in range(MEMBERS)]
    return [
        (
            rng.normal(0, np.sqrt(2 / space.width), (axes, size)),
            np.zeros(size),
            rng.normal(0, np.sqrt(1 / size), (size, classes)),
            np.zeros(classes),
        )
        for size in sizes
        if size
    ]


def _answers(x: Array, net: Net) -> Float:
    first, first_bias, second, bias = (part.astype(np.float32) for part in net)
    return np.asarray(np.maximum(x @ first + first_bias, 0) @ second + bias, dtype=np.float64)


def _minimise(x: Array, labels: Int, strength: float, start: Net) -> Net:
    """Minimise mean cross-entropy + strength / 2 * |weights|^2 by L-BFGS; x is [N, R]."""
    from scipy.optimize import minimize

    shapes = [part.shape for part in start]
    flat = np.concatenate([part.ravel() for part in start])
    loss = _objective(x, labels, strength, shapes)
    found = minimize(loss, flat, jac=True, method="L-BFGS-B", options=OPTIONS).x
    first, first_bias, second, bias = _parts(found, shapes)
    return first, first_bias, second, bias


def _parts(flat: Float, shapes: list[tuple[int, ...]]) -> list[Float]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [
        part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)
    ]


def _objective(
    x: Array, labels: Int, strength: float, shapes: list[tuple[int, ...]]
) -> Callable[[Float], tuple[float, Float]]:
    """The penalised loss and its slope at flat weights and biases; products in float32."""
    n = len(x)
    rows = np.arange(n)

    def loss(flat: Float) -> tuple[float, Float]:
        parts = _parts(flat, shapes)
        first, first_bias, second, bias = (part.astype(x.dtype) for part in parts)
        hidden = x @ first
        hidden += first_bias
        np.maximum(hidden, 0, out=hidden)
        error = (hidden @ second + bias).astype(np.float64)
        error -= error.max(1, keepdims=True)
        each = -error[rows, labels]
        np.exp(error, out=error)
        total = error.sum(1, keepdims=True)
        each += np.log(total)[:, 0]
        error /= total
        error[rows, labels] -= 1
        back = (error / n).astype(x.dtype)  # [N, C]
        to_hidden = back @ second.T
        to_hidden *= hidden > 0
        slopes = (
            (x.T @ to_hidden) + strength * parts[0],
            to_hidden.sum(0, dtype=np.float64),
            (hidden.T @ back) + strength * parts[2],
            back.sum(0, dtype=np.float64),
        )
        penalty = strength / 2 * (float((parts[0] ** 2).sum()) + float((parts[2] ** 2).sum()))
        return float(each.mean()) + penalty, np.concatenate([s.ravel() for s in slopes])

    return loss
