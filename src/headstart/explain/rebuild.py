"""Rebuild the network of a bundle in torch, from its weights and its description alone.

ONNX Runtime answers, but knows no gradient. The rebuilt network computes the same numbers and hands
out the activations of every stage; whoever explains with it compares its answers with ONNX first.

N images, C classes, D width of what the head reads, S side of the network's input in px.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headstart.backbone.graph import SPREAD
from headstart.backbone.load import create, known_or_error, read_state
from headstart.backbone.stages import HEAD, describe, tap_points
from headstart.backbone.surgery import random_head, untrained
from headstart.data.images import Preprocess
from headstart.errors import ArgumentError, BundleError, show

AGREE = 1e-3
"""largest difference in probability between torch and ONNX Runtime"""
FLAT = 1e-24
"""variances below this are none: the slope of a root at zero would be infinite"""


class Rebuilt(nn.Module):
    """A bundle's network: forward(image float32 [N, 3, S, S], grey levels 0..255) -> logits [N, C].

    Stages that the head does not read never run. Nothing in it learns.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        name: str,
        network: nn.Module,
        reads: Sequence[str],
        kept: Sequence[str],
        layers: Sequence[nn.Linear],
        preprocess: Preprocess,
    ) -> None:
        super().__init__()
        self.name, self.network = name, network
        self.reads, self.kept, self.preprocess = tuple(reads), tuple(kept), preprocess
        self.layers = nn.ModuleList(layers)
        self.last = nn.Identity()  # stands where the last map is, so that it has a name
        self.points = {stage: (module, side) for stage, module, side in tap_points(network)}
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()
        self.positions = _positions(self)
        """height and width of every kept stage's map; (1, 1) for a vector"""

    def place(self, stage: str) -> tuple[nn.Module, str]:
        """The module that ends a stage, and whether the stage is its input ('in') or output.

        For `head` it is the last map, of which the head's features are made.

        Raises:
            ArgumentError: the model does not keep a stage of this name.
        """
        if stage not in self.kept:
            raise ArgumentError(
                "This model has no stage of this name",
                received=stage,
                do=f"Stages: {', '.join(self.kept)}.",
            )
        return (self.last, "out") if stage == HEAD else self.points[stage]

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        taken: dict[str, Tensor] = {}
        wanted = [
            stage for stage in self.kept if stage in self.reads or stage + SPREAD in self.reads
        ]

        def take(stage: str, activation: Tensor) -> None:
            taken.update(pooled(stage, activation, stage + SPREAD in self.reads))
            if stage == self.kept[-1]:
                raise _EnoughError

        with contextlib.ExitStack() as hooks, contextlib.suppress(_EnoughError):
            for stage in wanted:
                if stage != HEAD:
                    hooks.callback(on_activation(*self.points[stage], stage, take))
            features = self.last(self.network.forward_features(image * self.scale + self.shift))  # type: ignore[operator]
            taken[HEAD] = self.network.forward_head(features, pre_logits=True).flatten(1)  # type: ignore[operator]
        x = torch.cat([taken[name] for name in self.reads], dim=1)
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        logits: Tensor = self.layers[-1](x)
        return logits


class _EnoughError(Exception):
    """Not a failure: the head reads nothing after this stage."""


def pooled(stage: str, activation: Tensor, spread: bool) -> dict[str, Tensor]:
    """Mean [N, D] of a stage over its positions, and the standard deviation where it is read."""
    values = activation if activation.dim() == 4 else activation[:, :, None, None]
    mean = values.mean((2, 3), keepdim=True)
    found = {stage: mean.flatten(1)}
    if spread:
        variance = (values - mean).square().mean((2, 3))
        found[stage + SPREAD] = variance.clamp(min=FLAT).sqrt()
    return found


def on_activation(
    module: nn.Module, side: str, stage: str, take: Callable[[str, Tensor], None]
) -> Callable[[], None]:
    """Hand a stage's activation to `take` whenever it runs; returns what ends that."""

    def before(_module: nn.Module, entering: tuple[Tensor, ...]) -> None:
        take(stage, entering[0])

    def after(_module: nn.Module, _entering: tuple[Tensor, ...], leaving: Tensor) -> None:
        take(stage, leaving)

    if side == "in":
        return module.register_forward_pre_hook(before).remove
    return module.register_forward_hook(after).remove


