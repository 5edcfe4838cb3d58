"""Pictures that excite a unit, made from noise by climbing its slope: activation maximisation.

Without regularisation such pictures are noise that no eye can read. Three things keep them natural
(Olah, Mordvintsev and Schubert 2017): the picture is a sum of waves, so that a step moves all its
scales alike; its colours are mixed as photos mix them; and it is shifted, scaled and turned a
little at every step, so that only what survives that can grow.

D channels, S side of the picture in px.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from headstart.backbone.stages import HEAD, tap_points
from headstart.data.images import Preprocess
from headstart.explain.rebuild import on_activation

RATE = 0.06
JITTER = 1 / 16
"""largest shift, as a share of the side"""
TURN_DEGREES = 8.0
SCALES = (0.92, 1.08)
LEAK = 0.1
COLOURS = ((0.23, 0.08, 0.02), (0.24, 0.00, -0.05), (0.24, -0.08, 0.02))
"""columns: axes of the colours of photos in RGB, each as long as its standard deviation, measured
on 200 photos of ImageNet's classes"""


def maximise(
    network: nn.Module,
    stage: str,
    units: Sequence[int],
    pre: Preprocess,
    side_px: int,
    seed: int,
    steps: int,
) -> NDArray[np.uint8]:
    """Pictures uint8 [len(units), S, S, 3], each of which excites one unit of a stage.

    Args:
        side_px: of the pictures, and so of the network's input while they are made.
    """
    draw = torch.Generator().manual_seed(seed)
    count = len(units)
    waves = torch.randn(count, 3, side_px, side_px // 2 + 1, 2, generator=draw) * 0.01
    waves.requires_grad_()
    size = _wave_sizes(side_px)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (pre.mean, pre.std))
    climb = torch.optim.Adam([waves], lr=RATE)
    which = torch.tensor(list(units))
    with leaky(network):
        for _ in range(steps):
            x = (_moved(_picture(waves, size, side_px), draw) - mean) / std
            activation = reach(network, stage, x)
            own = activation[torch.arange(count), which]  # [count, h, w], or [count] of a vector
            loss = -own.flatten(1).mean() if own.dim() > 1 else -own.mean()
            climb.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            climb.step()
    with torch.inference_mode():
        found = _picture(waves, size, side_px).permute(0, 2, 3, 1)
        return np.asarray((found * 255).round().to(torch.uint8).numpy())


def reach(network: nn.Module, stage: str, x: Tensor) -> Tensor:
    """A stage's activation; what comes after it does not run."""
    if stage == HEAD:
        features = network.forward_features(x)  # type: ignore[operator]
        head: Tensor = network.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return head.flatten(1)
    taken: list[Tensor] = []

    def take(_stage: str, activation: Tensor) -> None:
        taken.append(activation)
        raise _ReachedError

    module, side = {name: (module, side) for name, module, side in tap_points(network)}[stage]
    end = on_activation(module, side, stage, take)
    try:
        with contextlib.suppress(_ReachedError):
            network.forward_head(network.forward_features(x), pre_logits=True)  # type: ignore[operator]
    finally:
        end()
    return taken[0]


class _ReachedError(Exception):
    """Not a failure: nothing after this stage needs to run."""


@contextlib.contextmanager
def leaky(network: nn.Module) -> Iterator[None]:
    """Within the block a rectifier that lets nothing through still lets a little slope back: a unit
    that sleeps at the start could not be woken otherwise. What the network computes stays."""
    swapped = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if type(child) in (nn.ReLU, nn.ReLU6)
    ]
    try:
        for parent, name, child in swapped:
            setattr(parent, name, _LeakyBack(6.0 if isinstance(child, nn.ReLU6) else math.inf))
        yield
    finally:
        for parent, name, child in swapped:
            setattr(parent, name, child)


class _LeakyBack(nn.Module):
    """min(max(x, 0), top), with a tenth of the slope where that is flat."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        flat = x.clamp(0, self.top)
        leak = LEAK * (x - x.detach())  # zero, with a slope
        return torch.where((x > 0) & (x < self.top), flat, flat.detach() + leak)


def _wave_sizes(side_px: int) -> Tensor:
    """[S, S // 2 + 1]: how much a wave counts, as in photos: inversely to its frequency."""
    down = torch.fft.fftfreq(side_px)[:, None]
    across = torch.fft.rfftfreq(side_px)[None]
    frequency: Tensor = (down.square() + across.square()).sqrt().clamp(min=1 / side_px)
    return side_px * frequency.reciprocal()


def _picture(waves: Tensor, size: Tensor, side_px: int) -> Tensor:
    """Values in 0..1 [N, 3, S, S] of a sum of waves."""
    spectrum = torch.view_as_complex(waves) * size
    axes = torch.fft.irfft2(spectrum, s=(side_px, side_px)) / 4
    mixed: Tensor = torch.einsum("rc,nchw->nrhw", torch.tensor(COLOURS) / COLOURS[0][0], axes)
    return mixed.sigmoid()


def _moved(picture: Tensor, draw: torch.Generator) -> Tensor:
    """The picture shifted, scaled and turned a little; beyond its rim it goes on mirrored."""
    turn, scale, *shift = torch.rand(4, generator=draw).tolist()
    angle = math.radians(TURN_DEGREES * (2 * turn - 1))
    factor = SCALES[0] + (SCALES[1] - SCALES[0]) * scale
    cos, sin = math.cos(angle) * factor, math.sin(angle) * factor
    away = [2 * JITTER * (2 * s - 1) for s in shift]
    matrix = torch.tensor([[cos, -sin, away[0]], [sin, cos, away[1]]]).expand(len(picture), 2, 3)
    grid = functional.affine_grid(matrix, list(picture.shape), align_corners=False)
    return functional.grid_sample(
        picture, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
