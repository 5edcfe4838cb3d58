"""What the source's own classes say about the new ones, and how much detail the images hold.

N images, C new classes, K source classes, H W px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.graph import TapGraph
from headstart.plan.compare import careful_se, students
from headstart.plan.criterion import Criterion, mean_value

Float = NDArray[np.float64]
Int = NDArray[np.int64]

LITTLE, MUCH = 0.1, 0.5
"""shares of the labels, for words"""
PSEUDO_COUNT = 1.0
"""weight of the class frequencies in every source class's row"""
KEPT_ENERGY = 0.995
"""share of the contrast that the effective resolution must keep"""
QUANTISATION = 1 / 12
"""variance of rounding to whole grey levels: what lies below it is not detail"""


@dataclass(frozen=True, slots=True)
class SourceEvidence:
    """How far the pre-trained classifier's answers explain the new labels."""

    explained: float
    """1 - cross-fitted log loss / log loss of the class frequencies; 0: nothing, 1: everything"""
    se: float
    top_source: tuple[tuple[int, float], ...]
    """source classes (index, mean probability) that the images look like most"""
    sentence: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """Fine detail that the images really hold, as the side of a square image in px."""

    effective_px: float
    low: float
    high: float
    """quartiles over images"""
    network_px: int
    sentence: str


def source_probabilities(graph: TapGraph, head: NDArray[np.float32]) -> Float | None:
    """The pre-trained classifier's softmax [N, K] on head features [N, D]; None without one."""
    if graph.source_classes == 0:
        return None
    from safetensors import safe_open

    with safe_open(graph.weights, framework="numpy") as stored:
        weight = stored.get_tensor(f"{graph.classifier}.weight")  # [K, D]
        bias = stored.get_tensor(f"{graph.classifier}.bias")
    if weight.ndim != 2 or weight.shape[1] != head.shape[1]:
        return None
    logits = head.astype(np.float64) @ weight.T.astype(np.float64) + bias
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exp / exp.sum(1, keepdims=True))


def source_evidence(
    source: Float, labels: Int, folds: Int, classes: int, groups: Int | None = None
) -> SourceEvidence:
    """Cross-fitted explained fraction of the new labels by the source's probabilities.

    For every fold the table P(new class | source class) is estimated on the others with a pseudo
    count, then applied. Without cross-fitting a thousand source classes would explain anything.

    Args:
        source: [N, K]. labels: [N] in 0..classes-1. folds: [N], groups whole.
        groups: [N], images of one group are one draw; None: every image is one.
    """
    loss, prior_loss = np.zeros(len(labels)), np.zeros(len(labels))
    one_hot = np.eye(classes)[labels]
    for k in np.unique(folds):
        train, test = folds != k, folds == k
        # An absent class gets half an image, so that its log stays finite.
        prior = (one_hot[train].sum(0) + 0.5) / (train.sum() + 0.5 * classes)
        joint = source[train].T @ one_hot[train] + PSEUDO_COUNT * prior  # [K, C]
        given = joint / joint.sum(1, keepdims=True)
        loss[test] = -np.log((source[test] @ given)[np.arange(test.sum()), labels[test]])
        prior_loss[test] = -np.log(prior[labels[test]])
    explained = 1 - loss.mean() / prior_loss.mean()
    # Delta method for a ratio of means on the same images.
    residual = (loss - (1 - explained) * prior_loss) / prior_loss.mean()
    group = np.arange(len(labels)) if groups is None else groups
    se = careful_se(mean_value(Criterion("log_loss", "log_loss"), residual, labels), group)
    draws = len(np.unique(group))
    mean = source.mean(0)
    top = tuple((int(i), float(mean[i])) for i in np.argsort(-mean)[:5])
    if math.isinf(se):
        said = "images of one group do not show what they know of these classes."
    elif explained > se * (2.0 if draws == len(labels) else students(2.0, draws)):
        much = "something" if explained < MUCH else "much"
        much = "hardly anything" if explained < LITTLE else much
        said = f"they know {much} of these classes."
    else:
        said = "they know nothing of these classes."
    around = "" if math.isinf(se) else f" (± {se:.0%})"
    sentence = (
        f"The source's own classes explain {max(0.0, explained):.0%} of the labels{around}: {said}"
    )
    return SourceEvidence(float(explained), se, top, sentence)


def resolution(pixels: NDArray[np.uint8]) -> Resolution:
    """Effective resolution of images as the network sees them.

    The smallest side whose frequencies hold 99.5 % of an image's contrast; a 32-px picture that was
    enlarged to 224 px has one of about 26, whatever its file says.

    Args:
        pixels: uint8 [N, H, H, 3].
    """
    side = pixels.shape[1]
    found = np.array([_effective(image.mean(2)) for image in pixels])
    middle, low, high = (float(np.quantile(found, q)) for q in (0.5, 0.25, 0.75))
    sentence = f"The images hold detail of about {middle:.0f} px at the network's {side} px"
    if middle < side / 3:
        sentence += (
            ": they are small or smooth, which alone makes them look unlike the source; a smaller "
            "--size may do as well."
        )
    else:
        sentence += "."
    return Resolution(middle, low, high, side, sentence)


def _effective(grey: Float) -> float:
    side = grey.shape[0]
    # A window, or the jump from one edge to the opposite one would count as fine detail.
    window = np.hanning(side)
    centred = (grey - grey.mean()) * window[:, None] * window
    power = np.abs(np.fft.fft2(centred)) ** 2
    frequency = np.abs(np.fft.fftfreq(side) * side)
    ring = np.maximum(frequency[:, None], frequency).astype(int)  # the square a frequency lies in
    energy = np.bincount(ring.ravel(), power.ravel())
    noise = np.bincount(ring.ravel()) * QUANTISATION * (window**2).sum() ** 2
    energy = np.maximum(energy - noise, 0)
    if energy.sum() <= 0:
        return 1.0
    kept = np.cumsum(energy) / energy.sum()
    return float(min(side, 2 * (int(np.searchsorted(kept, KEPT_ENERGY)) + 1)))
