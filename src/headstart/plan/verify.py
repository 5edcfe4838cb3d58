"""Ask the data: cross-validate the finalists and let the simpler one stay unless it is beaten.

N images, C classes. Training and scoring are handed in, so that this step knows no trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.plan.criterion import Criterion, Value, difference, mean_value, overlap
from headstart.plan.decide import Candidate, Plan, finalists

Float = NDArray[np.float64]
Int = NDArray[np.int64]

LEAST_GAIN = 0.005
"""half a point: less is not worth a wider head (docs/concepts.md, switch rule)"""
LEAST_EASED = 1e-3
"""nats of log loss below which two candidates are equal"""
MOST_KEPT = 20_000_000
"""held-out numbers of other candidates that are kept: more would fill the memory"""
CLEAR = 1.96

HEAD_METHOD = "head, cross-validated"
RARE = (
    "Rare classes get their say: a share of the log of each class's frequency was taken off its "
    "score, which cross-validation preferred. Probabilities are those of a world in which the classes "
    "are more nearly equally frequent than in these images."
)


@dataclass(frozen=True, slots=True)
class Trial:
    """Held-out answers of one candidate's real head on the development images."""

    score: Value
    """the criterion of the held-out answers"""
    train_score: float
    """the criterion on images that the head was trained on"""
    loss: Float  # [N] negative log probability of the label, held out
    logits: Float  # [N, C] held out
    strength: float
    shift: Float  # [C] taken off the logits, so that rare classes get their say
    seconds: float

    @property
    def answers(self) -> Float:
        """[N, C] as they are scored: what is taken off for rare classes is off."""
        return np.asarray(self.logits - self.shift)


@dataclass(frozen=True, slots=True)
class Scored:
    """One row of the table of candidates."""

    candidate: Candidate
    score: float
    se: float
    train_score: float
    seconds: float
    method: str


@dataclass(frozen=True, slots=True)
class Verified:
    """Which candidate is shipped, and why."""

    chosen: Candidate
    trial: Trial
    table: tuple[Scored, ...]
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    others: tuple[Float, ...] = ()
    """[N, C] held-out logits of the other candidates with real heads, shifts taken off"""


def verify(
    plan: Plan,
    probes: Mapping[str, Scored],
    cross_validate: Callable[[Candidate], Trial],
    labels: Int,
    folds: int,
    criterion: Criterion,
    groups: Int | None = None,
    refine: Callable[[Candidate], Sequence[Candidate]] = lambda best: (),
) -> Verified:
    """Cross-validate the finalists on the same folds and apply the switch rule.

    Args:
        probes: the probe's row for every candidate, by name.
        cross_validate: trains a candidate's real head on each fold.
        labels: int [N] of the development images. folds: how many there are.
        criterion: the score that decides.
        groups: int [N], images that stay together; they count as one draw in standard errors.
        refine: other heads that are worth a try on what the best candidate reads.
    """
    by_name = {c.name: c for c in plan.candidates}
    names = finalists(plan, {name: row.score for name, row in probes.items()})
    trials = {name: cross_validate(by_name[name]) for name in names}
    compare = _Comparison(labels, folds, criterion, groups)
    allowed = [name for name in names if name in plan.allowed]
    chosen, sentences = allowed[0], []
    challengers = [by_name[name] for name in allowed[1:]]
    refined = False
    while challengers:
        other = challengers.pop(0)
        if other.name not in trials:
            by_name[other.name], trials[other.name] = other, cross_validate(other)
        wins, sentence = compare(trials[chosen], trials[other.name], by_name[chosen], other)
        sentences.append(sentence)
        if wins:
            chosen = other.name
        if not challengers and not refined:
            challengers, refined = list(refine(by_name[chosen])), True
    if trials[chosen].shift.any():
        sentences.append(RARE)
    warnings = []
    if plan.forced is not None and not plan.retrains and chosen != "head_top":
        gap, se = compare.difference(trials["head_top"], trials[chosen])
        if gap < 0:
            by, unit = criterion.unit
            warnings.append(
                f"{plan.forced}: {chosen} scores {-gap * by:.{digits(by)}f} {unit} below the head on "
                f"the whole frozen network (standard error {se * by:.{digits(by)}f}); it is shipped "
                "because it was asked for."
            )
    rows = [row for name, row in probes.items() if name not in trials]
    rows += [scored(by_name[name], trial, groups) for name, trial in trials.items()]
    place = {name: i for i, name in enumerate(by_name)}
    rows.sort(key=lambda row: place[row.candidate.name])
    others = [trial.answers for name, trial in trials.items() if name != chosen]
    kept = tuple(others) if sum(one.size for one in others) <= MOST_KEPT else ()
    told = tuple(sentences), tuple(warnings)
    return Verified(by_name[chosen], trials[chosen], tuple(rows), *told, kept)


