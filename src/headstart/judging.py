"""How good is it? Choose the images that may answer that, let the model answer, write what it scored.

A test part is looked at once, after every choice was made. Without one every image is held out in
turn; a network that was trained itself answers on the folds that verified it.

N images, C classes, R repeats.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart import results
from headstart.data.split import development_folds
from headstart.errors import HeadstartError
from headstart.judge.calibration import softmax
from headstart.judge.driving import with_driving
from headstart.judge.evaluate import Evaluation, evaluate, over_repeats
from headstart.judge.grouped import cross_validated, widened
from headstart.learning import HeldOut, Learned, Prepared, answer, learn, subset
from headstart.opening import say
from headstart.plan.nested import REPEATS, NestedEstimate, nested_estimate, outer_folds
from headstart.run import Run, count_test_use
from headstart.settings import FitSettings, threads


@dataclass(frozen=True, slots=True)
class Answered:
    """Who was asked, and what was answered."""

    who: NDArray[np.int64]  # [N] among the samples
    groups: NDArray[np.int64]  # [N]
    probabilities: NDArray[np.float64]  # [R, N, C]
    protocol: str
    cross_validated: bool


def judge(
    prepared: Prepared, learned: Learned, settings: FitSettings, run: Run, first: bool = False
) -> Evaluation:
    """Evaluate; writes evaluation.json, predictions.csv, mistakes.json.

    Args:
        first: something better may follow: the test part is left alone.
    """
    asked = _asked(prepared, learned, settings, run, first)
    dataset = prepared.dataset
    labels = np.array([dataset.samples[i].label for i in asked.who])
    scored = [
        evaluate(p, labels, dataset.classes, asked.protocol, learned.temperature)
        for p in asked.probabilities
    ]
    evaluation = over_repeats(
        [
            widened(with_driving(found, prepared.criterion, p, labels), p, labels, asked.groups)
            for found, p in zip(scored, asked.probabilities, strict=True)
        ]
    )
    evaluation = cross_validated(evaluation) if asked.cross_validated else evaluation
    run.write_json("evaluation.json", results.evaluation_json(evaluation))
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


def _asked(
    prepared: Prepared, learned: Learned, settings: FitSettings, run: Run, first: bool
) -> Answered:
    parts = prepared.split
    if len(parts.test) and not first:
        infos = [prepared.findings.infos[i] for i in parts.test]
        with contextlib.suppress(HeadstartError):  # an unwritable cache costs only the count
            times = count_test_use([info.content_hash for info in infos if info is not None])
            run.note("test_set_scored", times)
        protocol = f"{parts.protocol}; scored once in this run, after every choice was made"
        answers = answer(prepared, learned, prepared.test_rows)[None]
        return Answered(parts.test, parts.test_group, answers, protocol, False)
    if len(parts.test):
        trial = learned.verified.trial
        everything = HeldOut(np.arange(len(parts.train)), trial.logits - trial.shift)
        protocol = (
            "cross-validation of the frozen candidate on the images to learn from, selection not "
            "nested; the test part has not been looked at yet"
        )
        return _of_held_out(prepared, learned, everything, protocol)
    if learned.held_out is not None:
        share = len(learned.held_out.positions) / len(parts.train)
        protocol = (
            f"verifying folds: {share:.0%} of the images were held out while the network was trained; "
            "selection not nested, so by the luck of the choice a little too good; the model itself "
            "learned from all images"
        )
        return _of_held_out(prepared, learned, learned.held_out, protocol)
    nested = estimate(prepared, settings)
    run.write_json("nested.json", results.nested_json(nested, learned.verified))
    protocol = (
        f"{parts.protocol}: {nested.folds} folds, drawn {len(nested.probabilities)} times; every "
        "choice was made again without the images that were held out; the model itself learned from "
        "all of them, and is on average a little better than this"
    )
    return Answered(parts.train, parts.group, nested.probabilities, protocol, True)


def _of_held_out(prepared: Prepared, learned: Learned, held: HeldOut, protocol: str) -> Answered:
    parts = prepared.split
    answers = softmax(held.logits, learned.temperature.value)[None]
    return Answered(
        parts.train[held.positions], parts.group[held.positions], answers, protocol, True
    )


def headline(evaluation: Evaluation) -> str:
    """The first score with its interval, in a few words."""
    first = evaluation.metrics[0]
    if first.value is None or first.low is None or first.high is None:
        return first.name
    name = first.name.replace("_", " ")
    return f"{name} {first.value:.1%} [{first.low:.1%}, {first.high:.1%}]"


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
