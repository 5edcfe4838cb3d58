"""The whole job, top to bottom: start reading here.

    images ─▶ data ─▶ backbone ─▶ plan ─▶ train ─▶ judge ─▶ ship ─▶ people

Every step takes the frozen result of the step before and returns one frozen dataclass. Nothing
here imports torch: where a network must be exported, a child process does it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart import results
from headstart.backbone.device import detect_device
from headstart.backbone.features import Features, features
from headstart.backbone.graph import TapGraph, tap_graph
from headstart.data.check import Findings, check
from headstart.data.images import load_pixels
from headstart.data.sources import Dataset, read
from headstart.data.split import Split, split
from headstart.errors import HeadstartError, RunFolderError, show
from headstart.judge.calibration import Temperature, fit_temperature, softmax
from headstart.judge.evaluate import Evaluation, evaluate
from headstart.plan.decide import Candidate, Facts, Plan, decide
from headstart.plan.measure import Development, Measurement, measure
from headstart.plan.verify import Scored, Trial, Verified, verify
from headstart.run import (
    Run,
    atomic_write,
    count_test_use,
    differences,
    existing_manifest,
    latest,
    next_free,
)
from headstart.settings import FitSettings, threads
from headstart.ship.bundle import describe, taps_of, write_bundle
from headstart.ship.predict import wide
from headstart.train.head import Head, cross_entropy, search_head, train_head

PARITY_IMAGES = 8


@dataclass(frozen=True, slots=True)
class Opened:
    """What is known before anything is written: the names of the images, and the network."""

    run: Run
    dataset: Dataset
    graph: TapGraph
    graph_s: float


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
    opened = open_run(settings, "plan")
    if isinstance(opened, Outcome):
        return opened
    with working(opened.run) as run:
        prepared = prepare(settings, opened)
        store_plan(prepared, None, settings, run)
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
        for reason in prepared.plan.reasons:
            say(reason)
        with run.step("choose"):
            verified = choose(prepared, settings)
        for warning in verified.warnings:
            say(f"warning: {warning}")
        store_plan(prepared, verified, settings, run)
        with run.step("train"):
            head, temperature = train(prepared, verified, settings.seed)
        with run.step("evaluate"):
            evaluation = judge(prepared, verified, head, temperature, run)
        with run.step("bundle"):
            bundle(prepared, verified, head, temperature, evaluation, run)
        run.finish("done")
    if settings.report:
        report(run.folder)
    return Outcome(run.folder)


# -- the steps -----------------------------------------------------------------------------------


def prepare(settings: FitSettings, opened: Opened) -> Prepared:
    """data ─▶ backbone ─▶ plan: check, split, features, measure, decide."""
    workers = threads()
    run, dataset, graph = opened.run, opened.dataset, opened.graph
    run.note("backbone_s", round(opened.graph_s, 3))
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


def store_plan(
    prepared: Prepared, verified: Verified | None, settings: FitSettings, run: Run
) -> None:
    """plan.json: the prior decision, and what the data said about it once they were asked."""
    decided, measured = prepared.plan, prepared.measurement
    probed = results.probe_rows(decided, measured).values()
    rows = probed if verified is None else verified.table
    stored = results.plan_json(decided, measured, prepared.graph, rows, verified, settings)
    run.write_json("plan.json", stored)


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
    protocol = f"{prepared.split.protocol}; scored once in this run, after every choice was made"
    evaluation = evaluate(probabilities, labels, dataset.classes, protocol, temperature)
    infos = [prepared.findings.infos[i] for i in test]
    with contextlib.suppress(HeadstartError):  # a cache that cannot be written costs only the count
        times = count_test_use([info.content_hash for info in infos if info is not None])
        run.note("test_set_scored", times)
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
    picked = spread(len(prepared.split.train))
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


def spread(n: int) -> NDArray[np.int64]:
    """Indices of a few of n images in order, from first to last: samples are sorted by class."""
    return np.unique(np.linspace(0, n - 1, min(PARITY_IMAGES, n)).round().astype(np.int64))


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


# -- the run folder ------------------------------------------------------------------------------


def open_run(settings: FitSettings, command: str) -> Opened | Outcome:
    """A fresh run, an interrupted one to go on with, or a finished one's outcome.

    Whatever the user can mend (a name, a flag, a stage) is refused here, before anything is
    written, so that the same command works once it is mended.

    Raises:
        RunFolderError: the folder exists without --resume, or belongs to another job.
    """
    given = settings.out or (latest(settings.data) if settings.resume else None)
    folder = given or next_free(settings.data)
    stored = existing_manifest(folder)
    if stored is not None and not settings.resume:
        raise RunFolderError(
            "This run folder exists already",
            where=folder,
            do="Choose another with --out, or go on with it: --resume.",
        )
    dataset = read(settings.data, settings.test)
    matter = {"command": command, **settings.that_matter(), "listing": listing(dataset)}
    if settings.resume and stored is None:
        say(f"nothing to resume in {show(folder)}: starting afresh")
    if stored is not None:
        if stored.get("status") == "failed" and not (folder / "data.json").exists():
            say(f"the run in {show(folder)} failed before it had any result: starting afresh")
        else:
            must_agree(stored, matter, folder)
            if stored.get("status") == "done":
                return Outcome(folder, already_done=True)
            say(f"going on with {show(folder)}: features that were computed are kept")
    say(f"{results.counted(len(dataset.samples), 'file')} in {len(dataset.classes):,} classes")
    began = time.perf_counter()
    some = [dataset.locate(dataset.samples[i]) for i in spread(len(dataset.samples))]
    graph = tap_graph(settings.backbone, settings.weights, settings.size, some)
    can_be_done(settings, graph)
    graph_s = time.perf_counter() - began
    return Opened(Run(folder, command, matter, threads()), dataset, graph, graph_s)


def can_be_done(settings: FitSettings, graph: TapGraph) -> None:
    """Refuse a forced case or cut that cannot be done, before any image is looked at."""
    nothing = Facts(0, "unclear", "", graph.stage_names, {}, 1, 1)
    decide(nothing, settings.case, settings.cut, settings.from_scratch)


def listing(dataset: Dataset) -> dict[str, Any]:
    """Which files there are, by path and size: cheap, and enough to notice a changed folder."""
    digest = hashlib.blake2b(digest_size=8)
    total = 0
    for sample in dataset.samples:
        size = -1  # a link that leads nowhere: the check will name it
        with contextlib.suppress(OSError):
            size = dataset.locate(sample).stat().st_size
        total += max(0, size)
        digest.update(os.fsencode(sample.path) + b"\0%d\0" % size)
    return {"files": len(dataset.samples), "bytes": total, "digest": digest.hexdigest()}


def must_agree(stored: dict[str, Any], matter: dict[str, Any], folder: Path) -> None:
    """A run is only gone on with, or printed, when it was made from the same data and settings."""
    settings = found if isinstance(found := stored.get("settings"), dict) else {}
    before, now = settings.get("listing"), matter["listing"]
    if stored.get("command") != matter["command"]:
        raise RunFolderError(
            f"This run was made by headstart {show(stored.get('command'))}",
            where=folder,
            do=f"Give headstart {matter['command']} a folder of its own with --out.",
        )
    if before != now:
        was, is_now = (
            f"{found.get('files')} files of {found.get('bytes')} bytes"
            for found in (before if isinstance(before, dict) else {}, now)
        )
        change = f"{was}, now {is_now}" if was != is_now else f"{was}, of which some changed"
        raise RunFolderError(
            f"This run was made with other data: {change}",
            where=folder,
            do="Restore the data, or start a new run with another --out.",
        )
    # The same files may lie elsewhere by now: where they lie does not matter.
    same = {key: value for key, value in matter.items() if key not in ("data", "test", "listing")}
    if changed := differences(stored, same):
        raise RunFolderError(
            f"This run was made with other settings: {'; '.join(changed)}",
            where=folder,
            do="Use the same settings, or a new folder with --out.",
        )


@contextlib.contextmanager
def working(run: Run) -> Iterator[Run]:
    """The open run; whoever stops it is told how to go on."""
    try:
        with run:
            yield run
    except (KeyboardInterrupt, SystemExit):
        say(f"what was done is kept; go on with it: --out {show(run.folder)} --resume")
        raise


def say(text: str) -> None:
    """One line for people, on stderr; nobody listening is no reason to stop."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(f"{text}\n")
