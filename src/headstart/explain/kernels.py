"""The filters of a network's first layer as small pictures.

D filters, k side of a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FAINT = 0.05
"""kernels whose strongest weight is below this share of the strongest of all are left out"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One filter of the first layer as a picture."""

    index: int
    pixels: NDArray[np.uint8]
    """[k, k, 3]: grey is zero"""


def kernels_of(weights: NDArray[np.float32]) -> list[Kernel]:
    """Filters [D, k, k, 3] as pictures; grey ones first, then coloured.

    Each is drawn on its own scale: grey is zero, the strongest weight is full. Those that are next
    to nothing beside the strongest have died in training and are left out.
    """
    if not len(weights):
        return []
    top = np.maximum(np.abs(weights).max((1, 2, 3)), 1e-12)
    pixels = (127.5 + 127.5 * weights / top[:, None, None, None]).round().astype(np.uint8)
    coloured = weights.std(3).mean((1, 2)) / np.abs(weights).mean((1, 2, 3)).clip(1e-12)
    alive = [int(i) for i in np.argsort(coloured, kind="stable") if top[i] >= FAINT * top.max()]
    return [Kernel(i, pixels[i]) for i in alive]


def kernel_words(kernels: Sequence[Kernel]) -> str:
    """What is to be seen on the pictures."""
    if not kernels:
        return ""
    side = kernels[0].pixels.shape[0]
    return (
        f"{len(kernels)} filters of {side} × {side} px, each on its own scale, where middle grey is "
        "zero: first those that compare brightness (edges, spots), then those that compare colours."
    )
