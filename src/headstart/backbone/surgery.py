"""Surgery: a new head on a network, stages that are frozen for good, a network cut in two.

N images, C classes, D feature width, H W height and width in px.

Frozen means that no parameter and no BatchNorm statistic of a stage changes, whoever calls
`.train()` on whatever part, and that its dropout stays off. What a training step could change is
decided in one place, `Adapted`, and `digest` proves it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import skip_init

from headstart.backbone.stages import HEAD, describe, tap_points
from headstart.errors import ArgumentError, InternalError

Float = NDArray[np.float32]
SAME = 1e-4
"""largest difference, relative to the largest feature, of a network that was cut in two"""


class Adapted(nn.Module):
    """A network with a new head over C classes; some of its stages may be frozen.

    forward(image) returns logits [N, C]. `image` is uint8 [N, H, W, 3], normalised here as
    `Preprocess` says, or, for the upper part of a network that was cut, the activations
    [N, H, W, D] at the cut. Both are channels-last in memory, which convolutions prefer.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        weight: Float,
        bias: Float,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.network = network
        # Without random weights first: no number is drawn that the caller's draws would miss.
        self.head: nn.Linear = skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, weight.shape[1], weight.shape[0]
        )
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weight))
            self.head.bias.copy_(torch.from_numpy(bias))
        scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float32))
        shift = -torch.tensor(mean, dtype=torch.float32) / torch.tensor(std, dtype=torch.float32)
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)
        self.still: tuple[nn.Module, ...] = ()
        """modules that stay in eval mode: all of the frozen stages, BatchNorms that do not train"""

    def train(self, mode: bool = True) -> Adapted:
        """Training mode for everything that is not frozen."""
        super().train(mode)
        self._hold_still()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        self._hold_still()  # somebody may have called .train() on a part, past this module
        x = image.permute(0, 3, 1, 2)
        x = x.float() * self.scale + self.shift if image.dtype == torch.uint8 else x.float()
        logits: Tensor = self.head(pooled(self.network, x))
        return logits.float()

    def _hold_still(self) -> None:
        for module in self.still:
            module.training = False


def pooled(network: nn.Module, x: Tensor) -> Tensor:
    """Pre-logits features [N, D]: what the head reads."""
    features = network.forward_features(x)  # type: ignore[operator]
    head: Tensor = network.forward_head(features, pre_logits=True)  # type: ignore[operator]
    return head.flatten(1)


