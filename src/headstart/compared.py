"""What a comparison stores and says: the table, which differences are real, what pre-training saves.

n held-out images, C classes, J verifying folds of K.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import show
from headstart.judge.calibration import fit_temperature, softmax
from headstart.judge.driving import with_driving
from headstart.judge.evaluate import evaluate as judge_all
from headstart.judge.grouped import widened
from headstart.judge.words import counted
from headstart.learning import Prepared
from headstart.plan.compare import (
    careful_se,
    compare_pairs,
    images_needed,
    prefer,
    reached,
    saved_images,
    students,
)
from headstart.plan.criterion import (
    Criterion,
    Value,
    chance,
    evaluate,
    halves,
    log_softmax,
    overlap,
)
from headstart.plan.decide import CASE_OF, Strategy
from headstart.plan.folds import LEAST_GROUPS
from headstart.run import csv_text
from headstart.ship.chart_parts import is_share
from headstart.train.adjust import adjust

Float = NDArray[np.float64]
Int = NDArray[np.int64]

SIMPLEST: tuple[Strategy, ...] = (
    "head_cut", "head_top", "all_stages", "partial", "finetune", "scratch",
)  # fmt: skip
"""for the one-standard-error rule: less network first, then fewer weights that learn"""
COLUMNS = (
    "name", "strategy", "case", "cut", "size_px", "n", "score", "low", "high", "train_score", "gap",
    "seconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tried:
    """One strategy, judged on images that it did not learn from."""

    name: str
    strategy: Strategy
    cut: str | None
    size_px: int
    logits: Float  # [n, C] as they are scored
    train_score: float
    seconds: float
    """to make it once, from images to a classifier"""
    epochs: tuple[dict[str, Any], ...] = ()
    start_score: float | None = None
    """of what training began with, on the first fold"""
    start_s: float = 0.0
    """seconds until it could begin"""
    steps_per_epoch: int = 0

    @property
    def case(self) -> int | None:
        """1 to 4 when it is one of the four cases to the letter."""
        return CASE_OF.get(self.strategy)


def ready(prepared: Prepared, positions: Int, logits: Float, shifted: bool) -> Float:
    """Held-out logits [n, C] as they are scored: rare classes get their say, and for the log loss all
    strategies their best temperature; each half of the images by what the other half prefers.

    Args:
        shifted: the shift for rare classes has been taken off already.
    """
    criterion, dev = prepared.criterion, prepared.development
    truth, groups = dev.labels[positions], dev.groups[positions]
    cools = criterion.kind == "log_loss"
    shifts = criterion.kind == "balanced_accuracy" and not shifted
    if not cools and not shifts:
        return logits
    half = halves(groups)
    found = np.empty_like(logits)
    for side in (0, 1):
        other = half != side
        if len(np.unique(truth[other])) < 2:
            other = np.ones(len(truth), bool)
        if cools:
            alike = groups[other]
            at = fit_temperature(logits[other], truth[other], halves(alike), alike).value
            found[half == side] = logits[half == side] / at
        else:
            shift = adjust(criterion, logits[other], truth[other], groups[other]).shift
            found[half == side] = logits[half == side] - shift
    return found


def score_of(prepared: Prepared, positions: Int, logits: Float) -> Value:
    """The criterion of held-out logits [n, C]."""
    return evaluate(prepared.criterion, log_softmax(logits), prepared.development.labels[positions])


def images_learned(prepared: Prepared, held: Int, folds: int) -> int:
    """Images that a strategy learned from, on average over the verifying folds."""
    return len(prepared.development.labels) - round(len(held) / folds)


def compare_json(
    prepared: Prepared, held: Int, tried: Sequence[Tried], folds: Sequence[int], seed: int
) -> dict[str, Any]:
    """compare.json, without what pre-training saves."""
    dev, criterion = prepared.development, prepared.criterion
    groups, count = dev.groups[held], int(dev.folds.max()) + 1
    values = {one.name: score_of(prepared, held, one.logits) for one in tried}
    # Another draw of training images would make other classifiers.
    wider_by = overlap(len(folds), count)
    pairs = compare_pairs(values, groups, wider_by, seed)
    simple = sorted(tried, key=lambda one: SIMPLEST.index(one.strategy))
    preferred, preference = prefer({one.name: values[one.name] for one in simple}, groups, wider_by)
    learn = images_learned(prepared, held, len(folds))
    sentence = pairs.sentence
    if len(folds) < count and not any(pair.real for pair in pairs.pairs):
        times = f"about {count / len(folds):.2g} times as long"
        sentence += f" --folds {count} judges on all {len(dev.labels):,} images, and takes {times}."
    fold_words = f"{len(folds)} of {count} folds" if len(folds) > 1 else f"1 fold of {count}"
    # The first fold takes no part in that test.
    tested = ", and which variations suit was tested on some of them" if len(folds) > 1 else ""
    notes = [
        f"Judged on {fold_words}: {len(held):,} images, the same for every strategy, and no strategy "
        f"learned from them. Learned from {learn:,} images.",
        "Frozen strategies chose everything without those images. Trained ones chose the mixture "
        f"with their start on them, for each half of the images by the other half{tested}.",
        "The interval beside a score is for new images. The differences are stricter: they hold for "
        f"all pairs at once and are {wider_by:.2f} times as wide, since another draw of training "
        "images would have made other classifiers.",
        "Seconds are those of one pass over the training images, where one is needed, and of the "
        "training, with the search of its penalty; measured on this machine.",
    ]
    sizes = {one.size_px for one in tried}
    if len(sizes) > 1:
        notes.append(
            f"Not all strategies look at images of one size ({', '.join(map(str, sorted(sizes)))} px): "
            "each is done as fit does it. --size makes them equal."
        )
    return {
        "metric": criterion.name,
        "folds": len(folds),
        "images": {"learn": learn, "held_out": len(held)},
        "rows": [_row(prepared, held, one, values[one.name]) for one in tried],
        "pairs": [asdict(pair) for pair in pairs.pairs],
        "critical": round(pairs.critical, 4),
        "wider_by": round(wider_by, 4),
        "sentence": sentence,
        "preferred": preferred,
        "preference": preference,
        "histories": [
            {
                "name": one.name,
                "strategy": one.strategy,
                "start_score": one.start_score,
                "start_s": round(one.start_s, 3),
                "steps_per_epoch": one.steps_per_epoch,
                "epochs": list(one.epochs),
            }
            for one in tried
            if one.epochs
        ],
        "notes": notes,
    }


def _row(prepared: Prepared, held: Int, one: Tried, value: Value) -> dict[str, Any]:
    """One line of the table; a log loss is stored negated, so that more is better."""
    low, high, method = _interval(prepared, held, one.logits)
    return {
        "name": one.name,
        "strategy": one.strategy,
        "case": one.case,
        "cut": one.cut,
        "size_px": one.size_px,
        "n": len(held),
        "score": round(value.value, 6),
        "low": low,
        "high": high,
        "method": method,
        "train_score": round(one.train_score, 6),
        "gap": round(one.train_score - value.value, 6),
        "seconds": round(one.seconds, 3),
        "epochs": len(one.epochs) or None,
    }


def _interval(
    prepared: Prepared, held: Int, logits: Float
) -> tuple[float | None, float | None, str]:
    """95 % interval of one score, as an evaluation has it."""
    dev, criterion = prepared.development, prepared.criterion
    truth, p = dev.labels[held], softmax(logits)
    found = with_driving(judge_all(p, truth, dev.classes, "held out"), criterion, p, truth)
    found = widened(found, p, truth, dev.groups[held])
    metric = next(m for m in found.metrics if m.name == criterion.name)
    if metric.low is None or metric.high is None:
        return None, None, metric.method
    ends = (metric.low, metric.high)
    if criterion.kind == "log_loss":
        ends = (-metric.high, -metric.low)
    return round(ends[0], 6), round(ends[1], 6), metric.method


# -- what pre-training saves ---------------------------------------------------------------------


def head_start(
    prepared: Prepared,
    positions: Int,
    tried: Sequence[Tried],
    curves: Mapping[str, Sequence[tuple[int, Value]]],
    folds: int,
    seed: int,
) -> dict[str, Any]:
    """Images, steps and seconds that pre-training saves against random weights.

    Args:
        positions: of the held-out images.
        curves: scores of frozen strategies there, by the number of images learned from.
        folds: that the images are of; steps and seconds are those of the first.
    """
    criterion, groups = prepared.criterion, prepared.development.groups[positions]
    scratch = next((one for one in tried if one.strategy == "scratch"), None)
    tuned = next((one for one in tried if one.strategy == "finetune"), None)
    target = None if scratch is None else score_of(prepared, positions, scratch.logits)
    guessed = chance(criterion, prepared.development.labels[positions])
    draws = len(np.unique(groups))
    shown = draws >= LEAST_GROUPS
    sure = students(2.0, draws)
    learned = target is not None and target.value - sure * careful_se(target, groups) > guessed
    rows = []
    for name, curve in curves.items():
        sizes, values = [n for n, _ in curve], [value for _, value in curve]
        row: dict[str, Any] = {
            "name": name,
            "points": [
                {
                    "n": n,
                    "score": round(v.value, 6),
                    "se": round(careful_se(v, groups), 6) if shown else None,
                }
                for n, v in curve
            ],
        }
        if target is not None:
            needed = images_needed(sizes, values, target, groups, seed)
            row["needed"] = asdict(needed)
            if not shown:
                row["sentence"] = (
                    f"{name}: no saving can be told, for held-out images of "
                    f"{counted(draws, 'group')} do not show what others would."
                )
            elif not learned:
                row["sentence"] = (
                    f"{name}: no saving can be told, for in this schedule random weights learned "
                    "nothing that can be told from guessing."
                )
            else:
                row["sentence"] = saved_images(name, sizes, needed)
        rows.append(row)
    steps = None if scratch is None or tuned is None else _steps(criterion, tuned, scratch, folds)
    return {
        "images_held_out": len(positions),
        "scratch_score": None if target is None else round(target.value, 6),
        "curves": rows,
        "steps": steps,
    }


def _steps(criterion: Criterion, tuned: Tried, scratch: Tried, folds: int) -> dict[str, Any] | None:
    """When random weights come up to the score from which pre-trained ones start, on the first fold."""
    target = tuned.start_score
    scores = [row["score"] for row in scratch.epochs]
    known = [score for score in scores if score is not None]
    if target is None or not known:
        return None
    seconds = [row["seconds"] for row in scratch.epochs]
    found = reached(scores, seconds, scratch.steps_per_epoch, target)
    where = f"On the first of the {folds} folds: before" if folds > 1 else "Before"
    opening = (
        f"{where} its first step the pre-trained network, under a new head, stands at "
        f"{told(target, criterion.name)} after {_time(tuned.start_s)}"
    )
    if found is None:
        steps = len(scores) * scratch.steps_per_epoch
        words = (
            f"random weights never get there in this schedule ({counted(len(scores), 'epoch')}, {counted(steps, 'step')}, "
            f"{_time(sum(seconds))}; best {told(max(known), criterion.name)})"
        )
    else:
        words = (
            f"random weights get there after {counted(found.epoch, 'epoch')}, "
            f"{counted(found.steps, 'step')} and {_time(found.seconds)}"
        )
    return {
        "target": round(target, 6),
        "start_s": round(tuned.start_s, 3),
        "reached": None if found is None else asdict(found),
        "sentence": f"{opening}; {words}.",
    }


def _time(seconds: float) -> str:
    """
    >>> _time(4.2), _time(300.0)
    ('4.2 s', '5.0 min')
    """
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


# -- for people and programs ---------------------------------------------------------------------


def told(score: float | None, metric: str) -> str:
    """A score for people.

    >>> told(0.9131, "accuracy"), told(-0.25, "log_loss"), told(None, "auc")
    ('91.3%', '0.250', '-')
    """
    if score is None:
        return "-"
    return f"{score:.1%}" if is_share(metric) else f"{abs(score):.3f}"


def compare_text(folder: Path, stored: Mapping[str, Any]) -> str:
    """The table and the sentences for a terminal."""
    metric = stored["metric"]
    lines = [
        "",
        f"{'strategy':<18} {'case':>4} {'px':>4}  {metric.replace('_', ' '):>17}  "
        f"{'95 % interval':>15}  {'train - test':>12}  {'seconds':>8}",
    ]
    for row in stored["rows"]:
        ends = sorted((e for e in (row["low"], row["high"]) if e is not None), key=abs)
        interval = " to ".join(told(end, metric) for end in ends) or "-"
        gap = f"{100 * row['gap']:+.1f}" if is_share(metric) else f"{row['gap']:+.3f}"
        mark = " *" if row["name"] == stored["preferred"] else ""
        lines.append(
            f"{show(row['name']) + mark:<18} {row['case'] or '-':>4} {row['size_px']:>4}  "
            f"{told(row['score'], metric):>17}  {interval:>15}  {gap:>12}  {row['seconds']:>8,.1f}"
        )
    found = stored["head_start"]
    sentences = [stored["sentence"], f"* {stored['preference']}"]
    sentences += [row["sentence"] for row in found["curves"] if "sentence" in row]
    sentences += [found["steps"]["sentence"]] if found["steps"] else []
    sentences += [f"left out: {one}" for one in stored["left_out"]]
    lines += ["", *map(show, sentences), "", f"stored:  {show(folder)}"]
    lines.append(f"open:    {show(folder / 'compare.html')}")
    return "\n".join(lines)


def compare_csv(stored: Mapping[str, Any]) -> str:
    """compare.csv: one row per strategy."""
    return csv_text(COLUMNS, [[row[key] for key in COLUMNS] for row in stored["rows"]])


def answers_csv(prepared: Prepared, held: Int, tried: Sequence[Tried]) -> str:
    """compare_answers.csv: what every strategy says of every held-out image."""
    dataset, dev = prepared.dataset, prepared.development
    picked = [one.logits.argmax(1) for one in tried]
    rows = []
    for i, position in enumerate(held):
        sample = dataset.samples[prepared.split.train[position]]
        names = [dev.classes[row[i]] for row in picked]
        rows.append([sample.path, dev.classes[sample.label], int(dev.folds[position]), *names])
    return csv_text(["path", "label", "fold", *(one.name for one in tried)], rows)
