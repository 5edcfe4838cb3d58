"""Which of the four cases is this? Pure rules: numbers in; case, candidates and reasons out.

            similar to the source            different from the source
    small   1  new head, network frozen      2  head on early stages, network frozen
    large   3  fine-tune the whole network   4  train the whole network from scratch, or as 3

The table is a prior, not a law (Yosinski et al. 2014 show which layers transfer, Kornblith et al.
2019 how often tuning pays); `plan.verify` then asks the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from headstart.errors import ArgumentError, nearest

CASES = {
    1: "small and similar: new head on the frozen network",
    2: "small and different: new head on the early stages, frozen",
    3: "large and similar: fine-tune the whole network",
    4: "large and different: train from scratch, or fine-tune",
}
Strategy = Literal["head_top", "head_cut", "all_stages", "partial", "finetune", "scratch"]
CASE_OF: dict[Strategy, int] = {"head_top": 1, "head_cut": 2, "finetune": 3, "scratch": 4}
"""which strategy is which case to the letter; the others are none"""
OWN = "own"
MIRROR = "mirror"
SIDES = {
    ("small", "similar"): (1,),
    ("small", "unclear"): (1, 2),
    ("small", "different"): (2,),
    ("medium", "similar"): (1, 3),
    ("medium", "unclear"): (1, 2, 3, 4),
    ("medium", "different"): (2, 4),
    ("large", "similar"): (3,),
    ("large", "unclear"): (3, 4),
    ("large", "different"): (4,),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decision is made from; plain numbers."""

    n: int
    similarity: str
    """similar, unclear or different"""
    similarity_sentence: str
    stages: tuple[str, ...]
    """in order; the last one is the head"""
    stage_scores: Mapping[str, float]
    small_below: int
    large_above: int
    views: Mapping[str, float] = field(default_factory=dict)
    """other ways in which the network looked at every image (`plan.views`): the name, and what an
    answer costs in units of the network's own"""
    spreads: bool = False
    """whether standard deviations over positions may be read beside the means"""
    hidden: int = 0
    """width of the hidden layer that the user asked for"""
    may_train: bool = True
    """whether what is left of the budget may go into training the network"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to build the classifier."""

    name: str
    strategy: Strategy
    cut: str | None
    """the last stage that is kept, for head_cut"""
    case: int | None
    """1..4 when it is one of the four cases to the letter, else None"""
    cost: float = 1.0
    """of an answer, in units of the network's own way to look"""
    view: str = OWN
    """how the network looks at an image; OWN is as it was pre-trained, or as the user said"""
    spread: bool = False
    """the head reads standard deviations over positions beside the means"""
    hidden: int = 0
    """width of a hidden layer in the head; 0: none"""
    weighted: bool = False
    """every class counts the same in the head's loss"""
    mirrored: bool = False
    """the head learns from every image and its mirror image"""
    through: str | None = None
    """the last frozen stage of partial tuning"""


@dataclass(frozen=True, slots=True)
class Plan:
    """The prior decision with its reasons; which candidates the data shall decide between."""

    case_prior: tuple[int, ...]
    size_verdict: str
    size_sentence: str
    candidates: tuple[Candidate, ...]
    """every candidate that is scored"""
    forced: str | None
    """the flag that forces the strategy, for messages"""
    allowed: tuple[str, ...]
    """names of the candidates that may be shipped"""
    reasons: tuple[str, ...]
    flips_if: tuple[str, ...]
    retrains: bool = False
    """the forced strategy trains the network; the candidates are what it is compared with"""


