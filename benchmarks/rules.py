"""What each rule of decision would have chosen in a cell of the grid, what it scores and what it costs.

Rules are applied to what the cells have stored: nothing is trained again. A cell is what
`grid.cell` returns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.plan.decide import SIDES
from headstart.plan.worth import LEAST_IMAGES, LEAST_OF_A_CLASS, NO_HEADROOM, TIMES_SE

Cell = dict[str, Any]
Outcome = tuple[float, float]
"""test score, seconds"""
MOST_COST = 1 / 3
"""of always fine-tuning: what thresholds may cost"""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When the network is trained, and in which ways."""

    headroom: float = NO_HEADROOM
    """between the frozen score and a perfect one; at this or less nothing is trained"""
    times_se: float = TIMES_SE
    """the same in standard errors of the frozen score"""
    least_images: int = LEAST_IMAGES
    """with fewer nothing is trained"""
    ways: str = "both"
    """"both", "finetune" alone, "partial" alone, or "first": fine-tuning only after a gain of partial"""


CURRENT = Thresholds()
CHOICES = tuple(
    Thresholds(*values)
    for values in itertools.product(
        (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 1.0),
        (0.0, 2.0, 3.0, 4.0),
        (LEAST_IMAGES, 300),
        ("both", "first", "finetune", "partial"),
    )
)


def outcomes(one: Cell, cells: Sequence[Cell]) -> dict[str, Outcome]:
    """What every rule reaches in a cell; other cells lend their verdicts and fit thresholds."""
    partial, tuned = one["ways"]
    frozen, seconds = one["frozen"]["test"], one["frozen"]["seconds"]
    small = one["standing"]["size_verdict"] == "small"
    similarity = one["standing"]["similarity"]
    found = {
        "always frozen top": (one["top"]["test"], seconds),
        "always the frozen family": (frozen, seconds),
        "always partial": (partial["test"], seconds + partial["verify_s"] + partial["refit_s"]),
        "always fine-tune": (tuned["test"], always_s(one)),
        "fit --budget 30": procedure(one, CURRENT),
        "fit, thresholds fitted on the other sets": procedure(one, fitted(others(one, cells))),
    }
    found["size only"] = found["always the frozen family" if small else "always fine-tune"]
    found["four-case table"] = table_rule(one, similarity)
    found["four-case table, similarity of another set"] = shuffled(one, cells, table_rule)
    found["fit, trains only where not similar"] = gated(one, similarity)
    found["the same, similarity of another set"] = shuffled(one, cells, gated)
    found["pure cross-validation"] = best_by_fold(one)
    return found


def always_s(one: Cell) -> float:
    """Seconds of fine-tuning whatever the data are: the head to start from, one fold, a refit."""
    tuned = one["ways"][1]
    return float(one["frozen"]["seconds"] + tuned["verify_s"] + tuned["refit_s"])


def procedure(one: Cell, thresholds: Thresholds) -> Outcome:
    """As `fit` does: nothing where nothing is worth it, else what is measurably better.

    >>> way = {"verify_s": 4.0, "refit_s": 5.0, "gain": 0.03, "se": 0.01, "wins": True, "takes": True}
    >>> partial, tuned = way | {"name": "partial", "test": 0.84}, way | {"name": "finetune", "test": 0.86}
    >>> standing = {"n": 200, "smallest_class": 60, "score": 0.8, "se": 0.02, "best_possible": 1.0}
    >>> frozen = {"test": 0.82, "seconds": 1.0}
    >>> one = {"standing": standing, "frozen": frozen, "ways": [partial, tuned]}
    >>> procedure(one, Thresholds())
    (0.86, 14.0)
    >>> procedure(one, Thresholds(headroom=0.3))
    (0.82, 1.0)
    """
    standing = one["standing"]
    score, seconds, refit = one["frozen"]["test"], one["frozen"]["seconds"], 0.0
    few = standing["n"] < thresholds.least_images or standing["smallest_class"] < LEAST_OF_A_CLASS
    room = standing["best_possible"] - standing["score"]
    if few or room <= max(thresholds.headroom, thresholds.times_se * standing["se"]):
        return score, seconds
    partial, tuned = one["ways"]
    if thresholds.ways == "first" and partial["gain"] <= 0:
        tried = [partial]
    else:
        named = {"finetune": [tuned], "partial": [partial]}
        tried = named.get(thresholds.ways, [partial, tuned])
    for way in tried:
        seconds += way["verify_s"]
        if way["takes" if len(tried) == 2 else "wins"]:
            score, refit = way["test"], way["refit_s"]
    return score, seconds + refit


