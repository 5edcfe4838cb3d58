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
from headstart.backbone.load import DEMO
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

CPU_PX = 160
"""half the time of 224 px on a CPU (docs/log.md)"""
FOLD = 0
"""the fold that is held out to verify"""


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
    size = settings.size or (CPU_PX if device == "cpu" and settings.backbone != DEMO else None)
    paths, hashes = readable(prepared)
    graph = tap_graph(settings.backbone, settings.weights, size, paths[:PARITY_IMAGES])
    graph = replace(graph, preprocess=replace(graph.preprocess, fit=prepared.graph.preprocess.fit))
    say(f"training at {graph.preprocess.size_px} px")
    x = features(graph, paths, hashes, device, threads()).stage(HEAD, dev.rows)
    task = HeadTask(dev.labels, dev.folds, dev.groups, len(dev.classes), prepared.criterion)
    strength = search_head(x, task, settings.seed, threads()).strength
    learn, valid = np.flatnonzero(dev.folds != FOLD), np.flatnonzero(dev.folds == FOLD)
    classes = len(dev.classes)
    mine = [paths[row] for row in dev.rows]
    return Start(
        prepared=prepared,
        settings=settings,
        folder=folder,
        graph=graph,
        images=decode_once(mine, graph.preprocess, threads(), folder),
        fabric=open_fabric(device),
        head=train_head(x, dev.labels, classes, strength, settings.seed),
        inner_head=train_head(x[learn], dev.labels[learn], classes, strength, settings.seed),
        learn=learn,
        valid=valid,
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
        len(learn),
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
        return finetune(
            start.fabric,
            model,
            Lesson(
                source,
                development.labels,
                learn,
                valid,
                score,
                keep=keep,
                hashes=development.hashes,
            ),
            recipe,
            start.folder / f"{strategy}-{place}",
            progress=line,
            say=say,
        )
    finally:
        line.close()


def _machine(start: Start) -> Any:
    from headstart.train.recipe import Machine

    fabric = start.fabric
    precision = str(fabric._precision.precision)
    return Machine(threads(), on_gpu=fabric.device.type == "cuda", precision=precision)


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
