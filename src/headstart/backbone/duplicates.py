"""Which images may be the same picture, as the backbone sees them.

A crop moves every edge, so the hash of `data.near` may miss it; the pooled features of a network
hardly change. They only propose: what is a copy is decided there, on pixels.

N images, D feature width, P pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.feature_cache import Array
from headstart.data.neighbours import nearest_pairs

NEIGHBOURS = 3
LEAST_COSINE = 0.65
"""Of centred features of EfficientNet-Lite0. Planted in trashnet and clothing: copies 0.71 to 1.00,
crops of 5 % 0.75 to 0.99; of unrelated images about 1 pair in 5,000 has more."""
WIDTH = 256
FIT_ROWS = 8192


def propose_by_features(
    features: Array,
    neighbours: int = NEIGHBOURS,
    least_cosine: float = LEAST_COSINE,
    workers: int = 1,
) -> NDArray[np.int64]:
    """Pairs [P, 2], first < second, whose centred features point the same way.

    Args:
        features: float32 [N, D], of the last stage.
        neighbours: pairs per image, at most. least_cosine: similarity from which it is a pair.
        workers: threads.
    """
    directions = _directions(features)

    def alike(rows: slice, columns: slice) -> Array:
        return directions[rows] @ directions[columns].T

    return nearest_pairs(alike, len(features), neighbours, least_cosine, workers)


def _directions(features: Array) -> Array:
    """Centred rows of length 1 [N, at most WIDTH]; a row that is like the mean becomes zeros.

    What all images share (one background, one kind of thing) says nothing about identity, so the
    mean is taken away.
    """
    mean = features.sum(0, dtype=np.float64) / max(1, len(features))
    centred = features - mean.astype(np.float32)
    full = np.linalg.norm(centred, axis=1, keepdims=True)
    if centred.shape[1] > WIDTH and len(centred) > FIT_ROWS:
        step = max(1, len(centred) // FIT_ROWS)
        sample = centred[::step]
        axes = np.linalg.eigh(sample.T @ sample)[1][:, -WIDTH:]
        centred = centred @ np.ascontiguousarray(axes)
    out: Array = centred / np.where(full > 1e-6, full, np.inf)
    return out
