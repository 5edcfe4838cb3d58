"""Measure, decide, verify, train: the whole selection on some of the images.

The job does it once on all development images; the nested estimate does it again and again without
those that are held out. So everything that is chosen from the data is chosen in here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.features import Features
from headstart.backbone.graph import TapGraph
from headstart.data.check import Findings
from headstart.data.sources import Dataset
from headstart.data.split import FOLDS, Split, development_folds
from headstart.judge.calibration import Temperature, fit_temperature, softmax
from headstart.plan.criterion import Criterion, evaluate, halves, log_softmax
from headstart.plan.decide import MIRROR, OWN, Candidate, Facts, Plan, decide, refinements
from headstart.plan.measure import Development, Measurement, measure, stratified
from headstart.plan.steps import Steps
from headstart.plan.verify import Scored, Trial, Verified, scored, verify
from headstart.settings import FitSettings
from headstart.ship.bundle import taps_of
from headstart.train.adjust import adjust
from headstart.train.head import Head, HeadTask, cross_entropy, search_head, train_head
from headstart.train.mlp import MlpHead, search_mlp, train_mlp

COMPARED_ON = 5_000
"""images that tell candidates apart to half a point; with more the comparison takes long"""


@dataclass(frozen=True, slots=True)
class Seen:
    """One way to look at every image: the network with its preprocessing, and the features."""

    graph: TapGraph
    features: Features
    seconds: float
    """what the pass took beyond the first one; next to nothing when it was cached"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is known before anything is decided."""

    dataset: Dataset
    findings: Findings
    split: Split
    graph: TapGraph
    features: Features
    views: Mapping[str, Seen]
    """every way in which the images were looked at, by name; OWN is `graph` and `features`"""
    spreads: bool
    """whether heads on standard deviations are tried"""
    development: Development
    test_rows: NDArray[np.int64]
    """rows of the features that are the test part's"""
    criterion: Criterion


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Answers for development images by networks that had not seen them."""

    positions: NDArray[np.int64]  # [n] among the development images
    logits: NDArray[np.float64]  # [n, C]


@dataclass(frozen=True, slots=True)
class Learned:
    """What the whole selection ends in: measured, decided, verified, trained, calibrated."""

    measurement: Measurement
    plan: Plan
    verified: Verified
    head: Head | MlpHead
    temperature: Temperature
    held_out: HeldOut | None = None
    """of a network that was trained itself: where there is no test part they are the estimate"""
    steps: Steps | None = None
    """what the minutes were turned into, when re-training was worth a try"""


def learn(
    prepared: Prepared, development: Development, settings: FitSettings, workers: int
) -> Learned:
    """plan ─▶ train: the whole selection on some images, from the measurement to the calibrated head."""
    measured, decided = decide_case(prepared, development, settings, workers)
    verified = choose(prepared, development, measured, decided, settings, workers)
    head = train(prepared, verified, development.rows, development.labels, settings.seed)
    temperature = fit_temperature(
        verified.trial.logits, development.labels, development.folds, development.groups
    )
    return Learned(measured, decided, verified, head, temperature)


def decide_case(
    prepared: Prepared, development: Development, settings: FitSettings, workers: int
) -> tuple[Measurement, Plan]:
    """Measure these images and apply the rules."""
    graph, criterion = prepared.graph, prepared.criterion
    measured = measure(graph, prepared.features, development, criterion, settings.seed, workers)
    facts = Facts(
        n=measured.n,
        similarity=measured.similarity.verdict,
        similarity_sentence=measured.similarity.sentence,
        stages=graph.stage_names,
        stage_scores={row.stage: row.probe.score for row in measured.depth},
        small_below=settings.small_below,
        large_above=settings.large_above,
        views={
            name: (seen.graph.preprocess.size_px / graph.preprocess.size_px) ** 2
            for name, seen in prepared.views.items()
            if name != OWN
        },
        spreads=prepared.spreads,
        hidden=settings.hidden,
        may_train=settings.may_train,
    )
    return measured, decide(facts, settings.case, settings.cut, settings.from_scratch)


def choose(
    prepared: Prepared,
    development: Development,
    measured: Measurement,
    decided: Plan,
    settings: FitSettings,
    workers: int,
) -> Verified:
    """Cross-validate the finalists' real heads and let the data decide.

    Of very many images a part compares the candidates; the one it chooses is judged on all of them.
    """
    rows = probe_rows(decided, measured)

    def trial_on(images: Development, candidate: Candidate) -> Trial:
        return cross_validate(prepared, images, candidate, settings.seed, workers)

    n = len(development.labels)
    if n <= COMPARED_ON:
        return _choose(prepared, development, decided, rows, trial_on)
    # Of every class in every fold: a rare one of few groups would else lie in a single fold.
    cells = development.labels * (int(development.folds.max()) + 1) + development.folds
    some = stratified(cells, COMPARED_ON, settings.seed, least=1)
    part = development.take(some)
    found = _choose(prepared, part, decided, rows, trial_on)
    trial = trial_on(development, found.chosen)
    row = scored(found.chosen, trial, development.groups)
    beside = f" on {len(some):,} images"
    table = (
        row
        if one.candidate == found.chosen
        else replace(one, method=one.method + beside * (one.method == row.method))
        for one in found.table
    )
    said = f"Heads were compared on {len(some):,} of the {n:,} images; the chosen one is judged on all."
    sentences = (said, *found.sentences)
    return replace(found, trial=trial, table=tuple(table), sentences=sentences, others=())


def _choose(
    prepared: Prepared,
    development: Development,
    decided: Plan,
    rows: Mapping[str, Scored],
    trial_on: Callable[[Development, Candidate], Trial],
) -> Verified:
    labels, criterion = development.labels, prepared.criterion

    def refine(best: Candidate) -> tuple[Candidate, ...]:
        if (decided.forced is not None and not decided.retrains) or not prepared.spreads:
            return ()
        counts = np.bincount(labels)
        uneven = criterion.kind == "balanced_accuracy" and counts.max() > 2 * counts.min()
        return refinements(best, tuple(prepared.views), bool(uneven))

    return verify(
        decided,
        rows,
        partial(trial_on, development),
        labels,
        int(development.folds.max()) + 1,
        criterion,
        development.groups,
        refine,
    )


def cross_validate(
    prepared: Prepared, development: Development, candidate: Candidate, seed: int, workers: int
) -> Trial:
    """One candidate's real head, held out fold by fold."""
    labels, criterion = development.labels, prepared.criterion
    times = 2 if candidate.mirrored else 1
    task = HeadTask(
        labels=np.tile(labels, times),
        folds=np.tile(development.folds, times),
        groups=np.tile(development.groups, times),
        classes=len(development.classes),
        criterion=criterion,
    )
    x = read(prepared, candidate, development.rows, learning=True)
    if candidate.hidden:
        found = search_mlp(x, task, candidate.hidden, seed, workers)
    else:
        found = search_head(x, task, seed, workers, candidate.weighted)
    n = len(labels)  # the rows after these are mirror images
    logits, fitted = found.logits[:n], found.train_logits[:n]
    adjusted = adjust(criterion, logits, labels, development.groups)
    return Trial(
        score=adjusted.score,
        train_score=evaluate(criterion, log_softmax(fitted - adjusted.shift), labels).value,
        loss=cross_entropy(logits, labels),
        logits=logits,
        strength=found.strength,
        shift=adjusted.shift,
        seconds=found.seconds + prepared.views[candidate.view].seconds,
    )


