"""How fast does this machine train? A few real steps on pictures of noise tell.

N images, B batch, H W side in px, D channels of the activation at the boundary.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from headstart.backbone.surgery import Adapted, Lower, freeze, upper
from headstart.errors import ArgumentError, MachineError
from headstart.plan.steps import Speed
from headstart.train.boundary import CHUNK, MAX_VIEWS, views_that_fit
from headstart.train.finetune import no_memory
from headstart.train.lesson import Lesson
from headstart.train.loop import Loop
from headstart.train.memory import kept_memory
from headstart.train.pixels import Views
from headstart.train.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SECONDS = 2.0
"""of steps that are timed"""
MOST_STEPS = 20


def pace(
    fabric: Fabric, model: Adapted, recipe: Recipe, learn: int, valid: int
) -> tuple[Speed, int]:
    """Train a few steps as the recipe says.

    Args:
        model: the whole network with a head; it is of no use afterwards.
        learn, valid: images of a run, for what their activations would take on disk.

    Returns:
        the speeds, and how many views of the frozen part would be kept: 0 where nothing is cached.
    """
    example = torch.zeros(1, 3, recipe.size_px, recipe.size_px)
    rng = np.random.default_rng(0)
    shape = (CHUNK, recipe.size_px, recipe.size_px, 3)
    inputs: NDArray[np.uint8] | NDArray[np.float16] = rng.integers(0, 256, shape, dtype=np.uint8)
    freeze_img_s, views = None, 0
    with kept_memory(), _threads(recipe.threads):
        if recipe.through is not None:
            freeze(model, example, recipe.through, recipe.norm_eval)
            part, activations, rate = _cut(fabric, model, example, recipe.through, inputs)
            size = 0 if activations is None else activations[:1].nbytes
            views = views_that_fit(learn, valid, size, recipe.epochs) if size else 0
            if part is not None and activations is not None and views:
                model, inputs, freeze_img_s = part, activations, rate
            else:
                model.to("cpu")  # as it came: it is set up anew
        rows = np.arange(recipe.batch * (MOST_STEPS + 1))
        lesson = Lesson(
            _Noise(inputs), rows % model.head.out_features, rows, rows[:0], lambda *_: 0.0
        )
        with tempfile.TemporaryDirectory() as folder:
            loop = Loop(fabric, model, lesson, recipe, Path(folder), lambda _: None)
            train_img_s = _paced(loop)
            loop.logits(rows[:CHUNK])
            began = time.perf_counter()
            loop.logits(rows[: 2 * CHUNK])
            answer_img_s = 2 * CHUNK / (time.perf_counter() - began)
    return Speed(train_img_s, answer_img_s, freeze_img_s), min(views, MAX_VIEWS)


def _paced(loop: Loop) -> float:
    """Images per second, in passes that the memory holds."""
    while True:
        try:
            return loop.pace(SECONDS)
        except (RuntimeError, MemoryError) as cause:
            if not no_memory(cause):
                raise
            if loop.micro == 1:
                raise MachineError(
                    "Out of memory while the speed of training was measured",
                    do="Choose a smaller --size.",
                ) from cause
            loop.micro //= 2


def _cut(
    fabric: Fabric,
    model: Adapted,
    example: torch.Tensor,
    through: str,
    pixels: NDArray[np.uint8] | NDArray[np.float16],
) -> tuple[Adapted | None, NDArray[np.float16] | None, float | None]:
    """The part that learns, the activations that it reads, and how fast these are computed."""
    try:
        part = upper(model, example, through)
    except ArgumentError:
        return None, None, None
    model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    lower = Lower(model, through)
    given = torch.from_numpy(pixels).to(fabric.device)
    lower(given)
    began = time.perf_counter()
    found = lower(given).to(torch.float16).cpu().contiguous().numpy()
    return part, found, len(pixels) / (time.perf_counter() - began)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Noise:
    """A source whose views cost nothing: making them overlaps with training anyway."""

    def __init__(self, inputs: NDArray[np.uint8] | NDArray[np.float16]) -> None:
        self.inputs = inputs

    def prepare(self, _epoch: int) -> None:
        """Nothing."""

    def views(self, _epoch: int, rows: NDArray[np.int64]) -> Views:
        """The same inputs again and again."""
        return Views(np.resize(self.inputs, (len(rows), *self.inputs.shape[1:])))

    def whole(self, rows: NDArray[np.int64]) -> NDArray[np.uint8] | NDArray[np.float16]:
        """The same inputs again and again."""
        return np.resize(self.inputs, (len(rows), *self.inputs.shape[1:]))
