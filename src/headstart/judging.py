"""How good is it? Choose the images that may answer that, let the model answer, write what it scored.

A test part is looked at once, after every choice was made. Without one every image is held out in
turn; a network that was trained itself answers on the folds that verified it.

N images, C classes, R repeats.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart import results
from headstart.data.sources import Sample
from headstart.data.split import development_folds
from headstart.errors import DataError, HeadstartError, RunFolderError, show
from headstart.guarding import Guard, sets_json, unlike_json
from headstart.held_out import (
    HELD_OUT,
    LEARNED_FROM,
    count_test_use,
    held_out_csv,
    learned_from_json,
    several,
)
from headstart.judge.calibration import softmax
from headstart.judge.complete import ChosenOn, Parts, complete
from headstart.judge.complete import to_json as complete_json
from headstart.judge.driving import with_driving
from headstart.judge.evaluate import Evaluation, evaluate, over_repeats
from headstart.judge.grouped import cross_validated, widened
from headstart.judge.label_errors import Suggestion, suggest, suggestions_csv
from headstart.judge.learning_curve import curve_json, learning_curve
from headstart.judge.subgroups import SCORES
from headstart.judge.words import listed
from headstart.learning import Learned, Prepared, answer, learn, read, subset
from headstart.opening import say
from headstart.parting import compared_columns, held_out_sites, units
from headstart.plan.folds import VERIFYING
from headstart.plan.measure import Development
from headstart.plan.nested import REPEATS, NestedEstimate, nested_estimate, outer_folds
from headstart.run import Run, read_json
from headstart.settings import FitSettings, threads

CURVE_S = 10.0
"""nominal seconds that the learning curve may cost"""


@dataclass(frozen=True, slots=True)
class Answered:
    """Who was asked, and what was answered."""

    who: NDArray[np.int64]  # [N] among the samples
    groups: NDArray[np.int64]  # [N]
    probabilities: NDArray[np.float64]  # [R, N, C]
    protocol: str
    folds: NDArray[np.int64] | None
    """[N] of held-out answers; None: of a test part"""


def judge(
    prepared: Prepared,
    learned: Learned,
    guarded: Guard,
    settings: FitSettings,
    run: Run,
    first: bool = False,
) -> Evaluation:
    """Evaluate; writes evaluation.json, predictions.csv, mistakes.json, suggestions.csv,
    held_out.csv.

    Args:
        guarded: what goes out beside an answer; judged on the same images.
        first: something better may follow: the test part is left alone.
    """
    asked = _asked(prepared, learned, guarded, settings, run, first)
    dataset = prepared.dataset
    labels = np.array([dataset.samples[i].label for i in asked.who])
    evaluation = _scored(asked, labels, prepared, learned)
    stored = results.evaluation_json(evaluation)
    stored["cross_validated"] = asked.folds is not None
    stored |= _beyond_scores(prepared, learned, guarded, asked, labels, settings)
    before = np.array([_label_before(dataset.samples[i]) for i in asked.who])
    if (before != labels).any():
        stored["before_relabel"] = _before_relabel(
            _scored(asked, before, prepared, learned), evaluation, int((before != labels).sum())
        )
        say(stored["before_relabel"]["sentence"])
    stored |= _at_new_sites(prepared, learned, asked, settings, run, first)
    if not (first and len(prepared.split.test)):
        stored |= _what_more_would_bring(prepared, learned, settings)
    found = doubts(prepared, guarded, learned.verified.others)
    stored["suggestions"] = {"file": "suggestions.csv", "listed": len(found)}
    run.write_text("suggestions.csv", suggestions_csv(found))
    run.write_text(HELD_OUT, held_out_csv(prepared, guarded))
    run.write_json(LEARNED_FROM, learned_from_json(prepared, learned, settings.refit_all))
    run.write_json("evaluation.json", stored)
    paths = [dataset.samples[i].path for i in asked.who]
    answers = asked.probabilities[0]
    run.write_text(
        "predictions.csv", results.predictions_csv(paths, labels, answers, dataset.classes)
    )
    files = [dataset.locate(dataset.samples[i]) for i in asked.who]
    run.write_json(
        "mistakes.json", results.mistakes(files, paths, labels, answers, dataset.classes)
    )
    return evaluation


def _scored(
    asked: Answered, labels: NDArray[np.int64], prepared: Prepared, learned: Learned
) -> Evaluation:
    """The scores of what was answered against these labels [N]."""
    classes = prepared.dataset.classes
    scored = [
        evaluate(p, labels, classes, asked.protocol, learned.temperature)
        for p in asked.probabilities
    ]
    evaluation = over_repeats(
        [
            widened(with_driving(found, prepared.criterion, p, labels), p, labels, asked.groups)
            for found, p in zip(scored, asked.probabilities, strict=True)
        ]
    )
    return evaluation if asked.folds is None else cross_validated(evaluation)


def _label_before(sample: Sample) -> int:
    return sample.label if sample.was is None else sample.was


def _before_relabel(before: Evaluation, after: Evaluation, changed: int) -> dict[str, Any]:
    """The scores of the same answers against the labels as they were."""
    sentence = (
        f"Labels of {changed:,} of the {after.n:,} images that judge it were corrected: "
        f"{headline(before)} before, {headline(after)} with the corrected labels. A model that "
        "proposed the corrections gains by them, so the two are not scores of one test."
    )
    metrics = results.evaluation_json(before)["metrics"]
    return {"changed": changed, "metrics": metrics, "sentence": sentence}


def _at_new_sites(
    prepared: Prepared,
    learned: Learned,
    asked: Answered,
    settings: FitSettings,
    run: Run,
    first: bool,
) -> dict[str, Any]:
    """How good the model is where none of its images are from; {} without few groups."""
    before = None
    with contextlib.suppress(RunFolderError):  # a first look at this run
        before = read_json(run.path("evaluation.json")).get("sites")
    found = held_out_sites(
        prepared,
        learned,
        (asked.who, asked.probabilities[0]),
        _telling(prepared),
        settings.seed,
        first,
        before,
    )
    return {} if found is None else {"sites": found}


def _telling(prepared: Prepared) -> str:
    """The score that names the worst part: what drives every choice, or accuracy."""
    name = prepared.criterion.name
    return name if name in SCORES else "accuracy"


def _what_more_would_bring(
    prepared: Prepared, learned: Learned, settings: FitSettings
) -> dict[str, Any]:
    """The learning curve of a linear head on a frozen network, when there are minutes for it."""
    chosen, dev = learned.verified.chosen, prepared.development
    if settings.budget_min == 0 or learned.held_out is not None or chosen.hidden:
        return {}
    curve = learning_curve(
        np.asarray(read(prepared, chosen, dev.rows), dtype=np.float32),
        dev.labels,
        dev.groups,
        prepared.criterion,
        learned.verified.trial.strength,
        settings.seed,
        CURVE_S,
        threads(),
    )
    return {"learning_curve": curve_json(curve)}


def doubts(
    prepared: Prepared, guarded: Guard, others: Sequence[NDArray[np.float64]] = ()
) -> tuple[Suggestion, ...]:
    """The images to learn from whose label, or which themselves, a person should look at.

    Args:
        others: held-out logits [N, C] of further candidates: where none of them gives an image its
            label, that is said.
    """
    held, dataset = guarded.held, prepared.dataset
    who = prepared.split.train[held.positions]
    paths = [dataset.samples[i].path for i in who]
    asked = [held.probabilities, *(softmax(one[held.positions], 1.0) for one in others)]
    return suggest(paths, held.labels, dataset.classes, np.stack(asked), guarded.strange)


def _beyond_scores(
    prepared: Prepared,
    learned: Learned,
    guarded: Guard,
    asked: Answered,
    labels: NDArray[np.int64],
    settings: FitSettings,
) -> dict[str, Any]:
    """Curves, operating points, prediction sets, false alarms: what evaluation.json holds besides."""
    held, answers, classes = guarded.held, asked.probabilities[0], prepared.dataset.classes
    tested = asked.folds is None
    columns, notes = compared_columns(prepared.dataset, asked.who, settings.by)
    found = complete(
        answers,
        labels,
        classes,
        several(asked.groups),
        ChosenOn(held.probabilities, held.labels, several(held.groups)) if tested else None,
        settings.prevalence,
        Parts(columns, units(prepared, asked.who), _telling(prepared)),
    )
    found = replace(found, notes=(*found.notes, *notes))
    features = None
    if tested and guarded.unlike is not None:
        features = np.asarray(read(prepared, learned.verified.chosen, prepared.test_rows))
    return {
        **complete_json(found),
        "sets": sets_json(guarded, answers, labels, asked.groups, asked.folds, classes),
        "unlike": unlike_json(guarded, features, asked.groups),
    }


def _asked(
    prepared: Prepared,
    learned: Learned,
    guarded: Guard,
    settings: FitSettings,
    run: Run,
    first: bool,
) -> Answered:
    parts = prepared.split
    if len(parts.test) and not first:
        infos = [prepared.findings.infos[i] for i in parts.test]
        with contextlib.suppress(HeadstartError):  # an unwritable cache costs only the count
            times = count_test_use([info.content_hash for info in infos if info is not None])
            run.note("test_set_scored", times)
        how_often = "again" if run.look_at_test() else "once"
        protocol = f"{parts.protocol}; scored {how_often} in this run, after every choice was made"
        answers = answer(prepared, learned, prepared.test_rows)[None]
        return Answered(parts.test, parts.test_group, answers, protocol, None)
    if len(parts.test):
        looked = (
            "was scored before this run was stopped" if run.looked_at_test else "is still unseen"
        )
        protocol = (
            "cross-validation of the frozen candidate on the images to learn from, selection not "
            f"nested; the test part {looked}"
        )
        return _of_held_out(prepared, guarded, protocol)
    if learned.held_out is not None:
        share = len(learned.held_out.positions) / len(parts.train)
        again = learned.steps is None or learned.steps.refit
        judged_on = np.unique(prepared.development.folds[learned.held_out.positions])
        others = "the others" if len(judged_on) == 1 else "all but one of the folds that judge it"
        protocol = (
            f"{VERIFYING}: {share:.0%} of the images were held out while the network was trained; "
            "selection not nested, so by the luck of the choice a little too good; the model itself "
            f"learned from {'all images' if again else others}"
        )
        return _of_held_out(prepared, guarded, protocol)
    nested, within = estimate(prepared, settings)
    run.write_json("nested.json", results.nested_json(nested, learned.verified))
    drawn = f"{nested.folds} folds, drawn {len(nested.probabilities)} times"
    if parts.sites:
        drawn = (
            f"every {show(prepared.dataset.group_name)} was held out in turn, {nested.folds} in all"
        )
    protocol = (
        f"{parts.protocol}: {drawn}; every choice was made again without the images that were held "
        "out; the model itself learned from all of them, and is on average a little better than this"
    )
    if within:
        protocol += f"; without {listed(list(map(show, within)))}, what was left made its choices within itself"
    folds = prepared.development.folds
    return Answered(parts.train, parts.group, nested.probabilities, protocol, folds)


def _of_held_out(prepared: Prepared, guarded: Guard, protocol: str) -> Answered:
    held = guarded.held
    who = prepared.split.train[held.positions]
    return Answered(who, held.groups, held.probabilities[None], protocol, held.folds)


def headline(evaluation: Evaluation) -> str:
    """The first score with its interval, in a few words."""
    first = evaluation.metrics[0]
    if first.value is None or first.low is None or first.high is None:
        return first.name
    name = first.name.replace("_", " ")
    return f"{name} {first.value:.1%} [{first.low:.1%}, {first.high:.1%}]"


Answer = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def estimate(prepared: Prepared, settings: FitSettings) -> tuple[NestedEstimate, list[str]]:
    """Hold every image out in turn, with the whole selection done again on the others.

    Where the images come from a few sites, every site in turn. Its choices are made on folds of whole
    sites too; where the others are too few for that, within them, and the names of the sites that were
    held out then are returned.
    """
    dev, parts = prepared.development, prepared.split
    ties, within = parts.tie if parts.sites else None, set[int]()
    if parts.sites:
        number = {name: k for k, name in enumerate(parts.sites)}
        groups = [prepared.dataset.samples[i].group for i in parts.train]
        draws = [np.array([number[str(name)] for name in groups])]
        say(f"estimating: every {show(prepared.dataset.group_name)} is held out in turn")
    else:
        folds = outer_folds(len(dev.labels))
        draws = [
            development_folds(dev.labels, dev.groups, folds, settings.seed + 101 * (r + 1))
            for r in range(REPEATS)
        ]
        folds = int(draws[0].max()) + 1  # fewer when there are fewer groups
        say(f"estimating: every image is held out in turn, {REPEATS} times in {folds} folds")

    def learn_without(positions: NDArray[np.int64]) -> tuple[str, Answer]:
        part, alone = _to_learn_from(dev, positions, settings.seed, ties)
        if alone:
            within.update(np.setdiff1d(draws[0], draws[0][positions]).tolist())
        learned = learn(prepared, part, settings, workers=1)
        return learned.verified.chosen.name, lambda held: answer(prepared, learned, dev.rows[held])

    found = nested_estimate(draws, len(dev.classes), learn_without, threads(), ties)
    return found, [parts.sites[k] for k in sorted(within)]


def _to_learn_from(
    dev: Development, positions: NDArray[np.int64], seed: int, ties: NDArray[np.int64] | None
) -> tuple[Development, bool]:
    """Some of the images with folds of their own, and whether these had to part single sites."""
    try:
        return subset(dev, positions, seed), False
    except DataError:
        if ties is None:
            raise
        return subset(replace(dev, groups=ties), positions, seed), True
