"""A heat map as numbers, and how much two of them are alike.

h w positions of a map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["gradcam", "saliency"]
TOP = 99.0
"""percentile of a map's values that is drawn as the hottest: single pixels must not rule a picture"""


@dataclass(frozen=True, slots=True)
class Heat:
    """What speaks for one class in one picture."""

    method: Method
    stage: str | None
    """None for saliency, which reads the pixels"""
    target: int
    signed: NDArray[np.float32]
    """[h, w] over the network's square; what speaks against the class is below zero"""

    @property
    def positive(self) -> NDArray[np.float32]:
        """[h, w]: what speaks for the class, zero elsewhere."""
        return np.maximum(self.signed, 0)

    @property
    def shown(self) -> NDArray[np.float32]:
        """[h, w] in 0..1, as it is drawn: the hottest hundredth is 1."""
        values = self.positive
        top = float(np.percentile(values, TOP)) or float(values.max())
        return np.asarray((values / top).clip(0, 1) if top else values, dtype=np.float32)


def rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Spearman's rank correlation of two maps; 0 when one of them is the same everywhere."""
    from scipy.stats import rankdata

    ranks = [rankdata(values.ravel()) for values in (a, b)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
