"""The whole job, top to bottom: start reading here.

    images ─▶ data ─▶ backbone ─▶ plan ─▶ train ─▶ judge ─▶ ship ─▶ people

Every step takes the frozen result of the step before and returns one frozen dataclass. Nothing
here imports torch: where a network must be exported, a child process does it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart import results
from headstart.backbone.device import detect_device
from headstart.backbone.features import Features, features
from headstart.backbone.graph import HEAD, TapGraph
from headstart.data.check import Findings, check
from headstart.data.images import Preprocess, load_pixels
from headstart.data.sources import Dataset
from headstart.data.split import FOLDS, Split, development_folds, split
from headstart.errors import HeadstartError, show
from headstart.gate import look_closer
from headstart.judge.calibration import Temperature, fit_temperature, softmax
from headstart.judge.evaluate import Evaluation, evaluate, over_repeats
from headstart.opening import Opened, Outcome, open_run, say, spread, working
from headstart.parallel import one_blas_thread, ordered_map
from headstart.plan.background import Background
from headstart.plan.baseline import COPY_PX, baselines
from headstart.plan.decide import Candidate, Facts, Plan, decide
from headstart.plan.evidence import (
    resolution,
    source_evidence,
    source_probabilities,
)
from headstart.plan.measure import Development, Measurement, measure
from headstart.plan.nested import REPEATS, NestedEstimate, nested_estimate, outer_folds
from headstart.plan.verify import Trial, Verified, verify
from headstart.run import Run, atomic_write, count_test_use
from headstart.settings import FitSettings, threads
from headstart.ship.bundle import describe, taps_of, write_bundle
from headstart.ship.predict import wide
from headstart.train.head import Head, cross_entropy, search_head, train_head

BASELINE_IMAGES = 800
"""images on which baselines and the source's classes are looked at"""
RESOLUTION_IMAGES = 100


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is known before anything is decided."""

    dataset: Dataset
    findings: Findings
    split: Split
    graph: TapGraph
    features: Features
    development: Development
    test_rows: NDArray[np.int64]
    """rows of the features that are the test part's"""


@dataclass(frozen=True, slots=True)
class Learned:
    """What the whole selection ends in: measured, decided, verified, trained, calibrated."""

    measurement: Measurement
    plan: Plan
    verified: Verified
    head: Head
    temperature: Temperature


def check_data(settings: FitSettings) -> Outcome:
    """Look at the data and stop; writes data.json, split.csv and a page to read."""
    opened = open_run(settings, "check")
    if isinstance(opened, Outcome):
        return opened
    with working(opened.run) as run:
        prepare(settings, opened, tell=False)  # the command prints what was found
        run.finish("done")
    report(run.folder)
    return Outcome(run.folder)


def plan(settings: FitSettings) -> Outcome:
    """Measure and decide only; writes data.json, split.csv and plan.json."""
    opened = open_run(settings, "plan")
    if isinstance(opened, Outcome):
        return opened
    with working(opened.run) as run:
        prepared = prepare(settings, opened)
        with run.step("measure"):
            measured, decided = decide_case(prepared, prepared.development, settings, threads())
            behind = background(prepared, measured.metric, settings)
        rows = results.probe_rows(decided, measured).values()
        stored = results.plan_json(decided, measured, prepared.graph, rows, None, settings)
        run.write_json("plan.json", results.with_background(stored, behind))
        run.finish("done")
    return Outcome(run.folder)


