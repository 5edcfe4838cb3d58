"""Train the network itself when it is forced, or when it is worth it and fits the time.

Left alone, the frozen result is ready first. Then the minutes that are left become a plan of steps,
every way to train is verified on folds that it did not learn from, and only what is measurably
better than the frozen result takes its place.

n images of the verifying folds, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headstart.budgeting import plan_training
from headstart.errors import TrainingError
from headstart.judge.calibration import fit_temperature
from headstart.learning import Learned, Prepared
from headstart.opening import say
from headstart.plan.background import Background
from headstart.plan.criterion import (
    Value,
    difference,
    evaluate,
    halves,
    log_softmax,
    mean_value,
    overlap,
)
from headstart.plan.decide import CASE_OF, Candidate
from headstart.plan.steps import Steps
from headstart.plan.verify import LEAST_GAIN, RARE, Scored, Trial, digits
from headstart.retraining import (
    TUNED,
    Inner,
    adopt,
    forced_steps,
    held_out,
    other_rates,
    train_winner,
    training_json,
    verify_all,
)
from headstart.run import Run
from headstart.settings import FitSettings
from headstart.suiting import choose_augmentations
from headstart.train.head import TEMPERATURES, cross_entropy
from headstart.training import Start, prepare_training, training_folder

Float = NDArray[np.float64]


def retrain(
    prepared: Prepared, frozen: Learned, settings: FitSettings, run: Run
) -> tuple[Prepared, Learned]:
    """Train what the forced case names, to the letter.

    Args:
        frozen: the best frozen candidate, ready: what the result is compared with.

    Returns:
        everything as before, with the tuned network as a further view, and what was learned.

    Raises:
        TrainingError: training diverged at every rate that was tried. InternalError: a frozen tensor
            has changed.
    """
    view = frozen.verified.chosen.view
    start = _suited(prepare_training(prepared, settings, training_folder(run), view=view))
    starts = {start.graph.preprocess.size_px: start}
    steps = forced_steps(start)
    inner: list[Inner] = []
    failed: TrainingError | None = None
    try:
        inner = verify_all(steps, starts)
    except TrainingError as error:
        failed = error
    others = other_rates(steps)
    if others.planned and not any(compared(one, frozen, prepared)[0] >= 0 for one in inner):
        say("nothing that was trained reaches the frozen network: other rates are tried")
        with contextlib.suppress(TrainingError):  # then there is what the first rates have brought
            inner += verify_all(others, starts)
    if failed is not None and not inner:
        raise failed
    best = max(inner, key=lambda one: one.adjusted.score.value)
    against_frozen = [compared(one, frozen, prepared) for one in inner]
    again, learned = _adopted(best, inner, steps, starts, frozen, run)
    gain = against_frozen[inner.index(best)][0]
    warnings = learned.verified.warnings
    if gain < 0:
        by, unit = prepared.criterion.unit
        warnings = (
            *warnings,
            f"{frozen.plan.forced}: on the held-out fold {best.way.name} is "
            f"{-gain * by:.{digits(by)}f} {unit} below {frozen.verified.chosen.name}; it is shipped "
            "because it was asked for.",
        )
    verified = replace(
        learned.verified,
        sentences=(*learned.verified.sentences, *(sentence for _, _, sentence in against_frozen)),
        warnings=warnings,
    )
    return again, replace(learned, verified=verified)


def improve(
    prepared: Prepared, frozen: Learned, behind: Background, settings: FitSettings, run: Run
) -> tuple[Prepared, Learned]:
    """Use what is left of the budget to look for something better than the frozen result.

    Returns:
        the frozen result with what was tried beside it, or the tuned network that has replaced it.

    Raises:
        KeyboardInterrupt, SystemExit: asked to stop; what was trained so far is kept.
    """
    worth, steps = plan_training(prepared, frozen, behind, settings, run)
    idle = steps is None or not steps.planned
    reason = (
        "The network is not trained: the budget is too short." if idle and steps else worth.reason
    )
    frozen = _told(frozen, [reason] if reason else [], steps)
    if steps is None or not steps.planned:
        return prepared, frozen
    names = ", ".join(one.way.name for one in steps.planned)
    say(f"trying {names}: about {steps.seconds / 60:.1f} min; Ctrl-C keeps the model that is ready")
    folder = training_folder(run)
    starts: dict[int, Start] = {}
    for size in sorted({one.way.size_px for one in steps.planned}):
        start = prepare_training(prepared, settings, folder, size, frozen.verified.chosen.view)
        before = next(iter(starts.values()), None)
        starts[size] = _suited(start) if before is None else replace(start, suited=before.suited)
    try:
        inner = verify_all(steps, starts)
    except TrainingError as error:
        return prepared, _told(frozen, [f"{error} The frozen result stays."], steps)
    best, sentences = _choose(inner, frozen, prepared)
    for sentence in sentences:
        say(sentence)
    if best is None:
        some = starts[inner[0].way.size_px]
        run.write_json("training.json", training_json(some, inner, None, None))
        rows = (*frozen.verified.table, *_rows(inner, prepared))
        said = (*frozen.verified.sentences, *sentences)
        return prepared, replace(
            frozen, verified=replace(frozen.verified, table=rows, sentences=said)
        )
    try:
        again, learned = _adopted(best, inner, steps, starts, frozen, run)
    except TrainingError as error:  # from all images, although it had not without the fold
        return prepared, _told(frozen, [f"{error} The frozen result stays."], steps)
    said = (*learned.verified.sentences, *sentences)
    return again, replace(learned, verified=replace(learned.verified, sentences=said))


# -- the choice ----------------------------------------------------------------------------------


def _choose(
    inner: list[Inner], frozen: Learned, prepared: Prepared
) -> tuple[Inner | None, list[str]]:
    """The cheaper strategy stays unless the costlier one is measurably better."""
    best, sentences = None, []
    for one in inner:
        wins, sentence = against(one, best, frozen, prepared)
        sentences.append(sentence)
        best = one if wins else best
    return best, sentences


def against(
    one: Inner, best: Inner | None, frozen: Learned, prepared: Prepared
) -> tuple[bool, str]:
    """Whether a way takes the place of the best so far, the frozen result at first."""
    if best is None:
        gain, se, sentence = compared(one, frozen, prepared)
        base = _frozen_logits(frozen, one.positions)
        name = frozen.verified.chosen.name
    else:
        base, name = best.answers, best.way.name
        gain, se, sentence = _difference(one, base, name, prepared)
    eased, eased_se = _eased(one, base, prepared)
    wins = gain > max(se, LEAST_GAIN) or (eased > 2 * eased_se and gain >= -se)
    rule = "it takes over" if wins else f"not measurably better: {name} stays"
    return (
        wins,
        f"{sentence.removesuffix('.')}, log loss {-eased:+.3f} (standard error {eased_se:.3f}): {rule}.",
    )


def compared(one: Inner, frozen: Learned, prepared: Prepared) -> tuple[float, float, str]:
    """Gain over the frozen result on the same held-out images, its standard error, a sentence."""
    base = _frozen_logits(frozen, one.positions)
    return _difference(one, base, frozen.verified.chosen.name, prepared)


def _frozen_logits(frozen: Learned, positions: NDArray[np.int64]) -> Float:
    trial = frozen.verified.trial
    return trial.answers[positions]


def _difference(one: Inner, base: Float, name: str, prepared: Prepared) -> tuple[float, float, str]:
    dev, criterion = prepared.development, prepared.criterion
    truth, groups = dev.labels[one.positions], dev.groups[one.positions]
    before = evaluate(criterion, log_softmax(base), truth)
    gain, se = difference(one.adjusted.score, before, groups)
    se *= _inflation(one, prepared)
    by, unit = criterion.unit
    return (
        gain,
        se,
        f"{one.way.name} against {name} on the {len(truth):,} images that it had not seen: "
        f"{gain * by:+.{digits(by)}f} {unit} (standard error {se * by:.{digits(by)}f}).",
    )


def _inflation(one: Inner, prepared: Prepared) -> float:
    folds = prepared.development.folds
    return overlap(len(np.unique(folds[one.positions])), int(folds.max()) + 1)


def _eased(one: Inner, base: Float, prepared: Prepared) -> tuple[float, float]:
    """How much lower the log loss is, both at their best temperature, and its standard error."""
    dev = prepared.development
    truth, groups = dev.labels[one.positions], dev.groups[one.positions]
    before, after = (_tempered(logits, truth, groups) for logits in (base, one.answers))
    lighter: Value = mean_value(prepared.criterion, before - after, truth)
    return lighter.value, lighter.se(groups) * _inflation(one, prepared)


def _tempered(logits: Float, truth: NDArray[np.int64], groups: NDArray[np.int64]) -> Float:
    """Cross-entropy [n] of logits [n, C], each half at the temperature that suits the other half best:
    what temperature would mend afterwards must not count, nor be mended with the image's own label."""
    half = halves(groups)
    losses = np.empty(len(truth))
    for side in (0, 1):
        mine, others = half == side, half != side
        basis = others if others.any() else mine
        at = min(TEMPERATURES, key=lambda t: cross_entropy(logits[basis] / t, truth[basis]).mean())
        losses[mine] = cross_entropy(logits[mine] / at, truth[mine])
    return losses


