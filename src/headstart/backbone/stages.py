"""The ordered cut points of a network, and taps that read its activations there.

N images, D feature width of one tap, S stages, H W height and width of an activation in px.

A stage is named after the module that ends it: `stem`, then the children of `.blocks` (b0, b1, ..)
or `.stages` (s0, s1, ..) where a network has them, else the modules of timm's feature information;
the last stage is always `head`: the features that the pre-trained classifier reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headstart.errors import ArgumentError

HEAD = "head"
NORMS = (nn.BatchNorm2d,)  # timm's BatchNormAct2d is a subclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One cut point: its name, what it yields at this input size, and what is kept when cut here."""

    name: str
    width: int
    """D: channels, and so the width of the pooled features"""
    side_px: int
    """H (= W for square inputs) of its activation; 1 for the head"""
    parameters: int
    """learnable numbers in the network up to and including this stage"""
    macs: int
    """multiply-adds of one image up to and including this stage"""
    keeps: tuple[str, ...]
    """names in the state dict that the cut network needs"""


def tap_points(network: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(stage name, module, 'in' or 'out'): where each stage but the head is read."""
    for attribute, letter in (("blocks", "b"), ("stages", "s")):
        children = getattr(network, attribute, None)
        if isinstance(children, nn.Sequential) and len(children):
            points = [(f"{letter}{i}", child, "out") for i, child in enumerate(children)]
            return [("stem", children[0], "in"), *points]
    modules = dict(network.named_modules())
    information = getattr(network, "feature_info", None)
    rows = information if isinstance(information, list) else []
    points = [(row["module"], modules[row["module"]], "out") for row in rows]
    if not points:
        raise ArgumentError(
            "This network says nothing about its stages, so it cannot be opened up",
            received=type(network).__name__,
            do="Choose a CNN that `headstart backbones` lists.",
        )
    return points


def last_norm(network: nn.Module, example: Tensor) -> str | None:
    """Name of the BatchNorm that runs last and has stored statistics; None without any."""
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda _m, _i, name=name: order.append(name))
        for name, module in network.named_modules()
        if isinstance(module, NORMS) and module.running_var is not None
    ]
    _run_and_remove(network, example, handles)
    return order[-1] if order else None


class Taps(nn.Module):
    """The network with its taps: uint8 pixels in, pooled features of every stage out.

    forward(image uint8 [N, H, W, 3]) returns S tensors [N, D], then mean and mean square [N, D] of
    the last BatchNorm's input where there is one. The normalisation of pixels happens inside.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        norm: str | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.norm = norm
        self.points = [(name, module, side) for name, module, side in tap_points(network)]
        # One multiply and one add: (x / 255 - mean) / std.
        scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float32))
        shift = -torch.tensor(mean, dtype=torch.float32) / torch.tensor(std, dtype=torch.float32)
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("shift", shift.view(1, 3, 1, 1))

    @property
    def names(self) -> list[str]:
        """Names of the outputs in order."""
        extra = [] if self.norm is None else ["norm_mean", "norm_square"]
        return [*(name for name, _, _ in self.points), HEAD, *extra]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        activations: dict[str, Tensor] = {}
        handles = []
        for name, module, side in self.points:
            handles.append(_tap(module, side, name, activations))
        if self.norm is not None:
            handles.append(_tap(self.network.get_submodule(self.norm), "in", "norm", activations))
        try:
            pixels = image.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift
            features = self.network.forward_features(pixels)  # type: ignore[operator]
            head = self.network.forward_head(features, pre_logits=True)  # type: ignore[operator]
        finally:
            for handle in handles:
                handle.remove()
        pooled = [activations[name].mean((2, 3)) for name, _, _ in self.points]
        outputs = [*pooled, head.flatten(1)]
        if self.norm is not None:
            entering = activations["norm"].float()
            outputs += [entering.mean((2, 3)), entering.square().mean((2, 3))]
        return tuple(output.float() for output in outputs)


def describe(network: nn.Module, example: Tensor) -> tuple[Stage, ...]:
    """Measure every stage on one example [1, 3, H, W]: width, side, parameters, multiply-adds."""
    watch = _Watch(network)
    activations: dict[str, Tensor] = {}
    handles = list(watch.handles)
    marks: dict[str, tuple[frozenset[str], int]] = {}
    for name, module, side in tap_points(network):
        handles.append(
            _tap(module, side, name, activations, lambda n: marks.update({n: watch.now()}))
        )
    head = _run_and_remove(network, example, handles)
    activations[HEAD] = head
    marks[HEAD] = watch.now()
    state = network.state_dict()
    stages = []
    for name, activation in activations.items():
        owners, macs = marks[name]
        keeps = tuple(key for key in state if key.rpartition(".")[0] in owners)
        stages.append(
            Stage(
                name=name,
                width=int(activation.shape[1]),
                side_px=int(activation.shape[2]) if activation.dim() == 4 else 1,
                parameters=sum(
                    p.numel() for key, p in network.named_parameters() if key in set(keeps)
                ),
                macs=macs,
                keeps=keeps,
            )
        )
    return tuple(stages)


class _Watch:
    """Which modules with weights of their own have begun to run, and how many multiply-adds."""

    def __init__(self, network: nn.Module) -> None:
        self.owners: set[str] = set()
        self.macs = 0
        self.handles = []
        for name, module in network.named_modules():
            if not (list(module.parameters(recurse=False)) or list(module.buffers(recurse=False))):
                continue
            # Registered first, so that a module counts before a tap on it marks its stage.
            self.handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.owners.add(name)
            if isinstance(module, nn.Conv2d):
                self.macs += module.weight.numel() * int(output.shape[2] * output.shape[3])
            elif isinstance(module, nn.Linear):
                self.macs += module.weight.numel()

        return hook

    def now(self) -> tuple[frozenset[str], int]:
        return frozenset(self.owners), self.macs


def _tap(
    module: nn.Module,
    side: str,
    name: str,
    store: dict[str, Tensor],
    then: Callable[[str], None] = lambda _name: None,
) -> RemovableHandle:
    """Store a module's input or output under a name each time it runs."""

    def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        store[name] = inputs[0]
        then(name)

    def after(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        store[name] = output
        then(name)

    if side == "in":
        return module.register_forward_pre_hook(before)
    return module.register_forward_hook(after)


def _run_and_remove(
    network: nn.Module, example: Tensor, handles: Sequence[RemovableHandle]
) -> Tensor:
    """One forward pass up to the pre-logits features, in eval mode; hooks are always removed."""
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            features = network.forward_features(example)  # type: ignore[operator]
            head: Tensor = network.forward_head(features, pre_logits=True)  # type: ignore[operator]
            return head.flatten(1)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
