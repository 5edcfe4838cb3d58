"""Other ways to look at every image, and which of them the time allows.

The pre-trained network looks at the central square at its own size. Whole images squashed or padded
into the square help on some sets and harm on others, and so does a larger input (docs/log.md); the
mirror image is one more example to learn from. Each costs one more pass over all images, so they
are taken from a nominal speed and the budget, not from a clock: equal settings look at equal views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from headstart.plan.decide import MIRROR

SHARE = 0.4
"""of the budget may go into further passes; the rest is for their heads and the estimate"""
NOMINAL_IMAGES_PER_S = 60.0
"""per processor, at 224 px with the default network's multiply-adds; 84 was measured"""
NOMINAL_MACS = 4e8
OBLONG = 1.1
"""from this median ratio of the sides on, squashing and padding differ"""
LARGER = 288 / 224
"""a larger input helps networks trained with random crops (Touvron et al. 2019)"""
MIRRORED_UP_TO = 5_000
"""images; with more, mirror images double the time of a head that has seen enough"""
MOST_IMAGES = 20_000
"""with more, the memory for heads on all stages and spreads would grow past a laptop's"""


@dataclass(frozen=True, slots=True)
class View:
    """One more pass over all images."""

    name: str
    size_px: int
    fit: Literal["crop", "pad", "squash"]
    mirror: bool
    seconds: float
    """at the nominal speed"""


@dataclass(frozen=True, slots=True)
class Views:
    """What will be looked at, and a sentence for what will not."""

    chosen: tuple[View, ...]
    spreads: bool
    """whether the frozen family is widened at all"""
    left_out: tuple[str, ...]


def choose_views(
    sides_px: Sequence[tuple[int, int]],
    size_px: int,
    macs: int,
    budget_min: float,
    processors: int,
    fixed_size: bool,
    fixed_fit: bool,
) -> Views:
    """Which views are worth a pass, cheapest first, as far as the budget goes.

    Args:
        sides_px: width and height of every image. size_px: the network's own input.
        macs: multiply-adds of one image. fixed_size, fixed_fit: the user has said so.

    >>> choose_views([(300, 200)] * 100, 224, 400_000_000, 10, 2, False, False).chosen[0].name
    'squash'
    >>> choose_views([(300, 200)] * 100, 224, 400_000_000, 0, 2, False, False).spreads
    False
    """
    n = len(sides_px)
    if budget_min == 0:
        return Views((), False, ())
    if n > MOST_IMAGES:
        text = f"More than {MOST_IMAGES:,} images: further views and spreads are not tried."
        return Views((), False, (text,))
    once = n * max(macs, NOMINAL_MACS / 10) / NOMINAL_MACS / NOMINAL_IMAGES_PER_S / processors
    sides = np.array(sides_px, dtype=np.float64)
    wanted = []
    if not fixed_fit:
        # Of square images too the central crop loses the rim.
        wanted.append(View("squash", size_px, "squash", False, once))
        if np.median(sides.max(1) / sides.min(1)) >= OBLONG:
            wanted.append(View("pad", size_px, "pad", False, once))
    larger_px = round(size_px * LARGER / 32) * 32
    if not fixed_size and larger_px > size_px:
        wanted.append(
            View(f"{larger_px}px", larger_px, "crop", False, once * (larger_px / size_px) ** 2)
        )
    if n <= MIRRORED_UP_TO:
        wanted.append(View(MIRROR, size_px, "crop", True, once))
    allowed, chosen, left_out = SHARE * budget_min * 60, [], []
    for view in wanted:
        if view.seconds <= allowed:
            chosen.append(view)
            allowed -= view.seconds
        else:
            left_out.append(
                f"{view.name} is not tried: about {view.seconds / 60:.1f} more minutes of looking do "
                "not fit the budget."
            )
    return Views(tuple(chosen), True, tuple(left_out))
