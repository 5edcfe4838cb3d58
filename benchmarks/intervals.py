"""Coverage of every 95 % interval that the judge step uses, simulated: one table.

    python benchmarks/intervals.py [DRAWS] [PART OF A ROW'S NAME]

Cells are shares of draws whose interval holds the true value, for n = 80, 150 and 600 images times
p = .7, .9 and .97; what p is, is said by the row: the true score where nothing else is said. The bar
is a mean of at least .94 and no cell below .90. Per cell 1,000 draws know a coverage to +- .014.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import norm

from headstart.judge.curves import area_of, average_precision
from headstart.judge.driving import _at_specificity
from headstart.judge.evaluate import evaluate, per_class
from headstart.judge.grouped import widened
from headstart.judge.metrics import (
    Metric,
    accuracy,
    auc,
    balanced_accuracy,
    log_loss,
    macro_f1,
)
from headstart.judge.operating import (
    SENSITIVITY,
    OperatingPoint,
    Scores,
    Target,
    operating_point,
    predictive_values,
)
from headstart.judge.paired import Answers, compare
from headstart.judge.proportions import difference, paired, share
from headstart.judge.reader_table import Answered
from headstart.judge.readers import reader_study
from headstart.judge.subgroups import subgroups
from headstart.plan.criterion import Criterion

SIZES, LEVELS = (80, 150, 600), (0.7, 0.9, 0.97)
LARGE = 300_000
Found = dict[str, tuple[Metric | None, float]]
Draw = Callable[[np.random.Generator, int, float], Found]
DRAWS: list[Draw] = []
"""each makes data once and gives a few intervals of it, by row, with what they should hold"""


# Classes: evidence is noise plus a signal for the true one; probabilities are its softmax.

MIXES = {
    "2 classes": (0.5, 0.5),
    "4 classes": (0.25,) * 4,
    "2 classes 9:1": (0.9, 0.1),
    "10 classes 9:1": tuple(np.linspace(9, 1, 10) / 50),
}


def answers(rng, labels, classes, signal, sharp=1.0):
    evidence = rng.normal(size=(len(labels), classes)) + signal * np.eye(classes)[labels]
    return softmax(sharp * signal * evidence, axis=1)


@lru_cache(None)
def signal_of(p: float, mix: str) -> float:
    classes = len(MIXES[mix])
    rng = np.random.default_rng(0)
    labels = rng.choice(classes, 60_000, p=MIXES[mix])
    noise = rng.normal(size=(len(labels), classes))
    signals = np.eye(classes)[labels]
    low, high = 0.0, 8.0
    for _ in range(25):
        middle = (low + high) / 2
        right = ((noise + middle * signals).argmax(1) == labels).mean()
        low, high = (middle, high) if right < p else (low, middle)
    return high


@lru_cache(None)
def truth_of(score: Callable[..., Metric], p: float, mix: str, sharp: float) -> float:
    rng = np.random.default_rng(1)
    labels = rng.choice(len(MIXES[mix]), LARGE, p=MIXES[mix])
    made = answers(rng, labels, len(MIXES[mix]), signal_of(p, mix), sharp)
    return float(score(labels, made).value)


def class_scores(mix, sharp=1.0, scores=(accuracy, balanced_accuracy, macro_f1, log_loss)):
    words = f"{mix}, p accuracy" if sharp == 1 else f"{mix}, twice as sure, p accuracy"

    def draw(rng, n, p):
        labels = rng.choice(len(MIXES[mix]), n, p=MIXES[mix])
        made = answers(rng, labels, len(MIXES[mix]), signal_of(p, mix), sharp)
        return {
            f"{score.__name__}, {words}": (score(labels, made), truth_of(score, p, mix, sharp))
            for score in scores
        }

    return draw


def first_f1(labels, p):
    return per_class(labels, p)[0].f1


for MIX in MIXES:
    DRAWS.append(class_scores(MIX))
    DRAWS.append(class_scores(MIX, scores=(first_f1,)))
DRAWS.append(class_scores("4 classes", 2.0, (log_loss,)))
DRAWS.append(class_scores("4 classes", 1.0, (auc,)))


# Two classes: normal scores, a gap apart.


def normal_scores(rng, n, gap, part):
    inside = rng.random(n) < part
    return rng.normal(size=n) + gap * inside, inside


@lru_cache(None)
def gap_of_precision(p: float, part: float) -> float:
    def area(gap: float) -> float:
        t = np.linspace(-8, 8 + gap, 20001)
        found, wrong = norm.sf(t - gap), norm.sf(t)
        precision = part * found / (part * found + (1 - part) * wrong + 1e-300)
        return float(np.trapezoid(precision, found)) * -1 - p

    return brentq(area, 0, 9)


def areas(part):
    def draw(rng, n, p):
        one = normal_scores(rng, n, np.sqrt(2) * norm.ppf(p), part)
        two = normal_scores(rng, n, gap_of_precision(p, part), part)
        return {
            f"auc, share {part}": (area_of(*one), p),
            f"average_precision, share {part}": (average_precision(*two), p),
        }

    return draw


DRAWS += [areas(0.5), areas(0.2)]


def same_images(rng, n, p):
    s, inside = normal_scores(rng, n, norm.ppf(0.9) + norm.ppf(p), 0.5)
    made = np.stack([norm.cdf(-s), norm.cdf(s)], 1)
    criterion = Criterion("sens@spec=0.9", "sens@spec", 1, 0.9)
    found = _at_specificity(criterion, made, inside.astype(np.int64), ("a", "b"))
    return {"sens@spec=0.9, threshold from the same images": (found, p)}


DRAWS.append(same_images)


# Images in groups: a group is good or bad as a whole, to a degree.


def group_hits(rng, n, p, alike, each=5):
    count = n // each
    a, b = p * (1 - alike) / alike, (1 - p) * (1 - alike) / alike
    groups = np.repeat(np.arange(count), each)
    return rng.random(len(groups)) < rng.beta(a, b, count)[groups], groups


def grouped(alike):
    def draw(rng, n, p):
        hits, groups = group_hits(rng, n, p, alike)
        labels = groups % 2
        made = np.full((len(hits), 2), 0.3)
        made[np.arange(len(hits)), np.where(hits, labels, 1 - labels)] = 0.7
        whole = evaluate(made, labels, ["a", "b"], "")
        words = f"groups of 5, correlation {alike}"
        return {
            f"share, {words}": (share("share", hits, groups), p),
            f"accuracy by grouped.py, {words}": (
                widened(whole, made, labels, groups).metrics[0],
                p,
            ),
        }

    return draw


DRAWS += [grouped(0.2), grouped(0.6)]


def grouped_area(rng, n, p):
    groups = np.repeat(np.arange(n // 5), 5)
    inside = np.isin(groups, np.arange(n // 5)[rng.random(n // 5) < 0.5])
    noise = np.sqrt(0.5) * (rng.normal(size=n // 5)[groups] + rng.normal(size=len(groups)))
    scores = noise + np.sqrt(2) * norm.ppf(p) * inside
    return {"auc, groups of 5, correlation 0.5": (area_of(scores, inside, groups), p)}


DRAWS.append(grouped_area)


# Operating points: p is the sensitivity that is aimed at; 400 held-out answers, half of them positive.


def operating(crossed):
    how = "at a cross-fitted threshold" if crossed else "at a threshold of other images"

    def draw(rng, n, p):
        s, inside = normal_scores(rng, n, 2.0, 0.5)
        before = None if crossed else Scores(*normal_scores(rng, 400, 2.0, 0.5))
        found = operating_point("x", Target(SENSITIVITY, p), Scores(s, inside), before)
        known = isinstance(found, OperatingPoint)
        at = found.threshold if known else 0.0
        return {
            f"sensitivity {how}, p aim": (found.sensitivity if known else None, norm.sf(at - 2)),
            f"specificity {how}, p aim": (found.specificity if known else None, norm.cdf(at)),
        }

    return draw


DRAWS += [operating(False), operating(True)]


def predictive(rng, n, p):
    found = {}
    rates = share("sensitivity", rng.random(n // 2) < 0.9), share("b", rng.random(n // 2) < p)
    for prevalence in (0.01, 0.3):
        words = f"at prevalence {prevalence}, sensitivity .9, p specificity"
        called = prevalence * 0.9, (1 - prevalence) * (1 - p)
        quiet = prevalence * 0.1, (1 - prevalence) * p
        ppv, npv = predictive_values(*rates, prevalence)
        found[f"ppv {words}"] = ppv, called[0] / sum(called)
        found[f"npv {words}"] = npv, quiet[1] / sum(quiet)
    return found


DRAWS.append(predictive)


# Differences: two runs whose noise is shared in part, the second a little worse.


def two_runs(rng, labels, classes, signal):
    shared, hot = rng.normal(size=(len(labels), classes)), np.eye(classes)[labels]
    made = []
    for strength in (signal, 0.9 * signal):
        noise = np.sqrt(0.6) * shared + np.sqrt(0.4) * rng.normal(size=shared.shape)
        made.append(softmax(strength * (noise + strength * hot), axis=1))
    return made


@lru_cache(None)
def gap_of_runs(score, p, mix):
    rng = np.random.default_rng(1)
    labels = rng.choice(len(MIXES[mix]), LARGE, p=MIXES[mix])
    one, two = two_runs(rng, labels, len(MIXES[mix]), signal_of(p, mix))
    return float(score(labels, one).value) - float(score(labels, two).value)


def paired_runs(mix):
    def draw(rng, n, p):
        labels = rng.choice(len(MIXES[mix]), n, p=MIXES[mix])
        paths, names = tuple(map(str, range(n))), tuple("abcdefghij")[: len(MIXES[mix])]
        runs = [
            Answers(paths, labels, made, names)
            for made in two_runs(rng, labels, len(names), signal_of(p, mix))
        ]
        found = {d.metric: d.difference for d in compare(*runs).differences}
        return {
            f"paired difference, {score.__name__}, {mix}, p accuracy": (
                found.get(score.__name__),
                gap_of_runs(score, p, mix),
            )
            for score in (accuracy, balanced_accuracy, log_loss, auc)
        }

    return draw


DRAWS += [paired_runs(MIX) for MIX in ("2 classes", "4 classes", "10 classes 9:1")]


def paired_groups(rng, n, p):
    hits, groups = group_hits(rng, n, p, 0.4)
    flips = rng.random(n // 5)[groups] < 0.5  # half of the groups are judged anew, as wholes
    other = np.where(flips, group_hits(rng, n, p, 0.4)[0], hits)
    return {"paired difference, groups of 5, p share": (paired("", hits, other, groups), 0.0)}


def unpaired(rng, n, p):
    one, two = rng.random(n // 4) < p, rng.random(n - n // 4) < p - 0.05
    found = {"accuracy, p and p - .05": (difference("", share("", one), share("", two)), 0.05)}
    parts = []
    for size in (n // 4, n - n // 4):
        labels = rng.integers(0, 4, size)
        made = answers(rng, labels, 4, signal_of(p, "4 classes"))
        parts.append([f(labels, made) for f in (balanced_accuracy, macro_f1, log_loss, auc)])
    for pair in zip(*parts, strict=True):
        found[f"{pair[0].name}, 4 classes, p accuracy"] = difference("", *pair), 0.0
    return {f"a quarter against the rest, {name}": row for name, row in found.items()}


def at_once(rng, n, p):
    """Four equal parts: no difference may be called real."""
    labels = rng.integers(0, 4, n)
    made, found = answers(rng, labels, 4, signal_of(p, "4 classes")), {}
    for score in ("accuracy", "balanced_accuracy", "log_loss", "auc"):
        parts = subgroups("part", np.arange(n) % 4, made, labels, metric=score).subgroups
        low = 1.0 if any(part.real for part in parts) else 0.0
        name = f"no false alarm among 4 parts, {score}, 4 classes, p accuracy"
        found[name] = Metric("", 0.0, low, 1.0, n, ""), 0.0
    return found


DRAWS += [paired_groups, unpaired, at_once]


# Readers: eight people and a model, who find the same images hard.


def readers(count):
    who = "one reader" if count == 1 else f"the mean of {count} readers"

    def draw(rng, n, p):
        inside = np.arange(n) % 2 == 0
        hard, paths = rng.normal(size=n), [str(i) for i in range(n)]

        def judges(skill):
            right = 0.6 * hard + 0.8 * rng.normal(size=n) < norm.ppf(skill)
            return right == inside

        rows = []
        for r in range(count):
            rows += [
                (f"r{r}", path, bool(c)) for path, c in zip(paths, judges(p - 0.02), strict=True)
            ]
        scores = Scores(judges(p).astype(float), inside)
        target = Target(SENSITIVITY, 0.9)
        point = OperatingPoint("x", target, 0.5, "", False, *([None] * 5), 0, True, "")
        found = reader_study(Answered(tuple(rows)), scores, paths, point).mean
        return {
            f"sensitivity of {who}, p - .02": (found.sensitivity, p - 0.02),
            f"sensitivity, model - {who}, p and p - .02": (found.ahead_sensitivity, 0.02),
        }

    return draw


DRAWS += [readers(8), readers(1)]


def coverage(draw: Draw, n: int, p: float, draws: int) -> dict[str, float | None]:
    """By row, the share of draws that cover; None where half of the draws have no interval."""
    rng = np.random.default_rng([n, int(100 * p)])
    held: dict[str, list[bool]] = {}
    for _ in range(draws):
        for name, (metric, truth) in draw(rng, n, p).items():
            row = held.setdefault(name, [])
            if metric is not None and metric.low is not None and metric.high is not None:
                row.append(metric.low - 1e-9 <= truth <= metric.high + 1e-9)
    return {
        name: float(np.mean(row)) if len(row) > draws / 2 else None for name, row in held.items()
    }


def main() -> None:
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    cells = " | ".join(f"{n}, {p:g}" for n in SIZES for p in LEVELS)
    print(f"| interval | {cells} | mean | worst | |")
    print("|---" * (len(SIZES) * len(LEVELS) + 4) + "|")
    for draw in DRAWS:
        if not any(wanted in name for name in draw(np.random.default_rng(0), 600, 0.9)):
            continue
        table = [coverage(draw, n, p, draws) for n in SIZES for p in LEVELS]
        for name in table[-1]:
            found = [cell[name] for cell in table]
            known = [c for c in found if c is not None]
            text = " | ".join("–" if c is None else f"{c:.3f}" for c in found)
            bar = "" if np.mean(known) >= 0.94 and min(known) >= 0.9 else "below the bar"
            print(
                f"| {name} | {text} | {np.mean(known):.3f} | {min(known):.3f} | {bar} |", flush=True
            )


if __name__ == "__main__":
    main()
