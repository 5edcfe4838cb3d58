"""Choose the augmentations that suit the images, before a network is trained."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from headstart.files import read_json, write_json
from headstart.opening import say
from headstart.plan.measure import stratified
from headstart.settings import threads
from headstart.train.answer import pooled_features
from headstart.train.augment import parse_augment
from headstart.train.head import Head
from headstart.training import Start, head_task, model_of

if TYPE_CHECKING:
    from headstart.train.suit import Suited

LEAST_TO_TEST = 100
"""images below which one image more or less would decide what suits them all"""


def choose_augmentations(start: Start) -> tuple[Suited, ...]:
    """Which augmentations suit the images: what the user says, else what a frozen head learns from them.

    The first verifying fold takes no part. What was found is kept: after a stop another number of
    processors must not find otherwise.
    """
    from headstart.train.suit import Suited

    asked = parse_augment(start.settings.augment)
    if asked is not None:
        return tuple(Suited(operation, 0.0, 0.0, True) for operation in asked)
    stored = start.folder / f"augment-{start.graph.preprocess.size_px}px.json"
    if not stored.is_file():
        write_json(stored, {"tested": [asdict(row) for row in _suiting(start)]})
    return tuple(Suited(**row) for row in read_json(stored)["tested"])


def _suiting(start: Start) -> tuple[Suited, ...]:
    """Test every operation on some images that the first verifying fold does not hold."""
    from headstart.train.suit import IMAGES, Suited, suitable

    prepared, settings = start.prepared, start.settings
    learn, _ = start.apart(start.folds[0])
    if len(learn) < LEAST_TO_TEST:
        say(f"{len(learn)} images are too few to test augmentations: crops only")
        return (Suited("crop", 0.0, 0.0, True),)
    dev = prepared.development
    some = np.sort(learn[stratified(dev.labels[learn], IMAGES, settings.seed)])
    no_head = Head(*(np.zeros(s, np.float32) for s in ((1, start.x.shape[1]), 1)))
    model = model_of(start, "finetune", no_head).to(start.fabric.device)
    found = suitable(
        lambda pixels: pooled_features(model, pixels),
        np.stack([start.images.square(int(i)) for i in some]),
        head_task(start, some),
        start.graph.preprocess.size_px,
        settings.seed,
        threads(),
    )
    used = [row.operation for row in found if row.used]
    say(f"augmentations that suit these images: {', '.join(['crop', *used])}")
    return (Suited("crop", 0.0, 0.0, True), *found)
