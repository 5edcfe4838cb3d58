"""Depthwise convolutions whose gradients are quick in bfloat16 on a processor, too.

oneDNN, which computes for torch on a processor, has no quick bfloat16 code for two gradients of a
depthwise convolution: the weight's with a kernel of 5 x 5 px, and the input's with a stride. One
image of 160 px spends more time there than in all the rest. So a 5 x 5 weight gradient is put
together from four of 3 x 3, and a strided input gradient is computed in float32: the same sums in
another order.

B batch, D channels, H W side of the input, h w of the output, in px.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad


class Depthwise(torch.autograd.Function):
    """A convolution of each channel by itself."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        """[B, D, H, W], [D, 1, K, K], [D] -> [B, D, h, w]"""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.biased = stride, padding, bias is not None
        return conv2d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the five arguments."""
        (above_y,) = above
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        wanted = ctx.needs_input_grad
        of_x = of_weight = of_bias = None
        if wanted[0]:
            kind = torch.float32 if stride > 1 and x.dtype == torch.bfloat16 else x.dtype
            # Of the input only the shape counts.
            shape = x if x.dtype == kind else torch.empty_like(x, dtype=kind)
            of_x = _gradient(above_y.to(kind), shape, weight.to(kind), stride, padding, 0)
            of_x = of_x.to(x.dtype)
        if wanted[1]:
            if weight.shape[2:] == (5, 5):
                of_weight = _five_by_five(above_y, x, weight, stride, padding)
            else:
                of_weight = _gradient(above_y, x, weight, stride, padding, 1)
        if ctx.biased and wanted[2]:
            of_bias = above_y.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None


def _gradient(
    above: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, which: int
) -> Tensor:
    """As torch computes it: of the input (0) or of the weight (1)."""
    mask = [which == 0, which == 1, False]
    found: Tensor = torch.ops.aten.convolution_backward(
        above,
        x,
        weight,
        None,
        [stride] * 2,
        [padding] * 2,
        [1, 1],
        False,
        [0, 0],
        len(weight),
        mask,
    )[which]
    return found


def _five_by_five(above: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """[D, 1, 5, 5] of four kernels of 3 x 3, each at its corner; where two meet both say the same."""
    wide = pad(x, [padding] * 4)
    tall, broad = ((side - 1) * stride + 3 for side in above.shape[2:])
    kernel = weight[:, :, :3, :3].contiguous()
    found = torch.empty_like(weight)
    for i in (0, 2):
        for k in (0, 2):
            seen = wide[:, :, i : i + tall, k : k + broad]
            found[:, :, i : i + 3, k : k + 3] = _gradient(above, seen, kernel, stride, 0, 1)
    return found


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a convolution, torch's or timm's Conv2dSame, gives with another weight and bias."""
    from timm.layers import Conv2dSame, pad_same

    padding: tuple[int, ...]
    if isinstance(conv, Conv2dSame):
        x, padding = pad_same(x, conv.kernel_size, conv.stride, conv.dilation), (0, 0)
    elif conv.padding_mode == "zeros" and isinstance(conv.padding, tuple):
        padding = conv.padding
    else:
        return conv._conv_forward(x, weight, bias)  # type: ignore[no-any-return]
    if not (_is_depthwise(conv) and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
        return conv2d(x, weight, bias, conv.stride, padding, conv.dilation, conv.groups)
    kind = torch.get_autocast_dtype("cpu")
    given = None if bias is None else bias.to(kind)
    found: Tensor = Depthwise.apply(x.to(kind), weight.to(kind), given, conv.stride[0], padding[0])
    return found


def quicken(network: nn.Module) -> None:
    """Let the convolutions that still compute as they came go by `convolve` while the network lives."""
    from timm.layers import Conv2dSame

    for module in network.modules():
        # Exactly these classes: what is derived from them may compute something else.
        if type(module) in (nn.Conv2d, Conv2dSame) and "forward" not in vars(module):
            module.forward = types.MethodType(_quick, module)


def _quick(self: nn.Conv2d, x: Tensor) -> Tensor:
    return convolve(self, x, self.weight, self.bias)


def _is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether each channel is convolved by itself, alike in height and width."""
    alike = (conv.kernel_size, conv.stride, conv.padding)
    return (
        conv.groups == conv.in_channels == conv.out_channels > 1
        and conv.dilation == (1, 1)
        and all(len(set(sides)) == 1 for sides in alike)
    )
