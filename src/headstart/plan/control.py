"""The depth profile's control: what the same stages know when their weights are random.

N images, D feature width. Where the two curves meet, pre-training adds nothing; the distance between
them is what was transferred (after Yosinski et al. 2014, figure 2, and Jarrett et al. 2009 on random
filters).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.features import Features
from headstart.parallel import one_blas_thread, ordered_map
from headstart.plan.criterion import Criterion, as_text
from headstart.plan.measure import Development, StageProbe
from headstart.plan.probe import probe

IMAGES = 400
"""development images the twin looks at: the profile's standard error is then about 2 points"""


@dataclass(frozen=True, slots=True)
class Control:
    """The random twin's depth profile."""

    depth: tuple[StageProbe, ...]
    """one per stage, in order"""
    n: int
    sentence: str


def control(
    twin: Features,
    pretrained: Features,
    rows: NDArray[np.int64],
    development: Development,
    criterion: Criterion,
    workers: int,
) -> Control:
    """Score every stage of the twin, and of the pre-trained network on the same images.

    Args:
        twin: features of the development images at the positions `rows`, in that order.
        pretrained: features of all images.
    """
    labels, groups = development.labels[rows], development.groups[rows]
    classes, own = len(development.classes), development.rows[rows]

    def look(place: tuple[str, bool]) -> StageProbe:
        name, is_twin = place
        x = twin.stage(name) if is_twin else pretrained.stage(name, own)
        return StageProbe(name, x.shape[1], probe(x, labels, groups, classes, criterion))

    places = [(name, is_twin) for is_twin in (True, False) for name in twin.stages]
    with one_blas_thread():
        found = tuple(ordered_map(look, places, workers))
    count = len(twin.stages)
    random, learned = (
        max(part, key=lambda r: r.probe.score) for part in (found[:count], found[count:])
    )
    gap = learned.probe.score - random.probe.score
    by, unit = criterion.unit
    worth = (
        f"pre-training is worth {gap * by:.1f} {unit}"
        if gap > 2 * float(np.hypot(random.probe.se, learned.probe.se))
        else "pre-training adds nothing that these images can show"
    )
    return Control(
        depth=found[:count],
        n=len(rows),
        sentence=f"With random weights the same network reaches "
        f"{as_text(random.probe.score, criterion.name)} at its best stage ({random.stage}), "
        f"pre-trained {as_text(learned.probe.score, criterion.name)} ({learned.stage}), on the same "
        f"{len(rows):,} images: {worth}.",
    )
