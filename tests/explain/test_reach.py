"""Receptive fields by arithmetic are those that slopes measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from headstart.backbone.export_graph import freeze_padding
from headstart.backbone.graph import TapGraph
from headstart.backbone.load import network_of
from headstart.explain.inside import maps_of, with_shapes
from headstart.explain.reach import fields_of, reaches
from headstart.explain.receptive import fields


def calculated(graph: TapGraph) -> Any:
    model = with_shapes(onnx.load(str(graph.onnx)))
    maps, _ = maps_of(model, graph.stages)
    return fields_of(model, maps, graph.stages, graph.preprocess.size_px)


@pytest.mark.parametrize("name", ["demo", "test_resnet", "test_efficientnet", "test_convnext"])
def test_the_whole_field_is_the_one_that_slopes_reach(
    graph_of: Callable[[str], TapGraph], name: str
) -> None:
    graph = graph_of(name)
    side = graph.preprocess.size_px
    network = network_of(name, graph.weights, graph.source_classes)
    for module in network.modules():  # a branch that begins at zero would have no slope
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    freeze_padding(network, torch.zeros(1, 3, side, side))
    draw = torch.Generator().manual_seed(0)
    measured = fields(network, [torch.randn((1, 3, side, side), generator=draw) for _ in range(6)])
    found = calculated(graph)
    assert list(found) == list(measured)
    for stage, mine in found.items():
        theirs = measured[stage]
        assert (mine.positions, mine.input_px) == (theirs.positions, theirs.input_px), stage
        if theirs.whole_px < 0.9 * side:
            assert mine.whole_px == theirs.whole_px, stage
            if 2 * mine.whole_px < side:  # else a neighbour's field meets the rim
                assert mine.stride_px == theirs.stride_px, stage
                assert mine.first_px == pytest.approx(theirs.first_px), stage
        else:
            assert mine.whole_px >= 0.9 * side, stage
        assert 1 <= mine.effective_px <= mine.whole_px


def test_many_equal_kernels_listen_to_a_bell_in_the_middle() -> None:
    """Five averages of 5 px: the slope is their convolution, most of it within its middle."""
    layers = [nn.Conv2d(1, 1, 5, padding=2, bias=False) for _ in range(5)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1 / 25)
    averages = [
        helper.make_node("Conv", [f"x{i}", "w"], [f"x{i + 1}"], pads=[2, 2, 2, 2])
        for i in range(len(layers))
    ]
    image = helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, 1, 64, 64])
    weight = numpy_helper.from_array(np.full((1, 1, 5, 5), 1 / 25, np.float32), "w")
    reach = reaches(helper.make_model(helper.make_graph(averages, "a", [image], [], [weight])))[
        "x5"
    ]
    assert reach.high - reach.low == 21
    assert reach.variance == pytest.approx(5 * 2)
    x = torch.zeros(1, 1, 64, 64, requires_grad=True)
    (slope,) = torch.autograd.grad(nn.Sequential(*layers)(x)[0, 0, 32, 32], x)
    squared = slope[0, 0].square()
    half = round(3.16 * reach.variance**0.5) / 2
    inside = squared[
        round(32.5 - half) : round(32.5 + half), round(32.5 - half) : round(32.5 + half)
    ]
    assert 0.9 < float(inside.sum() / squared.sum()) < 0.99
