"""What a training run needs from the rest of the job: the network at its training size, the images,
trained heads to start from, and augmentations that suit them.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.device import detect_device
from headstart.backbone.features import features
from headstart.backbone.graph import HEAD, TapGraph, tap_graph
from headstart.errors import ArgumentError, RunFolderError, TrainingError, show
from headstart.files import atomic_write, read_json, write_json
from headstart.learning import Prepared, readable
from headstart.opening import PARITY_IMAGES, say
from headstart.plan.criterion import Criterion, halves, scorer
from headstart.plan.decide import OWN, Strategy
from headstart.plan.folds import folds_to_judge, verifying_folds
from headstart.plan.steps import Way
from headstart.run import TRAINING, Run
from headstart.settings import FitSettings, threads
from headstart.train.head import Head, HeadTask, search_head, train_head
from headstart.train.team import TRAIN, beside, joined, team

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn

    from headstart.backbone.surgery import Adapted
    from headstart.train.finetune import Tuned
    from headstart.train.pixels import Decoded
    from headstart.train.recipe import Kind, Machine, Recipe
    from headstart.train.suit import Suited
    from headstart.train.task import Task

PARTIAL_BELOW = 0.6
"""share of the network's work that partial tuning freezes, at least: b4 of the default network"""
CPU_PX = 160
"""half the time of 224 px on a CPU (docs/log.md)"""


