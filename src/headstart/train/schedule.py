"""Learning rates: which parameter learns at which rate, and how rates rise and fall over a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from headstart.backbone.surgery import Adapted
from headstart.train.recipe import Recipe

LEAST_CLIMB = 5
"""steps: the first step of AdamW moves every weight by the whole rate, which threw short runs far off"""


def shape(step: int, steps: int, warmup: float) -> float:
    """The schedule, 0..1: a climb in a straight line, then half a cosine down to nothing.

    A run of fewer than ten steps turns round half-way and never comes to the whole rate.

    >>> [round(shape(i, 100, 0.1), 2) for i in (0, 9, 55, 99)]
    [0.1, 1.0, 0.5, 0.0]
    >>> [round(shape(i, 3, 0.1), 2) for i in range(3)]
    [0.2, 0.4, 0.3]
    """
    climb = max(LEAST_CLIMB, round(steps * warmup))
    turn = min(climb, steps // 2)
    rise = min(1.0, (step + 1) / climb)
    if step < turn:
        return rise
    return rise * 0.5 * (1 + math.cos(math.pi * (step - turn) / max(1, steps - turn)))


def groups(model: Adapted, owner: Mapping[str, str], recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters by their rate and whether they decay: biases and norms never do."""
    stages = list(dict.fromkeys(owner.values()))
    found: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        peak = recipe.head_rate
        if name.startswith("network."):
            below = len(stages) - 1 - stages.index(owner[name.removeprefix("network.")])
            peak = recipe.rate * recipe.layer_decay**below
        decays = parameter.dim() > 1
        group = found.setdefault((peak, decays), {"params": [], "names": [], "peak": peak})
        group["params"].append(parameter)
        group["names"].append(name)
        group["lr"] = peak
        group["weight_decay"] = recipe.weight_decay if decays else 0.0
    return list(found.values())