def untrained(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network with random weights that depend on the seed alone; the caller's draws go on as if
    nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def random_head(classes: int, width: int, seed: int) -> tuple[Float, Float]:
    """Weight [C, D] and bias [C] from U(+-1/sqrt(D)), as the head on frozen features starts."""
    rng = np.random.default_rng(seed)
    bound = 1 / np.sqrt(width)
    weight, bias = rng.uniform(-bound, bound, (classes, width)), rng.uniform(-bound, bound, classes)
    return weight.astype(np.float32), bias.astype(np.float32)


# -- freezing ------------------------------------------------------------------------------------


def freeze(model: Adapted, example: Tensor, through: str | None, norm_eval: bool) -> None:
    """Freeze every stage up to and including `through`; let the rest and the head learn.

    What never runs, such as the pre-trained classifier, is frozen always.

    Args:
        example: [1, 3, H, W]. through: None freezes no stage; "head" the whole network.
        norm_eval: BatchNorms of the learning stages keep their stored statistics, too; their
            scale and shift learn.

    Raises:
        ArgumentError: no such stage.
    """
    done, idle = _done(model.network, example, through)
    modules = dict(model.network.named_modules())
    still = {name: modules[name] for name in (*done, *idle)}
    for name, parameter in model.network.named_parameters():
        owner = name.rpartition(".")[0]
        # Weights of the network itself, outside any module, are used from the start.
        frozen = owner in still or (owner == "" and through is not None)
        parameter.requires_grad_(not frozen)
    model.head.requires_grad_(True)
    if norm_eval:
        still |= {
            name: module for name, module in modules.items() if isinstance(module, _BatchNorm)
        }
    model.still = tuple(still.values())
    model.train(model.training)


def stage_of(network: nn.Module, example: Tensor) -> dict[str, str]:
    """The stage that owns each tensor of the state dict, in the order in which stages run.

    A tensor that no stage needs, such as the pre-trained classifier, is not listed.

    Args:
        example: [1, 3, H, W].
    """
    owner: dict[str, str] = {}
    for stage in describe(network, example):
        for key in stage.keeps:
            owner.setdefault(key, stage.name)
    return owner


def learning(model: Adapted) -> dict[str, Tensor]:
    """What training may change, by its name in the state dict: learning parameters, and the
    statistics of BatchNorms that are neither frozen nor held in eval mode."""
    resting = {id(module) for module in model.still}
    found: dict[str, Tensor] = {
        name: value for name, value in model.named_parameters() if value.requires_grad
    }
    for prefix, module in model.named_modules():
        if id(module) in resting:
            continue
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def digest(model: Adapted) -> str:
    """Hash of every tensor that training may not change: values, shapes and names."""
    moves = learning(model)
    hashed = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        if name not in moves:
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            hashed.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            hashed.update(raw.tobytes())
    return hashed.hexdigest()


def check_frozen(model: Adapted, expected: str) -> None:
    """Compare the frozen tensors with their hash from before.

    Raises:
        InternalError: one of them has changed.
    """
    if digest(model) != expected:
        raise InternalError(
            "A frozen stage has changed while the rest was trained",
            do="Please report this with the backbone's name; nothing was handed over.",
        )


def network_state(network: nn.Module, without: str | None = None) -> dict[str, Tensor]:
    """The state dict of a network as a weights file holds it: float32 where it is a fraction,
    contiguous, on the CPU.

    Args:
        without: name of the old classifier, which is left out.
    """
    return {
        name: (value.float() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in network.state_dict().items()
        if without is None or not name.startswith(f"{without}.")
    }


# -- a network in two parts ----------------------------------------------------------------------


class Lower(nn.Module):
    """The frozen part: forward(image uint8 [N, H, W, 3]) returns activations [N, H, W, D] at the
    end of the stage `through`. Always in eval mode, never in an autograd graph."""

    def __init__(self, model: Adapted, through: str) -> None:
        super().__init__()
        self.model = model.eval()
        points = {name: (module, side) for name, module, side in tap_points(model.network)}
        self.point = points[through]

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        module, side = self.point
        self.model.eval()

        def reached(_module: nn.Module, entering: tuple[Tensor, ...], leaving: Any = None) -> None:
            raise _ReachedError(entering[0] if side == "in" else leaving)

        hooked = module.register_forward_pre_hook if side == "in" else module.register_forward_hook
        handle = hooked(reached)
        try:
            with torch.no_grad():
                self.model(image)
        except _ReachedError as stop:
            return stop.activation.permute(0, 2, 3, 1)
        finally:
            handle.remove()
        raise InternalError("The stage at which the network is cut did not run")


class _ReachedError(Exception):
    """Not a failure: nothing after this stage needs to run."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__()
        self.activation = activation


def upper(model: Adapted, example: Tensor, through: str) -> Adapted:
    """A copy that starts after the stage `through`; its tensors keep their names.

    Args:
        example: [1, 3, H, W], on which both parts together are compared with the whole.

    Raises:
        ArgumentError: no such stage, or a network whose parts do not compute what it computes.
    """
    done, _ = _done(model.network, example, through)
    above = Adapted(*_head_of(model), mean=(0.0,) * 3, std=(1.0,) * 3)
    above.network = _without(model.network, done)
    model.eval()
    above.eval()
    pixels = example.permute(0, 2, 3, 1).mul(127).clamp(0, 255).to(torch.uint8)
    with torch.inference_mode():
        whole = model(pixels)
        try:
            parts = above(Lower(model, through)(pixels))
            wrong = (whole - parts).abs().max() > SAME * whole.abs().max().clamp(min=1.0)
        except (RuntimeError, TypeError, ValueError):
            wrong = torch.tensor(True)
    if bool(wrong):
        raise ArgumentError(
            "This network cannot be cut in two after this stage",
            received=through,
            do="Train it whole, with the same stages frozen.",
        )
    return above


def _head_of(model: Adapted) -> tuple[nn.Module, Float, Float]:
    weight, bias = model.head.weight.detach(), model.head.bias.detach()
    return nn.Identity(), weight.cpu().numpy(), bias.cpu().numpy()


def _without(network: nn.Module, done: Sequence[str]) -> nn.Module:
    """A copy in which what has run already hands its input on."""
    # Not copied first and emptied then: the lower part can be most of the weights.
    kept = {id(network.get_submodule(name)): nn.Identity() for name in done}
    return copy.deepcopy(network, dict(kept))


def _done(
    network: nn.Module, example: Tensor, through: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of modules whose every call has ended when the stage ends, and of those never called."""
    began: dict[str, int] = {}
    ended: dict[str, int] = {}
    clock = iter(range(10**9))
    points = {name: (module, side) for name, module, side in tap_points(network)}
    if through is not None and through not in (*points, HEAD):
        raise ArgumentError(
            "There is no stage of this name",
            received=through,
            do=f"Stages: {', '.join((*points, HEAD))}.",
        )
    with contextlib.ExitStack() as hooks:
        for name, module in network.named_modules():

            def begin(_module: nn.Module, _inputs: Any, name: str = name) -> None:
                began.setdefault(name, next(clock))

            def end(_module: nn.Module, _inputs: Any, _output: Any, name: str = name) -> None:
                ended[name] = next(clock)

            hooks.callback(module.register_forward_pre_hook(begin).remove)
            hooks.callback(module.register_forward_hook(end).remove)
        was_training = network.training
        network.eval()
        with torch.inference_mode():
            pooled(network, example)
        network.train(was_training)
    names = {id(module): name for name, module in network.named_modules()}
    idle = tuple(name for name in names.values() if name and name not in ended)
    if through is None:
        return (), idle
    last = max(ended.values())
    if through != HEAD:
        module, side = points[through]
        last = (began if side == "in" else ended)[names[id(module)]]
    return tuple(name for name, when in ended.items() if when <= last), idle


# -- BatchNorm in several processes --------------------------------------------------------------


def synchronise_norms(model: Adapted, on_gpu: bool) -> int:
    """Let every BatchNorm that trains see the batches of all processes; returns how many do.

    Without it each process would normalise by its own share, and the statistics would differ.
    torch's own SyncBatchNorm knows no CPU, so there the same sums are taken by `_synced`.
    """
    resting = {id(module) for module in model.still}
    count = 0
    for name, module in list(model.named_modules()):
        if not isinstance(module, _BatchNorm) or id(module) in resting:
            continue
        count += 1
        if on_gpu:
            from timm.layers import convert_sync_batchnorm

            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, convert_sync_batchnorm(module))
        else:
            module.forward = types.MethodType(_synced, module)  # type: ignore[method-assign]
    return count


def _synced(self: _BatchNorm, x: Tensor) -> Tensor:
    """BatchNorm over the batches of all processes, each of the same size; [N, D, H, W]."""
    from torch.distributed import get_world_size
    from torch.distributed.nn.functional import all_reduce

    running_mean, running_var = self.running_mean, self.running_var
    assert running_mean is not None and running_var is not None
    if not self.training:
        y = batch_norm(x, running_mean, running_var, self.weight, self.bias, False, 0.0, self.eps)
        return _acted(self, y)
    count = x.numel() // x.shape[1] * get_world_size()
    total = all_reduce(x.float().sum((0, 2, 3)))  # type: ignore[no-untyped-call]
    mean = total / count
    centred = x.float() - mean[None, :, None, None]
    variance = all_reduce(centred.square().sum((0, 2, 3))) / count  # type: ignore[no-untyped-call]
    with torch.no_grad():
        momentum = 0.1 if self.momentum is None else self.momentum
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / max(1, count - 1)), momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
    y = centred * (variance + self.eps).rsqrt()[None, :, None, None]
    if self.weight is not None:
        y = y * self.weight[None, :, None, None] + self.bias[None, :, None, None]
    return _acted(self, y.to(x.dtype))


def _acted(norm: nn.Module, y: Tensor) -> Tensor:
    """timm's norms carry their activation."""
    for name in ("drop", "act"):
        module = getattr(norm, name, None)
        y = module(y) if isinstance(module, nn.Module) else y
    return y