def train(
    prepared: Prepared,
    verified: Verified,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    seed: int,
) -> Head | MlpHead:
    """The chosen candidate's head on these images, at the strength that was found."""
    chosen, trial, classes = verified.chosen, verified.trial, len(prepared.dataset.classes)
    x = read(prepared, chosen, rows, learning=True)
    y = np.tile(labels, 2 if chosen.mirrored else 1)
    head: Head | MlpHead
    if chosen.hidden:
        head = train_mlp(x, y, classes, chosen.hidden, trial.strength, seed)
    else:
        head = train_head(x, y, classes, trial.strength, seed, chosen.weighted)
    return replace(head, bias=(head.bias - trial.shift).astype(np.float32))


def answer(prepared: Prepared, learned: Learned, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Calibrated probabilities [n, C] of images by their rows of the features."""
    x = read(prepared, learned.verified.chosen, rows)
    return softmax(learned.head.logits(x), learned.temperature.value)


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Held-out answers of the recipe that is shipped, on the images that it learned from."""

    positions: NDArray[np.int64]  # [M] among the development images
    probabilities: NDArray[np.float64]  # [M, C] calibrated
    labels: NDArray[np.int64]  # [M]
    groups: NDArray[np.int64]  # [M]
    folds: NDArray[np.int64]  # [M] at least two


def out_of_fold(prepared: Prepared, learned: Learned) -> OutOfFold:
    """What models that had not seen an image say of it, with the shift and temperature of the shipped one."""
    dev, trial = prepared.development, learned.verified.trial
    held = learned.held_out or HeldOut(np.arange(len(dev.labels)), trial.answers)
    groups, folds = dev.groups[held.positions], dev.folds[held.positions]
    if len(np.unique(folds)) < 2:  # one verifying fold: its groups are dealt into two
        folds = halves(groups)
    return OutOfFold(
        held.positions,
        softmax(held.logits, learned.temperature.value),
        dev.labels[held.positions],
        groups,
        np.asarray(folds, dtype=np.int64),
    )


def refit(prepared: Prepared, learned: Learned, seed: int) -> Head | MlpHead:
    """The same head once more, from all images: the test part has done its duty."""
    order = [*prepared.split.train, *prepared.split.test]
    labels = np.array([prepared.dataset.samples[i].label for i in order])
    rows = np.concatenate([prepared.development.rows, prepared.test_rows])
    return train(prepared, learned.verified, rows, labels, seed)


def read(prepared: Prepared, candidate: Candidate, rows: Any, learning: bool = False) -> Any:
    """What a candidate's head reads: features [n, D] of the given rows.

    Args:
        learning: a candidate that learns from mirror images gets them below the others, [2n, D].
    """
    seen = prepared.views[candidate.view]
    parts = [seen.features]
    if learning and candidate.mirrored:
        parts.append(prepared.views[MIRROR].features)
    if candidate.strategy == "all_stages":
        found = [part.all_stages(rows, candidate.spread) for part in parts]
    else:
        tap = taps_of(seen.graph, candidate)[0]
        found = [part.stage(tap, rows, candidate.spread) for part in parts]
    return found[0] if len(found) == 1 else np.concatenate(found)


def readable(prepared: Prepared) -> tuple[list[Path], list[str]]:
    """Path and content hash of every readable image, in the order of the features' rows."""
    dataset, infos = prepared.dataset, prepared.findings.infos
    found = [(dataset.locate(s), i) for s, i in zip(dataset.samples, infos, strict=True)]
    return (
        [path for path, info in found if info is not None],
        [info.content_hash for _, info in found if info is not None],
    )


def subset(development: Development, positions: NDArray[np.int64], seed: int) -> Development:
    """Some of the development images, with folds of their own."""
    labels, groups = development.labels[positions], development.groups[positions]
    return Development(
        rows=development.rows[positions],
        labels=labels,
        groups=groups,
        folds=development_folds(labels, groups, FOLDS, seed + 1),
        hashes=tuple(development.hashes[i] for i in positions),
        classes=development.classes,
    )


def probe_rows(plan: Plan, measurement: Measurement) -> dict[str, Scored]:
    """The rows of the candidates that the depth profile has scored, by name."""
    by_stage = {row.stage: row.probe for row in measurement.depth}
    rows = {}
    for candidate in plan.candidates:
        if candidate.view != OWN or candidate.spread:
            continue
        if candidate.strategy == "all_stages":
            found = measurement.all_stages.probe
        else:
            found = by_stage[candidate.cut or measurement.depth[-1].stage]
        rows[candidate.name] = Scored(
            candidate,
            found.score,
            found.se,
            found.train_score,
            found.seconds,
            "ridge, leave-one-out",
        )
    return rows
