"""Ask the data: cross-validate the finalists and let the simpler one stay unless it is beaten.

N images, C classes. Training and scoring are handed in, so that this step knows no trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.plan.decide import Candidate, Plan, finalists
from headstart.plan.probe import image_weights, weighted_score, weighted_se

Float = NDArray[np.float64]
Int = NDArray[np.int64]

LEAST_GAIN = 0.005
"""half a point: less is not worth a wider head (docs/concepts.md, switch rule)"""
CLEAR = 1.96


@dataclass(frozen=True, slots=True)
class Trial:
    """Held-out answers of one candidate's real head on the development images."""

    correct: NDArray[np.bool_]  # [N]
    loss: Float  # [N] negative log probability of the label, held out
    logits: Float  # [N, C] held out
    train_correct: NDArray[np.bool_]  # [N] on images that the head was trained on
    strength: float
    seconds: float


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


def verify(
    plan: Plan,
    probes: Mapping[str, Scored],
    cross_validate: Callable[[Candidate], Trial],
    labels: Int,
    folds: int,
    metric: str,
    groups: Int | None = None,
) -> Verified:
    """Cross-validate the finalists on the same folds and apply the switch rule.

    Args:
        probes: the probe's row for every candidate, by name.
        cross_validate: trains a candidate's real head on each fold.
        labels: int [N] of the development images. folds: how many there are.
        groups: int [N], images that stay together; they count as one draw in standard errors.
    """
    by_name = {c.name: c for c in plan.candidates}
    names = finalists(plan, {name: row.score for name, row in probes.items()})
    trials = {name: cross_validate(by_name[name]) for name in names}
    compare = _Comparison(labels, folds, metric, groups)
    allowed = [name for name in names if name in plan.allowed]
    chosen, sentences = allowed[0], []
    for name in allowed[1:]:
        wins, sentence = compare(trials[chosen], trials[name], chosen, by_name[name])
        sentences.append(sentence)
        if wins:
            chosen = name
    warnings = []
    if plan.forced is not None and chosen != "head_top":
        gap, se = compare.difference(trials["head_top"], trials[chosen])
        if gap < 0:
            warnings.append(
                f"{plan.forced}: {chosen} scores {-gap * 100:.1f} points below the head on the whole "
                f"frozen network (standard error {se * 100:.1f}); it is shipped because it was asked for."
            )
    rows = []
    for name, row in probes.items():
        rows.append(compare.row(by_name[name], trials[name]) if name in trials else row)
    return Verified(by_name[chosen], trials[chosen], tuple(rows), tuple(sentences), tuple(warnings))


class _Comparison:
    """Paired comparison of two candidates on the same held-out images."""

    def __init__(self, labels: Int, folds: int, metric: str, groups: Int | None = None) -> None:
        self.labels, self.metric, self.groups = labels, metric, groups
        # The folds' training sets overlap, so a plain standard error is too small. Correction of
        # Nadeau & Bengio 2003: variance times 1 + folds * n_test / n_train.
        self.inflation = float(np.sqrt(1 + folds / (folds - 1)))

    def row(self, candidate: Candidate, trial: Trial) -> Scored:
        """A candidate's row in the table."""
        score, se = weighted_score(trial.correct, self.labels, self.metric, self.groups)
        train, _ = weighted_score(trial.train_correct, self.labels, self.metric)
        return Scored(candidate, score, se, train, trial.seconds, "head, cross-validated")

    def _se(self, values: Float) -> float:
        return weighted_se(values, self.labels, self.metric, self.groups) * self.inflation

    def difference(self, base: Trial, other: Trial) -> tuple[float, float]:
        """Gain of `other` in the metric, and its corrected standard error."""
        gains = other.correct.astype(np.float64) - base.correct.astype(np.float64)
        score, _ = weighted_score(other.correct, self.labels, self.metric)
        before, _ = weighted_score(base.correct, self.labels, self.metric)
        return score - before, self._se(gains)

    def __call__(
        self, base: Trial, other: Trial, base_name: str, candidate: Candidate
    ) -> tuple[bool, str]:
        """Whether `candidate` replaces the simpler `base`, and a sentence that says why.

        A cut throws stages away for good, so its 95 % interval must exclude zero. All stages keep
        what the base has, so one standard error is enough, or a clearly lower loss at no cost.
        """
        gain, se = self.difference(base, other)
        lighter = base.loss - other.loss
        eased = float((image_weights(self.labels, self.metric) * lighter).sum())
        eased_se = self._se(lighter)
        text = (
            f"{candidate.name} against {base_name}: {gain * 100:+.1f} points "
            f"(standard error {se * 100:.1f}), log loss {-eased:+.3f} (standard error {eased_se:.3f})"
        )
        if candidate.strategy == "head_cut":
            wins = gain > CLEAR * se and gain > 0
            rule = "its 95 % interval excludes zero" if wins else "its 95 % interval reaches zero"
        else:
            wins = gain > max(se, LEAST_GAIN) or (
                eased > 2 * eased_se and gain >= -se and gain > -LEAST_GAIN
            )
            rule = "more than one standard error, or clearly lower loss" if wins else "not enough"
        verdict = f"{candidate.name} takes over" if wins else f"{base_name} stays"
        return wins, f"{text}; {rule}: {verdict}."


def table_json(rows: Sequence[Scored]) -> list[dict[str, object]]:
    """The candidates as plan.json holds them."""
    return [
        {
            "name": row.candidate.name,
            "strategy": row.candidate.strategy,
            "cut": row.candidate.cut,
            "case": row.candidate.case,
            "score": round(row.score, 6),
            "se": round(row.se, 6),
            "train_score": round(row.train_score, 6),
            "seconds": round(row.seconds, 3),
            "method": row.method,
        }
        for row in rows
    ]
