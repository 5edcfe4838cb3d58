"""Build the bundle's network: preprocessing, the kept stages, the new head, calibrated softmax.

N images, H W px, S side of the network's input in px, D feature width, C classes.

    image uint8 [N, H, W, 3]  ->  probabilities float32 [N, C]

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
from headstart.train.head import Head

OWN = "headstart/"
PIXELS = OWN + "pixels"


def build(
    tap_graph: Path,
    taps: Sequence[str],
    preprocess: Preprocess,
    head: Head,
    temperature: float,
) -> bytes:
    """The bundle's ONNX file.

    Args:
        tap_graph: the exported backbone. taps: the outputs that the head reads, in order.
        head: weight [C, D], bias [C]. temperature: divides the logits before the softmax.
    """
    whole = onnx.load(str(tap_graph))
    body = onnx.utils.Extractor(whole).extract_model(["image"], list(taps))
    graph = body.graph
    _rename_input(graph, "image", PIXELS)
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
    graph.name = "headstart"
    body.producer_name, body.producer_version, body.doc_string = "headstart", "", ""
    onnx.checker.check_model(body)
    return bytes(body.SerializeToString(deterministic=True))


def _rename_input(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _constant(name: str, values: Sequence[int]) -> Any:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def _preprocessing(pre: Preprocess) -> tuple[list[Any], list[Any]]:
    """Nodes that turn `image` of any size into `pixels` uint8 [N, S, S, 3], as `fit_pixels` does."""
    assert pre.fit == "crop", "no setting asks for another fit yet"
    node = helper.make_node
    cubic = {
        "mode": "cubic",
        "antialias": 1,
        "cubic_coeff_a": -0.5,
        "exclude_outside": 1,
        "coordinate_transformation_mode": "half_pixel",
    }
    nodes = [
        node("Transpose", ["image"], ["whole"], perm=[0, 3, 1, 2]),
        node("Shape", ["whole"], ["outer"], start=0, end=2),
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
        node("Resize", ["middle", "", "", "new_shape"], ["resized"], **cubic),
        node("Sub", ["new_sides", "size_px"], ["surplus"]),
        node("Div", ["surplus", "two"], ["begin"]),
        node("Add", ["begin", "size_px"], ["end"]),
        node("Slice", ["resized", "begin", "end", "spatial"], ["cropped"]),
        node("Transpose", ["cropped"], ["pixels"], perm=[0, 2, 3, 1]),
    ]
    constants = [
        _constant("zero", [0]),
        _constant("two", [2]),
        _constant("three", [3]),
        _constant("resize_px", [pre.resize_px]),
        _constant("size_px", [pre.size_px]),
        _constant("spatial", [2, 3]),
    ]
    return _own_names(nodes, constants)


def _head_nodes(taps: Sequence[str], head: Head, temperature: float) -> tuple[list[Any], list[Any]]:
    node = helper.make_node
    weight, bias, warmth = (OWN + name for name in ("head.weight", "head.bias", "temperature"))
    features, logits, calibrated = (OWN + name for name in ("features", "logits", "calibrated"))
    nodes = []
    if len(taps) > 1:
        nodes.append(node("Concat", list(taps), [features], axis=1))
    else:
        features = taps[0]
    nodes += [
        node("Gemm", [features, weight, bias], [logits], transB=1),
        node("Div", [logits, warmth], [calibrated]),
        node("Softmax", [calibrated], ["probabilities"], axis=1),
    ]
    stored: dict[str, NDArray[np.float32]] = {
        weight: head.weight,
        bias: head.bias,
        warmth: np.array([temperature], np.float32),
    }
    return nodes, [numpy_helper.from_array(values, name) for name, values in stored.items()]


def _own_names(nodes: list[Any], constants: list[Any]) -> tuple[list[Any], list[Any]]:
    """Put every value but the image under `headstart/`; "" is an input that is left out."""
    for values in [*(node.input for node in nodes), *(node.output for node in nodes)]:
        for i, name in enumerate(values):
            if name not in ("", "image"):
                values[i] = OWN + name
    for constant in constants:
        constant.name = OWN + constant.name
    return nodes, constants
