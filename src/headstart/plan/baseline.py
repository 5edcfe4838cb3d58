"""Baselines that use no pre-trained network: raw pixels, and colours with textures.

They are computed on small copies, reported beside every candidate and never shipped. When they do
as well as the network, pre-training adds nothing here, and that is worth knowing.

N images, D numbers per image, H W px.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.plan.criterion import Criterion
from headstart.plan.probe import Float, Int, Probe, kernel_probe

COPY_PX = 32


@dataclass(frozen=True, slots=True)
class Baseline:
    """A way to classify without a pre-trained network, and how well it does."""

    name: str
    probe: Probe


def baselines(
    copies: NDArray[np.uint8], labels: Int, groups: Int, classes: int, criterion: Criterion
) -> tuple[Baseline, ...]:
    """Score raw pixels and colour/texture by leave-one-group-out kernel ridge regression.

    Args:
        copies: small copies uint8 [N, H, H, 3]. labels, groups: int [N].
    """
    found = []
    for name, features in (
        ("raw pixels", (copies.reshape(len(copies), -1) / 255).astype(np.float32)),
        ("colour and texture", colour_and_texture(copies)),
    ):
        began = time.perf_counter()
        best: Probe | None = None
        for width in (0.5, 1.0, 2.0):
            kernel = gaussian_kernel(features, width)
            probe = kernel_probe(kernel, labels, groups, classes, criterion)
            if best is None or probe.score > best.score:
                best = probe
        assert best is not None
        seconds = time.perf_counter() - began
        found.append(Baseline(name, Probe(best.score, best.se, best.train_score, seconds)))
    return tuple(found)


def gaussian_kernel(features: NDArray[np.float32], width: float) -> Float:
    """exp(-|a - b|² / (2 (width · median distance)²)), [N, N]."""
    squares = (features**2).sum(1)
    apart = np.maximum(squares[:, None] + squares - 2 * features @ features.T, 0).astype(np.float64)
    typical = float(np.median(apart[np.triu_indices(len(apart), 1)])) if len(apart) > 1 else 1.0
    return np.asarray(np.exp(-apart / (2 * width**2 * max(typical, 1e-12))))


def colour_and_texture(copies: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Histograms [N, D] of colours, and of edge directions in a 4 x 4 grid (after Dalal & Triggs 2005).

    Square roots of shares (Hellinger), so that a Euclidean distance compares histograms.
    """
    n, side = copies.shape[:2]
    bins = (copies // 64).astype(np.int64)  # 4 levels per channel
    codes = (bins[..., 0] * 4 + bins[..., 1]) * 4 + bins[..., 2]
    offsets = np.arange(n)[:, None] * 64
    colours = np.bincount((codes.reshape(n, -1) + offsets).ravel(), minlength=n * 64)
    colours = colours.reshape(n, 64) / side**2
    grey = copies.astype(np.float32).mean(3)
    down, across = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, across)
    direction = ((np.arctan2(down, across) % np.pi) / np.pi * 8).astype(np.int64) % 8
    cell = np.arange(side) * 4 // side
    place = (cell[:, None] * 4 + cell) * 8  # [H, W]
    index = np.arange(n)[:, None, None] * 128 + place + direction
    edges = np.bincount(index.ravel(), strength.ravel(), minlength=n * 128).reshape(n, 128)
    shares = edges / np.maximum(edges.sum(1, keepdims=True), 1e-6)
    both = np.concatenate([colours, shares], axis=1)
    return np.asarray(np.sqrt(both), dtype=np.float32)
