"""Is an image unlike all that the model learned from? Then its answer means little.

N images, D feature width, M images in the bank.

The strangeness of an image is one less the cosine of its features with those of the third nearest
of at most a few hundred training images (Sun et al. 2022). The features are those that the head
reads, as they are: what all training images share is just what a foreign image lacks. On three data
sets against all others, digits and noise this found more than standardised features, shrunk
Mahalanobis distances, the residual of a principal subspace and the head's energy
(benchmarks/judgement.py). The threshold is a quantile of the strangeness of held-out images, each
against a bank of the other folds.

An image that is not flagged may still be of no class: a bank of clothes knows how photos of clothes
look, not what clothes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import ArgumentError
from headstart.judge.calibration import Floats, Ints
from headstart.judge.conformal import group_quantile, group_weights, least_images
from headstart.judge.metrics import Metric, wilson
from headstart.parallel import one_blas_thread

Array = NDArray[np.float32]

RATE = 0.05
NEIGHBOUR = 3
"""one is fooled by a single odd training image, ten miss classes with few images"""
BANK = 400
"""more find no more: 200 did nearly as well"""
BANK_BYTES = 1_800_000
"""in a bundle, at two bytes a number; wide features get a smaller bank"""
BLOCK = 1024
FINEST = 1e-6
"""no threshold below, so that sets of one picture only do not divide by zero"""
NUMBERS = ("threshold", "rate", "false_alarms", "n", "groups")


@dataclass(frozen=True, slots=True)
class Unlike:
    """Directions of training images' features, and how far from them an image is flagged."""

    bank: Array  # [M, D], of length one
    threshold: float
    """in one less the cosine"""
    rate: float
    """share of images like the training's that may be flagged"""
    false_alarms: float
    """share of held-out images that were flagged, each by the threshold of the other folds"""
    n: int
    groups: int


def fit_unlike(
    features: Array,
    labels: Ints,
    groups: Ints,
    folds: Ints,
    rate: float = RATE,
    seed: int = 0,
) -> Unlike:
    """The bank of all images, and a threshold that flags the given share of images like them.

    Args:
        features: float32 [N, D] that the head reads, of the images that it learned from.
        labels: int [N]. groups: int [N], one draw each; the bank takes one image of a group.
        folds: int [N], as in the cross-validation; groups are whole within folds.
        rate: of false alarms.

    Raises:
        ArgumentError: a rate outside (0, 1), too few images for it (19 for 5 %), or one fold.
    """
    if not 0 < rate < 1:
        raise ArgumentError("A rate of false alarms lies between 0 and 1", received=rate)
    names, total = np.unique(folds), len(np.unique(groups))
    needed = least_images(rate)
    if total < needed or len(names) < 2:
        raise ArgumentError(
            "Too few images to tell which are unlike the others",
            received=f"{total} images (of a group one counts) in {len(names)} folds, {rate:g} false "
            "alarms",
            do=f"At least {needed} images in two folds are needed.",
        )
    far = _held_out(features, labels, groups, folds, seed)
    flagged = np.empty(len(labels))
    for k in names:
        held, others = folds == k, folds != k
        flagged[held] = far[held] > group_quantile(far[others], groups[others], 1 - rate)
    return Unlike(
        bank=_bank(features, labels, groups, np.arange(len(labels)), seed),
        threshold=max(FINEST, group_quantile(far, groups, 1 - rate)),
        rate=rate,
        false_alarms=float(np.average(flagged, weights=group_weights(groups))),
        n=len(labels),
        groups=total,
    )


def held_out_strangeness(
    unlike: Unlike, features: Array, labels: Ints, groups: Ints, folds: Ints, seed: int = 0
) -> Floats:
    """`strangeness` of the images that the model learned from [N], each against the other folds.

    Args: as for `fit_unlike`, which made `unlike` of them.
    """
    return _held_out(features, labels, groups, folds, seed) / unlike.threshold


