"""A finished model's network opened up: it hands out the maps of its stages too, without torch.

The exported backbone tells where the map of each stage is. The bundle's network was cut from it and
keeps those names, so what is looked into is what was handed over.

N images, D channels, h w positions of a map, F width of what the head reads, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.features import open_session
from headstart.backbone.graph import HEAD, StageInfo, TapGraph
from headstart.errors import BundleError

Floats = NDArray[np.float32]

OWN = "headstart/"
"""begins the names of what the bundle added to the backbone"""
SHAPE_ONLY = {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout"}
"""operators that leave every number as it is"""
WEIGHED = {"Conv", "Gemm", "MatMul"}
"""operators that learn"""
OUTPUTS = ("probabilities", "features")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network makes of one image."""

    probabilities: Floats  # [C]
    features: Floats  # [F] what the head reads
    maps: Mapping[str, Floats]
    """[D, h, w] of every stage that was asked for"""


@dataclass(frozen=True, slots=True)
class Inside:
    """An opened network; see `open_up`."""

    bundle: Any
    """its ONNX model, with the maps among its outputs"""
    backbone: Any
    """the ONNX model of the whole backbone, with the shape of every value"""
    session: Any
    stages: tuple[StageInfo, ...]
    """that are kept, in order"""
    reads: tuple[str, ...]
    """outputs of the backbone that the head reads, in the order of its features"""
    maps: Mapping[str, str]
    """name of the value that is the map, of every kept stage that has positions; for `head` it is
    the last map, of which the head's features are made"""
    averaged: bool
    """whether the features of `head` are plain means of its map"""

    def look(self, pixels: NDArray[np.uint8], stages: Sequence[str]) -> Seen:
        """Run one image, uint8 [H, W, 3] as `predict.wide` asks for it. Thread-safe."""
        names = [*OUTPUTS, *(self.maps[stage] for stage in stages)]
        p, features, *maps = self.session.run(names, {"image": pixels[None]})
        return Seen(p[0], features[0], {s: m[0] for s, m in zip(stages, maps, strict=True)})

    def layers(self) -> list[tuple[Floats, Floats]]:
        """Weight and bias of the fully connected layers of the new head, in order."""
        from onnx import numpy_helper

        stored = {
            t.name.removeprefix(OWN): t for t in self.bundle.graph.initializer if OWN in t.name
        }
        return [
            (
                numpy_helper.to_array(stored[f"{part}.weight"]),
                numpy_helper.to_array(stored[f"{part}.bias"]),
            )
            for part in ("head.hidden", "head")
            if f"{part}.weight" in stored
        ]


def open_up(network: bytes, graph: TapGraph, kept: Sequence[str], reads: Sequence[str]) -> Inside:
    """Open the network of a bundle.

    Args:
        network: its ONNX file. graph: the backbone that it was cut from. kept: stages that it keeps.
        reads: what its head reads, in order.

    Raises:
        BundleError: the two do not belong together.
    """
    import onnx

    backbone = with_shapes(onnx.load(str(graph.onnx)))
    stages = tuple(stage for stage in graph.stages if stage.name in kept)
    maps, averaged = maps_of(backbone, stages)
    bundle = onnx.load_from_string(network)
    known = {name for node in bundle.graph.node for name in node.output}
    if missing := [stage for stage, name in maps.items() if name not in known]:
        raise BundleError(
            "The model's network does not have the maps of the backbone that it was made of",
            received=f"stage {missing[0]}",
        )
    for name in dict.fromkeys(maps.values()):
        bundle.graph.output.append(onnx.ValueInfoProto(name=name))
    return Inside(bundle, backbone, _open(bundle), stages, tuple(reads), maps, averaged)


def first_weights(inside: Inside) -> Floats:
    """Weights [D, k, k, 3] of the first convolution, which reads the pixels; none when it has another
    kind of layer there."""
    from onnx import numpy_helper

    stored = {t.name: t for t in inside.bundle.graph.initializer}
    convolutions = (n for n in inside.bundle.graph.node if n.op_type == "Conv")
    first = next((stored[n.input[1]] for n in convolutions if n.input[1] in stored), None)
    if first is None or first.dims[1] != 3:
        return np.zeros((0, 1, 1, 3), np.float32)
    return np.asarray(numpy_helper.to_array(first).transpose(0, 2, 3, 1), np.float32)


def shuffled(inside: Inside, seed: int) -> Inside:
    """The same network with the weights of every layer, the head's too, in random order.

    Every layer keeps the distribution of its weights, so signals stay of a size that the layers
    after it can use; what was learned is gone.
    """
    bundle, backbone = type(inside.bundle)(), type(inside.backbone)()
    bundle.CopyFrom(inside.bundle)
    backbone.CopyFrom(inside.backbone)
    for model in (bundle, backbone):
        _shuffle(model.graph, seed)
    return replace(inside, bundle=bundle, backbone=backbone, session=_open(bundle))