def _positions(model: Rebuilt) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}

    def take(stage: str, activation: Tensor) -> None:
        shape = activation.shape
        found[stage] = (int(shape[2]), int(shape[3])) if len(shape) == 4 else (1, 1)

    side = model.preprocess.size_px
    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for stage in model.kept:
            hooks.callback(on_activation(*model.place(stage), stage, take))
        model(torch.zeros(1, 3, side, side))
    return found


def rebuild(folder: Path, description: Mapping[str, Any], preprocess: Preprocess) -> Rebuilt:
    """The torch network of a bundle.

    Args:
        folder: the bundle's, whose checksums were compared. description: its headstart.json.

    Raises:
        BundleError: weights and description do not make a network that this program knows.
        WeightsError: the weights cannot be read.
    """
    state = read_state(folder / "model.safetensors")
    try:
        name, kept = str(description["backbone"]["name"]), description["stages"]["kept"]
        known_or_error(name)  # nothing but a network of timm's own list, or the demonstration one
        network = create(name, 0)
        prefix = "backbone."
        mine = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        _fill(network, mine, kept[-1], preprocess.size_px)
        layers = [
            _layer(state, part)
            for part in ("head.hidden", "head")
            if part == "head" or int(description["head"]["hidden"] or 0)
        ]
        return Rebuilt(name, network, description["head"]["reads"], kept, layers, preprocess)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ArgumentError,
    ) as cause:
        raise BundleError(
            f"The network of this model cannot be rebuilt in torch ({show(cause)[:200]})",
            where=folder,
            do="Explain it with the versions of headstart and timm that made it.",
        ) from cause


def _fill(network: nn.Module, state: dict[str, Tensor], last: str, side_px: int) -> None:
    """Load the weights of the kept stages; nothing that is needed up to `last` may be missing."""
    own = set(network.state_dict())
    stages = {s.name: s for s in describe(network.eval(), torch.zeros(1, 3, side_px, side_px))}
    missing = (set(stages[last].keeps) & own) - set(state)
    if missing or set(state) - own:
        wrong = sorted(missing or set(state) - own)
        raise ValueError(f"{len(wrong)} tensors do not fit, the first is {wrong[0]}")
    network.load_state_dict(state, strict=False)


def _layer(state: Mapping[str, Tensor], name: str) -> nn.Linear:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def randomised(model: Rebuilt, seed: int) -> Rebuilt:
    """The same architecture as its authors initialise it, under a random head."""
    network = untrained(lambda: create(model.name, 0), seed)
    layers = []
    for layer in model.layers:
        assert isinstance(layer, nn.Linear)
        fresh = nn.Linear(layer.in_features, layer.out_features)
        weight, bias = random_head(layer.out_features, layer.in_features, seed)
        fresh.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        layers.append(fresh)
    return Rebuilt(model.name, network, model.reads, model.kept, layers, model.preprocess)


def as_input(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 [N, S, S, 3] -> float32 [N, 3, S, S], what `Rebuilt` takes."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float()


def check_agreement(
    model: Rebuilt, pixels: NDArray[np.uint8], expected: NDArray[np.float32], temperature: float
) -> float:
    """Largest difference in probability to what ONNX Runtime answers.

    Args:
        pixels: [N, S, S, 3] as the network sees them. expected: probabilities [N, C].

    Raises:
        BundleError: the two differ by more than `AGREE`.
    """
    with torch.inference_mode():
        found = (model(as_input(pixels)).double() / temperature).softmax(1).numpy()
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not difference <= AGREE:  # also when it is not a number
        raise BundleError(
            "The rebuilt network does not answer as the model does, so it cannot explain it",
            received=f"a probability that differs by {difference:.1e}",
            do="Explain it with the versions of headstart and timm that made it.",
        )
    return difference
