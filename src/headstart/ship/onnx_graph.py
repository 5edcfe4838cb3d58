"""Build the bundle's network: preprocessing, the kept stages, the new head, calibrated softmax.

N images, H W px, S side of the network's input in px, D feature width, C classes.

    image uint8 [N, H, W, 3]  ->  probabilities float32 [N, C], features float32 [N, D]

The features are what the head reads, and are computed for it anyway: as a second output they cost
a copy of a few kilobytes per image.
Stages that the head does not read are cut off for good, so an early cut really is smaller and
faster. Resizing happens on uint8, where ONNX's cubic filter equals Pillow's within a grey level.
Our own values are named under `headstart/`, so that no stage's name can be one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headstart.data.images import Preprocess
from headstart.ship.bundle import FEATURES
from headstart.train.head import Head
from headstart.train.mlp import MlpHead

OWN = "headstart/"
PIXELS = OWN + "pixels"


def build(
    tap_graph: Path,
    taps: Sequence[str],
    preprocess: Preprocess,
    head: Head | MlpHead,
    temperature: float,
) -> bytes:
    """The bundle's ONNX file.

    Args:
        tap_graph: the exported backbone. taps: the outputs that the head reads, in order.
        head: reads the outputs side by side, [N, D]. temperature: divides the logits before the
            softmax.
    """
    whole = onnx.load(str(tap_graph))
    body = onnx.utils.Extractor(whole).extract_model(["image"], list(taps))
    graph = body.graph
    _rename(graph, "image", PIXELS)
    for name in ("probabilities", FEATURES):  # a stage may be called so
        _rename(graph, name, f"{OWN}stage.{name}")
    taps = [f"{OWN}stage.{tap}" if tap in ("probabilities", FEATURES) else tap for tap in taps]
    before, constants = _preprocessing(preprocess)
    after, weights = _head_nodes(taps, head, temperature)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*constants, *weights])
    del graph.input[:]
    del graph.output[:]
    graph.input.append(
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    )
    graph.output.append(
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(head.bias)])
    )
    width = (head.hidden_weight if isinstance(head, MlpHead) else head.weight).shape[1]
    graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", width]))
    graph.name = "headstart"
    body.producer_name, body.producer_version, body.doc_string = "headstart", "", ""
    onnx.checker.check_model(body)
    return bytes(body.SerializeToString(deterministic=True))


def _rename(graph: Any, old: str, new: str) -> None:
    """Give a value another name, wherever it is made or read."""
    for node in graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                if name == old:
                    values[i] = new
    for stored in (*graph.initializer, *graph.value_info):
        if stored.name == old:
            stored.name = new


def _constant(name: str, values: Sequence[int]) -> Any:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


CUBIC = {
    "mode": "cubic",
    "antialias": 1,
    "cubic_coeff_a": -0.5,
    "exclude_outside": 1,
    "coordinate_transformation_mode": "half_pixel",
}


def _preprocessing(pre: Preprocess) -> tuple[list[Any], list[Any]]:
    """Nodes that turn `image` of any size into `pixels` uint8 [N, S, S, 3], as `fit_pixels` does."""
    assert not pre.mirror, "a mirrored view is there to learn from, never to answer from"
    fit = {"crop": _crop, "pad": _pad, "squash": _squash}[pre.fit]
    nodes, constants = fit(pre)
    node = helper.make_node
    nodes = [
        node("Transpose", ["image"], ["whole"], perm=[0, 3, 1, 2]),
        node("Shape", ["whole"], ["outer"], start=0, end=2),
        *nodes,
        node("Transpose", ["square"], ["pixels"], perm=[0, 2, 3, 1]),
    ]
    return _own_names(nodes, constants)


def _crop(pre: Preprocess) -> tuple[list[Any], list[Any]]:
    """The centre of the image, resized by its shorter side."""
    node = helper.make_node
    nodes = [
        node("Shape", ["whole"], ["whole_sides"], start=2, end=4),
        node("ReduceMin", ["whole_sides"], ["shorter"], keepdims=1),
        # Of a very long image only the middle is resized: 1 x 3000 px would become 600 MB. Whole
        # multiples of the shorter side go, so that the grid of the new pixels does not move.
        node("Div", ["whole_sides", "shorter"], ["ratio"]),
        node("Sub", ["ratio", "three"], ["beyond"]),
        node("Div", ["beyond", "two"], ["each_end"]),
        node("Max", ["each_end", "zero"], ["rims"]),
        node("Mul", ["rims", "shorter"], ["first"]),
        node("Sub", ["whole_sides", "first"], ["last"]),
        node("Slice", ["whole", "first", "last", "spatial"], ["middle"]),
        node("Sub", ["last", "first"], ["sides"]),
        # new side = (side * resize_px + m // 2) // m with m the shorter side, in whole numbers
        node("Div", ["shorter", "two"], ["half"]),
        node("Mul", ["sides", "resize_px"], ["scaled"]),
        node("Add", ["scaled", "half"], ["rounded"]),
        node("Div", ["rounded", "shorter"], ["new_sides"]),
        node("Concat", ["outer", "new_sides"], ["new_shape"], axis=0),
        node("Resize", ["middle", "", "", "new_shape"], ["resized"], **CUBIC),
        node("Sub", ["new_sides", "size_px"], ["surplus"]),
        node("Div", ["surplus", "two"], ["begin"]),
        node("Add", ["begin", "size_px"], ["end"]),
        node("Slice", ["resized", "begin", "end", "spatial"], ["square"]),
    ]
    constants = [
        _constant("zero", [0]),
        _constant("two", [2]),
        _constant("three", [3]),
        _constant("resize_px", [pre.resize_px]),
        _constant("size_px", [pre.size_px]),
        _constant("spatial", [2, 3]),
    ]
    return nodes, constants


def _squash(pre: Preprocess) -> tuple[list[Any], list[Any]]:
    """The whole image, whatever its proportions."""
    node = helper.make_node
    nodes = [
        # First what shrinks, then what grows: a line of 1 x 1,000,000 px, widened as it is, would
        # need gigabytes.
        node("Shape", ["whole"], ["sides"], start=2, end=4),
        node("Min", ["sides", "new_sides"], ["smaller"]),
        node("Concat", ["outer", "smaller"], ["small_shape"], axis=0),
        node("Resize", ["whole", "", "", "small_shape"], ["small"], **CUBIC),
        node("Concat", ["outer", "new_sides"], ["new_shape"], axis=0),
        node("Resize", ["small", "", "", "new_shape"], ["square"], **CUBIC),
    ]
    return nodes, [_constant("new_sides", [pre.size_px] * 2)]


def _pad(pre: Preprocess) -> tuple[list[Any], list[Any]]:
    """The whole image in its proportions, on a square of the mean colour."""
    node = helper.make_node
    nodes = [
        node("Shape", ["whole"], ["sides"], start=2, end=4),
        node("ReduceMax", ["sides"], ["longer"], keepdims=1),
        # new side = max(1, (side * size_px + m // 2) // m) with m the longer side
        node("Div", ["longer", "two"], ["half"]),
        node("Mul", ["sides", "size_px"], ["scaled"]),
        node("Add", ["scaled", "half"], ["rounded"]),
        node("Div", ["rounded", "longer"], ["new_or_none"]),
        node("Max", ["new_or_none", "one"], ["new_sides"]),
        node("Concat", ["outer", "new_sides"], ["new_shape"], axis=0),
        node("Resize", ["whole", "", "", "new_shape"], ["resized"], **CUBIC),
        node("Sub", ["size_px", "new_sides"], ["missing"]),
        node("Div", ["missing", "two"], ["before"]),
        node("Sub", ["missing", "before"], ["after"]),
        # All axes are written out: ONNX Runtime's optimiser fails on a Pad of some axes only.
        node("Concat", ["none", "before", "none", "after"], ["pads"], axis=0),
        node("Pad", ["resized", "pads"], ["padded"]),
        # Pad knows one number for all channels, so where the image is decides between two images.
        node("Concat", ["single", "new_sides"], ["plane"], axis=0),
        node("Expand", ["is_image", "plane"], ["inside"]),
        node("Pad", ["inside", "pads"], ["mask"]),
        node("Cast", ["mask"], ["where"], to=TensorProto.BOOL),
        node("Where", ["where", "padded", "border"], ["square"]),
    ]
    constants = [
        _constant("one", [1]),
        _constant("two", [2]),
        _constant("size_px", [pre.size_px]),
        _constant("none", [0, 0]),
        _constant("single", [1, 1]),
        numpy_helper.from_array(np.ones((1, 1, 1, 1), np.uint8), "is_image"),
        numpy_helper.from_array(np.array(pre.border, np.uint8).reshape(1, 3, 1, 1), "border"),
    ]
    return nodes, constants


def _head_nodes(
    taps: Sequence[str], head: Head | MlpHead, temperature: float
) -> tuple[list[Any], list[Any]]:
    node = helper.make_node
    logits, calibrated, warmth = (OWN + name for name in ("logits", "calibrated", "temperature"))
    if len(taps) > 1:
        nodes = [node("Concat", list(taps), [FEATURES], axis=1)]
    else:
        nodes = [node("Identity", list(taps), [FEATURES])]
    features = FEATURES
    stored = {OWN + name: values for name, values in head_tensors(head).items()}
    if isinstance(head, MlpHead):
        weight, bias = OWN + "head.hidden.weight", OWN + "head.hidden.bias"
        before, after = OWN + "before_relu", OWN + "hidden"
        nodes.append(node("Gemm", [features, weight, bias], [before], transB=1))
        nodes.append(node("Relu", [before], [after]))
        features = after
    nodes += [
        node("Gemm", [features, OWN + "head.weight", OWN + "head.bias"], [logits], transB=1),
        node("Div", [logits, warmth], [calibrated]),
        node("Softmax", [calibrated], ["probabilities"], axis=1),
    ]
    stored[warmth] = np.array([temperature], np.float32)
    return nodes, [numpy_helper.from_array(values, name) for name, values in stored.items()]


def head_tensors(head: Head | MlpHead) -> dict[str, NDArray[np.float32]]:
    """A head's numbers by the names under which a bundle stores them, in C order."""
    named = {"head.weight": head.weight, "head.bias": head.bias}
    if isinstance(head, MlpHead):
        named |= {"head.hidden.weight": head.hidden_weight, "head.hidden.bias": head.hidden_bias}
    return {name: np.asarray(values, order="C") for name, values in named.items()}


def _own_names(nodes: list[Any], constants: list[Any]) -> tuple[list[Any], list[Any]]:
    """Put every value but the image under `headstart/`; "" is an input that is left out."""
    for values in [*(node.input for node in nodes), *(node.output for node in nodes)]:
        for i, name in enumerate(values):
            if name not in ("", "image"):
                values[i] = OWN + name
    for constant in constants:
        constant.name = OWN + constant.name
    return nodes, constants
