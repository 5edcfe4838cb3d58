"""What a position can see is what the layers' arithmetic says, and nothing outside it matters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from headstart.backbone.demo_net import DemoNet
from headstart.backbone.stages import HEAD
from headstart.explain.field import Field
from headstart.explain.receptive import activations, fields
from networks import random_network


def noise(side: int, count: int = 4) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn((1, 3, side, side), generator=draw) for _ in range(count)]


@pytest.fixture(scope="module")
def demo() -> tuple[nn.Module, dict[str, Field]]:
    torch.manual_seed(0)
    network = DemoNet(4).eval()
    return network, fields(network, noise(32))


def test_the_demonstration_network_has_the_fields_of_its_arithmetic(
    demo: tuple[nn.Module, dict[str, Field]],
) -> None:
    # A convolution widens the field by 2 strides, a pooling by 1 and doubles the stride.
    expected = {"conv1": (4, 2.0), "conv2": (10, 4.0), "conv3": (22, 8.0)}
    found = demo[1]
    assert {s: (found[s].whole_px, found[s].stride_px) for s in expected} == expected
    # conv1, position 0: pixels -1 to 2, whose middle is the line between pixels 0 and 1.
    assert [found[s].middle(0) for s in expected] == [1.0, 2.0, 4.0]
    assert found["conv1"].box(3, 0) == (-1, 5, 3, 9)
    for vector in ("fc1", "fc2", HEAD):
        assert (found[vector].positions, found[vector].whole_px) == (1, 32)
        assert found[vector].box(0, 0) == (0, 0, 32, 32)


@pytest.mark.parametrize("stage", ["conv1", "conv2", "conv3"])
def test_pixels_outside_the_field_do_not_matter_and_those_at_its_rim_do(
    demo: tuple[nn.Module, dict[str, Field]], stage: str
) -> None:
    network, found = demo
    field = found[stage]
    at = field.positions // 2 - 1
    left, top, right, bottom = field.box(at, at)
    inside = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    inside[..., top:bottom, left:right] = True
    a, b = noise(32, 2)
    with torch.no_grad():

        def features(x: Tensor) -> Tensor:
            return activations(network, x)[stage][0, :, at, at]

        assert torch.equal(features(a), features(torch.where(inside, a, b)))
        for rim in (left, right - 1):
            moved = a.clone()
            moved[..., top:bottom, rim] += 3
            assert not torch.equal(features(a), features(moved))


def test_the_effective_field_lies_within_the_whole_one(
    demo: tuple[nn.Module, dict[str, Field]],
) -> None:
    for field in demo[1].values():
        assert 1 <= field.effective_px <= field.whole_px
    assert demo[1]["conv3"].effective_px < 22


def test_a_single_convolution_is_heard_as_its_weights_say() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 7, padding=3, bias=False)
            nn.init.constant_(self.conv.weight, 1e-6)
            self.conv.weight.data[..., 2:5, 2:5] = 1.0
            self.feature_info = [{"module": "conv"}]

        def forward_features(self, x: Tensor) -> Tensor:
            return self.conv(x)

        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
            return x.mean((2, 3))

    found = fields(One().eval(), noise(20))["conv"]
    assert (found.whole_px, found.effective_px, found.stride_px) == (7, 3, 1.0)
    assert found.box(5, 9, 3) == (8, 4, 11, 7)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_fields_grow_from_stage_to_stage_in_networks_of_timm(name: str) -> None:
    found = fields(random_network(name), noise(96))
    sides = [field.whole_px for field in found.values()]
    assert sides == sorted(sides)
    assert sides[0] < 96 / 2