def _shuffle(graph: Any, seed: int) -> None:
    from onnx import TensorProto, numpy_helper

    learned = {name for node in graph.node if node.op_type in WEIGHED for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in learned and tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            # By name: the bundle and the backbone it was cut from stay the same network.
            draw = np.random.default_rng([seed, crc32(tensor.name.encode())])
            mixed = draw.permutation(values.ravel()).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))


def _open(model: Any) -> Any:
    return open_session(model.SerializeToString(), threads=1)


# -- where the maps are ---------------------------------------------------------------------------


def with_shapes(model: Any) -> Any:
    """A model with the shape of every value, as far as it can be known.

    Padding that the exporter computes from constants becomes a constant first: no shape is known
    behind it otherwise.
    """
    import onnx
    from onnx import numpy_helper

    makers = {name: node for node in model.graph.node for name in node.output}
    stored = stored_in(model)
    pads = [n.input[1] for n in model.graph.node if n.op_type == "Pad" and n.input[1] not in stored]
    if pads:
        nodes = _makers_of(makers, pads)
        outputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(pads)]
        small = onnx.helper.make_graph(nodes, "pads", [], outputs)
        part = onnx.helper.make_model(small, opset_imports=model.opset_import)
        part.ir_version = model.ir_version
        found = _open(part).run(None, {})
        for output, values in zip(outputs, found, strict=True):
            model.graph.node.remove(makers[output.name])
            model.graph.initializer.append(numpy_helper.from_array(values, output.name))
    return onnx.shape_inference.infer_shapes(model)


def _makers_of(makers: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """The nodes that values are made by, in the order of the graph."""
    wanted, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name in makers and name not in wanted:
            node = makers[name]
            wanted.update(node.output)
            todo += list(node.input)
    return list({id(node): node for name, node in makers.items() if name in wanted}.values())


def shape_of(model: Any) -> dict[str, tuple[int, ...]]:
    """The known shapes of a model's values; 0 where a side is free."""
    return {
        value.name: tuple(int(side.dim_value) for side in value.type.tensor_type.shape.dim)
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }


def maps_of(backbone: Any, stages: Sequence[StageInfo]) -> tuple[dict[str, str], bool]:
    """The map of every stage that has positions, and whether the head's features are its means."""
    makers = {name: node for node in backbone.graph.node for name in node.output}
    stored, maps, averaged = stored_in(backbone), {}, False
    for stage in stages:
        pooled = _pooled(makers, stored, stage.name)
        if stage.side_px > 1 and pooled is not None:
            maps[stage.name] = pooled
        elif stage.name == HEAD:
            shapes = shape_of(backbone)
            last = pooled if _wide(shapes, pooled) else _last_map(makers, shapes, stage.name)
            averaged = last is not None and last == pooled
            if last is not None:
                maps[HEAD] = last
    return maps, averaged


def _pooled(makers: Mapping[str, Any], stored: Mapping[str, Any], name: str) -> str | None:
    """The map whose mean over positions a value is, or None when it is something else."""
    while name in makers:
        node = makers[name]
        if node.op_type == "GlobalAveragePool" or (
            node.op_type == "ReduceMean" and over_positions(node, stored)
        ):
            return str(node.input[0])
        if node.op_type not in SHAPE_ONLY:
            return None
        name = node.input[0]
    return None


def over_positions(node: Any, stored: Mapping[str, Any]) -> bool:
    """Whether a reduction runs over the last two of four axes."""
    axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
    if axes is None and len(node.input) > 1:
        axes = numbers(stored, node.input[1])
    return axes in ([2, 3], [-1, -2], [-2, -1])


def stored_in(model: Any) -> dict[str, Any]:
    """The tensors that are written into a model, by name."""
    constants = {n.output[0]: n for n in model.graph.node if n.op_type == "Constant"}
    stored = {
        name: a.t for name, node in constants.items() for a in node.attribute if a.name == "value"
    }
    return stored | {tensor.name: tensor for tensor in model.graph.initializer}


def numbers(stored: Mapping[str, Any], name: str) -> list[int] | None:
    """Whole numbers that are written into a model, or None when they are computed."""
    from onnx import numpy_helper

    return numpy_helper.to_array(stored[name]).ravel().tolist() if name in stored else None


def _wide(shapes: Mapping[str, tuple[int, ...]], name: str | None) -> bool:
    shape = shapes.get(name or "", ())
    return len(shape) == 4 and min(shape[2:]) >= 2


def _last_map(
    makers: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], name: str
) -> str | None:
    """The last value with positions that another is made of, where there is only one."""
    found, todo = set(), [name]
    while todo:
        here = todo.pop()
        if _wide(shapes, here):
            found.add(here)
        elif here in makers:
            todo += [entering for entering in makers[here].input if entering]
    return found.pop() if len(found) == 1 else None