def decide(
    facts: Facts, case: int | None = None, cut: str | None = None, from_scratch: bool = False
) -> Plan:
    """Apply the rules.

    Args:
        case, cut, from_scratch: what the user forces, or None.

    Raises:
        ArgumentError: --cut names no stage, or more stages than --case 2 keeps.
    """
    if cut is not None:
        check_cut(cut, facts.stages)
        if case == 2:
            _check_case_2(cut, facts.stages)
    size, size_sentence = size_verdict(facts.n, facts.small_below, facts.large_above)
    prior = SIDES[size, facts.similarity]
    candidates = frozen_candidates(facts.stages)
    if case not in (1, 2) and cut is None:
        candidates += richer_candidates(facts.views, facts.spreads)
    candidates = tuple(replace(c, hidden=facts.hidden) for c in candidates)
    forced, allowed = _forced(candidates, facts.stages, case, cut, from_scratch)
    reasons = [
        size_sentence,
        facts.similarity_sentence,
        "By the rule of thumb this is "
        + " or ".join(f"case {c} ({CASES[c]})" for c in prior)
        + ("." if len(prior) == 1 else "; the data decide between them."),
    ]
    if forced is not None:
        reasons.append(f"{forced} was given, so it is done whatever the measurements say.")
    elif {3, 4} & set(prior):
        reasons.append(
            "Cases 3 and 4 re-train the network: "
            + (
                "tried, as far as --budget allows, once the best frozen candidate is ready."
                if facts.may_train
                else "not tried with these settings."
            )
        )
    return Plan(
        case_prior=prior,
        size_verdict=size,
        size_sentence=size_sentence,
        candidates=candidates,
        forced=forced,
        allowed=allowed,
        reasons=tuple(reasons),
        flips_if=tuple(_flips(facts, size)),
        retrains=from_scratch or case in (3, 4),
    )


def size_verdict(n: int, small_below: int, large_above: int) -> tuple[str, str]:
    """small, medium or large, and a sentence that names the dividing lines.

    >>> size_verdict(400, 1000, 10000)[0]
    'small'
    """
    if n < small_below:
        verdict, relation = "small", f"fewer than {small_below:,}"
    elif n >= large_above:
        verdict, relation = "large", f"{large_above:,} or more"
    else:
        verdict, relation = "medium", f"between {small_below:,} and {large_above:,}"
    return verdict, f"{n:,} images to learn from: {verdict} ({relation})."