@dataclass(frozen=True, slots=True)
class Start:
    """Where training at one size begins: network, decoded images, what heads are trained on.

    N development images, D width of the top features.
    """

    prepared: Prepared
    settings: FitSettings
    folder: Path
    """of what is needed to go on after a stop"""
    graph: TapGraph
    images: Decoded
    fabric: Fabric
    x: NDArray[np.float32]  # [N, D] top features at this size
    folds: tuple[int, ...]
    """those that may verify, the best first"""
    suited: tuple[Suited, ...] = ()
    """augmentations, and which of them are used"""

    @property
    def judges(self) -> int:
        """How many of the verifying folds it takes to judge a way to train."""
        dev = self.prepared.development
        return folds_to_judge(dev.folds, dev.groups, self.folds)

    def apart(self, fold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions among the development images outside a fold, and those in it."""
        folds = self.prepared.development.folds
        return np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def training_folder(run: Run) -> Path:
    """Where everything lies that training needs to go on after a stop."""
    folder = run.folder / TRAINING
    folder.mkdir(exist_ok=True)
    return folder


def prepare_training(
    prepared: Prepared,
    settings: FitSettings,
    folder: Path,
    size_px: int | None = None,
    view: str = OWN,
) -> Start:
    """The network at its training size, its features to start from, every image decoded once.

    Args:
        size_px: None: as the settings say, else what suits the machine.
        view: how images are made square: as in this way to look at them.
    """
    from headstart.train.pixels import decode_once

    dev = prepared.development
    device = detect_device(settings.device)
    paths, hashes = readable(prepared)
    graph = _at_training_size(prepared, settings, device, paths, size_px, view)
    say(f"training at {graph.preprocess.size_px} px")
    x = features(graph, paths, hashes, device, threads()).stage(HEAD, dev.rows)
    return Start(
        prepared=prepared,
        settings=settings,
        folder=folder,
        graph=graph,
        images=decode_once([paths[row] for row in dev.rows], graph.preprocess, threads(), folder),
        fabric=joined(device, _log_folder(settings, folder)),
        x=np.asarray(x),
        folds=verifying_folds(dev.labels, dev.folds),
    )


def _log_folder(settings: FitSettings, folder: Path) -> Path | None:
    """Where TensorBoard finds the curves, when it was asked for."""
    return folder.parent / "tensorboard" if settings.tensorboard else None


def head_from(start: Start, positions: NDArray[np.int64], place: str) -> Head:
    """The head that training starts from, its penalty included chosen on these images alone.

    Args:
        place: a name for these images: every way to train at this size starts from the same head.
    """
    from safetensors.numpy import load_file, save

    stored = start.folder / f"head-{start.graph.preprocess.size_px}px-{place}.safetensors"
    if stored.is_file():
        return Head(**load_file(stored))
    task, seed = head_task(start, positions), start.settings.seed
    x = start.x[positions]
    strength = search_head(x, task, seed, threads()).strength
    head = train_head(x, task.labels, task.classes, strength, seed)
    atomic_write(stored, save({"weight": head.weight.copy(order="C"), "bias": head.bias.copy()}))
    return head


def head_task(start: Start, positions: NDArray[np.int64]) -> HeadTask:
    """Labels, folds and groups of these images, for a head."""
    dev = start.prepared.development
    labels, groups = dev.labels[positions], dev.groups[positions]
    folds = np.unique(dev.folds[positions], return_inverse=True)[1]
    if folds.max() == 0:  # two folds in all: the rest is halved, copies of one picture together
        groups = start.prepared.split.tie[positions]
        folds = halves(groups)
    return HeadTask(labels, folds, groups, len(dev.classes), start.prepared.criterion)


def _at_training_size(
    prepared: Prepared,
    settings: FitSettings,
    device: str,
    paths: list[Path],
    size_px: int | None,
    view: str,
) -> TapGraph:
    """The network at the size that was asked for; on a CPU without one a smaller size than its own."""
    fit = prepared.views[view].graph.preprocess.fit

    def at(size: int | None) -> TapGraph:
        found = tap_graph(settings.backbone, settings.weights, size, paths[:PARITY_IMAGES])
        return replace(found, preprocess=replace(found.preprocess, fit=fit))

    own = prepared.graph.preprocess.size_px
    if size_px is not None:
        return at(None if size_px == own and settings.size is None else size_px)
    if settings.size is None and device == "cpu" and own > CPU_PX:
        try:
            return at(CPU_PX)
        except ArgumentError:  # a network of one size only
            return at(None)
    return at(settings.size)


def network_of(settings: FitSettings, strategy: Strategy) -> nn.Module:
    """The pre-trained network, or the same one with random weights."""
    from headstart.backbone.load import create, load
    from headstart.backbone.surgery import untrained

    if strategy == "scratch":
        return untrained(lambda: create(settings.backbone, 0), settings.seed)
    return load(settings.backbone, settings.weights).network


def model_of(start: Start, strategy: Strategy, head: Head) -> Adapted:
    """The network that a training starts from, under its head; from scratch both are random."""
    from headstart.backbone.surgery import Adapted, random_head

    weight, bias = head.weight, head.bias
    if strategy == "scratch":
        weight, bias = random_head(len(bias), weight.shape[1], start.settings.seed)
    pre = start.graph.preprocess
    return Adapted(network_of(start.settings, strategy), weight, bias, pre.mean, pre.std)


def train_once(
    start: Start,
    way: Way,
    head: Head,
    learn: NDArray[np.int64],
    valid: NDArray[np.int64],
    place: str,
    keep: tuple[str, float] | None = None,
) -> tuple[Adapted, Tuned]:
    """Train a network once, or go on with that; returns it with its last weights.

    Args:
        way: what is trained, and for how long. head: where it starts from.
        learn, valid: positions among the development images. place: of its checkpoints.
        keep: which mixture with the start to end with; None: the best on `valid`.

    Raises:
        TrainingError: it diverged at every rate that was tried.
    """
    from headstart.train.adapt import adapt
    from headstart.train.lesson import Lesson
    from headstart.train.pixels import PixelSource
    from headstart.train.task import Task
    from headstart.train.tell import LiveLine

    development = start.prepared.development
    recipe = recipe_of(start, way)
    model = model_of(start, way.strategy, head)
    source = PixelSource(start.images, recipe.augment, recipe.seed, learn, recipe.mix)
    criterion = start.prepared.criterion

    lesson = Lesson(
        source,
        development.labels,
        learn,
        valid,
        scorer(criterion),
        keep=keep,
        hashes=development.hashes,
    )
    checkpoints = _checkpoints(start, way, place)
    _call_others(Task(model, lesson, recipe), way.strategy, criterion, checkpoints)
    line = LiveLine(way.name)
    try:
        tuned = adapt(start.fabric, model, lesson, recipe, checkpoints, progress=line, say=say)
    finally:
        line.close()
    if tuned.diverged:
        raise TrainingError(
            f"Training ({way.name}) diverged at every rate that was tried",
            do="Leave the case to headstart: the best frozen candidate is then trained.",
        )
    return _wearing(model, tuned), tuned


def forget(start: Start, way: Way, place: str, checkpoints: bool) -> None:
    """Free the disk of what a training that is over and stored has kept.

    Args:
        checkpoints: these too: its network is not needed any more.
    """
    from headstart.train.checkpoint import clear

    folder = _checkpoints(start, way, place)
    shutil.rmtree(folder / "activations", ignore_errors=True)
    if checkpoints:
        clear(folder)


def _checkpoints(start: Start, way: Way, place: str) -> Path:
    return start.folder / f"{way.name}-{place}"


def _call_others(task: Task, strategy: Strategy, criterion: Criterion, checkpoints: Path) -> None:
    """The other processes of the team, if there are any, take part in this training."""
    here = team()
    if here is None:
        return
    from headstart.train.task import write_task

    path = checkpoints.with_name(f"{checkpoints.name}-task.json")
    write_task(path, task)
    here.tell(
        TRAIN,
        {
            "task": str(path.resolve()),
            "checkpoints": str(checkpoints.resolve()),
            "strategy": strategy,
            "criterion": asdict(criterion),
        },
    )


def recipe_of(start: Start, way: Way) -> Recipe:
    """The recipe of a way: the same for the network that is verified and the one that is shipped."""
    from headstart.train.recipe import recipe_for, with_rate

    learn, _ = start.apart(start.folds[0])
    found = recipe_for(
        kind_of(way.strategy),
        len(learn),
        way.size_px,
        machine_of(start.fabric, start.folder),
        through=way.through,
        epochs=way.epochs,
        operations=[row.operation for row in start.suited if row.used],
        seed=start.settings.seed,
    )
    return found if way.rate is None else with_rate(found, way.rate)


def boundary_of(graph: TapGraph) -> str | None:
    """The last stage that partial tuning freezes; None: no stage leaves any to be tuned."""
    least = PARTIAL_BELOW * graph.stages[-1].macs
    return next((stage.name for stage in graph.stages[:-1] if stage.macs >= least), None)


def kind_of(strategy: Strategy) -> Kind:
    """The recipe's word for a strategy that trains the network."""
    kinds: tuple[Kind, ...] = ("partial", "finetune", "scratch")
    return next(kind for kind in kinds if kind == strategy)


def _wearing(model: Adapted, tuned: Tuned) -> Adapted:
    """The whole network with what was trained: partial tuning trains a part that was cut out."""
    import torch

    model.network.load_state_dict(tuned.state)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(tuned.head.weight))
        model.head.bias.copy_(torch.from_numpy(tuned.head.bias))
    return model


def machine_of(fabric: Fabric, folder: Path) -> Machine:
    """What the recipe must know of the hardware.

    Args:
        folder: where threads and device are kept: after a stop another number of processors must not
            change the sums.

    Raises:
        RunFolderError: the training was begun on another device, or in another precision.
    """
    from headstart.train.recipe import Machine

    stored, device = folder / "threads.json", fabric.device.type
    here = {"device": device, "precision": str(fabric._precision.precision)}
    if not stored.is_file():
        write_json(stored, {"threads": max(1, threads() // beside()), **here})
    facts = read_json(stored)
    there = {name: facts.get(name, here[name]) for name in here}
    if there != here:
        raise RunFolderError(
            "This training was begun on other hardware",
            where=folder,
            received=f"{', '.join(here.values())}; it was {show(', '.join(there.values()))}",
            do="Go on with it where it was begun, or start a new run with another --out.",
        )
    return Machine(int(facts["threads"]), device == "cuda", here["precision"])


def whole(start: Start, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    from headstart.train.augment import centre

    size = start.graph.preprocess.size_px
    return np.stack([centre(start.images.square(int(i)), size) for i in positions])