# -- the result ----------------------------------------------------------------------------------


def _adopted(
    best: Inner,
    inner: list[Inner],
    steps: Steps,
    starts: Mapping[int, Start],
    frozen: Learned,
    run: Run,
) -> tuple[Prepared, Learned]:
    """The winner trained, exported and looked through; the words of the rest of the job for it."""
    start = starts[best.way.size_px]
    prepared = start.prepared
    tuned = train_winner(best, start, steps.refit)
    run.write_json("training.json", training_json(start, inner, best, tuned, steps.refit))
    again, head = adopt(best, tuned, start)
    truth = prepared.development.labels[best.positions]
    groups = prepared.development.groups[best.positions]
    rows = _rows(inner, prepared)
    said = [sentence for sentence in frozen.verified.sentences if sentence != RARE]
    verified = replace(
        frozen.verified,
        sentences=(*said, *([RARE] if best.adjusted.shift.any() else [])),
        chosen=rows[inner.index(best)].candidate,
        trial=Trial(
            best.adjusted.score,
            best.train_score,
            cross_entropy(best.logits, truth),
            best.logits,
            0.0,
            best.adjusted.shift,
            best.seconds,
        ),
        table=(*frozen.verified.table, *rows),
    )
    held = held_out(best)
    return again, replace(
        frozen,
        verified=verified,
        head=head,
        # As for a frozen head: what is taken off for rare classes is no lack of confidence.
        temperature=fit_temperature(best.logits, truth, halves(groups), groups),
        held_out=held,
    )


