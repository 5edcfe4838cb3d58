"""Grad-CAM without torch draws what captum draws with it, and fails with shuffled weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from headstart.backbone.features import open_session
from headstart.backbone.graph import StageInfo, TapGraph
from headstart.explain.cam import lens, sanity
from headstart.explain.inside import Inside, open_up
from headstart.explain.rebuild import rebuild
from headstart.plan.decide import Candidate
from headstart.ship.predict import load

TOP = Candidate("t", "head_top", None, 1)
CUT = Candidate("c", "head_cut", "layer1", 2)
ALL = Candidate("a", "all_stages", None, None)


def opened(folder: Path, graph: TapGraph) -> Inside:
    bundle = load(folder).bundle
    return open_up(bundle.onnx, graph, bundle.description["stages"]["kept"], bundle.taps)


def noise(side: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "candidate", "stage", "within"),
    [
        ("test_resnet", TOP, "head", 1e-4),
        ("test_resnet", replace(TOP, hidden=6), "head", 1e-4),
        ("test_resnet", replace(TOP, spread=True), "head", 1e-4),
        ("test_resnet", replace(ALL, spread=True), "head", 1e-4),
        ("test_resnet", CUT, "layer1", 1e-4),
        ("test_resnet", replace(CUT, spread=True), "layer1", 1e-4),
        ("test_efficientnet", ALL, "head", 1e-4),
        ("test_convnext", TOP, "head", 2e-2),
        ("demo", TOP, "head", 2e-2),
        ("demo", replace(TOP, hidden=6), "head", 2e-2),
        ("demo", replace(ALL, spread=True), "head", 2e-2),
        ("demo", replace(CUT, cut="fc1"), "conv3", 2e-2),
    ],
)
def test_the_maps_are_those_of_captum(
    bundle_of: Callable[..., Path],
    graph_of: Callable[[str], TapGraph],
    name: str,
    candidate: Candidate,
    stage: str,
    within: float,
) -> None:
    pytest.importorskip("captum")
    from headstart.explain.gradcam import default_stage, grad_cam

    folder = bundle_of(name, candidate, "squash")
    glass, bundle = lens(opened(folder, graph_of(name))), load(folder).bundle
    model = rebuild(folder, bundle.description, bundle.preprocess)
    assert glass.stage == stage == default_stage(model)
    for seed in range(2):
        pixels = noise(model.preprocess.size_px, seed)
        seen = glass.inside.look(pixels, [glass.stage])
        for target in range(3):
            expected = grad_cam(model, pixels, target, stage).signed
            found = glass.heat(seen, target)
            assert (found.method, found.stage, found.target) == ("gradcam", stage, target)
            assert np.abs(found.signed - expected).max() <= within * np.abs(expected).max()


def test_an_average_below_a_linear_head_adds_up_to_the_logit(
    bundle_of: Callable[..., Path], graph_of: Callable[[str], TapGraph]
) -> None:
    glass = lens(opened(bundle_of("test_resnet", CUT, "squash"), graph_of("test_resnet")))
    seen = glass.inside.look(noise(64), ["layer1"])
    weight, _ = glass.layers[0]
    for target in range(3):
        assert glass.heat(seen, target).signed.sum() == pytest.approx(
            float(weight[target] @ seen.features), rel=1e-4
        )


# -- a check that can fail ------------------------------------------------------------------------


def toy(weight: Any, head: Any) -> Inside:
    """One convolution, a rectifier, means, a linear head; no preprocessing."""
    node, make = helper.make_node, numpy_helper.from_array
    nodes = [
        node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]),
        node("Cast", ["turned"], ["x"], to=TensorProto.FLOAT),
        node("Conv", ["x", "w"], ["before"], auto_pad="SAME_UPPER"),
        node("Relu", ["before"], ["map"]),
        node("GlobalAveragePool", ["map"], ["mean"]),
        node("Flatten", ["mean"], ["head"]),
    ]
    after = [
        node("Identity", ["head"], ["features"]),
        node("Gemm", ["features", "headstart/head.weight", "headstart/head.bias"], ["logits"], transB=1),
        node("Softmax", ["logits"], ["probabilities"]),
    ]  # fmt: skip
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])
    weights = [make(np.asarray(weight, np.float32), "w")]
    layer = [
        make(np.asarray(head, np.float32), "headstart/head.weight"),
        make(np.zeros(len(head), np.float32), "headstart/head.bias"),
    ]

    def model(nodes: Any, outputs: Any, stored: Any) -> Any:
        made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
        graph = helper.make_graph(nodes, "toy", [image], made, stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    bundle = model([*nodes, *after], ["probabilities", "features", "map"], [*weights, *layer])
    backbone = onnx.shape_inference.infer_shapes(model(nodes, ["head"], weights))
    width = len(weight)
    stage = StageInfo("head", width, 1, 0, 0, ())
    session = open_session(bundle.SerializeToString(), 1)
    return Inside(bundle, backbone, session, (stage,), ("head",), {"head": "map"}, True)


def points(weight: Any) -> Any:
    """Kernels of one pixel."""
    return np.asarray(weight)[:, :, None, None]


def ramp() -> Any:
    """Every pixel of another brightness, in a random order."""
    values = np.random.default_rng(0).permutation(64).reshape(8, 8, 1) * 3
    return np.repeat(values, 3, axis=2).astype(np.uint8)


def test_a_map_that_shows_the_picture_only_fails_the_check() -> None:
    bright = toy(points([[0.2, 0.5, 0.3], [0.4, 0.1, 0.6]]), [[1.0, 2.0], [3.0, 1.0]])
    pixels = ramp()
    seen = bright.look(pixels, ["head"])
    assert sanity(bright, [(seen, pixels, 0)]) == pytest.approx(1.0)


def test_a_map_that_shows_what_was_learned_passes_the_check() -> None:
    """Every unit answers to another pattern; the head knows which patterns are its class's."""
    rng = np.random.default_rng(1)
    inside = toy(rng.normal(0, 1, (24, 3, 5, 5)), rng.normal(0, 1, (3, 24)))
    pictures = []
    for seed in range(4):
        pixels = noise(8, seed)
        pictures.append((inside.look(pixels, ["head"]), pixels, seed % 3))
    left = sanity(inside, pictures)
    assert left is not None and left < 0.5


def test_networks_that_draw_no_map_prove_nothing() -> None:
    dark = toy(points([[-1.0, -1.0, -1.0], [-1.0, -2.0, -1.0]]), [[1.0, 2.0], [3.0, 1.0]])
    pixels = ramp()
    assert sanity(dark, [(dark.look(pixels, ["head"]), pixels, 0)]) is None
