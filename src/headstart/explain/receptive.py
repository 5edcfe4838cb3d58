"""Receptive fields: which pixels one position of a stage's map can see, and which it listens to.

Both are measured on the network itself, by the slope of a position's features at every pixel, so no
list of layers must be known. The *whole* field holds every pixel with any slope at all (Araujo,
Norris and Sim 2019 compute the same from kernel sizes and strides); the *effective* field is the
square around its middle with most of the squared slope (Luo et al. 2016, section 2).

D channels, h w positions of a map, S side of the network's input in px.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headstart.backbone.stages import HEAD, tap_points
from headstart.explain.field import Field
from headstart.explain.rebuild import on_activation

MOST = 0.95
"""share of the squared slope within the effective field"""


def activations(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Every stage's activation [N, D, h, w], or [N, D] of a vector, for normalised input; the
    head's features [N, D] last."""
    found: dict[str, Tensor] = {}

    def take(stage: str, activation: Tensor) -> None:
        found[stage] = activation.clone()  # a later layer may overwrite it in place

    with contextlib.ExitStack() as hooks:
        for stage, module, side in tap_points(network):
            hooks.callback(on_activation(module, side, stage, take))
        features = network.forward_features(x)  # type: ignore[operator]
        found[HEAD] = network.forward_head(features, pre_logits=True).flatten(1)  # type: ignore[operator]
    return found


def fields(network: nn.Module, inputs: Sequence[Tensor], seed: int = 0) -> dict[str, Field]:
    """The fields of every stage.

    Args:
        inputs: normalised pictures [1, 3, S, S]; the whole field is what is seen in any of them.
    """
    draw = torch.Generator().manual_seed(seed)
    slopes: dict[str, list[list[NDArray[np.float64]]]] = {}
    sides: dict[str, int] = {}
    for x in inputs:
        x = x.detach().clone().requires_grad_()
        for stage, activation in activations(network, x).items():
            side = int(activation.shape[2]) if activation.dim() == 4 else 1
            sides[stage] = side
            if side > 1:
                found = slopes.setdefault(stage, [[] for _ in _probes(side)])
                for at, seen in zip(_probes(side), found, strict=True):
                    seen.append(_slope(activation, x, at, draw))
    size = int(inputs[0].shape[-1])
    return {
        stage: _field(stage, size, side, slopes[stage])
        if side > 1
        else Field(stage, size, 1, size, size, float(size), size / 2)
        for stage, side in sides.items()
    }


def _probes(side: int) -> tuple[int, ...]:
    """Positions, on the diagonal, whose fields are measured: in the middle, two neighbours."""
    return (side // 2 - 1, side // 2)


def _slope(activation: Tensor, x: Tensor, at: int, draw: torch.Generator) -> NDArray[np.float64]:
    """Squared slope [S, S] of one position's features, in a random mixture of the channels."""
    signs = torch.randint(0, 2, (activation.shape[1],), generator=draw) * 2.0 - 1
    (slope,) = torch.autograd.grad((activation[0, :, at, at] * signs).sum(), x, retain_graph=True)
    return np.asarray(slope[0].double().square().sum(0).numpy())


def _field(
    stage: str, size: int, side: int, slopes: Sequence[Sequence[NDArray[np.float64]]]
) -> Field:
    """From the slopes of two neighbours: ends of what they see, and how far they lie apart."""
    spans = [_span(np.sum([s > 0 for s in one], axis=0)) for one in slopes]
    (start, end), (next_start, next_end) = spans
    inside = start > 0 and next_end < size
    stride = float(next_start - start) if inside else size / side
    at = _probes(side)[0]
    middle = (start + end) / 2 if inside else (at + 0.5) * stride
    whole = max(end - start, next_end - next_start)
    found = Field(stage, size, side, whole, whole, stride, middle - at * stride)
    reach = [
        _effective(slope, found.middle(probe))
        for probe, one in zip(_probes(side), slopes, strict=True)
        for slope in one
        if slope.any()
    ]
    effective = min(whole, round(float(np.median(reach)))) if reach else whole
    return Field(stage, size, side, whole, max(1, effective), stride, found.first_px)


def _span(seen: NDArray[np.int64]) -> tuple[int, int]:
    """First and last + 1 of the rows or columns in which anything is seen."""
    ends = [np.flatnonzero(seen.any(axis)) for axis in (0, 1)]
    if not all(map(len, ends)):
        return 0, seen.shape[0]
    return int(min(e[0] for e in ends)), int(max(e[-1] for e in ends)) + 1


def _effective(slope: NDArray[np.float64], middle: float) -> int:
    """Side of the smallest square around the middle with `MOST` of the squared slope."""
    away = np.abs(np.arange(len(slope)) + 0.5 - middle)
    reach = np.maximum(away[:, None], away[None, :])
    order = np.argsort(reach, axis=None)
    grown = np.cumsum(slope.ravel()[order])
    last = order[int(np.searchsorted(grown, MOST * grown[-1]))]
    return math.ceil(2 * float(reach.ravel()[last]) + 1)