def _rows(inner: list[Inner], prepared: Prepared) -> list[Scored]:
    """The ways that were trained, as rows of the table of candidates."""
    folds = prepared.development.folds
    rows = []
    for one in inner:
        way, used = one.way, len(np.unique(folds[one.positions]))
        candidate = Candidate(
            way.name,
            way.strategy,
            None,
            CASE_OF.get(way.strategy),
            view=TUNED,
            through=way.through,
        )
        groups = prepared.development.groups[one.positions]
        score = one.adjusted.score
        rate = "" if way.rate is None else f", rate {way.rate:g}"
        seen = f"{way.size_px} px{rate}, {len(one.positions):,} images held out"
        method = f"trained {used} x at {seen}"
        rows.append(
            Scored(candidate, score.value, score.se(groups), one.train_score, one.seconds, method)
        )
    return rows


def _told(frozen: Learned, sentences: list[str], steps: Steps | None) -> Learned:
    """The frozen result with more to say."""
    left_out = steps.left_out if steps is not None else ()
    new = tuple(s for s in (*sentences, *left_out) if s not in frozen.plan.reasons)
    plan = replace(frozen.plan, reasons=(*frozen.plan.reasons, *new))
    return replace(frozen, plan=plan, steps=steps)


def _suited(start: Start) -> Start:
    return replace(start, suited=choose_augmentations(start))
