"""Measure what decides the case: how large the data are, how similar to the source, how deep.

N images, D channels, S stages. Everything is measured on development images only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.features import Features
from headstart.backbone.graph import TapGraph
from headstart.backbone.load import EMBEDDED_SHA256
from headstart.parallel import one_blas_thread, ordered_map
from headstart.plan.criterion import Criterion, chance
from headstart.plan.probe import MAX_IMAGES, Probe, probe

Int = NDArray[np.int64]

ALL_STAGES = "all"
SHIFT_IMAGES = 160
"""The shift moves with the number of images; the thresholds were set at this many."""
RESAMPLES = 400
LUCK = 4.5
"""standard errors above chance that count as learned. The best of ten stages at twelve strengths is
compared, and leave-one-out answers lean on each other: with labels that mean nothing their score
spreads 1.3 times as wide as independent answers would (simulated at 24 to 96 images)."""
CALIBRATED: Mapping[tuple[str, int], tuple[float, float]] = {
    # (weights, size in px): similar below, different from. Measured on 20 data sets: docs/log.md.
    (EMBEDDED_SHA256, 224): (0.50, 0.55),
}


@dataclass(frozen=True, slots=True)
class Development:
    """The images that everything is learned and decided from; the test part is not among them."""

    rows: Int  # [N] rows of the features
    labels: Int  # [N]
    groups: Int  # [N] equal numbers stay together
    folds: Int  # [N] the fold in which an image is held out
    hashes: tuple[str, ...]
    """content hash of every image"""
    classes: tuple[str, ...]

    def take(self, positions: Int) -> Development:
        """Some of these images, each held out in the fold that it had."""
        return Development(
            self.rows[positions],
            self.labels[positions],
            self.groups[positions],
            self.folds[positions],
            tuple(self.hashes[i] for i in positions),
            self.classes,
        )


@dataclass(frozen=True, slots=True)
class Similarity:
    """Distance to the source of the loaded weights, at the last BatchNorm."""

    verdict: str
    """similar, unclear or different"""
    bn_shift: float | None
    low: float | None
    high: float | None
    n: int
    thresholds: tuple[float, float] | None
    sentence: str


@dataclass(frozen=True, slots=True)
class StageProbe:
    """What a frozen stage knows about the classes."""

    stage: str
    width: int
    probe: Probe


@dataclass(frozen=True, slots=True)
class Measurement:
    """The numbers that the decision is made from."""

    n: int
    per_class: Mapping[str, int]
    similarity: Similarity
    depth: tuple[StageProbe, ...]
    """one per stage, in order"""
    all_stages: StageProbe
    chance: float
    """the score of always naming the largest class"""
    criterion: Criterion
    """the score that drives every choice"""
    probe_images: int
    """how many images the probes used"""

    @property
    def learnable(self) -> bool:
        """Whether the best probe beats chance by more than the best of many would by luck.

        The standard error is at least that of guessing, for a few lucky images know no spread.
        """
        best = max((*self.depth, self.all_stages), key=lambda row: row.probe.score).probe
        return bool(best.score > self.chance + LUCK * max(best.se, self._guessing_se()))

    def _guessing_se(self) -> float:
        counts = np.array([n for n in self.per_class.values() if n])
        counts = counts * self.probe_images / self.n  # the probes may have used fewer images
        kind, chance = self.criterion.kind, self.chance
        if kind == "accuracy":
            return float((chance * (1 - chance) / counts.sum()) ** 0.5)
        if kind == "balanced_accuracy":
            return float((chance * (1 - chance) * (1 / counts).sum()) ** 0.5 / len(counts))
        if kind == "auc":  # of one class against the rest, Mann & Whitney 1947
            few, rest = counts.min(), counts.sum() - counts.min()
            return float(((few + rest + 1) / (12 * few * rest)) ** 0.5)
        return 0.0 if kind == "log_loss" else float((chance * (1 - chance) / counts[1]) ** 0.5)


def measure(
    graph: TapGraph,
    features: Features,
    development: Development,
    criterion: Criterion,
    seed: int,
    workers: int,
) -> Measurement:
    """Measure size, similarity and the depth profile, all on the development images."""
    labels, groups, classes = development.labels, development.groups, development.classes
    counts = np.bincount(labels, minlength=len(classes))
    some = stratified(labels, MAX_IMAGES, seed)
    rows = development.rows[some]
    names = (*features.stages, ALL_STAGES)

    def look(name: str) -> StageProbe:
        x = features.all_stages(rows) if name == ALL_STAGES else features.stage(name, rows)
        found = probe(x, labels[some], groups[some], len(classes), criterion)
        return StageProbe(name, x.shape[1], found)

    with one_blas_thread():
        *stages, together = ordered_map(look, names, workers)
    return Measurement(
        n=len(labels),
        per_class={name: int(n) for name, n in zip(classes, counts, strict=True)},
        similarity=similarity(graph, features, development, seed),
        depth=tuple(stages),
        all_stages=together,
        chance=chance(criterion, labels),
        criterion=criterion,
        probe_images=len(some),
    )


def similarity(
    graph: TapGraph, features: Features, development: Development, seed: int
) -> Similarity:
    """Shift of the last BatchNorm between these images and the statistics stored in the weights.

    Per channel the squared Wasserstein-2 distance of two normal distributions, in units of the
    source's variance, less its sampling bias; then the root of the mean over channels.
    The interval is a bootstrap over images.
    """
    if not graph.has_norm:
        return _unknown("This network has no BatchNorm, so the shift cannot be measured")
    # Drawn by content, so that neither names nor order nor the rest of the folder matter.
    order = np.argsort(np.array(development.hashes))[:SHIFT_IMAGES]
    chosen = development.rows[order]
    means = features.stage("norm_mean", chosen).astype(np.float64)  # [n, D]
    squares = features.stage("norm_square", chosen).astype(np.float64)
    source_mean, source_variance = (a.astype(np.float64) for a in graph.norm_statistics())
    n = len(chosen)
    usable = source_variance > 1e-6  # dead channels say nothing and would divide by zero
    arrays = (means[:, usable], squares[:, usable], source_mean[usable], source_variance[usable])
    value = float(_shift(np.full((1, n), 1 / n), *arrays, bias=1.0)[0])
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    # A resample carries the sampling noise of the data and its own: twice the bias.
    spread = _shift(draws, *arrays, bias=2.0)
    low, high = (float(v) for v in np.quantile(spread, [0.025, 0.975]))
    low, high = min(low, value), max(high, value)
    thresholds = CALIBRATED.get((graph.weights_sha256, graph.preprocess.size_px))
    if thresholds is None:
        found = _unknown(
            f"The shift is {value:.2f}, but its thresholds are not known for these weights at "
            f"{graph.preprocess.size_px} px"
        )
        return Similarity("unclear", value, low, high, n, None, found.sentence)
    verdict = similarity_verdict(value, low, high, thresholds)
    relation = {
        "similar": f"below {thresholds[0]:.2f}: like the images this network was trained on",
        "different": f"from {thresholds[1]:.2f} on: unlike the images this network was trained on",
        "unclear": f"not clearly below {thresholds[0]:.2f} nor above {thresholds[1]:.2f}",
    }[verdict]
    sentence = f"BatchNorm shift {value:.2f} [{low:.2f}, {high:.2f}] from {n} images, {relation}."
    return Similarity(verdict, value, low, high, n, thresholds, sentence)


def similarity_verdict(
    value: float, low: float, high: float, thresholds: tuple[float, float]
) -> str:
    """similar, different or unclear; an interval that reaches the other side is unclear.

    >>> similarity_verdict(0.39, 0.37, 0.41, (0.50, 0.55))
    'similar'
    >>> similarity_verdict(0.49, 0.40, 0.58, (0.50, 0.55))
    'unclear'
    """
    similar_below, different_from = thresholds
    if value < similar_below and high < different_from:
        return "similar"
    if value >= different_from and low >= similar_below:
        return "different"
    return "unclear"


def _unknown(why: str) -> Similarity:
    return Similarity("unclear", None, None, None, 0, None, f"{why}; similarity is left open.")


def _shift(
    weights: NDArray[np.float64],  # [draws, n], rows sum to 1
    means: NDArray[np.float64],  # [n, D] per image
    squares: NDArray[np.float64],
    source_mean: NDArray[np.float64],  # [D]
    source_variance: NDArray[np.float64],
    bias: float,
) -> NDArray[np.float64]:
    """Root mean squared W2 distance per draw, in source standard deviations.

    A mean over n images is off by noise, and noise adds to a squared distance: the variance of the
    mean to the first term, that of the standard deviation to the second. Both are estimated from
    the images and taken away.
    """
    n = means.shape[0]
    # Seen from the middle of the images, so that the powers below keep their digits.
    centre = means.mean(0)
    squares = squares - centre * (2 * means - centre)
    means = means - centre

    def noise(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variance [draws, D] of the mean of one value per image."""
        between = np.maximum(weights @ values**2 - (weights @ values) ** 2, 0)
        return np.asarray(bias * between / max(1, n - 1))

    mean = weights @ means  # [draws, D]
    of_mean = noise(means)
    variance = np.maximum(weights @ squares - mean**2, 0) + of_mean
    apart = (mean + centre - source_mean) ** 2 - of_mean
    of_sd = noise(squares) / (4 * np.maximum(variance, 1e-12))  # the delta method
    wider = (np.sqrt(variance) - np.sqrt(source_variance)) ** 2 - of_sd
    squared = ((apart + wider) / source_variance).mean(1)
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def stratified(labels: Int, most: int, seed: int, least: int = 2) -> Int:
    """About `most` indices in order, the classes in proportion, at least two (or `least`) of each.

    >>> stratified(np.array([0] * 90 + [1] * 10), 10, seed=0).tolist().__len__()
    11
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    share = most / len(labels)
    picked = []
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        picked.append(rng.permutation(mine)[: max(least, round(share * len(mine)))])
    return np.sort(np.concatenate(picked))
