from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from headstart.backbone.export_graph import freeze_padding
from headstart.backbone.stages import Taps, describe, last_norm, tap_points
from headstart.errors import ArgumentError
from networks import random_network

FAMILIES = ["test_efficientnet", "test_resnet", "test_convnext", "test_byobnet"]
SIDE = 64
HALF = (0.5, 0.5, 0.5)


def pixels(n: int = 2) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def taps_of(network: nn.Module, norm: str | None = None) -> Taps:
    return Taps(network, HALF, HALF, norm).eval()


def hooks_on(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_the_default_network_has_nine_stages() -> None:
    network = random_network("tf_efficientnet_lite0", classes=0)
    stages = describe(network, torch.zeros(1, 3, 224, 224))
    assert [s.name for s in stages] == "stem b0 b1 b2 b3 b4 b5 b6 head".split()
    assert [s.width for s in stages] == [32, 16, 24, 40, 80, 112, 192, 320, 1280]
    assert [s.side_px for s in stages] == [112, 112, 56, 28, 14, 14, 7, 7, 1]
    assert stages[-1].parameters == sum(p.numel() for p in network.parameters())
    assert stages[-1].macs == pytest.approx(385e6, rel=0.01)  # as published, less the classifier


@pytest.mark.parametrize("name", FAMILIES)
def test_taps_read_what_the_network_computes_and_leave_it_as_it_is(name: str) -> None:
    network = random_network(name)
    norm = last_norm(network, torch.zeros(1, 3, SIDE, SIDE))
    taps = taps_of(network, norm)
    image = pixels()
    seen = image.permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.inference_mode():
        before = network(seen)
        outputs = dict(zip(taps.names, taps(image), strict=True))
        assert torch.equal(network(seen), before)
        classified = network.get_classifier()(outputs["head"])
        assert torch.allclose(classified, before, atol=1e-4)
        stages = describe(network, torch.zeros(1, 3, SIDE, SIDE))
        assert torch.equal(network(seen), before)
    assert [outputs[s.name].shape for s in stages] == [(2, s.width) for s in stages]
    assert hooks_on(network) == 0
    assert not network.training


@pytest.mark.parametrize("name", FAMILIES)
def test_a_stage_keeps_exactly_what_its_features_need(name: str) -> None:
    network = random_network(name)
    whole = {k: v.clone() for k, v in network.state_dict().items()}
    stages = describe(network, torch.zeros(1, 3, SIDE, SIDE))
    taps, image = taps_of(network), pixels(1)

    def output(i: int) -> torch.Tensor:
        with torch.inference_mode():
            return taps(image)[i]

    for i, stage in enumerate(stages):
        expected = output(i)
        for key, value in network.state_dict().items():
            if key not in stage.keeps and value.is_floating_point():
                value.fill_(torch.nan)
        assert torch.equal(output(i), expected), stage.name
        network.load_state_dict(whole)
        kept = [k for k in stage.keeps if whole[k].is_floating_point()]
        for key in kept[:: max(1, len(kept) // 5)]:
            network.state_dict()[key].fill_(torch.nan)
            assert output(i).isnan().any(), (stage.name, key)
            network.load_state_dict(whole)
    assert [s.parameters for s in stages] == sorted(s.parameters for s in stages)
    assert [s.macs for s in stages] == sorted(s.macs for s in stages)


def test_multiply_adds_count_every_place_a_weight_is_used_at() -> None:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
            self.stages = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), grouped))
            self.mix = nn.Linear(4, 5)

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return self.mix(self.stages(x).permute(0, 2, 3, 1))

        def forward_head(self, x: torch.Tensor, pre_logits: bool) -> torch.Tensor:
            return x.mean((1, 2))

    first, second = (3 * 3 * 3 * 4) * 16, (3 * 3 * 2 * 4) * 16  # 4 x 4 places
    stages = describe(Toy(), torch.zeros(1, 3, 9, 9))
    assert [(s.name, s.macs) for s in stages] == [
        ("stem", 0),
        ("s0", first + second),
        ("head", first + second + 4 * 5 * 16),
    ]