def strangeness(unlike: Unlike, features: ArrayLike) -> Floats:
    """How unlike the training images each image is [N]: above 1 it is flagged.

    Raises:
        ArgumentError: features [N, D] of another width.

    >>> bank = np.eye(4, 8, dtype=np.float32)
    >>> strangeness(Unlike(bank, 0.5, 0.05, 0.05, 4, 4), [[1, 1, 1, 1, 0, 0, 0, 0]]).tolist()
    [1.0]
    """
    x = np.asarray(features, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != unlike.bank.shape[1]:
        raise ArgumentError(
            "These features are not those that the model reads",
            received=f"{list(x.shape)}, {unlike.bank.shape[1]} are wanted per image",
        )
    return np.asarray(_distance(unlike.bank, x) / unlike.threshold)


def false_alarms(unlike: Unlike, features: ArrayLike, groups: ArrayLike | None = None) -> Metric:
    """The share of images like the training's (a test part) that are flagged, every group weighing
    one, with Wilson's interval.

    Raises:
        ArgumentError: see `strangeness`; no image.
    """
    return flagged_share(strangeness(unlike, features) > 1, groups)


def flagged_share(flags: ArrayLike, groups: ArrayLike | None = None) -> Metric:
    """The share of images [N] that are flagged, every group weighing one, with Wilson's interval.

    Raises:
        ArgumentError: no image.

    >>> flagged_share([True, False, False], [0, 1, 1]).value
    0.5
    """
    flagged = np.asarray(flags, dtype=np.float64)
    if not len(flagged):
        raise ArgumentError("There are no images to look at")
    weight = group_weights(np.arange(len(flagged)) if groups is None else np.asarray(groups))
    share, draws = float(np.average(flagged, weights=weight)), round(float(weight.sum()))
    low, high = wilson(share * draws, draws)
    return Metric("false_alarms", share, low, high, len(flagged), "Wilson over groups")


def unlike_arrays(unlike: Unlike) -> dict[str, NDArray[Any]]:
    """The record as two plain arrays for a safetensors file, at most 1.8 MB."""
    numbers = np.array([getattr(unlike, name) for name in NUMBERS], dtype=np.float64)
    return {"unlike.bank": unlike.bank.astype(np.float16), "unlike.numbers": numbers}


def unlike_from_arrays(stored: Mapping[str, NDArray[Any]], width: int) -> Unlike:
    """What `unlike_arrays` stored, for a head that reads so many features.

    Raises:
        ArgumentError: arrays that no bank has. KeyError: one is missing.
    """
    bank, numbers = stored["unlike.bank"].astype(np.float32), stored["unlike.numbers"]
    sane = bank.ndim == 2 and bank.shape[1] == width and len(bank) >= 1
    sane = sane and numbers.shape == (len(NUMBERS),) and bool(np.isfinite(numbers).all())
    if not sane or not np.isfinite(bank).all() or numbers[0] < FINEST:
        raise ArgumentError(
            "The stored bank of images does not fit the model",
            received=f"{list(bank.shape)} for {width} features",
        )
    threshold, rate, realised, n, groups = numbers.tolist()
    return Unlike(bank, threshold, rate, realised, int(n), int(groups))


def _held_out(features: Array, labels: Ints, groups: Ints, folds: Ints, seed: int) -> Floats:
    """Distance of every image [N] from a bank of the other folds."""
    far = np.empty(len(labels))
    for k in np.unique(folds):
        held, others = np.flatnonzero(folds == k), np.flatnonzero(folds != k)
        far[held] = _distance(_bank(features, labels, groups, others, seed), features[held])
    return far


def _bank(features: Array, labels: Ints, groups: Ints, some: Ints, seed: int) -> Array:
    """Directions of images drawn class by class, one of each group, in what float16 keeps of them."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(some)
    alone = order[np.sort(np.unique(groups[order], return_index=True)[1])]
    place = np.empty(len(alone))
    for c in np.unique(labels[alone]):
        mine = np.flatnonzero(labels[alone] == c)
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    most = max(NEIGHBOUR, min(BANK, BANK_BYTES // (2 * features.shape[1])))
    picked = np.sort(alone[np.argsort(place, kind="stable")[:most]])
    return _directions(features[picked]).astype(np.float16).astype(np.float32)


def _directions(features: Array) -> Array:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), dtype=np.float32)


def _distance(bank: Array, features: Array) -> Floats:
    """One less the cosine with the third nearest of the bank [N]; in blocks, for memory's sake."""
    k = min(NEIGHBOUR, len(bank))
    far = np.empty(len(features))
    with one_blas_thread():  # a second thread for so little work is waited for ten times as long
        for start in range(0, len(features), BLOCK):
            cosine = _directions(features[start : start + BLOCK]) @ bank.T
            far[start : start + BLOCK] = 1 - np.partition(cosine, -k, axis=1)[:, -k]
    return far
