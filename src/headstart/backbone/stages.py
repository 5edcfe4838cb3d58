"""The ordered cut points of a network, and taps that read its activations there.

N images, D feature width of one tap, S stages, H W height and width of an activation in px.

A stage is named after the module that ends it: `stem`, then the children of `.blocks` (b0, b1, ..)
or `.stages` (s0, s1, ..) where a network has them, else the modules of timm's feature information;
the last stage is always `head`: the features that the pre-trained classifier reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headstart.backbone.graph import SPREAD
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
    if "NHWC" in str(getattr(network, "output_fmt", "NCHW")):
        raise _not_a_cnn(type(network).__name__)
    for attribute, letter in (("blocks", "b"), ("stages", "s")):
        children = getattr(network, attribute, None)
        if isinstance(children, nn.Sequential) and len(children):
            points = [(f"{letter}{i}", child, "out") for i, child in enumerate(children)]
            return [("stem", children[0], "in"), *points]
    modules = dict(network.named_modules())
    information = getattr(network, "feature_info", None)
    rows = information if isinstance(information, list) else []
    names = [str(row.get("module")) for row in rows]
    if not names or not all(modules.get(name) for name in names):
        raise _not_a_cnn(type(network).__name__)
    return [(name, modules[name], "out") for name in names]


def last_norm(network: nn.Module, example: Tensor) -> str | None:
    """Name of the BatchNorm that runs last and has stored statistics; None without any."""
    order: list[str] = []
    with contextlib.ExitStack() as hooks:
        for name, module in network.named_modules():
            if isinstance(module, NORMS) and module.running_var is not None:
                _tap(hooks, module, "in", name, lambda name, _entering: order.append(name))
        _run(network, example)
    return order[-1] if order else None


class Taps(nn.Module):
    """The network with its taps: uint8 pixels in, pooled features of every stage out.

    forward(image uint8 [N, H, W, 3]) returns the means of S stages [N, D], then for each stage of
    `spread` the standard deviations over positions [N, D], then mean and mean square [N, D] of the
    last BatchNorm's input where there is one. The normalisation of pixels happens inside.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        norm: str | None,
        spread: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.norm = norm
        self.spread = tuple(spread)
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
        spread = (f"{name}{SPREAD}" for name in self.spread)
        return [*(name for name, _, _ in self.points), HEAD, *spread, *extra]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        taken: dict[str, Tensor] = {}

        # Pooled at once: a later layer may overwrite an activation in place, and B activations of
        # every stage need not stay in memory. In float32, whatever the network computes in.
        def pool(name: str, activation: Tensor) -> None:
            values = _map(name, activation).float()
            mean = values.mean((2, 3), keepdim=True)
            taken[name] = mean.flatten(1)
            if name in self.spread:
                # About the mean: mean square less squared mean would keep few digits of a small
                # deviation. A product, because ONNX Runtime has no fast sum of squares.
                off = values - mean
                taken[f"{name}{SPREAD}"] = (off * off).mean((2, 3)).sqrt()

        def moments(_name: str, entering: Tensor) -> None:
            pool("norm_mean", entering)
            taken["norm_square"] = entering.float().square().mean((2, 3))

        with contextlib.ExitStack() as hooks:
            for name, module, side in self.points:
                _tap(hooks, module, side, name, pool)
            if self.norm is not None:
                _tap(hooks, self.network.get_submodule(self.norm), "in", "norm", moments)
            pixels = image.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift
            taken[HEAD] = _pre_logits(self.network, pixels).float()
        return tuple(taken[name] for name in self.names)


def describe(network: nn.Module, example: Tensor) -> tuple[Stage, ...]:
    """Measure every stage on one example [1, 3, H, W]: width, side, parameters, multiply-adds."""
    marks: dict[str, tuple[torch.Size, frozenset[str], int]] = {}
    points = tap_points(network)
    with contextlib.ExitStack() as hooks:
        watch = _Watch(network, hooks)

        def mark(name: str, activation: Tensor) -> None:
            marks[name] = (_map(name, activation).shape, *watch.now())

        for name, module, side in points:
            _tap(hooks, module, side, name, mark)
        head = _run(network, example)
    marks[HEAD] = (head.shape, *watch.now())
    state = network.state_dict()
    learnable = {key: value.numel() for key, value in network.named_parameters()}
    stages = []
    for name in (*(name for name, _, _ in points), HEAD):
        shape, owners, macs = marks[name]
        keeps = tuple(key for key in state if key.rpartition(".")[0] in owners)
        stages.append(
            Stage(
                name=name,
                width=int(shape[1]),
                side_px=int(shape[2]) if len(shape) == 4 else 1,
                parameters=sum(learnable.get(key, 0) for key in keeps),
                macs=macs,
                keeps=keeps,
            )
        )
    return tuple(stages)


class _Watch:
    """Which modules with weights of their own have run, and how many multiply-adds they took."""

    def __init__(self, network: nn.Module, hooks: contextlib.ExitStack) -> None:
        self.owners = {""}  # the network itself: never called, its own weights are always kept
        self.macs = 0
        for name, module in network.named_modules():
            if list(module.parameters(recurse=False)) or list(module.buffers(recurse=False)):
                # Registered first, so that a module counts before a tap on it marks its stage.
                hooks.enter_context(_removed(module.register_forward_hook(self._hook(name))))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.owners.add(name)
            # Every weight is used once at every place of the output, of one image.
            if isinstance(module, nn.Conv2d):
                self.macs += module.weight.numel() * int(output[0, 0].numel())
            elif isinstance(module, nn.Linear):
                self.macs += module.weight.numel() * int(output[0, ..., 0].numel())

        return hook

    def now(self) -> tuple[frozenset[str], int]:
        return frozenset(self.owners), self.macs


def _tap(
    hooks: contextlib.ExitStack,
    module: nn.Module,
    side: str,
    name: str,
    take: Callable[[str, Tensor], None],
) -> None:
    """Hand a module's input or output to `take` each time it runs, until the hooks are closed."""

    def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        take(name, inputs[0])

    def after(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        take(name, output)

    if side == "in":
        hooks.enter_context(_removed(module.register_forward_pre_hook(before)))
    else:
        hooks.enter_context(_removed(module.register_forward_hook(after)))


@contextlib.contextmanager
def _removed(handle: RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _run(network: nn.Module, example: Tensor) -> Tensor:
    """Pre-logits features [1, D] of an example, in eval mode."""
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            return _pre_logits(network, example)
    finally:
        network.train(was_training)


def _pre_logits(network: nn.Module, pixels: Tensor) -> Tensor:
    features = network.forward_features(pixels)  # type: ignore[operator]
    head: Tensor = network.forward_head(features, pre_logits=True)  # type: ignore[operator]
    return head.flatten(1)


def _map(name: str, activation: object) -> Tensor:
    """An activation [N, D, H, W], or an error for a network that has none."""
    if isinstance(activation, Tensor) and activation.dim() == 4:
        return activation
    if isinstance(activation, Tensor) and activation.dim() == 2:  # of a fully connected layer
        return activation[:, :, None, None]
    raise _not_a_cnn(f"stage {name}")


def _not_a_cnn(received: str) -> ArgumentError:
    return ArgumentError(
        "This network has no stages with one map of features each, so it cannot be opened up",
        received=received,
        do="Choose a plain CNN: an EfficientNet, MobileNet, ResNet, RegNet, ConvNeXt, DenseNet, VGG.",
    )
