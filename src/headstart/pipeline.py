"""The whole job, top to bottom: start reading here.

    images ─▶ data ─▶ backbone ─▶ plan ─▶ train ─▶ judge ─▶ ship ─▶ people

Every step takes the frozen result of the step before and returns one frozen dataclass. With a frozen
network nothing here imports torch: where one must be exported, a child process does it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart import results
from headstart.backbone.device import detect_device
from headstart.backbone.features import features
from headstart.backbone.graph import HEAD, tap_graph
from headstart.backbone.load import DEMO
from headstart.backbone.twin import random_twin
from headstart.data.check import check
from headstart.data.images import Preprocess, load_pixels
from headstart.data.split import development_folds, split
from headstart.errors import HeadstartError, show
from headstart.explain.stored import surgery_json
from headstart.explain.surgery_diagram import classifier_parameters, plan_surgery
from headstart.gallery import findings_gallery
from headstart.gate import look_closer
from headstart.judge.calibration import softmax
from headstart.judge.driving import with_driving
from headstart.judge.evaluate import Evaluation, evaluate, over_repeats
from headstart.judge.grouped import cross_validated, widened
from headstart.learning import (
    Learned,
    Prepared,
    Seen,
    answer,
    decide_case,
    learn,
    probe_rows,
    read,
    refit,
    subset,
)
from headstart.opening import PARITY_IMAGES, Opened, Outcome, open_run, say, spread, working
from headstart.parallel import one_blas_thread, ordered_map
from headstart.plan.background import Background
from headstart.plan.baseline import COPY_PX, baselines
from headstart.plan.control import IMAGES as CONTROL_IMAGES
from headstart.plan.control import Control, control
from headstart.plan.criterion import Criterion, choose_criterion
from headstart.plan.decide import OWN
from headstart.plan.evidence import (
    resolution,
    source_evidence,
    source_probabilities,
)
from headstart.plan.measure import Development, stratified
from headstart.plan.nested import REPEATS, NestedEstimate, nested_estimate, outer_folds
from headstart.plan.views import choose_views
from headstart.run import Run, atomic_write, count_test_use
from headstart.settings import FitSettings, threads
from headstart.ship.bundle import describe, write_bundle
from headstart.ship.predict import wide
from headstart.train.head import Head
from headstart.train.mlp import MlpHead

BASELINE_IMAGES = 800
"""images on which baselines and the source's classes are looked at"""
RESOLUTION_IMAGES = 100


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
            behind = background(prepared, prepared.criterion, settings)
        rows = probe_rows(decided, measured).values()
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
        prepared = look_again(prepare(settings, opened), settings, run)
        with run.step("learn"):
            learned = learn(prepared, prepared.development, settings, threads())
            behind = background(prepared, prepared.criterion, settings)
        if settings.retrains:
            from headstart.retraining import retrain

            with run.step("train"):
                prepared, learned = retrain(prepared, learned, settings, run)
        stored = results.plan_json(
            learned.plan,
            learned.measurement,
            prepared.views[learned.verified.chosen.view].graph,
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
            for needless in (".tuned", "training"):  # now that its network is in the bundle
                shutil.rmtree(run.folder / needless, ignore_errors=True)
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
        parts = split(dataset, findings, settings.seed, gate.ties, nested=not settings.retrains)
    run.write_json("data.json", results.data_json(dataset, findings, parts, gate))
    run.write_json("findings.json", findings_gallery(dataset, findings, gate))
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
    criterion = choose_criterion(settings.metric, development.labels, dataset.classes)
    own = {OWN: Seen(graph, found, 0.0)}
    return Prepared(
        dataset, findings, parts, graph, found, own, False, development, test_rows, criterion
    )


def look_again(prepared: Prepared, settings: FitSettings, run: Run) -> Prepared:
    """Look at every image in other ways too, as far as the budget goes and nothing is forced."""
    graph, dataset = prepared.graph, prepared.dataset
    if settings.case is not None or settings.cut is not None or settings.retrains:
        return prepared
    infos = [(i, info) for i, info in enumerate(prepared.findings.infos) if info is not None]
    paths = [dataset.locate(dataset.samples[i]) for i, _ in infos]
    hashes = [info.content_hash for _, info in infos]
    views = choose_views(
        [(info.width, info.height) for _, info in infos],
        graph.preprocess.size_px,
        graph.stages[-1].macs,
        settings.budget_min,
        threads(),
        fixed_size=settings.size is not None or settings.backbone == DEMO,
        fixed_fit=settings.fit_image is not None,
    )
    seen, left_out = dict(prepared.views), list(views.left_out)
    with run.step("look again") if views.chosen else contextlib.nullcontext():
        for view in views.chosen:
            began = time.perf_counter()
            size = settings.size if view.size_px == graph.preprocess.size_px else view.size_px
            try:
                other = tap_graph(settings.backbone, settings.weights, size, paths[:PARITY_IMAGES])
            except HeadstartError as error:  # a look that was not asked for must not end the job
                left_out.append(f"{view.name} is not tried: {error}")
                continue
            pre = replace(other.preprocess, fit=view.fit, mirror=view.mirror)
            if settings.fit_image is not None:
                pre = replace(pre, fit=settings.fit_image)
            other = replace(other, preprocess=pre)
            found = features(other, paths, hashes, detect_device(settings.device), threads())
            seen[view.name] = Seen(other, found, time.perf_counter() - began)
    run.note("views_left_out", left_out)
    for sentence in left_out:
        say(sentence)
    return replace(prepared, views=seen, spreads=views.spreads)


def background(prepared: Prepared, criterion: Criterion, settings: FitSettings) -> Background:
    """Baselines without a network, what the source's classes know, how much detail there is."""
    dev, graph = prepared.development, prepared.graph
    some = stratified(dev.labels, BASELINE_IMAGES, settings.seed)
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
        known = baselines(copies, dev.labels[some], dev.groups[some], classes, criterion)
    no_time = settings.budget_min == 0
    return Background(
        control=None if no_time else random_control(prepared, settings),
        resolution=resolution(np.stack([pixels for pixels, _ in seen])),
        evidence=None
        if source is None
        else source_evidence(source, dev.labels[some], dev.folds[some], classes),
        baselines=known,
    )


def random_control(prepared: Prepared, settings: FitSettings) -> Control | None:
    """The depth profile of the same network with random weights; None, and said, when it fails."""
    dev = prepared.development
    some = stratified(dev.labels, CONTROL_IMAGES, settings.seed)
    samples = [prepared.dataset.samples[i] for i in prepared.split.train[some]]
    paths = [prepared.dataset.locate(sample) for sample in samples]
    try:
        twin = random_twin(prepared.graph)
    except HeadstartError as error:  # a control must not end the job
        say(f"no control with random weights: {error}")
        return None
    device = detect_device(settings.device)
    seen = features(twin, paths, [dev.hashes[i] for i in some], device, threads())
    return control(seen, prepared.features, some, dev, prepared.criterion, threads())


def judge(prepared: Prepared, learned: Learned, settings: FitSettings, run: Run) -> Evaluation:
    """How good it is: one look at the test part, or every image held out in turn."""
    dataset, parts = prepared.dataset, prepared.split
    if len(parts.test):
        who, groups = parts.test, parts.test_group
        answers = answer(prepared, learned, prepared.test_rows)[None]
        protocol = f"{parts.protocol}; scored once in this run, after every choice was made"
        infos = [prepared.findings.infos[i] for i in parts.test]
        with contextlib.suppress(HeadstartError):  # an unwritable cache costs only the count
            times = count_test_use([info.content_hash for info in infos if info is not None])
            run.note("test_set_scored", times)
    else:
        who, groups = parts.train, parts.group
        nested = estimate(prepared, settings)
        answers = nested.probabilities
        protocol = (
            f"{parts.protocol}: {nested.folds} folds, drawn {len(answers)} times; every choice was "
            "made again without the images that were held out; the model itself learned from all of them, "
            "and is on average a little better than this"
        )
        run.write_json("nested.json", results.nested_json(nested, learned.verified))
    labels = np.array([dataset.samples[i].label for i in who])
    scored = [evaluate(p, labels, dataset.classes, protocol, learned.temperature) for p in answers]
    evaluation = over_repeats(
        [
            widened(with_driving(found, prepared.criterion, p, labels), p, labels, groups)
            for found, p in zip(scored, answers, strict=True)
        ]
    )
    evaluation = evaluation if len(parts.test) else cross_validated(evaluation)
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
    folds = outer_folds(len(dev.labels))
    draws = [
        development_folds(dev.labels, dev.groups, folds, settings.seed + 101 * (r + 1))
        for r in range(REPEATS)
    ]

    def learn_without(positions: NDArray[np.int64]) -> tuple[str, Answer]:
        part = subset(dev, positions, settings.seed)
        learned = learn(prepared, part, settings, workers=1)
        return learned.verified.chosen.name, lambda held: answer(prepared, learned, dev.rows[held])

    folds = int(draws[0].max()) + 1  # fewer when there are fewer groups
    say(f"estimating: every image is held out in turn, {REPEATS} times in {folds} folds")
    return nested_estimate(draws, len(dev.classes), learn_without, threads())


Answer = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def bundle(
    prepared: Prepared, learned: Learned, head: Head | MlpHead, evaluation: Evaluation, run: Run
) -> dict[str, Any]:
    """Surgery and hand-over: the network that is left, the new head, and the proof that it works."""
    chosen, temperature = learned.verified.chosen, learned.temperature.value
    graph = prepared.views[chosen.view].graph
    description = describe(graph, chosen, prepared.dataset.classes, temperature)
    surgery = plan_surgery(
        graph.stages,
        chosen.strategy,
        chosen.cut,
        len(prepared.dataset.classes),
        input_px=graph.preprocess.size_px,
        # Of the network before: a re-trained one comes without the old classifier.
        classifier=(prepared.graph.source_classes, classifier_parameters(prepared.graph)),
        reads=description["head"]["reads"],
        hidden=chosen.hidden,
    )
    run.write_json("surgery.json", surgery_json(surgery))
    picked = spread(len(prepared.split.train))
    samples = [prepared.dataset.samples[i] for i in prepared.split.train[picked]]
    pixels = np.stack(
        [load_pixels(prepared.dataset.locate(s), wide(graph.preprocess))[0] for s in samples]
    )
    rows = prepared.development.rows[picked]
    expected = softmax(head.logits(read(prepared, chosen, rows)), temperature)
    card = results.model_card(description, evaluation, learned.measurement)
    return write_bundle(run.model, graph, description, head, (pixels, expected), card)


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
