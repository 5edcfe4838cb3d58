"""The whole job, top to bottom: start reading here.

    images ─▶ data ─▶ backbone ─▶ plan ─▶ train ─▶ judge ─▶ ship ─▶ people

Every step takes the frozen result of the step before and returns one frozen dataclass. Nothing
here imports torch: where a network must be exported, a child process does it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart import results
from headstart.backbone.device import detect_device
from headstart.backbone.features import Features, features
from headstart.backbone.graph import TapGraph, tap_graph
from headstart.data.check import Findings, check
from headstart.data.images import load_pixels
from headstart.data.sources import Dataset, read
from headstart.data.split import Split, split
from headstart.errors import RunFolderError
from headstart.judge.calibration import Temperature, fit_temperature, softmax
from headstart.judge.evaluate import Evaluation, evaluate
from headstart.plan.decide import Candidate, Facts, Plan, check_cut, decide
from headstart.plan.measure import Development, Measurement, measure
from headstart.plan.verify import Scored, Trial, Verified, verify
from headstart.run import Run, count_test_use, differences, existing_manifest, latest, next_free
from headstart.settings import FitSettings, threads
from headstart.ship.bundle import describe, taps_of, write_bundle
from headstart.ship.predict import wide
from headstart.train.head import Head, cross_entropy, search_head, train_head

PARITY_IMAGES = 8


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is known before anything is trained."""

    dataset: Dataset
    findings: Findings
    split: Split
    graph: TapGraph
    features: Features
    development: Development
    measurement: Measurement
    plan: Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command leaves behind: the run folder, and whether it was there before."""

    folder: Path
    already_done: bool = False


def plan(settings: FitSettings) -> Outcome:
    """Measure and decide only; writes data.json, split.csv and plan.json."""
    run = open_run(settings, "plan")
    if isinstance(run, Outcome):
        return run
    with run:
        prepared = prepare(settings, run)
        rows = results.probe_rows(prepared.plan, prepared.measurement)
        run.write_json("plan.json", results.plan_json(prepared, rows.values(), None, settings))
        run.finish("done")
    return Outcome(run.folder)


def fit(settings: FitSettings) -> Outcome:
    """The main job: from a folder of images to a verified model, its evaluation and its report."""
    run = open_run(settings, "fit")
    if isinstance(run, Outcome):
        return run
    with run:
        prepared = prepare(settings, run)
        with run.step("choose"):
            verified = choose(prepared, settings)
        for warning in verified.warnings:
            say(f"warning: {warning}")
        run.write_json("plan.json", results.plan_json(prepared, verified.table, verified, settings))
        with run.step("train"):
            head, temperature = train(prepared, verified, settings.seed)
        with run.step("evaluate"):
            evaluation = judge(prepared, verified, head, temperature, run)
        with run.step("bundle"):
            bundle(prepared, verified, head, temperature, evaluation, run)
        run.finish("done")
        if settings.report:
            # Last, so that it tells the whole story; the model is ready whatever happens to it.
            from headstart.ship.report import render

            run.write_text("report.html", render(run.folder))
    return Outcome(run.folder)


# -- the steps -----------------------------------------------------------------------------------


def prepare(settings: FitSettings, run: Run) -> Prepared:
    """data ─▶ backbone ─▶ plan: read, check, split, features, measure, decide."""
    workers = threads()
    dataset = read(settings.data, settings.test)
    say(f"{len(dataset.samples):,} files in {len(dataset.classes)} classes")
    with run.step("backbone"):
        some = [dataset.locate(sample) for sample in dataset.samples]
        spread = some[:: max(1, len(some) // PARITY_IMAGES)][:PARITY_IMAGES]
        graph = tap_graph(settings.backbone, settings.weights, settings.size, spread)
    if settings.cut is not None:
        check_cut(settings.cut, graph.stage_names)  # before any work is done on the images
    with run.step("check"):
        findings = check(dataset, workers, graph.preprocess.decode_px)
        parts = split(dataset, findings, settings.seed)
    run.write_json("data.json", results.data_json(dataset, findings, parts))
    run.write_text("split.csv", results.split_csv(dataset, parts))
    say(results.data_sentence(dataset, findings, parts))
    with run.step("features"):
        order = np.concatenate([parts.train, parts.test])
        infos = [findings.infos[i] for i in order]
        hashes = [info.content_hash for info in infos if info is not None]
        paths = [dataset.locate(dataset.samples[i]) for i in order]
        device = detect_device(settings.device)
        found = features(graph, paths, hashes, device, workers)
    run.note("features_computed", found.computed)
    labels = np.array([dataset.samples[i].label for i in parts.train])
    development = Development(
        rows=np.arange(len(parts.train)),
        labels=labels,
        groups=parts.group,
        folds=parts.fold,
        hashes=tuple(hashes[: len(parts.train)]),
        classes=dataset.classes,
    )
    with run.step("measure"):
        measured = measure(graph, found, development, settings.seed, workers)
    facts = Facts(
        n=measured.n,
        similarity=measured.similarity.verdict,
        similarity_sentence=measured.similarity.sentence,
        stages=graph.stage_names,
        stage_scores={row.stage: row.probe.score for row in measured.depth},
        small_below=settings.small_below,
        large_above=settings.large_above,
    )
    decided = decide(facts, settings.case, settings.cut, settings.from_scratch)
    for reason in decided.reasons:
        say(reason)
    return Prepared(dataset, findings, parts, graph, found, development, measured, decided)


def choose(prepared: Prepared, settings: FitSettings) -> Verified:
    """Cross-validate the finalists' real heads and let the data decide."""
    dev = prepared.development
    classes = len(dev.classes)

    def cross_validate(candidate: Candidate) -> Trial:
        x = candidate_features(prepared, candidate, dev.rows)
        found = search_head(x, dev.labels, dev.folds, classes, settings.seed, threads())
        return Trial(
            correct=found.logits.argmax(1) == dev.labels,
            loss=cross_entropy(found.logits, dev.labels),
            logits=found.logits,
            train_correct=found.train_logits.argmax(1) == dev.labels,
            strength=found.strength,
            seconds=found.seconds,
        )

    rows: dict[str, Scored] = results.probe_rows(prepared.plan, prepared.measurement)
    metric = prepared.measurement.metric
    return verify(prepared.plan, rows, cross_validate, dev.labels, prepared.split.folds, metric)


