"""Train a network on images as a recipe says, by the cheapest road that leads to the same result.

Where the recipe freezes early stages, their activations are kept on disk and an epoch costs only
the stages that learn; where they do not fit, or the network cannot be cut there, it is trained whole
with the same stages frozen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from headstart.backbone.surgery import Adapted, Lower, digest, freeze, network_state, upper
from headstart.errors import ArgumentError
from headstart.train.boundary import BUDGET_MB, BoundarySource, views_that_fit
from headstart.train.finetune import Tuned, finetune
from headstart.train.lesson import Lesson, Moment
from headstart.train.pixels import PixelSource
from headstart.train.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def adapt(
    fabric: Fabric,
    model: Adapted,
    lesson: Lesson,
    recipe: Recipe,
    folder: Path,
    *,
    budget_mb: float = BUDGET_MB,
    progress: Callable[[Moment], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """As `finetune`, with cached activations where they save time; the state is that of the whole
    network, whichever part was trained.

    Args:
        model: the whole network with its head. lesson: on pixels, with the images' hashes, by
            which activations are known again.
        folder: of checkpoints and activations.
        budget_mb: of disk for activations; 0: none are kept.

    Raises:
        See `finetune`.
    """
    above = None
    if recipe.through is not None and fabric.world_size == 1 and lesson.hashes:
        above = _cut(fabric, model, lesson, recipe, folder / "activations", budget_mb, say)
    if above is None:
        return finetune(fabric, model, lesson, recipe, folder, progress=progress, say=say)
    part, cached = above
    tuned = finetune(fabric, part, cached, recipe, folder, progress=progress, say=say)
    assert isinstance(cached.source, BoundarySource)
    return replace(
        tuned,
        state={**network_state(model.network), **tuned.state},
        seconds=tuned.seconds + cached.source.seconds,
    )


def _cut(
    fabric: Fabric,
    model: Adapted,
    lesson: Lesson,
    recipe: Recipe,
    folder: Path,
    budget_mb: float,
    say: Callable[[str], None],
) -> tuple[Adapted, Lesson] | None:
    """The part that learns and its inputs, or None when it must be trained whole."""
    assert recipe.through is not None
    assert isinstance(lesson.source, PixelSource)
    example = torch.zeros(1, 3, recipe.size_px, recipe.size_px)
    freeze(model, example, recipe.through, recipe.norm_eval)
    try:
        part = upper(model, example, recipe.through)
    except ArgumentError:
        say(f"the network cannot be cut after {recipe.through}: it is trained whole")
        return None
    model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    lower = Lower(model, recipe.through)
    hashed = hashlib.blake2b(f"{digest(model)}{recipe.augment}{recipe.seed}".encode())
    hashed.update(f"{recipe.size_px}{lesson.source.images.preprocess.key()}".encode())
    for row in (*lesson.learn, -1, *lesson.valid):
        hashed.update(lesson.hashes[row].encode() if row >= 0 else b"|")
    key = hashed.hexdigest()
    source = BoundarySource(lesson.source, lesson.valid, lower, folder, 1, key, say)
    views = views_that_fit(
        len(lesson.learn), len(lesson.valid), source.image_bytes, recipe.epochs, budget_mb
    )
    if views == 0:
        model.to("cpu")  # as it came: it is set up anew
        say(f"the activations do not fit {budget_mb:,.0f} MB: the network is trained whole")
        return None
    source.count = views
    return part, replace(lesson, source=source)