def test_an_activation_that_a_later_layer_overwrites_is_read_in_time() -> None:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return self.stages(x)

        def forward_head(self, x: torch.Tensor, pre_logits: bool) -> torch.Tensor:
            return x.mean((2, 3))

    toy = Toy()
    with torch.inference_mode():
        outputs = dict(zip(taps_of(toy).names, taps_of(toy)(pixels(1)), strict=True))
        plain = toy.stages[0](pixels(1).permute(0, 3, 1, 2) / 255 * 2 - 1)
    assert torch.allclose(outputs["s0"], plain.mean((2, 3)), atol=1e-5)
    assert not torch.equal(outputs["s0"], outputs["s1"])


def test_the_last_norm_is_the_one_that_runs_last() -> None:
    example = torch.zeros(1, 3, SIDE, SIDE)
    assert last_norm(random_network("test_efficientnet"), example) == "bn2"
    assert last_norm(random_network("test_convnext"), example) is None


def test_moments_of_the_last_norm_are_those_of_its_input() -> None:
    network = random_network("test_resnet")
    norm = last_norm(network, torch.zeros(1, 3, SIDE, SIDE))
    assert norm is not None
    seen: list[torch.Tensor] = []
    network.get_submodule(norm).register_forward_pre_hook(lambda _m, i: seen.append(i[0].clone()))
    taps = taps_of(network, norm)
    with torch.inference_mode():
        *_, mean, square = taps(pixels())
    assert taps.names[-2:] == ["norm_mean", "norm_square"]
    assert torch.allclose(mean, seen[0].mean((2, 3)))
    assert torch.allclose(square, (seen[0] ** 2).mean((2, 3)))


def test_hooks_are_removed_after_an_exception() -> None:
    network = random_network("test_resnet")
    taps = taps_of(network, "layer4.0.bn1" if hasattr(network, "layer4") else None)
    example = torch.zeros(1, 3, SIDE, SIDE)

    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    network.forward_head = broken
    for work in (
        lambda: taps(pixels()),
        lambda: describe(network, example),
        lambda: last_norm(network, example),
    ):
        with pytest.raises(KeyboardInterrupt):
            work()
        assert hooks_on(network) == 0
    with pytest.raises(AttributeError):
        taps_of(network, "no.such.norm")(pixels())
    assert hooks_on(network) == 0


def test_describing_leaves_the_mode_of_the_network() -> None:
    network = random_network("test_resnet").train()
    moving = network.state_dict()["bn1.running_mean" if hasattr(network, "bn1") else "fc.bias"]
    before = moving.clone()
    describe(network, torch.zeros(1, 3, SIDE, SIDE))
    assert network.training
    assert torch.equal(moving, before)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_what_is_no_cnn_is_refused(name: str) -> None:
    network = random_network(name)
    side = 160 if name == "test_vit" else 224
    with pytest.raises(ArgumentError, match="Choose a plain CNN"):
        describe(network, torch.zeros(1, 3, side, side))
    assert hooks_on(network) == 0


def test_a_network_that_says_nothing_about_its_stages_is_refused() -> None:
    with pytest.raises(ArgumentError, match="Sequential"):
        tap_points(nn.Sequential(nn.Conv2d(3, 4, 1)))


@pytest.mark.parametrize("side", [96, 97, 130])
def test_constant_padding_computes_what_computed_padding_did(side: int) -> None:
    network = random_network("tf_efficientnet_lite0")
    example = torch.rand(1, 3, side, side)
    with torch.inference_mode():
        expected = network(example)
        freeze_padding(network, example)
        assert torch.equal(network(example), expected)
    assert not any(type(m).__name__ == "Conv2dSame" for m in network.modules())
    assert hooks_on(network) == 0
