"""Child process: export a backbone's tap graph with torch and prove that it equals torch.

Started by `backbone.graph` as `python -m headstart.backbone.export_graph`; the request is JSON on
standard input. A separate process, because torch costs the caller 3 s and 1 GB of memory that the
frozen road does not need otherwise.

N images, D width of an output, H W px.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headstart.backbone import graph as graphs
from headstart.backbone.load import config_of, load, preprocess_of
from headstart.backbone.stages import Taps, describe, last_norm
from headstart.data.images import ImageRefused, Preprocess, load_pixels
from headstart.errors import HeadstartError, InternalError

OPSET = 18
PARITY_LIMIT = 1e-3
"""Largest allowed difference to torch, relative to the largest absolute value of that output."""


def export(request: dict[str, Any]) -> None:
    """Write graph.onnx, graph.json, weights.safetensors and norm.safetensors into a folder."""
    from safetensors.torch import save

    weights = None if request["weights"] is None else Path(request["weights"])
    backbone = load(request["name"], weights)
    preprocess = preprocess_of(config_of(request["name"]), request["size_px"])
    folder = Path(request["folder"])
    example = torch.zeros(1, 3, preprocess.size_px, preprocess.size_px)
    norm = last_norm(backbone.network, example)
    stages = describe(backbone.network, example)
    spread = [s.name for s in stages if s.side_px > 1]
    taps = Taps(backbone.network, preprocess.mean, preprocess.std, norm, spread).eval()
    pixels = _real_pixels(request["images"], preprocess)
    with torch.inference_mode():
        expected = [output.numpy() for output in taps(torch.from_numpy(pixels))]
    state = {key: value.contiguous() for key, value in backbone.network.state_dict().items()}
    (folder / "weights.safetensors").write_bytes(save(state))
    if norm is not None:
        module = backbone.network.get_submodule(norm)
        statistics = {"mean": module.running_mean, "variance": module.running_var}
        (folder / "norm.safetensors").write_bytes(save(statistics))  # type: ignore[arg-type]
    freeze_padding(backbone.network, example)
    taps = Taps(backbone.network, preprocess.mean, preprocess.std, norm, spread).eval()
    write_onnx(taps, preprocess.size_px, folder / "graph.onnx")
    parity = _parity(folder / "graph.onnx", pixels, expected, taps.names)
    classifier = state.get(f"{backbone.classifier}.weight")
    graph = graphs.TapGraph(
        folder=folder,
        key=graphs.graph_key(backbone.name, backbone.weights_sha256, preprocess.size_px),
        name=backbone.name,
        stages=tuple(
            graphs.StageInfo(s.name, s.width, s.side_px, s.parameters, s.macs, s.keeps)
            for s in stages
        ),
        preprocess=preprocess,
        has_norm=norm is not None,
        weights_sha256=backbone.weights_sha256,
        source=backbone.source,
        licence=backbone.licence,
        classifier=backbone.classifier,
        source_classes=0 if classifier is None else int(classifier.shape[0]),
        parity=parity,
    )
    graphs.write_graph(graph)


def write_onnx(module: nn.Module, size_px: int, path: Path) -> None:
    """Export with the older exporter: 1 s instead of 19 s, and its graphs run as fast."""
    pixels = torch.zeros(2, size_px, size_px, 3, dtype=torch.uint8)
    names = list(module.names)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        # It announces its own removal, and warns of sizes that are constant here by intent.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (pixels,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=names,
            dynamic_axes={name: {0: "N"} for name in ("image", *names)},
        )


def freeze_padding(network: nn.Module, example: torch.Tensor) -> None:
    """Replace padding that is computed from the input's size by the constants of this size.

    TensorFlow's 'same' padding otherwise becomes dozens of small shape operators per convolution;
    without them the graph of the default network runs about a fifth faster on a CPU.
    """
    from timm.layers import Conv2dSame

    seen: dict[str, torch.Size] = {}

    def remember(name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[name] = inputs[0].shape

        return hook

    handles = [
        module.register_forward_pre_hook(remember(name))
        for name, module in network.named_modules()
        if isinstance(module, Conv2dSame)
    ]
    try:
        with torch.inference_mode():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    for name, shape in seen.items():
        conv = network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        pads = [_same_padding(int(shape[2 + i]), conv, i) for i in (0, 1)]
        (top, bottom), (left, right) = pads
        fixed = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        fixed.load_state_dict(conv.state_dict())
        parent, _, leaf = name.rpartition(".")
        padded = nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), fixed)
        setattr(network.get_submodule(parent), leaf, padded.eval())


def _same_padding(side: int, conv: nn.Conv2d, axis: int) -> tuple[int, int]:
    reach = (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1
    stride = conv.stride[axis]
    total = max((math.ceil(side / stride) - 1) * stride + reach - side, 0)
    return total // 2, total - total // 2


def _real_pixels(paths: list[str], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Pixels [N, H, W, 3] of the images that can be read; coarse random tiles when there is none."""
    arrays = []
    for path in paths:
        with contextlib.suppress(ImageRefused):
            arrays.append(load_pixels(path, preprocess)[0])
    if not arrays:
        # A backbone is looked at before any image is at hand.
        tiles = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), dtype=np.uint8)
        side = preprocess.size_px
        large = tiles.repeat(-(-side // 7), axis=1).repeat(-(-side // 7), axis=2)
        arrays = list(large[:, :side, :side])
    return np.stack(arrays)


def _parity(
    path: Path, pixels: NDArray[np.uint8], expected: list[NDArray[np.float32]], names: list[str]
) -> float:
    """Largest relative difference between the graph and torch; an error when it is too large."""
    from headstart.backbone.features import open_session

    got = open_session(path, threads=1).run(names, {"image": pixels})
    worst = 0.0
    for name, ours, theirs in zip(names, got, expected, strict=True):
        difference = float(np.abs(ours - theirs).max() / max(1e-6, float(np.abs(theirs).max())))
        if not difference <= PARITY_LIMIT:
            raise InternalError(
                f"The exported network differs from torch at `{name}` by {difference:.1e}",
                do="Please report this with the backbone's name; nothing was stored.",
            )
        worst = max(worst, difference)
    return worst


def main() -> int:
    """Read the request, export, and hand known errors back as one line of JSON."""
    request = json.load(sys.stdin)
    try:
        export(request)
    except HeadstartError as error:
        return _hand_back(error)
    except OSError as cause:
        folder = Path(request["folder"])
        return _hand_back(graphs.cache_error(cause, "Could not store the exported network", folder))
    return 0


def _hand_back(error: HeadstartError) -> int:
    fields = {
        "kind": type(error).__name__,
        "what": error.what,
        "where": None if error.where is None else str(error.where),
        "received": None if error.received is None else str(error.received),
        "do": error.do,
    }
    sys.stdout.write(f"\n{graphs.MARKER}{json.dumps(fields)}\n")
    return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
