"""The recipe of a training run: every value, why it is what it is, and where it comes from.

N images that are learned from. Rates are per step of AdamW (Loshchilov & Hutter 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from headstart.errors import ArgumentError
from headstart.train.augment import Augment

Kind = Literal["finetune", "partial", "scratch"]

MIN_EPOCHS = 8
MIN_IMAGES_SEEN = 3_000
"""below either, early curves mislead: validation falls first and ends far above (docs/log.md)"""
EPOCHS_ROOT = 760.0
"""epochs times the root of the number of images"""
FEW = 1_000
"""images below which weights are drawn to the start and crops keep half of the area"""
MANY = 20_000
"""images from which MixUp helps in any case (Kolesnikov et al. 2020, BiT), and a GPU takes 256"""
MIX_EPOCHS = 20
"""rounds from which MixUp and CutMix help few images, too: 1.7 and 2.0 points (docs/log.md). They
slow learning, so shorter schedules do without"""
RATES: dict[Kind, tuple[float, ...]] = {
    "finetune": (1e-3, 3e-4),
    "partial": (1e-3, 3e-4),
    "scratch": (1e-3, 3e-3),
}
"""base rates, the best guess first (docs/log.md has what each brought)"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights a run ends with, beside the data and the start."""

    kind: Kind
    through: str | None
    """last frozen stage; None: everything learns"""
    size_px: int
    epochs: int
    batch: int
    """images per step, all processes together"""
    micro_batch: int
    """images per pass of one process; gradients are summed up to the batch"""
    rate: float
    """peak rate of the last stage"""
    head_rate: float
    """peak rate of the head"""
    layer_decay: float
    """each stage learns at this share of the next one's rate (Howard & Ruder 2018; Clark 2020)"""
    warmup: float
    """share of the steps in which the rate climbs"""
    weight_decay: float
    pull: float
    """L2-SP: share of rate x pull of the way back to the start, every step (Li et al. 2018)"""
    ema: float
    """how much of the average stays at each step; 0: no averaging"""
    norm_eval: bool
    """BatchNorms keep the statistics they came with"""
    mix: bool
    """MixUp and CutMix"""
    smoothing: float
    """label smoothing; 0: the loss that the head was trained with"""
    clip: float
    """largest norm of a step's gradient"""
    augment: Augment
    seed: int
    threads: int
    """of torch; sums differ in the last bit between thread counts"""
    precision: str
    """of Lightning Fabric"""

    def steps_per_epoch(self, n: int) -> int:
        """Steps that one epoch of n images takes: the odd images of the last batch have their turn
        in another epoch, whose order is another one.

        >>> recipe_for("finetune", 100, 64, Machine(threads=2)).steps_per_epoch(100)
        3
        """
        return max(1, n // min(self.batch, n))


@dataclass(frozen=True, slots=True)
class Machine:
    """What the recipe must know of the hardware."""

    threads: int
    on_gpu: bool = False
    precision: str = "32-true"
    """of Lightning Fabric: `open_fabric` chooses it"""


def recipe_for(
    kind: Kind,
    n: int,
    size_px: int,
    machine: Machine,
    *,
    through: str | None = None,
    epochs: int | None = None,
    operations: Sequence[str] = ("crop",),
    seed: int = 0,
) -> Recipe:
    """The best recipe known for a case.

    Args:
        n: images that are learned from.
        through: last frozen stage; partial tuning needs it.
        epochs: fixes the schedule.
        operations: of `augment`; whether they suit the images is tested by the caller.

    Raises:
        ArgumentError: values that contradict each other.

    >>> recipe_for("finetune", 600, 160, Machine(threads=2)).norm_eval
    True
    """
    if n < 2:
        raise ArgumentError("A network cannot be trained on fewer than two images", received=n)
    if epochs is not None and epochs < 1:
        raise ArgumentError("--epochs must be at least 1", received=epochs)
    if (kind == "partial") != (through is not None):
        raise ArgumentError("Partial tuning, and nothing else, names its last frozen stage")
    few, scratch = n < FEW, kind == "scratch"
    batch = 32 if n < 5_000 else 256 if machine.on_gpu and n >= MANY else 64
    # On a CPU small passes stay in the cache: 16 images were fastest, 64 took four times as long per
    # image; of the last stages, which look at small maps, 32. 16 is also what a BatchNorm needs.
    micro = batch if machine.on_gpu else 32 if kind == "partial" else 16
    length = epochs or epochs_for(kind, n)
    recipe = Recipe(
        kind=kind,
        through=through,
        size_px=size_px,
        epochs=length,
        batch=min(batch, n),
        micro_batch=min(micro, n),
        rate=0.0,
        head_rate=0.0,
        # Early stages hold what every image has (Yosinski et al. 2014): they should move least.
        layer_decay=1.0 if scratch else 0.8,
        warmup=0.05 if scratch else 0.1,
        weight_decay=0.05 if scratch else 0.01,
        # With few images they are drawn to what is known, beside being drawn to nothing.
        pull=0.1 if few and not scratch else 0.0,
        ema=0.0,
        # The head was trained on what the stored statistics yield: statistics of each batch in their
        # place threw it off from 91.7 to 12 % on 1,150 digits. Random weights bring none to keep.
        norm_eval=not scratch,
        # What the frozen part says of a mixed picture would be kept under one of its two labels.
        mix=kind != "partial" and (n >= MANY or length >= MIX_EPOCHS),
        smoothing=0.0,
        clip=5.0 if scratch else 1.0,
        augment=Augment(
            operations=tuple(operations),
            scale=0.5 if few else 0.25 if scratch else 0.35,
            strength=1.5 if scratch else 1.0,
        ),
        seed=seed,
        threads=machine.threads,
        precision=machine.precision,
    )
    steps = length * recipe.steps_per_epoch(n)
    return with_rate(replace(recipe, ema=average_for(steps)), RATES[kind][0])


def with_rate(recipe: Recipe, rate: float) -> Recipe:
    """The same recipe at another rate.

    The head of a tuned network has no higher rate than the last stage: it starts at its optimum,
    and would only be thrown off it, and validation with it (Kumar et al. 2022).
    """
    return replace(recipe, rate=rate, head_rate=rate)


def epochs_for(kind: Kind, n: int) -> int:
    """Fewer for more images, but never less than 8 epochs: 24 at 1,000 images, where 12 were 2 to 3
    points worse (docs/log.md). Random weights need an order of magnitude more (He et al. 2019: about
    three times a long schedule; VTAB: 10,000 steps).

    >>> [epochs_for("finetune", n) for n in (60, 300, 1_000, 5_000, 50_000)]
    [50, 44, 25, 11, 8]
    """
    if kind == "scratch":
        return int(min(300, max(40, math.ceil(120_000 / n))))
    # More than 50 rounds over the same images teach nothing new.
    return int(min(50, max(MIN_EPOCHS, math.ceil(EPOCHS_ROOT / math.sqrt(n)))))


def least_epochs(kind: Kind, n: int) -> int:
    """The shortest schedule that can be judged.

    >>> [least_epochs("finetune", n) for n in (60, 300, 1_000)], least_epochs("scratch", 6_000)
    ([50, 10, 8], 10)
    """
    if kind == "scratch":
        return int(min(300, max(10, math.ceil(60_000 / n))))
    return int(min(50, max(MIN_EPOCHS, math.ceil(MIN_IMAGES_SEEN / n))))


def average_for(steps: int) -> float:
    """An average over the last tenth of the run: longer ones still hold the start, shorter ones
    hardly average (Izmailov et al. 2018 average the end of a run, too).

    >>> average_for(200), average_for(100_000)
    (0.95, 0.9999)
    """
    return min(0.9999, 1 - 1 / max(2.0, steps / 10))