def fit(settings: FitSettings) -> Outcome:
    """The main job: from a folder of images to a verified model, its evaluation and its report."""
    opened = open_run(settings, "fit")
    if isinstance(opened, Outcome):
        if settings.report and not (opened.folder / "report.html").exists():
            report(opened.folder)
        return opened
    with working(opened.run) as run:
        prepared = prepare(settings, opened)
        with run.step("learn"):
            learned = learn(prepared, prepared.development, settings, threads())
            behind = background(prepared, learned.measurement.metric, settings)
        stored = results.plan_json(
            learned.plan,
            learned.measurement,
            prepared.graph,
            learned.verified.table,
            learned.verified,
            settings,
        )
        run.write_json("plan.json", stored := results.with_background(stored, behind))
        for line in (*stored["reasons"], *(f"warning: {w}" for w in learned.verified.warnings)):
            say(line)
        with run.step("evaluate"):
            evaluation = judge(prepared, learned, settings, run)
        head = learned.head
        if settings.refit_all and len(prepared.split.test):
            with run.step("refit"):
                head = refit(prepared, learned, settings.seed)
        with run.step("bundle"):
            bundle(prepared, learned, head, evaluation, run)
        run.finish("done")
    if settings.report:
        report(run.folder)
    return Outcome(run.folder)


# -- the steps -----------------------------------------------------------------------------------


def prepare(settings: FitSettings, opened: Opened, tell: bool = True) -> Prepared:
    """data ─▶ backbone: check every file, features once, look at the whole set, split."""
    workers = threads()
    run, dataset, graph = opened.run, opened.dataset, opened.graph
    run.note("backbone_s", round(opened.graph_s, 3))
    with run.step("check"):
        findings = check(dataset, workers, graph.preprocess.decode_px)
    with run.step("features"):
        rows = np.array([i for i, info in enumerate(findings.infos) if info is not None])
        hashes = [info.content_hash for info in findings.infos if info is not None]
        paths = [dataset.locate(dataset.samples[i]) for i in rows]
        found = features(graph, paths, hashes, detect_device(settings.device), workers)
    run.note("features_computed", found.computed)
    with run.step("gate"):
        gate = look_closer(dataset, findings, graph, found, rows, workers)
        parts = split(dataset, findings, settings.seed, gate.ties)
    run.write_json("data.json", results.data_json(dataset, findings, parts, gate))
    run.write_text("split.csv", results.split_csv(dataset, parts))
    for line in results.data_sentences(dataset, findings, parts, gate) if tell else ():
        say(line)
    row_of = {int(i): row for row, i in enumerate(rows)}
    development = Development(
        rows=np.array([row_of[int(i)] for i in parts.train]),
        labels=np.array([dataset.samples[i].label for i in parts.train]),
        groups=parts.group,
        folds=parts.fold,
        hashes=tuple(hashes[row_of[int(i)]] for i in parts.train),
        classes=dataset.classes,
    )
    test_rows = np.array([row_of[int(i)] for i in parts.test], dtype=np.int64)
    return Prepared(dataset, findings, parts, graph, found, development, test_rows)


def learn(
    prepared: Prepared, development: Development, settings: FitSettings, workers: int
) -> Learned:
    """plan ─▶ train: the whole selection on some images, from the measurement to the calibrated head."""
    measured, decided = decide_case(prepared, development, settings, workers)
    verified = choose(prepared, development, measured, decided, settings.seed, workers)
    x = candidate_features(prepared, verified.chosen, development.rows)
    classes, labels = len(development.classes), development.labels
    head = train_head(x, labels, classes, verified.trial.strength, settings.seed)
    temperature = fit_temperature(verified.trial.logits, labels, development.folds)
    return Learned(measured, decided, verified, head, temperature)


def decide_case(
    prepared: Prepared, development: Development, settings: FitSettings, workers: int
) -> tuple[Measurement, Plan]:
    """Measure these images and apply the rules."""
    graph = prepared.graph
    measured = measure(graph, prepared.features, development, settings.seed, workers)
    facts = Facts(
        n=measured.n,
        similarity=measured.similarity.verdict,
        similarity_sentence=measured.similarity.sentence,
        stages=graph.stage_names,
        stage_scores={row.stage: row.probe.score for row in measured.depth},
        small_below=settings.small_below,
        large_above=settings.large_above,
    )
    return measured, decide(facts, settings.case, settings.cut, settings.from_scratch)


