"""What a training run needs from the rest of the job: the network at its training size, the images,
trained heads to start from, and augmentations that suit them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.device import detect_device
from headstart.backbone.features import features
from headstart.backbone.graph import HEAD, TapGraph, tap_graph
from headstart.errors import ArgumentError, TrainingError
from headstart.files import read_json, write_json
from headstart.learning import Prepared, readable
from headstart.opening import PARITY_IMAGES, say
from headstart.plan.criterion import evaluate, log_softmax
from headstart.plan.decide import Strategy
from headstart.settings import FitSettings, threads
from headstart.train.augment import parse_augment
from headstart.train.head import Head, HeadTask, search_head, train_head

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from headstart.backbone.surgery import Adapted
    from headstart.train.finetune import Tuned
    from headstart.train.pixels import Decoded
    from headstart.train.suit import Suited

LEAST_TO_TEST = 30
"""held-out images below which one image more or less would decide what suits them all"""
CPU_PX = 160
"""half the time of 224 px on a CPU (docs/log.md)"""


@dataclass(frozen=True, slots=True)
class Start:
    """Where training begins: the network at its training size, the decoded images, trained heads."""

    prepared: Prepared
    settings: FitSettings
    folder: Path
    """of what is needed to go on after a stop"""
    graph: TapGraph
    images: Decoded
    fabric: Fabric
    head: Head
    """trained on all development images"""
    inner_head: Head
    """trained without those of the verifying fold"""
    learn: NDArray[np.int64]
    """positions among the development images that are not in the verifying fold"""
    valid: NDArray[np.int64]
    suited: tuple[Suited, ...] = ()
    """augmentations, and which of them are used"""


def prepare_training(prepared: Prepared, settings: FitSettings, folder: Path) -> Start:
    """The network at its training size, heads to start from, and every image decoded once."""
    from headstart.train.finetune import open_fabric
    from headstart.train.pixels import decode_once

    dev = prepared.development
    device = detect_device(settings.device)
    paths, hashes = readable(prepared)
    graph = _at_training_size(prepared, settings, device, paths)
    say(f"training at {graph.preprocess.size_px} px")
    x = features(graph, paths, hashes, device, threads()).stage(HEAD, dev.rows)
    fold = verifying_fold(dev.labels, dev.folds)
    learn, valid = np.flatnonzero(dev.folds != fold), np.flatnonzero(dev.folds == fold)
    classes, labels = len(dev.classes), dev.labels[learn]
    # The verifying fold takes no part in any choice, the penalty of the start included.
    folds = np.unique(dev.folds[learn], return_inverse=True)[1]
    if folds.max() == 0:  # two folds in all: the rest is halved by group
        folds = np.unique(dev.groups[learn], return_inverse=True)[1] % 2
    task = HeadTask(labels, folds, dev.groups[learn], classes, prepared.criterion)
    strength = search_head(x[learn], task, settings.seed, threads()).strength
    mine = [paths[row] for row in dev.rows]
    return Start(
        prepared=prepared,
        settings=settings,
        folder=folder,
        graph=graph,
        images=decode_once(mine, graph.preprocess, threads(), folder),
        fabric=open_fabric(device, alone=True),
        head=train_head(x, dev.labels, classes, strength, settings.seed),
        inner_head=train_head(x[learn], labels, classes, strength, settings.seed),
        learn=learn,
        valid=valid,
    )


def _at_training_size(
    prepared: Prepared, settings: FitSettings, device: str, paths: list[Path]
) -> TapGraph:
    """The network at the size that was asked for; on a CPU without one a smaller size than its own."""
    fit = prepared.graph.preprocess.fit

    def at(size: int | None) -> TapGraph:
        found = tap_graph(settings.backbone, settings.weights, size, paths[:PARITY_IMAGES])
        return replace(found, preprocess=replace(found.preprocess, fit=fit))

    own = prepared.graph.preprocess.size_px
    if settings.size is None and device == "cpu" and own > CPU_PX:
        try:
            return at(CPU_PX)
        except ArgumentError:  # a network of one size only
            return at(None)
    return at(settings.size)


def verifying_fold(labels: NDArray[np.int64], folds: NDArray[np.int64]) -> int:
    """The fold that verifies: of those with the most classes the one nearest to its fair share.

    >>> verifying_fold(np.array([0, 0, 1, 1, 0, 1]), np.array([0, 0, 0, 0, 1, 1]))
    1
    """
    count = int(folds.max()) + 1
    fair = len(folds) / count
    return min(
        range(count),
        key=lambda k: (
            -len(np.unique(labels[folds == k])),
            abs((folds == k).sum() - fair) + (fair if (folds == k).sum() > len(folds) / 2 else 0),
        ),
    )


def choose_augmentations(start: Start) -> tuple[Suited, ...]:
    """Which augmentations suit the images: what the user says, else what the start says."""
    from headstart.train.suit import IMAGES, Suited, suitable

    prepared, settings = start.prepared, start.settings
    asked = parse_augment(settings.augment)
    if asked is not None:
        return tuple(Suited(operation, 0.0, 0.0, True) for operation in asked)
    dev = prepared.development
    model = model_of(start, "finetune", start.inner_head)
    rng = np.random.default_rng(settings.seed)
    some = np.sort(rng.permutation(start.valid)[:IMAGES])
    if len(some) < LEAST_TO_TEST:
        say(f"{len(some)} held-out images are too few to test augmentations: crops only")
        return (Suited("crop", 0.0, 0.0, True),)
    found = suitable(
        lambda pixels: answers(model, pixels),
        np.stack([start.images.square(int(i)) for i in some]),
        dev.labels[some],
        dev.groups[some],
        prepared.criterion,
        start.graph.preprocess.size_px,
        settings.seed,
    )
    used = [row.operation for row in found if row.used]
    say(f"augmentations that suit these images: {', '.join(['crop', *used])}")
    return (Suited("crop", 0.0, 0.0, True), *found)


def model_of(start: Start, strategy: Strategy, head: Head) -> Adapted:
    from headstart.backbone.load import create, load
    from headstart.backbone.surgery import Adapted, random_head, untrained

    settings = start.settings
    if strategy == "scratch":
        network = untrained(lambda: create(settings.backbone, 0), settings.seed)
        weight, bias = random_head(len(head.bias), head.weight.shape[1], settings.seed)
    else:
        network = load(settings.backbone, settings.weights).network
        weight, bias = head.weight, head.bias
    pre = start.graph.preprocess
    return Adapted(network, weight, bias, pre.mean, pre.std)


def train_once(
    start: Start,
    strategy: Strategy,
    model: Adapted,
    learn: NDArray[np.int64],
    valid: NDArray[np.int64],
    place: str,
    keep: tuple[str, float] = ("last", 1.0),
) -> Tuned:
    import torch

    from headstart.backbone.surgery import freeze
    from headstart.train.finetune import finetune
    from headstart.train.lesson import Lesson
    from headstart.train.pixels import PixelSource
    from headstart.train.recipe import recipe_for
    from headstart.train.tell import LiveLine

    settings, development = start.settings, start.prepared.development
    recipe = recipe_for(
        "finetune" if strategy == "finetune" else "scratch",
        len(start.learn),  # also when all are learned from: one recipe, verified and shipped
        start.graph.preprocess.size_px,
        _machine(start),
        epochs=settings.epochs,
        operations=[row.operation for row in start.suited if row.used],
        seed=settings.seed,
    )
    size = recipe.size_px
    freeze(model, torch.zeros(1, 3, size, size), None, recipe.norm_eval)
    source = PixelSource(start.images, recipe.augment, recipe.seed, learn, recipe.mix)
    criterion = start.prepared.criterion

    def score(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
        return evaluate(criterion, log_softmax(logits.astype(np.float64)), truth).value

    line = LiveLine(strategy)
    try:
        tuned = finetune(
            start.fabric,
            model,
            Lesson(
                source,
                development.labels,
                learn,
                valid,
                score,
                keep=keep,
                may_end_at_start=False,  # a forced case ships what it names
                hashes=development.hashes,
            ),
            recipe,
            start.folder / f"{strategy}-{place}",
            progress=line,
            say=say,
        )
    finally:
        line.close()
    if tuned.diverged:
        raise TrainingError(
            f"Training ({strategy}) diverged at every rate that was tried",
            do="Leave the case to headstart: the best frozen candidate is then trained.",
        )
    return tuned


def _machine(start: Start) -> Any:
    from headstart.train.recipe import Machine

    fabric = start.fabric
    precision = str(fabric._precision.precision)
    # Of the first start: after a stop another number of processors must not change the sums.
    stored = start.folder / "threads.json"
    if not stored.is_file():
        write_json(stored, {"threads": threads()})
    count = int(read_json(stored)["threads"])
    return Machine(count, on_gpu=fabric.device.type == "cuda", precision=precision)


def whole(start: Start, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    from headstart.train.augment import centre

    size = start.graph.preprocess.size_px
    return np.stack([centre(start.images.square(int(i)), size) for i in positions])


def answers(model: Adapted, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [n, C] of pixels uint8 [n, H, W, 3], on the device where the model is."""
    import torch

    model.eval()
    device = model.head.weight.device
    parts = np.array_split(pixels, max(1, len(pixels) // 16))
    with torch.inference_mode():
        found = [model(torch.from_numpy(part).to(device)).cpu().numpy() for part in parts]
    return np.concatenate(found)
