"""Fold BatchNorms that keep their statistics into the convolutions before them, while they learn.

With fixed statistics a BatchNorm multiplies and shifts each channel, which the convolution can do by
itself: y = conv(x, w s) + b, s = gamma / sqrt(var + eps), b = beta - mean s. Activations are then
read and written once less on the way forward, and twice less on the way back, which on a processor
is a quarter of a training step. Weight, gamma and beta stay parameters of their own with the same
gradients, so that weight decay, rates and files know nothing of it.

N images, H W height and width in px.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn

from headstart.backbone.depthwise import convolve
from headstart.backbone.surgery import SAME, Adapted, pooled

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


def fold_norms(model: Adapted, example: Tensor) -> int:
    """Fold what can be folded, for as long as this object lives; returns how many BatchNorms were.

    For a model whose BatchNorms all stay in eval mode. A network that would compute anything else
    than before, because it also reads what a convolution gives elsewhere, is left as it is.

    Args:
        example: [1, 3, H, W] for a whole network; its activations for the upper part of one.
    """
    network = model.network
    pairs = _pairs(network, example)
    probe = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    probe = probe.to(example)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        before = pooled(network, probe)
        for conv, norm in pairs:
            _fold(conv, norm)
        after = pooled(network, probe)
    network.train(was_training)
    if (before - after).abs().max() > SAME * before.abs().max().clamp(min=1.0):
        for pair in pairs:
            for module in pair:
                del module.forward
        return 0
    return len(pairs)


def _pairs(network: nn.Module, example: Tensor) -> list[Pair]:
    """Every convolution whose output goes straight into a BatchNorm, each with its own."""
    from timm.layers import BatchNormAct2d, Conv2dSame

    # By identity: the tensors are kept, or another one could get the number of one that is gone.
    left: list[tuple[Tensor, nn.Conv2d]] = []
    found: list[Pair] = []

    def leaves(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        left.append((output, module))

    def enters(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        found.extend((conv, module) for output, conv in left if output is inputs[0])

    handles = []
    for module in network.modules():
        # Exactly these classes: what is derived from them may compute something else.
        if type(module) in (nn.Conv2d, Conv2dSame) and "forward" not in vars(module):
            handles.append(module.register_forward_hook(leaves))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.affine:
            if module.running_mean is not None:
                handles.append(module.register_forward_pre_hook(enters))
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        pooled(network, example)
    network.train(was_training)
    for handle in handles:
        handle.remove()
    once = {id(part) for pair in found for part in pair}
    return found if len(once) == 2 * len(found) else []  # a module that runs twice: leave it all


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    def folded(self: nn.Conv2d, x: Tensor) -> Tensor:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        weight = self.weight * scale.view(-1, 1, 1, 1)
        shifted = -mean if self.bias is None else self.bias - mean
        bias = torch.addcmul(norm.bias, shifted, scale)
        return convolve(self, x, weight, bias)

    def passed(self: nn.BatchNorm2d, x: Tensor) -> Tensor:
        # timm's BatchNorms carry the activation that follows them.
        if not hasattr(self, "act"):
            return x
        acted: Tensor = self.act(self.drop(x))  # type: ignore[operator]
        return acted

    conv.forward = types.MethodType(folded, conv)  # type: ignore[method-assign]
    norm.forward = types.MethodType(passed, norm)  # type: ignore[method-assign]
