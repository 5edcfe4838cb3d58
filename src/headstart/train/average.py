"""Averages and mixtures of weights: exponential moving average, interpolation with the start.

All functions take tensors by name as `surgery.learning` lists them, BatchNorm statistics included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

Named = Mapping[str, Tensor]


def copied(tensors: Named) -> dict[str, Tensor]:
    """Copies that keep device and memory format."""
    return {name: value.detach().clone() for name, value in tensors.items()}


def put(into: Named, values: Named) -> None:
    """Copy values into tensors of the same names; formats and devices of `into` stay."""
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(values[name])


def follow(average: Named, now: Named, decay: float, step: int) -> None:
    """One step of the moving average; it follows fast at first, when there is little to average.

    Counters are copied.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    with torch.no_grad():
        for name, value in now.items():
            if value.is_floating_point():
                parts[0].append(average[name])
                parts[1].append(value.detach())
            else:
                average[name].copy_(value)
        torch._foreach_lerp_(*parts, share)


def between(start: Named, end: Named, alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * start + alpha * end (Wortsman et al. 2022, WiSE-FT); exact at 0 and 1."""
    if alpha in (0.0, 1.0):
        return copied(end if alpha else start)
    return {
        name: torch.lerp(start[name], value, alpha) if value.is_floating_point() else value.clone()
        for name, value in ((name, value.detach()) for name, value in end.items())
    }


@contextlib.contextmanager
def wearing(model: Named, values: Named) -> Iterator[None]:
    """The model with these values, for a while."""
    own = copied(model)
    put(model, values)
    try:
        yield
    finally:
        put(model, own)
