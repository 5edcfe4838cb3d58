"""What a training run is given beside its recipe, and what it tells on the way.

N images, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headstart.train.pixels import Source
from headstart.train.recipe import Recipe

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
    keep: tuple[str, float] | None = None
    """which weights to end with, and their share in the mixture with the start, as `Tuned.average` and
    `Tuned.alpha` of a run that chose them; None: the best on the validation part, without one the
    average, or the last where there is none"""
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


def fingerprint(lesson: Lesson, recipe: Recipe, start: Mapping[str, Tensor], frozen: str) -> str:
    """What a run must share with its checkpoints."""
    hashed = hashlib.blake2b(f"{recipe}{frozen}{lesson.hashes}".encode(), digest_size=16)
    for rows in (lesson.labels, lesson.learn, lesson.valid):
        hashed.update(np.ascontiguousarray(rows, np.int64).tobytes() + b"|")
    for name, value in start.items():
        hashed.update(name.encode())
        hashed.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()
