"""The whole job, top to bottom: start reading here.

    images ─▶ data ─▶ backbone ─▶ plan ─▶ train ─▶ judge ─▶ ship ─▶ people

Every step takes the frozen result of the step before and returns one frozen dataclass. With a frozen
network nothing here imports torch: where one must be exported, a child process does it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headstart import results
from headstart.backbone.device import detect_device
from headstart.backbone.features import features
from headstart.backbone.graph import HEAD, tap_graph
from headstart.backbone.load import DEMO
from headstart.backbone.twin import random_twin
from headstart.data.check import check
from headstart.data.images import Preprocess, load_pixels
from headstart.data.split import split
from headstart.errors import HeadstartError, show
from headstart.explain.stored import surgery_json
from headstart.explain.surgery_diagram import classifier_parameters, plan_surgery
from headstart.gallery import findings_gallery
from headstart.gate import look_closer
from headstart.guarding import Guard, guard
from headstart.judge.calibration import softmax
from headstart.judge.evaluate import Evaluation
from headstart.judging import headline, judge
from headstart.learning import Learned, Prepared, Seen, decide_case, learn, probe_rows, read, refit
from headstart.opening import PARITY_IMAGES, Opened, Outcome, open_run, say, spread, working
from headstart.parallel import one_blas_thread, ordered_map
from headstart.picturing import picture
from headstart.plan.background import Background
from headstart.plan.baseline import COPY_PX, baselines
from headstart.plan.control import IMAGES as CONTROL_IMAGES
from headstart.plan.control import Control, control
from headstart.plan.criterion import Criterion, choose_criterion
from headstart.plan.decide import OWN
from headstart.plan.evidence import resolution, source_evidence, source_probabilities
from headstart.plan.measure import Development, stratified
from headstart.plan.views import choose_views
from headstart.run import TRAINING, Run, atomic_write
from headstart.settings import FitSettings, threads
from headstart.ship.bundle import describe, write_bundle
from headstart.ship.model_card import model_card
from headstart.ship.predict import wide
from headstart.train.head import Head
from headstart.train.mlp import MlpHead
from headstart.train.team import leading, team

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
    """The main job: from a folder of images to a verified model, its evaluation and its report.

    Started by torchrun, the first process does it; the others join in when a network is trained.
    """
    if (here := team()) is not None and here.rank > 0:
        from headstart.following import follow

        follow(settings, here)
    with leading():
        return _fit(settings)


def _fit(settings: FitSettings) -> Outcome:
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
        if settings.may_train:
            status, prepared, learned = anytime(prepared, learned, behind, settings, run)
        else:
            status = "done"
            if settings.retrains:
                from headstart.improving import retrain

                with run.step("train"):
                    prepared, learned = retrain(prepared, learned, settings, run)
            ship(prepared, learned, behind, settings, run)
        if settings.report:
            picture(prepared, learned, settings, run)
        if status == "done":
            for needless in (".tuned", TRAINING):  # now that its network is in the bundle
                shutil.rmtree(run.folder / needless, ignore_errors=True)
        run.finish(status, None if status == "done" else "stopped by the user; a model is ready")
    if settings.report:
        report(run.folder)
    return Outcome(run.folder)


def anytime(
    prepared: Prepared, frozen: Learned, behind: Background, settings: FitSettings, run: Run
) -> tuple[str, Prepared, Learned]:
    """Ship the frozen result first; what is left of the budget looks for something better. Returns
    the status of the run, "stopped" when the user has had enough, and what is shipped."""
    from headstart.improving import improve

    evaluation = ship(prepared, frozen, behind, settings, run, first=True)
    say(f"a model is ready: {headline(evaluation)}")
    learned, status = frozen, "done"
    try:
        with run.step("improve"):
            seen, learned = improve(prepared, frozen, behind, settings, run)
        if learned.verified.chosen != frozen.verified.chosen:
            ship(seen, learned, behind, settings, run)
            return status, seen, learned
    except (KeyboardInterrupt, SystemExit):
        say("stopped: the model that is ready is kept; --resume goes on with the training")
        learned, status = frozen, "stopped"
    except HeadstartError as error:  # a full disk, say, must not take the model that is ready
        reasons = (*frozen.plan.reasons, f"{error} The model that is ready is kept.")
        say(reasons[-1])
        learned = replace(frozen, plan=replace(frozen.plan, reasons=reasons))
    if len(prepared.split.test):
        ship(prepared, learned, behind, settings, run)
    else:  # every image was held out in turn already
        write_plan(prepared, learned, behind, settings, run)
    return status, prepared, learned


def ship(
    prepared: Prepared,
    learned: Learned,
    behind: Background,
    settings: FitSettings,
    run: Run,
    first: bool = False,
) -> Evaluation:
    """Evaluate, and write everything that was found out, and the model: all of it or nothing.

    Args:
        first: something better may follow, so the test part is not touched yet.
    """
    with run.together():
        write_plan(prepared, learned, behind, settings, run, tell=not first)
        with run.step("guard"):
            guarded = guard(prepared, learned, settings.seed)
        with run.step("evaluate"):
            evaluation = judge(prepared, learned, guarded, settings, run, first)
        head = learned.head
        if settings.refit_all and len(prepared.split.test):
            with run.step("refit"):
                head = refit(prepared, learned, settings.seed)
        with run.step("bundle"):
            bundle(prepared, learned, head, evaluation, guarded, run)
    return evaluation


def write_plan(
    prepared: Prepared,
    learned: Learned,
    behind: Background,
    settings: FitSettings,
    run: Run,
    tell: bool = True,
) -> None:
    """plan.json: what was decided and why; the reasons are told."""
    stored = results.plan_json(
        learned.plan,
        learned.measurement,
        prepared.views[learned.verified.chosen.view].graph,
        learned.verified.table,
        learned.verified,
        settings,
    )
    stored = results.with_background(stored, behind)
    run.write_json("plan.json", results.with_steps(stored, learned.steps))
    for line in (*stored["reasons"], *(f"warning: {w}" for w in learned.verified.warnings)):
        if tell:
            say(line)


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
        nested = not settings.retrains
        parts = split(dataset, findings, settings.seed, gate.ties, nested, demand=tell)
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
    """Look at every image in other ways too, as far as the budget goes and no frozen case is forced."""
    graph, dataset = prepared.graph, prepared.dataset
    if settings.case in (1, 2) or settings.cut is not None:
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
    few = [paths[i] for i in stratified(dev.labels[some], RESOLUTION_IMAGES, settings.seed)]
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
        else source_evidence(source, dev.labels[some], dev.folds[some], classes, dev.groups[some]),
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


def bundle(
    prepared: Prepared,
    learned: Learned,
    head: Head | MlpHead,
    evaluation: Evaluation,
    guarded: Guard,
    run: Run,
) -> dict[str, Any]:
    """Surgery and hand-over: the network that is left, the new head, and the proof that it works."""
    chosen, temperature = learned.verified.chosen, learned.temperature.value
    graph = prepared.views[chosen.view].graph
    description = describe(graph, chosen, prepared.dataset.classes, temperature)
    surgery = plan_surgery(
        graph.stages,
        chosen.strategy,
        chosen.cut or chosen.through,
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
    card = model_card(description, evaluation, learned.measurement)
    return write_bundle(
        run.model, graph, description, head, (pixels, expected), card, guarded.sets, guarded.unlike
    )


def problems(data: dict[str, Any]) -> bool:
    """Whether data.json holds anything that a person should act on."""
    serious = ("unreadable", "label_conflicts", "leaks", "shortcuts", "twin_classes", "refused")
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
