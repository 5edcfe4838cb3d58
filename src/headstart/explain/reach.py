"""Receptive fields from an exported network's graph, by arithmetic: no picture is looked at.

Every convolution and pooling widens what a position sees by its kernel, at the distance that its
input's positions lie apart (Araujo, Norris and Sim 2019); where paths meet, the widest counts. The
*effective* field takes every kernel's weights as equal: then how much a pixel counts falls off like
a bell, whose variance is the sum of the kernels' (Luo et al. 2016, section 2), or the mean of those
of paths that meet, and it is the square with most of the squared slope. `explain.receptive` measures
both with slopes instead: the same whole fields, and effective ones of the default network that are
within a third of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart.backbone.graph import StageInfo
from headstart.explain.field import Field
from headstart.explain.inside import numbers, over_positions, stored_in

SLIDING = {"Conv", "MaxPool", "AveragePool"}
ENDING = {"GlobalAveragePool", "GlobalMaxPool", "Flatten", "Gemm"}
"""operators after which a number depends on every position"""
WITHIN = 3.16
"""side, in standard deviations, of the square with 95 % of a bell's squared height"""


@dataclass(frozen=True, slots=True)
class Reach:
    """What the positions of a value see of the picture, along one side, in px."""

    low: float
    """where the field of position 0 begins"""
    high: float
    apart: float
    """how far the fields of neighbours lie apart"""
    variance: float
    everything: bool = False


def reaches(model: Any) -> dict[str, Reach]:
    """What the positions of every value see that is made of the picture."""
    stored = stored_in(model)
    found = {model.graph.input[0].name: Reach(0.0, 1.0, 1.0, 0.0)}
    for node in model.graph.node:
        entering = [found[name] for name in node.input if name in found]
        if entering:
            reach = _after(node, _together(entering), stored)
            found.update(dict.fromkeys(node.output, reach))
    return found


def _together(entering: Sequence[Reach]) -> Reach:
    """Of values that are joined position by position; one without positions adds no place."""
    placed = [r for r in entering if not r.everything] or list(entering)
    return Reach(
        min(r.low for r in placed),
        max(r.high for r in placed),
        max(r.apart for r in placed),
        sum(r.variance for r in placed) / len(placed),
        any(r.everything for r in entering),
    )


def _after(node: Any, before: Reach, stored: Mapping[str, Any]) -> Reach:
    reduces = node.op_type.startswith("Reduce") and over_positions(node, stored)
    if node.op_type in ENDING or reduces:
        return replace(before, everything=True)
    if node.op_type == "Pad":
        pads = numbers(stored, node.input[1]) or []  # of [N, C, H, W], then at the other ends
        left = (pads[3] if len(pads) == 8 else 0) * before.apart
        return replace(before, low=before.low - left, high=before.high - left)
    if node.op_type not in SLIDING:
        return before
    lists = {a.name: list(a.ints) for a in node.attribute}
    kernel = lists.get("kernel_shape") or list(stored[node.input[1]].dims[2:])
    stride, dilation = (lists.get(name, [1, 1])[-1] for name in ("strides", "dilations"))
    left = lists.get("pads", [0, 0, 0, 0])[1] * before.apart
    wider = dilation * (kernel[-1] - 1) * before.apart
    spread = (dilation * before.apart) ** 2 * (kernel[-1] ** 2 - 1) / 12
    return Reach(
        before.low - left,
        before.high - left + wider,
        before.apart * stride,
        before.variance + spread,
        before.everything,
    )


def fields_of(
    model: Any, maps: Mapping[str, str], stages: Sequence[StageInfo], input_px: int
) -> dict[str, Field]:
    """The fields of every stage.

    Args:
        model: the exported backbone. maps: which value is the map of a stage, where it has one.
    """
    found = reaches(model)
    fields = {}
    for stage in stages:
        reach = found.get(maps.get(stage.name, ""))
        if reach is None or stage.side_px == 1:
            fields[stage.name] = Field(
                stage.name, input_px, 1, input_px, input_px, float(input_px), input_px / 2
            )
            continue
        whole = math.ceil(reach.high - reach.low)
        whole = input_px if reach.everything else min(input_px, whole)
        most = max(1, round(WITHIN * float(np.sqrt(reach.variance))))
        middle = (reach.low + reach.high) / 2
        fields[stage.name] = Field(
            stage.name, input_px, stage.side_px, whole, min(whole, most), reach.apart, middle
        )
    return fields
