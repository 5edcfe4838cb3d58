"""Is it worth training the network, and in which ways? Pure rules, before any time is spent.

n images to learn from.
"""

from __future__ import annotations

from dataclasses import dataclass

from headstart.plan.decide import Strategy

LEAST_IMAGES = 50
LEAST_OF_A_CLASS = 5
"""below either, tuning is a coin flip (Kornblith et al. 2019: ten images of a class are not enough)"""
NO_HEADROOM = 0.02
"""with a frozen head this near to perfect nothing measurable is left to gain"""
TIMES_SE = 2.0
"""the same in standard errors of its score"""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the best frozen candidate stands; plain numbers."""

    n: int
    smallest_class: int
    score: float
    """cross-validated, of the best frozen candidate"""
    se: float
    best_possible: float
    """of the criterion: 1, or 0 for log loss"""
    baseline: float
    """score of the best baseline without a network"""
    size_verdict: str
    similarity: str


@dataclass(frozen=True, slots=True)
class Worth:
    """What is worth a try, and why, or why nothing is."""

    strategies: tuple[Strategy, ...]
    reason: str


def worth_training(standing: Standing) -> Worth:
    """Which strategies that train the network are offered for the time that is left.

    >>> from dataclasses import replace
    >>> some = Standing(800, 40, 0.85, 0.012, 1.0, 0.5, "small", "different")
    >>> worth_training(some).strategies
    ('partial', 'finetune')
    >>> worth_training(replace(some, score=0.99)).strategies
    ()
    """
    if standing.n < LEAST_IMAGES or standing.smallest_class < LEAST_OF_A_CLASS:
        return Worth(
            (),
            f"The network is not trained: that takes {LEAST_IMAGES} images and "
            f"{LEAST_OF_A_CLASS} of every class.",
        )
    headroom = standing.best_possible - standing.score
    if headroom <= max(NO_HEADROOM, TIMES_SE * standing.se):
        return Worth(
            (),
            "The network is not trained: the frozen one is so good that a gain could not be measured.",
        )
    no_use = standing.baseline + standing.se >= standing.score
    if no_use:
        return Worth(
            ("partial", "finetune", "scratch"),
            "No gain from pre-training can be told here: random weights are worth a try, too, if the "
            "budget allows.",
        )
    if standing.size_verdict == "large" and standing.similarity == "different":
        return Worth(
            ("partial", "finetune", "scratch"),
            "The images are many and different from the source: random weights are worth a try, too, "
            "if the budget allows.",
        )
    return Worth(("partial", "finetune"), "Re-training the network is tried within the budget.")
