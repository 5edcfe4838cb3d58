"""Heat maps follow their definitions, point where the evidence is, and fail with random weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headstart.data.images import Preprocess
from headstart.errors import ArgumentError, ExtraMissingError
from headstart.explain.gradcam import (
    default_stage,
    grad_cam,
    heat_map,
    saliency,
    sanity,
)
from headstart.explain.heat import Heat, rank_correlation
from headstart.explain.rebuild import Rebuilt, as_input, on_activation, rebuild
from headstart.plan.decide import Candidate
from headstart.ship.predict import load

TOP = Candidate("t", "head_top", None, 1)
CUT = Candidate("c", "head_cut", "layer1", 2)
ALL = Candidate("a", "all_stages", None, None)


def network_of(folder: Path) -> Rebuilt:
    bundle = load(folder).bundle
    return rebuild(bundle.folder, bundle.description, bundle.preprocess)


def noise(side: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def activation_and_slope(model: Rebuilt, pixels: Any, target: int, stage: str) -> tuple[Any, Any]:
    """By hand: the activation [D, h, w] at a stage, and the logit's slope there."""
    taken = []
    end = on_activation(*model.place(stage), stage, lambda _s, a: taken.append(a))
    logit = model(as_input(pixels[None]).requires_grad_())[0, target]
    end()
    (slope,) = torch.autograd.grad(logit, taken[0])
    return taken[0][0].detach().numpy(), slope[0].numpy()


@pytest.mark.parametrize(
    ("name", "candidate", "stages"),
    [
        ("test_resnet", TOP, ["layer1", "layer3", "head"]),
        ("test_resnet", replace(TOP, hidden=6), ["head"]),
        ("test_resnet", replace(ALL, spread=True), ["layer2", "layer4", "head"]),
        ("test_resnet", CUT, ["layer1"]),
        ("test_efficientnet", ALL, ["stem", "b1", "head"]),
        ("demo", TOP, ["conv1", "conv3", "head"]),
    ],
)
def test_grad_cam_is_what_the_paper_defines(
    bundle_of: Callable[..., Path], name: str, candidate: Candidate, stages: list[str]
) -> None:
    model = network_of(bundle_of(name, candidate))
    pixels = noise(model.preprocess.size_px)
    for stage in stages:
        activation, slope = activation_and_slope(model, pixels, 1, stage)
        expected = (slope.mean((1, 2))[:, None, None] * activation).sum(0)
        found = grad_cam(model, pixels, 1, stage)
        assert np.abs(found.signed - expected).max() <= 1e-5 * np.abs(expected).max()
        assert (found.positive >= 0).all()


def test_saliency_is_the_largest_slope_of_the_three_channels(
    bundle_of: Callable[..., Path],
) -> None:
    model = network_of(bundle_of("test_resnet", ALL))
    pixels = noise(64)
    x = as_input(pixels[None]).requires_grad_()
    (slope,) = torch.autograd.grad(model(x)[0, 2], x)
    expected = slope[0].abs().amax(0).numpy()
    assert np.abs(saliency(model, pixels, 2).signed - expected).max() <= 1e-6 * expected.max()


def test_an_average_below_a_linear_head_adds_up_to_the_logit(
    bundle_of: Callable[..., Path],
) -> None:
    """Where the head reads a mean, the signed map's mean over positions is the logit's share."""
    model = network_of(bundle_of("test_resnet", CUT))
    pixels = noise(64)
    found = grad_cam(model, pixels, 0, "layer1").signed
    logit = float(model(as_input(pixels[None]))[0, 0] - model.layers[-1].bias[0])
    assert found.sum() == pytest.approx(logit, rel=1e-4)


class Colours(nn.Module):
    """One stage: how red and how blue each cell of 8 px is."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 2, 8, stride=8)
        self.feature_info = [{"module": "cells"}]
        nn.init.zeros_(self.cells.bias)
        nn.init.zeros_(self.cells.weight)
        self.cells.weight.data[0, 0] = 1 / 64
        self.cells.weight.data[1, 2] = 1 / 64

    def forward_features(self, x: Any) -> Any:
        return self.cells(x).relu()

    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        return x.mean((2, 3))


def test_the_heat_of_a_class_lies_where_its_colour_is() -> None:
    head = nn.Linear(2, 2)
    head.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
    pre = Preprocess(32, 32, mean=(0.0,) * 3, std=(1.0,) * 3)
    model = Rebuilt("colours", Colours(), ["head"], ["cells", "head"], [head], pre)
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16, 0] = 255
    pixels[:, 16:, 2] = 255
    for target, half in ((0, slice(0, 2)), (1, slice(2, 4))):
        for stage in ("cells", "head"):
            found = grad_cam(model, pixels, target, stage).positive
            assert found[:, half].sum() == pytest.approx(found.sum())
            assert found.sum() > 0
        found = saliency(model, pixels, target).positive
        wide = slice(half.start * 8, half.stop * 8)
        assert found[:, wide].sum() == pytest.approx(found.sum())


def test_without_a_stage_the_last_one_with_positions_is_read(
    bundle_of: Callable[..., Path],
) -> None:
    expected = {
        ("test_resnet", TOP): "head",
        ("test_resnet", CUT): "layer1",
        ("demo", TOP): "head",
        ("demo", replace(CUT, cut="fc1")): "conv3",
    }
    for (name, candidate), stage in expected.items():
        model = network_of(bundle_of(name, candidate))
        assert default_stage(model) == stage
        assert heat_map(model, noise(model.preprocess.size_px), 0, "gradcam", None).stage == stage


def test_what_has_no_positions_is_refused_with_a_stage_that_has(
    bundle_of: Callable[..., Path],
) -> None:
    model = network_of(bundle_of("demo", TOP))
    with pytest.raises(ArgumentError, match=r"no positions.*Use head"):
        grad_cam(model, noise(32), 0, "fc1")
    with pytest.raises(ArgumentError, match="Saliency reads the pixels"):
        heat_map(model, noise(32), 0, "saliency", "conv1")


def test_random_weights_leave_little_of_a_map_and_a_map_of_the_picture_is_caught(
    bundle_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network_of(bundle_of("test_resnet", TOP))
    pictures = [(noise(64, seed), 0) for seed in range(3)]
    assert 0 <= sanity(model, pictures, "gradcam", "layer3") < 0.5

    def edges(_model: Any, pixels: Any, target: int, method: Any, stage: Any) -> Heat:
        grey = pixels.astype(np.float32).mean(2)
        return Heat("saliency", None, target, np.abs(np.diff(grey, axis=1)))

    monkeypatch.setattr("headstart.explain.gradcam.heat_map", edges)
    assert sanity(model, pictures, "saliency", None) == pytest.approx(1)


def test_rank_correlation_knows_order_reverse_and_nothing() -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, np.zeros_like(a)) == 0


def test_the_drawn_heat_is_between_nothing_and_one() -> None:
    values = np.linspace(-3, 9, 400, dtype=np.float32).reshape(20, 20)
    values[3, 3] = 500
    shown = Heat("gradcam", "b1", 0, values).shown
    assert shown.min() == 0 and shown.max() == 1
    assert shown[-1, -1] > 0.9  # one hot pixel does not make the others cold
    assert Heat("gradcam", "b1", 0, -np.ones((3, 3), np.float32)).shown.max() == 0


def test_a_missing_extra_is_named(
    bundle_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network_of(bundle_of("test_resnet", TOP))
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ExtraMissingError, match=r"pip install 'headstart\[explain\]'"):
        grad_cam(model, noise(64), 0, "head")
