"""What is worth a try in the time that is left? Speeds measured, the clock read once.

n images to learn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.backbone.device import detect_device
from headstart.files import read_json, write_json
from headstart.learning import Learned, Prepared
from headstart.plan.background import Background
from headstart.plan.folds import folds_to_judge, verifying_folds
from headstart.plan.steps import (
    Images,
    Offer,
    Planned,
    Speed,
    Steps,
    Way,
    plan_steps,
    steps_json,
    training_s,
)
from headstart.plan.verify import HEAD_METHOD
from headstart.plan.views import NOMINAL_IMAGES_PER_S, NOMINAL_MACS
from headstart.plan.worth import Standing, Worth, worth_training
from headstart.run import Run
from headstart.settings import FitSettings, threads
from headstart.suiting import LEAST_TO_TEST
from headstart.train.augment import parse_augment
from headstart.training import (
    CPU_PX,
    boundary_of,
    kind_of,
    machine_of,
    network_of,
    training_folder,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from headstart.train.recipe import Machine

LEAST_S = 45.0
"""seconds below which nothing could be trained and verified"""
EXPORT_S = 15.0
"""of exporting a network and writing the bundle, beside looking at every image"""


def plan_training(
    prepared: Prepared, frozen: Learned, behind: Background, settings: FitSettings, run: Run
) -> tuple[Worth, Steps | None]:
    """What is worth a try, and what of it fits; read again, when a stopped run goes on."""
    stored = training_folder(run) / "steps.json"
    if stored.is_file():
        found = read_json(stored)
        planned = tuple(
            Planned(Way(**row["way"]), row["folds"], row["verify_s"], row["refit_s"])
            for row in found["planned"]
        )
        rest = {key: found[key] for key in ("refit", "left_s", "beside_s")}
        steps = Steps(planned, left_out=tuple(found["left_out"]), **rest)
        return Worth((), found["reason"]), steps
    worth = worth_training(standing_of(prepared, frozen, behind))
    if not worth.strategies:
        return worth, None
    left_s = settings.budget_min * 60 - run.elapsed_s
    if left_s < LEAST_S:
        return Worth((), "The network is not trained: no time is left of the budget."), None
    dev = prepared.development
    counts = np.bincount(dev.folds)
    order = verifying_folds(dev.labels, dev.folds)
    images = Images(
        len(dev.labels),
        tuple(int(counts[k]) for k in order),
        bool(len(prepared.split.test)),
        folds_to_judge(dev.folds, dev.groups, order),
    )
    offers = _offers(worth, prepared, settings, run, images)
    left_s = settings.budget_min * 60 - run.elapsed_s
    beside_s = _beside_s(offers, prepared, settings, images)
    beside_s += (images.judges + images.refit) * _head_s(frozen, offers)
    steps = plan_steps(offers, images, left_s, beside_s)
    write_json(stored, {"reason": worth.reason, **steps_json(steps)})
    return worth, steps


def standing_of(prepared: Prepared, frozen: Learned, behind: Background) -> Standing:
    dev, trial = prepared.development, frozen.verified.trial
    return Standing(
        n=len(dev.labels),
        smallest_class=int(np.bincount(dev.labels, minlength=len(dev.classes)).min()),
        score=trial.score.value,
        se=trial.score.se(dev.groups),
        best_possible=0.0 if prepared.criterion.kind == "log_loss" else 1.0,
        baseline=max(one.probe.score for one in behind.baselines),
        size_verdict=frozen.plan.size_verdict,
        similarity=frozen.measurement.similarity.verdict,
    )


def _beside_s(
    offers: Sequence[Offer], prepared: Prepared, settings: FitSettings, images: Images
) -> float:
    """Predicted seconds beside training: a network exported and looked through for every size but
    its own, to start from, and for the winner; augmentations tested at the smallest size."""
    from headstart.train.suit import IMAGES, TESTED

    sizes = sorted({offer.way.size_px for offer in offers})
    see = images.learn + len(prepared.test_rows)
    graph = prepared.graph
    own_s = max(graph.stages[-1].macs, NOMINAL_MACS / 10) / NOMINAL_MACS / NOMINAL_IMAGES_PER_S

    def export_and_look(size_px: int) -> float:
        share = (size_px / graph.preprocess.size_px) ** 2
        return EXPORT_S + see * share * own_s / threads()

    looks = [size for size in sizes if size != prepared.graph.preprocess.size_px] + sizes[-1:]
    found = sum(export_and_look(size) for size in looks)
    learn = images.learn - images.folds[0]
    if parse_augment(settings.augment) is None and learn >= LEAST_TO_TEST:
        answer_img_s = min(o.speed.answer_img_s for o in offers if o.way.size_px == sizes[0])
        found += (1 + len(TESTED)) * min(learn, IMAGES) / answer_img_s
    return found


def _head_s(frozen: Learned, offers: Sequence[Offer]) -> float:
    """Predicted seconds of the heads that training starts from: one on the top features for every size."""
    rows = [row for row in frozen.verified.table if row.method.startswith(HEAD_METHOD)]
    top = next((row.seconds for row in rows if row.candidate.name == "head_top"), None)
    longest = frozen.verified.trial.seconds if top is None else top
    return longest * len({offer.way.size_px for offer in offers})


def _offers(
    worth: Worth, prepared: Prepared, settings: FitSettings, run: Run, images: Images
) -> list[Offer]:
    """Every way to train with its measured speed; what is hopeless already is not measured."""
    from headstart.train.finetune import open_fabric
    from headstart.train.recipe import least_epochs

    fabric = open_fabric(detect_device(settings.device), alone=True)
    learn = images.learn - images.folds[0]
    machine = machine_of(fabric, training_folder(run))
    offers: list[Offer] = []
    for way in _ways(worth, prepared, settings, learn):
        smaller = next((o for o in offers if o.way.strategy == way.strategy), None)
        least = least_epochs(kind_of(way.strategy), learn)
        left_s = settings.budget_min * 60 - run.elapsed_s
        if smaller is not None and _shortest_s(smaller, images) > left_s:
            share = (smaller.way.size_px / way.size_px) ** 2
            speed = Speed(smaller.speed.train_img_s * share, smaller.speed.answer_img_s * share)
            offers.append(Offer(way, speed, least))
            continue
        speed, views = _pace(way, prepared, settings, fabric, machine, images)
        offers.append(Offer(way, speed, least, views))
    return offers


def _ways(worth: Worth, prepared: Prepared, settings: FitSettings, learn: int) -> Iterator[Way]:
    """The ways that are worth a try, the smallest input first."""
    from headstart.train.recipe import epochs_for

    graph = prepared.graph
    own = graph.preprocess.size_px
    on_cpu = detect_device(settings.device) == "cpu"
    small = min(own, CPU_PX) if on_cpu and settings.size is None else own
    boundary = boundary_of(graph)
    for strategy in worth.strategies:
        through = boundary if strategy == "partial" else None
        if strategy == "partial" and through is None:
            continue
        for size in sorted({small, own} if strategy == "finetune" else {small}):
            name = f"{strategy}@{through}" if through else f"{strategy}@{size}px"
            epochs = epochs_for(kind_of(strategy), learn)
            yield Way(name, strategy, size, through, epochs)


def _pace(
    way: Way,
    prepared: Prepared,
    settings: FitSettings,
    fabric: Fabric,
    machine: Machine,
    images: Images,
) -> tuple[Speed, int]:
    """A few steps of this way."""
    from headstart.backbone.surgery import Adapted, random_head
    from headstart.train.pace import pace
    from headstart.train.recipe import recipe_for

    graph, learn = prepared.graph, images.learn - images.folds[0]
    recipe = recipe_for(
        kind_of(way.strategy), learn, way.size_px, machine, through=way.through, epochs=way.epochs
    )
    classes, width = len(prepared.dataset.classes), graph.stages[-1].width
    head = random_head(classes, width, settings.seed)
    mean, std = graph.preprocess.mean, graph.preprocess.std
    model = Adapted(network_of(settings, way.strategy), *head, mean, std)
    return pace(fabric, model, recipe, images.learn, images.folds[0])


def _shortest_s(offer: Offer, images: Images) -> float:
    """Predicted seconds of the shortest schedule of a way: verified, and a refit where there is one."""
    short = replace(offer, way=replace(offer.way, epochs=offer.least_epochs))
    fold = images.folds[0]
    refit = training_s(short, images.learn, 0) if images.refit else 0.0
    return images.judges * training_s(short, images.learn - fold, fold) + refit