def deepest_early_stage(stages: Sequence[str]) -> int:
    """Index of the last stage that case 2 may keep: at most half of the stages, rounded down.

    >>> deepest_early_stage(["stem", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "head"])
    3
    """
    return max(1, len(stages) // 2) - 1


def frozen_candidates(stages: Sequence[str]) -> tuple[Candidate, ...]:
    """Top, every cut, all stages: everything that needs no training of the network."""
    early = deepest_early_stage(stages)
    cuts = [
        Candidate(f"head_cut@{name}", "head_cut", name, 2 if i <= early else None)
        for i, name in enumerate(stages[:-1])
    ]
    return (
        Candidate("head_top", "head_top", None, 1),
        *cuts,
        Candidate("all_stages", "all_stages", None, None),
    )


def richer_candidates(views: Mapping[str, float], spreads: bool) -> tuple[Candidate, ...]:
    """All stages once more: with standard deviations, and as seen in other views."""
    if not spreads:
        return ()
    own = Candidate("all_stages+spread", "all_stages", None, None, spread=True)
    others = {view: cost for view, cost in views.items() if view != MIRROR}
    return (
        own,
        *(
            replace(own, name=f"{own.name}@{view}", view=view, cost=cost)
            for view, cost in others.items()
        ),
    )


def refinements(best: Candidate, views: Sequence[str], uneven: bool) -> tuple[Candidate, ...]:
    """Other heads on what the best candidate so far reads.

    A hidden layer is none of them: its search takes 2 to 10 times as long, and it gained nothing on
    three sets (docs/log.md). Time is spent better on training the network.

    Args:
        uneven: whether every class shall weigh the same and does not.

    >>> best = Candidate("all_stages+spread", "all_stages", None, None, spread=True)
    >>> [c.name for c in refinements(best, ("mirror",), uneven=True)]
    ['all_stages+spread+mirror', 'all_stages+spread+weights']
    """
    found = []
    if MIRROR in views and best.view == OWN:
        found.append(replace(best, name=f"{best.name}+mirror", mirrored=True))
    if uneven:
        found.append(replace(best, name=f"{best.name}+weights", weighted=True))
    return () if best.hidden else tuple(found)


def check_cut(cut: str, stages: Sequence[str]) -> None:
    """Refuse a --cut that is not a stage, or that cuts nothing off."""
    listed = f"Stages in order: {', '.join(stages)}."
    if cut not in stages:
        raise ArgumentError(
            "--cut is not a stage of this network",
            received=cut,
            do=f"{nearest(cut, stages)} {listed}".strip(),
        )
    if cut == stages[-1]:
        raise ArgumentError(
            "--cut at the last stage removes nothing; that is case 1",
            received=cut,
            do=f"Use --case 1, or an earlier stage. {listed}",
        )


def _check_case_2(cut: str, stages: Sequence[str]) -> None:
    early = stages[: deepest_early_stage(stages) + 1]
    if cut not in early:
        raise ArgumentError(
            "--case 2 keeps at most half of the stages, and this --cut keeps more",
            received=cut,
            do=f"Use one of {', '.join(early)}, or --cut without --case.",
        )


def finalists(plan: Plan, scores: Mapping[str, float]) -> tuple[str, ...]:
    """The few candidates that get the real head, given every candidate's probe score.

    Always the top as the reference; the best cut of all and the best one that case 2 allows, when
    that is in question; all stages. With a forced strategy: what is allowed, best two, and the top.
    """
    cuts = [c for c in plan.candidates if c.strategy == "head_cut"]

    def best(some: Sequence[Candidate], count: int = 1) -> list[str]:
        return [c.name for c in sorted(some, key=lambda c: -scores[c.name])[:count]]

    if plan.forced is not None and not plan.retrains:
        chosen = best([c for c in plan.candidates if c.name in plan.allowed], 2)
    else:
        chosen = best(cuts)
        if 2 in plan.case_prior:
            chosen += best([c for c in cuts if c.case == 2])
        chosen += [c.name for c in plan.candidates if c.strategy == "all_stages"]
    return tuple(dict.fromkeys(["head_top", *chosen]))


def _forced(
    candidates: Sequence[Candidate],
    stages: Sequence[str],
    case: int | None,
    cut: str | None,
    from_scratch: bool,
) -> tuple[str | None, tuple[str, ...]]:
    if from_scratch or case in (3, 4):
        # The frozen candidates are what the trained network is compared with.
        flag = "--from-scratch" if from_scratch else f"--case {case}"
        return flag, tuple(c.name for c in candidates)
    if cut is not None:
        return f"--cut {cut}", (f"head_cut@{cut}",)
    if case == 1:
        return "--case 1", ("head_top",)
    if case == 2:
        return "--case 2", tuple(c.name for c in candidates if c.case == 2)
    return None, tuple(c.name for c in candidates)


def _flips(facts: Facts, size: str) -> list[str]:
    flips = []
    medium = facts.small_below < facts.large_above
    if size == "small":
        larger = "medium-sized" if medium else "large"
        flips.append(f"{facts.small_below - facts.n:,} more images would make the set {larger}.")
    elif size == "large":
        smaller = "medium-sized" if medium else "small"
        flips.append(f"With fewer than {facts.large_above:,} images it would be {smaller}.")
    else:
        flips.append(
            f"Below {facts.small_below:,} images the set would be small, from "
            f"{facts.large_above:,} on large."
        )
    if facts.similarity == "unclear":
        flips.append("A clear similarity, either way, would rule out half of the cases.")
    else:
        other = "different" if facts.similarity == "similar" else "similar"
        turned = SIDES[size, other]
        flips.append(
            f"If the images were {other} to the source, the rule would say case "
            f"{' or '.join(map(str, turned))}."
        )
    scores = facts.stage_scores
    best = max(scores, key=lambda stage: scores[stage], default=facts.stages[-1])
    if scores and scores[best] > scores.get(facts.stages[-1], scores[best]):
        flips.append(
            f"Stage {best} scored highest in the depth profile; a lead over the top that the "
            "paired comparison confirms would move the cut there."
        )
    return flips
