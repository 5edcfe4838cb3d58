"""Quick depthwise convolutions compute, and learn, what torch's own do."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from headstart.backbone.depthwise import Depthwise, convolve, quicken


def gradients(found: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    above = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    return (found.detach(), *torch.autograd.grad(found, of, above))


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [9, 10])
def test_results_and_gradients_are_those_of_torch(kernel: int, stride: int, side: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, side, side + 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    padding = kernel // 2
    here = Depthwise.apply(x, weight, bias, stride, padding)
    there = nn.functional.conv2d(x, weight, bias, stride, padding, 1, 6)
    given = (x, weight, bias)
    for mine, torchs in zip(gradients(here, *given), gradients(there, *given), strict=True):
        torch.testing.assert_close(mine, torchs)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_low_precision_is_near_full_precision(kind: type[nn.Conv2d], kernel: int) -> None:
    torch.manual_seed(0)
    conv = kind(8, 8, kernel, stride=2, padding=kernel // 2, groups=8)
    x = torch.randn(4, 8, 17, 17).to(memory_format=torch.channels_last).requires_grad_()
    exact = gradients(conv(x), x, conv.weight, conv.bias)
    quicken(nn.Sequential(conv))
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x)
    assert found.dtype == torch.bfloat16 and "Depthwise" in found.grad_fn.name()
    for near, full in zip(gradients(found.float(), x, conv.weight, conv.bias), exact, strict=True):
        assert near.dtype == torch.float32
        assert (near - full).norm() < 0.02 * full.norm()


def test_nothing_changes_bit_for_bit_in_full_precision() -> None:
    conv = nn.Conv2d(8, 8, 5, padding=2, groups=8)
    x = torch.randn(2, 8, 9, 9)
    before = conv(x)
    quicken(nn.Sequential(conv))
    assert torch.equal(before, conv(x))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 16, 3, padding=1),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=8),
        nn.Conv2d(8, 8, 3, padding="same", groups=8),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", groups=8),
    ],
)
def test_other_convolutions_are_torchs(conv: nn.Conv2d) -> None:
    x = torch.randn(2, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve(conv, x, conv.weight, conv.bias)
        assert torch.equal(found, conv(x))
    assert "Depthwise" not in found.grad_fn.name()


def test_modules_that_compute_something_else_are_left_alone() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    network = nn.Sequential(Scaled(8, 8, 3, groups=8))
    quicken(network)
    assert "forward" not in vars(network[0])


def test_a_frozen_weight_or_input_asks_for_no_gradient() -> None:
    weight = torch.randn(4, 1, 5, 5)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    Depthwise.apply(x, weight, None, 1, 2).sum().backward()
    assert x.grad is not None and weight.grad is None
