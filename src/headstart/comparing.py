"""The four cases to the letter, all stages and partial tuning, on the same held-out images.

The run is prepared as fit prepares it. Everything that a strategy chooses it chooses without the
verifying folds, which then judge all of them: the frozen ones by heads on the features that are
there, the others by the trainings of `retraining`, which go on after a stop.

n held-out images, C classes, J verifying folds of K.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.device import detect_device
from headstart.backbone.features import _compute, _onnx_runner, _torch_runner
from headstart.backbone.graph import TapGraph
from headstart.compared import (
    Tried,
    answers_csv,
    compare_csv,
    compare_json,
    head_start,
    images_learned,
    ready,
    score_of,
)
from headstart.data.split import assign_folds
from headstart.errors import DataError, TrainingError
from headstart.files import read_json, write_json
from headstart.learning import Prepared, cross_validate, read, readable, subset, train
from headstart.opening import Outcome, open_run, say, working
from headstart.pipeline import prepare
from headstart.plan.criterion import Value, evaluate, halves, log_softmax
from headstart.plan.decide import Candidate, Strategy, frozen_candidates
from headstart.plan.folds import folds_to_judge, verifying_folds
from headstart.plan.measure import Development
from headstart.plan.steps import Planned, Way
from headstart.plan.verify import Trial, Verified
from headstart.retraining import verify_one
from headstart.run import TRAINING, Run, atomic_write
from headstart.settings import CompareSettings, threads
from headstart.suiting import choose_augmentations
from headstart.train.head import Head
from headstart.train.mlp import MlpHead
from headstart.train.team import leading, team
from headstart.training import (
    Start,
    boundary_of,
    head_from,
    kind_of,
    prepare_training,
    recipe_of,
    training_folder,
)

Float = NDArray[np.float64]
Int = NDArray[np.int64]
SIXTEENTHS = (1, 2, 4, 8)
"""sizes of the learning curve, beside the whole"""
DRAWS, MANY = 3, 5_000
"""of every size; from so many images on one draw is enough, and three would take long"""
TIMED = 32
"""images on which the speed of a pass is measured"""


def compare(settings: CompareSettings) -> Outcome:
    """Do every strategy and compare; writes compare.json, compare.csv, compare_answers.csv and a page.

    Started by torchrun, the first process does it; the others join in when a network is trained.
    """
    if (here := team()) is not None and here.rank > 0:
        from headstart.following import follow

        follow(settings, here)
    with leading():
        return _compare(settings)


def _compare(settings: CompareSettings) -> Outcome:
    opened = open_run(settings, "compare")
    if isinstance(opened, Outcome):
        page(opened)
        return opened
    with working(opened.run) as run:
        prepared = prepare(settings, opened)
        dev = prepared.development
        order = verifying_folds(dev.labels, dev.folds)
        # However few images judge, intervals tell; a single group would show no spread at all.
        folds = order[: max(settings.folds, folds_to_judge(dev.folds, dev.groups, order, images=1))]
        if len(folds) > settings.folds:
            say(f"a fold holds too few groups to judge by: {len(folds)} folds do")
        held = np.sort(np.concatenate([np.flatnonzero(dev.folds == k) for k in folds]))
        say(f"comparing on {len(held):,} held-out images")
        with run.step("frozen"):
            frozen = _frozen(prepared, folds, settings)
        with run.step("train"):
            trained, left_out, notes = _trained(prepared, folds, held, settings, run)
        tried = sorted([*frozen, *trained], key=lambda one: one.case or 9)
        with run.step("images"):
            curves = _curves(prepared, folds, held, frozen, settings)
        found = head_start(prepared, held, tried, curves, len(folds), settings.seed)
        stored = compare_json(prepared, held, tried, folds, settings.seed)
        stored |= {"head_start": found, "left_out": left_out, "notes": [*stored["notes"], *notes]}
        run.write_json("compare.json", stored)
        run.write_text("compare.csv", compare_csv(stored))
        run.write_text("compare_answers.csv", answers_csv(prepared, held, tried))
        shutil.rmtree(run.folder / TRAINING, ignore_errors=True)
        run.finish("done")
    page(Outcome(run.folder))
    return Outcome(run.folder)


def page(outcome: Outcome) -> None:
    """compare.html, from what is stored."""
    from headstart.ship.compare_page import render_comparison

    if not (outcome.already_done and (outcome.folder / "compare.html").exists()):
        atomic_write(outcome.folder / "compare.html", render_comparison(outcome.folder))


# -- frozen strategies ---------------------------------------------------------------------------


def _frozen(prepared: Prepared, folds: Sequence[int], settings: CompareSettings) -> list[Tried]:
    """Cases 1 and 2 to the letter, and all stages: heads that learned without the fold."""
    candidates = frozen_candidates(prepared.graph.stage_names)
    per_image = _pass_s(prepared, prepared.graph, settings)
    found = []
    for strategy in ("head_top", "head_cut", "all_stages"):
        # Case 2 keeps at most half of the stages; which of them, the training part says.
        some = [
            c
            for c in candidates
            if c.strategy == strategy and (strategy != "head_cut" or c.case == 2)
        ]
        found.append(_frozen_one(prepared, some, folds, per_image, settings))
        one = found[-1]
        say(f"{one.name}: {one.seconds:.1f} s")
    return found


def _frozen_one(
    prepared: Prepared,
    candidates: Sequence[Candidate],
    folds: Sequence[int],
    per_image_s: float,
    settings: CompareSettings,
) -> Tried:
    dev, criterion = prepared.development, prepared.criterion
    positions, logits, train_scores, seconds, cuts = [], [], [], [], []
    for fold in folds:
        learn, valid = np.flatnonzero(dev.folds != fold), np.flatnonzero(dev.folds == fold)
        part = _rest(prepared, learn)
        began = time.perf_counter()
        trials = [cross_validate(prepared, part, c, settings.seed, threads()) for c in candidates]
        best = max(
            range(len(trials)),
            key=lambda k: (trials[k].score.value, -float(trials[k].loss.mean())),
        )
        candidate = candidates[best]
        head = _head(prepared, candidate, trials[best], part, settings.seed)
        seconds.append(time.perf_counter() - began + per_image_s * len(learn))
        fitted = head.logits(read(prepared, candidate, part.rows)).astype(np.float64)
        train_scores.append(evaluate(criterion, log_softmax(fitted), part.labels).value)
        positions.append(valid)
        logits.append(head.logits(read(prepared, candidate, dev.rows[valid])))
        cuts.append(candidate.cut)
    order = np.argsort(np.concatenate(positions))
    held = np.concatenate(positions)[order]
    one, cut = candidates[0], ", ".join(dict.fromkeys(c for c in cuts if c is not None)) or None
    return Tried(
        name=one.strategy if cut is None or ", " in cut else f"{one.strategy}@{cut}",
        strategy=one.strategy,
        cut=cut,
        size_px=prepared.graph.preprocess.size_px,
        # A head's shift for rare classes was chosen without the fold, and is in its bias.
        logits=ready(
            prepared, held, np.concatenate(logits)[order].astype(np.float64), shifted=True
        ),
        train_score=float(np.mean(train_scores)),
        seconds=float(np.mean(seconds)),
    )


def _rest(prepared: Prepared, learn: Int) -> Development:
    """The images outside a fold in the other folds, for of a class with two images one is left, which
    no new folds could part; of two folds in all the rest is halved, copies of one picture together."""
    part = prepared.development.take(learn)
    folds, groups = np.unique(part.folds, return_inverse=True)[1], part.groups
    if folds.max() == 0:
        groups = prepared.split.tie[learn]
        folds = halves(groups)
    return replace(part, folds=folds, groups=groups)


def _head(
    prepared: Prepared, candidate: Candidate, trial: Trial, part: Development, seed: int
) -> Head | MlpHead:
    """The head on all images of a part, at the strength that the part has chosen."""
    chosen = Verified(candidate, trial, (), (), ())
    return train(prepared, chosen, part.rows, part.labels, seed)


def _pass_s(prepared: Prepared, graph: TapGraph, settings: CompareSettings) -> float:
    """Seconds per image of one pass, measured: what is cached has cost time once, too."""
    paths, hashes = readable(prepared)
    work = list(zip(hashes, paths, strict=True))[:: max(1, len(paths) // TIMED)][:TIMED]
    run = _torch_runner(graph) if detect_device(settings.device) == "cuda" else _onnx_runner(graph)
    began = time.perf_counter()
    done = sum(1 for _ in _compute(run, work, graph.preprocess, threads()))
    return (time.perf_counter() - began) / max(1, done)


# -- strategies that train the network -----------------------------------------------------------


def _trained(
    prepared: Prepared, folds: Sequence[int], held: Int, settings: CompareSettings, run: Run
) -> tuple[list[Tried], list[str], list[str]]:
    """Cases 3 and 4 to the letter, and partial tuning; what is left out and why; notes."""
    start = prepare_training(prepared, settings, training_folder(run))
    start = replace(start, suited=choose_augmentations(start))
    assert start.folds[: len(folds)] == tuple(folds)
    learn, _ = start.apart(folds[0])
    before = _start_s(start, learn, folds[0], settings)
    found, left_out = [], []
    for way in _ways(start, settings, len(learn)):
        if way.strategy == "partial" and way.through is None:
            left_out.append("partial: no stage of this network leaves the last ones to be tuned.")
            continue
        try:
            inner = verify_one(Planned(way, len(folds), 0.0, 0.0), start)
        except TrainingError as error:
            say(str(error))
            left_out.append(f"{way.name}: {error}")
            continue
        assert np.array_equal(inner.positions, held)
        found.append(
            Tried(
                name=way.name,
                strategy=way.strategy,
                cut=None,
                size_px=way.size_px,
                logits=ready(prepared, held, inner.logits, shifted=False),
                train_score=inner.train_score,
                seconds=inner.seconds / len(folds) + (0.0 if way.strategy == "scratch" else before),
                epochs=inner.epochs,
                start_score=inner.start_score,
                start_s=0.0 if way.strategy == "scratch" else before,
                steps_per_epoch=recipe_of(start, way).steps_per_epoch(len(learn)),
            )
        )
    used = [row.operation for row in start.suited if row.used]
    epochs = ", ".join(f"{one.name} {len(one.epochs)}" for one in found)
    notes = [f"Trained with these variations of the images: {', '.join(used) or 'none'}."]
    return found, left_out, [*notes, f"Epochs: {epochs}."] if found else notes


def _ways(start: Start, settings: CompareSettings, n: int) -> list[Way]:
    from headstart.train.recipe import epochs_for

    graph = start.graph
    boundary = boundary_of(graph)
    names: tuple[Strategy, ...] = ("finetune", "scratch", "partial")
    return [
        Way(
            f"{name}@{boundary}" if name == "partial" else name,
            name,
            graph.preprocess.size_px,
            boundary if name == "partial" else None,
            settings.epochs or epochs_for(kind_of(name), n),
        )
        for name in names
    ]


def _start_s(start: Start, learn: Int, fold: int, settings: CompareSettings) -> float:
    """Seconds until a pre-trained network can begin to learn: a pass, and the head to start from.

    Kept, for after a stop the head is only read.
    """
    stored = start.folder / "start-seconds.json"
    if not stored.is_file():
        place = f"without-{fold}"
        for untimed in start.folder.glob(f"head-*-{place}.safetensors"):
            untimed.unlink()  # stopped before its time was stored: the same head is made once more
        per_image = _pass_s(start.prepared, start.graph, settings)
        began = time.perf_counter()
        head_from(start, learn, place)
        seconds = time.perf_counter() - began + per_image * len(learn)
        write_json(stored, {"seconds": seconds})
    return float(read_json(stored)["seconds"])


# -- fewer images --------------------------------------------------------------------------------


def _curves(
    prepared: Prepared,
    folds: Sequence[int],
    held: Int,
    frozen: Sequence[Tried],
    settings: CompareSettings,
) -> dict[str, list[tuple[int, Value]]]:
    """Held-out scores of frozen strategies that learned from nested parts of the same training parts."""
    whole = images_learned(prepared, held, len(folds))
    by_strategy = {c.strategy: c for c in frozen_candidates(prepared.graph.stage_names)}
    curves = {}
    for one in frozen:
        if one.strategy == "head_cut":
            continue
        points = _curve(prepared, by_strategy[one.strategy], folds, held, settings)
        below = [(n, value) for n, value in points if n < whole]
        curves[one.name] = [*below, (whole, score_of(prepared, held, one.logits))]
    return curves


def _curve(
    prepared: Prepared,
    candidate: Candidate,
    folds: Sequence[int],
    held: Int,
    settings: CompareSettings,
) -> list[tuple[int, Value]]:
    many = images_learned(prepared, held, len(folds)) >= MANY
    points = []
    for size in SIXTEENTHS:
        found, sizes = [], []
        for draw in range(1 if many else DRAWS):
            one = _from_part(prepared, candidate, folds, size, draw, settings.seed)
            if one is None:
                break
            n, logits = one
            answers = ready(prepared, held, logits[held], shifted=True)
            found.append(score_of(prepared, held, answers))
            sizes.append(n)
        else:
            value = float(np.mean([one.value for one in found]))
            influence = np.mean([one.influence for one in found], axis=0)
            points.append((round(float(np.mean(sizes))), Value(value, influence)))
    return points


def _from_part(
    prepared: Prepared, candidate: Candidate, folds: Sequence[int], size: int, draw: int, seed: int
) -> tuple[float, Float] | None:
    """Images learned from, and logits [N, C] for those of the folds; None: the part is too small."""
    dev = prepared.development
    logits = np.zeros((len(dev.labels), len(dev.classes)))
    sizes = []
    for fold in folds:
        learn, valid = np.flatnonzero(dev.folds != fold), np.flatnonzero(dev.folds == fold)
        some = learn[_sixteenths(dev, learn, seed + 31 * (draw + 1)) < size]
        if not _all_classes(dev, learn, some):
            return None
        try:
            part = subset(dev, some, seed)
        except DataError:  # too few groups of some class to choose a penalty with
            return None
        trial = cross_validate(prepared, part, candidate, seed, threads())
        head = _head(prepared, candidate, trial, part, seed)
        logits[valid] = head.logits(read(prepared, candidate, dev.rows[valid]))
        sizes.append(len(some))
    return float(np.mean(sizes)), logits


def _sixteenths(dev: Development, learn: Int, seed: int) -> Int:
    """A number from 0 to 15 for each image: those below k are a nested, stratified part."""
    groups = dev.groups[learn]
    return assign_folds(dev.labels[learn], groups, min(16, len(np.unique(groups))), seed)


def _all_classes(dev: Development, learn: Int, some: Int) -> bool:
    """Whether a part holds two groups of every class: with fewer no penalty can be chosen."""
    return all(
        len(np.unique(dev.groups[some][dev.labels[some] == label])) > 1
        for label in np.unique(dev.labels[learn])
    )
