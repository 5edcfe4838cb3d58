"""What a training run is given beside its recipe, and what it tells on the way.

N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.train.pixels import Source

Int = NDArray[np.int64]
Score = Callable[[NDArray[np.float32], Int], float]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned from, what is validated on, and what counts."""

    source: Source
    labels: Int  # [N] of all images
    learn: Int  # images that are learned from
    valid: Int  # images that the weights are chosen on; may be empty
    score: Score
    """criterion from logits [n, C] and labels [n]; higher is better"""
    weights: NDArray[np.float32] | None = None  # [N] mean 1 over `learn`: those of the head's loss
    keep: tuple[str, float] = ("average", 1.0)
    """without a validation part: which weights to end with, and their share in the mixture with the
    start, as `Tuned.average` and `Tuned.alpha` of a run that had one"""
    may_end_at_start: bool = True
    """whether the start itself may be the result, when nothing trained is better"""
    hashes: tuple[str, ...] = ()  # [N] content of every image: checkpoints of others are refused


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a run stands, for the live line."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    """mean of the last steps"""
    score: float | None
    """of the averaged weights after the last finished epoch"""
    rate: float
    img_s: float
    eta_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One finished epoch."""

    epoch: int
    loss: float
    rate: float
    score: float | None
    img_s: float
    seconds: float