def train(prepared: Prepared, verified: Verified, seed: int) -> tuple[Head, Temperature]:
    """The shipped head on all development images, and the temperature from held-out answers."""
    dev = prepared.development
    x = candidate_features(prepared, verified.chosen, dev.rows)
    head = train_head(x, dev.labels, len(dev.classes), verified.trial.strength, seed)
    return head, fit_temperature(verified.trial.logits, dev.labels, dev.folds)


def judge(
    prepared: Prepared, verified: Verified, head: Head, temperature: Temperature, run: Run
) -> Evaluation:
    """One look at the test part; writes evaluation.json, predictions.csv, mistakes.json."""
    dataset, test = prepared.dataset, prepared.split.test
    first = len(prepared.split.train)
    rows = np.arange(first, first + len(test))
    logits = head.logits(candidate_features(prepared, verified.chosen, rows))
    probabilities = softmax(logits, temperature.value)
    labels = np.array([dataset.samples[i].label for i in test])
    protocol = f"{prepared.split.protocol}; scored once, after every choice was made"
    evaluation = evaluate(probabilities, labels, dataset.classes, protocol, temperature)
    infos = [prepared.findings.infos[i] for i in test]
    run.note("test_set_scored", count_test_use([i.content_hash for i in infos if i is not None]))
    run.write_json("evaluation.json", results.evaluation_json(evaluation))
    paths = [dataset.samples[i].path for i in test]
    run.write_text(
        "predictions.csv", results.predictions_csv(paths, labels, probabilities, dataset.classes)
    )
    files = [dataset.locate(dataset.samples[i]) for i in test]
    run.write_json(
        "mistakes.json", results.mistakes(files, paths, labels, probabilities, dataset.classes)
    )
    return evaluation


def bundle(
    prepared: Prepared,
    verified: Verified,
    head: Head,
    temperature: Temperature,
    evaluation: Evaluation,
    run: Run,
) -> dict[str, Any]:
    """Surgery and hand-over: the network that is left, the new head, and the proof that it works."""
    graph, chosen = prepared.graph, verified.chosen
    description = describe(graph, chosen, prepared.dataset.classes, temperature.value)
    picked = np.arange(min(PARITY_IMAGES, len(prepared.split.train)))
    samples = [prepared.dataset.samples[i] for i in prepared.split.train[picked]]
    pixels = np.stack(
        [load_pixels(prepared.dataset.locate(s), wide(graph.preprocess))[0] for s in samples]
    )
    expected = softmax(head.logits(candidate_features(prepared, chosen, picked)), temperature.value)
    card = results.model_card(description, evaluation, prepared.measurement)
    return write_bundle(run.model, graph, description, head, (pixels, expected), card)


def candidate_features(prepared: Prepared, candidate: Candidate, rows: Any) -> Any:
    """What a candidate's head reads: features [n, D] of the given rows."""
    if candidate.strategy == "all_stages":
        return prepared.features.all_stages(rows)
    return prepared.features.stage(taps_of(prepared.graph, candidate)[0], rows)


# -- the run folder ------------------------------------------------------------------------------


def open_run(settings: FitSettings, command: str) -> Run | Outcome:
    """A fresh run folder, an interrupted one to go on with, or a finished one's outcome.

    Raises:
        RunFolderError: the folder exists without --resume, or belongs to another job.
    """
    given = settings.out or (latest(settings.data) if settings.resume else None)
    folder = given or next_free(settings.data)
    stored = existing_manifest(folder)
    matter = {"command": command, **settings.that_matter()}
    if stored is not None and not settings.resume:
        raise RunFolderError(
            "This run folder exists already",
            where=folder,
            do="Choose another with --out, or go on with it: --resume.",
        )
    if settings.resume and stored is None:
        say(f"nothing to resume in {folder}: starting afresh")
    if stored is not None:
        changed = differences(stored, matter)
        if changed:
            raise RunFolderError(
                f"This run was made with other settings: {'; '.join(changed)}",
                where=folder,
                do="Use the same settings, or a new folder with --out.",
            )
        if stored.get("status") == "done":
            return Outcome(folder, already_done=True)
        say(f"going on with {folder}: features that were computed are kept")
    return Run(folder, command, matter, threads())


def say(text: str) -> None:
    """One line for people, on stderr."""
    sys.stderr.write(f"{text}\n")