def scored(candidate: Candidate, trial: Trial, groups: Int | None) -> Scored:
    """A candidate's row in the table."""
    se = trial.score.se(groups)
    return Scored(candidate, trial.score.value, se, trial.train_score, trial.seconds, HEAD_METHOD)


class _Comparison:
    """Paired comparison of two candidates on the same held-out images."""

    def __init__(
        self, labels: Int, folds: int, criterion: Criterion, groups: Int | None = None
    ) -> None:
        self.labels, self.criterion, self.groups = labels, criterion, groups
        self.inflation = overlap(folds, folds)

    def difference(self, base: Trial, other: Trial) -> tuple[float, float]:
        """Gain of `other` in the criterion, and its corrected standard error."""
        gain, se = difference(other.score, base.score, self.groups)
        return gain, se * self.inflation

    def __call__(
        self, base: Trial, other: Trial, incumbent: Candidate, candidate: Candidate
    ) -> tuple[bool, str]:
        """Whether `candidate` replaces the simpler incumbent, and a sentence that says why.

        A cut throws stages away for good, so its 95 % interval must exclude zero. What answers as
        fast as the base needs only a lower log loss without a lower score: of two that cost the
        same none is the safer choice, and over 14 draws of five sets the lower loss was right more
        often than the higher score (docs/log.md). What answers slower must be better by more than
        one standard error, or have a clearly lower loss.
        """
        gain, se = self.difference(base, other)
        lighter = mean_value(self.criterion, base.loss - other.loss, self.labels)
        eased, eased_se = lighter.value, lighter.se(self.groups) * self.inflation
        by, unit = self.criterion.unit
        text = (
            f"{candidate.name} against {incumbent.name}: {gain * by:+.{digits(by)}f} {unit} (standard "
            f"error {se * by:.{digits(by)}f}), log loss {-eased:+.3f} (standard error {eased_se:.3f})"
        )
        not_lower = gain >= -se
        if candidate.strategy == "head_cut":
            wins = gain > CLEAR * se and gain > 0
            unsure = "worse" if gain < -CLEAR * se else "its 95 % interval reaches zero"
            rule = "its 95 % interval excludes zero" if wins else unsure
        elif candidate.cost > incumbent.cost:
            wins = gain > max(se, LEAST_GAIN) or (eased > 2 * eased_se and not_lower)
            rule = "clearly better, and slower" if wins else "slower, and not clearly better"
        else:
            wins = gain > max(se, LEAST_GAIN) or (eased > LEAST_EASED and not_lower)
            rule = "no slower, and " + (
                "better" if gain > max(se, LEAST_GAIN) else "surer: its log loss is lower"
            )
            rule = rule if wins else "not better"
        verdict = f"{candidate.name} takes over" if wins else f"{incumbent.name} stays"
        return wins, f"{text}; {rule}: {verdict}."


def digits(factor: float) -> int:
    """Decimals that suit a unit: points get one, nats three."""
    return 1 if factor == 100.0 else 3


def table_json(rows: Sequence[Scored]) -> list[dict[str, object]]:
    """The candidates as plan.json holds them."""
    return [
        {
            "name": row.candidate.name,
            "strategy": row.candidate.strategy,
            "cut": row.candidate.cut,
            "case": row.candidate.case,
            "view": row.candidate.view,
            "spread": row.candidate.spread,
            "hidden": row.candidate.hidden,
            "weighted": row.candidate.weighted,
            "mirrored": row.candidate.mirrored,
            "score": round(row.score, 6),
            "se": round(row.se, 6),
            "train_score": round(row.train_score, 6),
            "seconds": round(row.seconds, 3),
            "method": row.method,
        }
        for row in rows
    ]
