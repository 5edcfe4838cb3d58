"""Folded BatchNorms compute, and learn, what they did before."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headstart.backbone.fold import fold_norms
from headstart.backbone.surgery import Adapted, freeze

EXAMPLE = torch.zeros(1, 3, 64, 64)


class Residual(nn.Module):
    """A toy whose second convolution is followed by its norm, whose third is also read by itself."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)

    def forward_features(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        return self.bn2(y) + (y if self.shared else x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x.mean((2, 3))


def adapted(network: nn.Module, width: int) -> Adapted:
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():  # statistics and scales that are not 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_var, module.weight, module.running_mean, module.bias):
                assert value is not None
                value.data.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, width)), rng.normal(size=4)
    model = Adapted(
        network, weight.astype(np.float32), bias.astype(np.float32), (0.5,) * 3, (0.5,) * 3
    )
    model.train()
    return model


def step(model: Adapted) -> tuple[Tensor, dict[str, Tensor]]:
    pixels = torch.randint(0, 256, (4, 64, 64, 3), generator=torch.Generator().manual_seed(2))
    logits = model(pixels.to(torch.uint8))
    model.zero_grad()
    logits.square().sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), grads


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-3 * other.abs().max().clamp(min=1e-3))


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "toy"])
def test_a_folded_network_computes_and_learns_the_same(name: str) -> None:
    import timm

    torch.manual_seed(0)
    network = (
        Residual(shared=False)
        if name == "toy"
        else timm.create_model(name, pretrained=False, num_classes=0, drop_path_rate=0.0)
    )
    width = 8 if name == "toy" else network.num_features
    model = adapted(network, width)
    if name != "toy":
        freeze(model, EXAMPLE, None, norm_eval=True)
    else:
        model.still = (network.bn1, network.bn2)
    before, norms = (
        copy.deepcopy(model),
        [n for n in network.modules() if "BatchNorm" in str(type(n))],
    )
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    assert fold_norms(model, EXAMPLE) == len(norms)
    (one, grads), (other, expected) = step(model), step(before)
    assert close(one, other)
    assert set(grads) == set(expected)
    assert all(close(grads[key], expected[key]) for key in grads)
    assert all(torch.equal(value, kept[key]) for key, value in network.state_dict().items())


def test_a_convolution_that_is_read_elsewhere_is_left_alone() -> None:
    model = adapted(Residual(shared=True), 8)
    model.still = (model.network.bn1, model.network.bn2)
    before = copy.deepcopy(model)
    assert fold_norms(model, EXAMPLE) == 0
    assert torch.equal(step(model)[0], step(before)[0])


def test_folding_twice_changes_nothing_more() -> None:
    model = adapted(Residual(shared=False), 8)
    model.still = (model.network.bn1, model.network.bn2)
    assert fold_norms(model, EXAMPLE) == 2
    once = step(model)[0]
    assert fold_norms(model, EXAMPLE) == 0
    assert torch.equal(step(model)[0], once)