def fitted(cells: Sequence[Cell]) -> Thresholds:
    """The thresholds with the least mean regret at no more than a third of the cost of always
    fine-tuning; of equal ones the cheapest."""

    def judged(thresholds: Thresholds) -> tuple[bool, float, float]:
        found = [procedure(one, thresholds) for one in cells]
        best = [max(strategies(one).values()) for one in cells]
        regret = np.mean([b - score for b, (score, _) in zip(best, found, strict=True)])
        cost = np.mean([s / always_s(one) for one, (_, s) in zip(cells, found, strict=True)])
        return bool(cost > MOST_COST), float(regret), float(cost)

    return min(CHOICES, key=judged)


def others(one: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """The cells of other sets; its own, when there are no others."""
    return [c for c in cells if c["set"] != one["set"]] or [one]


def table_rule(one: Cell, similarity: str) -> Outcome:
    """The prior alone: 1 and 2 are frozen, 3 and 4 fine-tuned."""
    sides = SIDES[one["standing"]["size_verdict"], similarity]
    if min(sides) <= 2:
        return one["frozen"]["test"], one["frozen"]["seconds"]
    return one["ways"][1]["test"], always_s(one)


def gated(one: Cell, similarity: str) -> Outcome:
    """As `fit` does, but networks are trained only for images that are not similar to the source."""
    nothing = Thresholds(headroom=float("inf"))
    return procedure(one, nothing if similarity == "similar" else CURRENT)


def shuffled(one: Cell, cells: Sequence[Cell], rule: Callable[[Cell, str], Outcome]) -> Outcome:
    """What a rule scores and costs on average with the verdict of another set in place of its own."""
    verdicts = {c["set"]: c["standing"]["similarity"] for c in cells if c["set"] != one["set"]}
    found = [rule(one, verdict) for verdict in verdicts.values()] or [rule(one, "unclear")]
    scores, seconds = zip(*found, strict=True)
    return float(np.mean(scores)), float(np.mean(seconds))


def best_by_fold(one: Cell) -> Outcome:
    """Whatever scores highest on the fold, at the same cost as verifying everything."""
    best = max(one["ways"], key=lambda way: way["gain"])
    seconds = one["frozen"]["seconds"] + sum(way["verify_s"] for way in one["ways"])
    if best["gain"] <= 0:
        return one["frozen"]["test"], seconds
    return best["test"], seconds + best["refit_s"]


def oracle(cells: Sequence[Cell]) -> list[float]:
    """Score of the best strategy of every cell, cross-fitted: chosen on its other draws, if any."""
    found = []
    for one in cells:
        mine = strategies(one)
        beside = [
            strategies(c)
            for c in cells
            if (c["set"], c["images"]) == (one["set"], one["images"]) and c["draw"] != one["draw"]
        ]
        basis = beside or [mine]
        name = max(mine, key=lambda key: float(np.mean([some[key] for some in basis])))
        found.append(mine[name])
    return found


def strategies(one: Cell) -> dict[str, float]:
    """Test scores of everything that was trained in a cell."""
    return {
        "top": one["top"]["test"],
        "family": one["frozen"]["test"],
        **{way["name"]: way["test"] for way in one["ways"]},
    }