def choose(
    prepared: Prepared,
    development: Development,
    measured: Measurement,
    decided: Plan,
    seed: int,
    workers: int,
) -> Verified:
    """Cross-validate the finalists' real heads and let the data decide."""
    labels, folds = development.labels, development.folds

    def cross_validate(candidate: Candidate) -> Trial:
        x = candidate_features(prepared, candidate, development.rows)
        found = search_head(x, labels, folds, len(development.classes), seed, workers)
        return Trial(
            correct=found.logits.argmax(1) == labels,
            loss=cross_entropy(found.logits, labels),
            logits=found.logits,
            train_correct=found.train_logits.argmax(1) == labels,
            strength=found.strength,
            seconds=found.seconds,
        )

    rows = results.probe_rows(decided, measured)
    count = int(folds.max()) + 1
    metric, groups = measured.metric, development.groups
    return verify(decided, rows, cross_validate, labels, count, metric, groups)


def background(prepared: Prepared, metric: str, settings: FitSettings) -> Background:
    """Baselines without a network, what the source's classes know, how much detail there is."""
    dev, graph = prepared.development, prepared.graph
    rng = np.random.default_rng(settings.seed)
    some = np.sort(rng.permutation(len(dev.labels))[:BASELINE_IMAGES])
    samples = [prepared.dataset.samples[i] for i in prepared.split.train[some]]
    paths = [prepared.dataset.locate(sample) for sample in samples]
    small = Preprocess(size_px=COPY_PX, resize_px=COPY_PX)
    few = paths[:: max(1, len(paths) // RESOLUTION_IMAGES)][:RESOLUTION_IMAGES]
    copies = np.stack(
        [p for p, _ in ordered_map(partial(load_pixels, pre=small), paths, threads())]
    )
    seen = ordered_map(partial(load_pixels, pre=graph.preprocess), few, threads())
    classes = len(dev.classes)
    source = source_probabilities(graph, prepared.features.stage(HEAD, dev.rows[some]))
    with one_blas_thread():
        known = baselines(copies, dev.labels[some], dev.groups[some], classes, metric)
    return Background(
        resolution=resolution(np.stack([pixels for pixels, _ in seen])),
        evidence=None
        if source is None
        else source_evidence(source, dev.labels[some], dev.folds[some], classes),
        baselines=known,
    )


def judge(prepared: Prepared, learned: Learned, settings: FitSettings, run: Run) -> Evaluation:
    """How good it is: one look at the test part, or every image held out in turn."""
    dataset, parts = prepared.dataset, prepared.split
    if len(parts.test):
        who = parts.test
        answers = answer(prepared, learned, prepared.test_rows)[None]
        protocol = f"{parts.protocol}; scored once in this run, after every choice was made"
        infos = [prepared.findings.infos[i] for i in parts.test]
        with contextlib.suppress(HeadstartError):  # an unwritable cache costs only the count
            times = count_test_use([info.content_hash for info in infos if info is not None])
            run.note("test_set_scored", times)
    else:
        who = parts.train
        nested = estimate(prepared, settings)
        answers = nested.probabilities
        protocol = (
            f"{parts.protocol}: {nested.folds} folds, drawn {len(answers)} times; every choice was "
            "made again without the images that were held out; the model itself learned from all"
        )
        run.write_json("nested.json", results.nested_json(nested, learned.verified))
    labels = np.array([dataset.samples[i].label for i in who])
    evaluation = over_repeats(
        [evaluate(p, labels, dataset.classes, protocol, learned.temperature) for p in answers]
    )
    run.write_json("evaluation.json", results.evaluation_json(evaluation))
    paths = [dataset.samples[i].path for i in who]
    run.write_text(
        "predictions.csv", results.predictions_csv(paths, labels, answers[0], dataset.classes)
    )
    files = [dataset.locate(dataset.samples[i]) for i in who]
    run.write_json(
        "mistakes.json", results.mistakes(files, paths, labels, answers[0], dataset.classes)
    )
    return evaluation


def estimate(prepared: Prepared, settings: FitSettings) -> NestedEstimate:
    """Hold every image out in turn, with the whole selection done again on the others."""
    dev = prepared.development
    smallest = int(np.bincount(dev.labels).min())
    folds = outer_folds(len(dev.labels), smallest)
    draws = [
        development_folds(dev.labels, dev.groups, folds, settings.seed + 101 * (r + 1))
        for r in range(REPEATS)
    ]

    def learn_without(positions: NDArray[np.int64]) -> tuple[str, Answer]:
        part = subset(dev, positions, settings.seed)
        learned = learn(prepared, part, settings, workers=1)
        return learned.verified.chosen.name, lambda held: answer(prepared, learned, dev.rows[held])

    say(f"estimating: every image is held out in turn, {REPEATS} times in {folds} folds")
    return nested_estimate(draws, len(dev.classes), learn_without, threads())


Answer = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def answer(prepared: Prepared, learned: Learned, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Calibrated probabilities [n, C] of images by their rows of the features."""
    x = candidate_features(prepared, learned.verified.chosen, rows)
    return softmax(learned.head.logits(x), learned.temperature.value)


def refit(prepared: Prepared, learned: Learned, seed: int) -> Head:
    """The same head once more, from all images: the test part has done its duty."""
    order = [*prepared.split.train, *prepared.split.test]
    labels = np.array([prepared.dataset.samples[i].label for i in order])
    rows = np.concatenate([prepared.development.rows, prepared.test_rows])
    x = candidate_features(prepared, learned.verified.chosen, rows)
    classes, strength = len(prepared.dataset.classes), learned.verified.trial.strength
    return train_head(x, labels, classes, strength, seed)


def bundle(
    prepared: Prepared, learned: Learned, head: Head, evaluation: Evaluation, run: Run
) -> dict[str, Any]:
    """Surgery and hand-over: the network that is left, the new head, and the proof that it works."""
    graph, chosen = prepared.graph, learned.verified.chosen
    temperature = learned.temperature.value
    description = describe(graph, chosen, prepared.dataset.classes, temperature)
    picked = spread(len(prepared.split.train))
    samples = [prepared.dataset.samples[i] for i in prepared.split.train[picked]]
    pixels = np.stack(
        [load_pixels(prepared.dataset.locate(s), wide(graph.preprocess))[0] for s in samples]
    )
    rows = prepared.development.rows[picked]
    expected = softmax(head.logits(candidate_features(prepared, chosen, rows)), temperature)
    card = results.model_card(description, evaluation, learned.measurement)
    return write_bundle(run.model, graph, description, head, (pixels, expected), card)


def candidate_features(prepared: Prepared, candidate: Candidate, rows: Any) -> Any:
    """What a candidate's head reads: features [n, D] of the given rows."""
    if candidate.strategy == "all_stages":
        return prepared.features.all_stages(rows)
    return prepared.features.stage(taps_of(prepared.graph, candidate)[0], rows)


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


def problems(data: dict[str, Any]) -> bool:
    """Whether data.json holds anything that a person should act on."""
    serious = ("unreadable", "label_conflicts", "leaks", "shortcuts", "twin_classes")
    near = any(pair["conflict"] or pair["leak"] for pair in data["near_duplicates"])
    return near or any(data[key] for key in serious)


def report(folder: Path) -> None:
    """Render the report: last, so that it tells the whole story, and the model is safe from it."""
    from headstart.ship.report import render

    try:
        atomic_write(folder / "report.html", render(folder))
    except (KeyboardInterrupt, SystemExit):
        say(f"stopped: the model is ready, its report is not; headstart report {show(folder)}")
    except Exception:
        say(f"the model is ready: {show(folder / 'model')}; only its report could not be written")
        raise
