"""The bundle's network: any photo in, the evaluated head's calibrated probabilities out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from headstart.backbone.features import open_session
from headstart.data.images import Preprocess, fit_pixels
from headstart.judge.calibration import softmax
from headstart.ship.onnx_graph import build
from headstart.ship.predict import load, wide
from headstart.train.head import Head
from headstart.train.mlp import MlpHead
from runs import landscape

SMALL = Preprocess(size_px=8, resize_px=10)


def mean_graph(path: Path, *taps: str, side_px: int = 8) -> Path:
    """A backbone whose every tap is the mean colour of the pixels that it is given."""
    nodes = [helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT)]
    for tap in taps:
        nodes.append(helper.make_node("ReduceMean", ["numbers", "axes"], [tap], keepdims=0))
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *[side_px] * 2, 3])
    outputs = [helper.make_tensor_value_info(tap, TensorProto.FLOAT, ["N", 3]) for tap in taps]
    graph = helper.make_graph(nodes, "toy", [image], outputs, [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(path))
    return path


def random_head(width: int, seed: int = 0) -> Head:
    rng = np.random.default_rng(seed)
    return Head(rng.normal(0, 0.02, (2, width)).astype(np.float32), np.ones(2, np.float32))


def test_the_head_reads_the_features_and_the_temperature_divides_the_logits(tmp_path: Path) -> None:
    head = random_head(3)
    network = build(mean_graph(tmp_path / "g.onnx", "top"), ["top"], SMALL, head, 2.5)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 10, 10, 3), dtype=np.uint8)
    got = open_session(network, 1).run(["probabilities"], {"image": pixels})[0]
    features = pixels[:, 1:9, 1:9].mean((1, 2), dtype=np.float64).astype(np.float32)
    assert got == pytest.approx(softmax(head.logits(features), 2.5), abs=1e-5)


def test_stages_may_be_named_like_any_value_of_ours(tmp_path: Path) -> None:
    names = ["features", "half", "resized", "logits", "pixels", "temperature"]
    head = random_head(3 * len(names))
    network = build(mean_graph(tmp_path / "g.onnx", *names), names, SMALL, head, 1.0)
    pixels = np.zeros((1, 30, 20, 3), np.uint8)
    got = open_session(network, 1).run(["probabilities"], {"image": pixels})[0]
    assert got == pytest.approx(np.array([[0.5, 0.5]]), abs=1e-6)


def test_stages_that_the_head_does_not_read_are_gone(tmp_path: Path) -> None:
    graph = mean_graph(tmp_path / "g.onnx", "early", "late")
    model = onnx.load_from_string(build(graph, ["early"], SMALL, random_head(3), 1.0))
    outputs = {name for node in model.graph.node for name in node.output}
    assert "early" in outputs
    assert "late" not in outputs


def test_equal_parts_give_equal_bytes(tmp_path: Path) -> None:
    graph = mean_graph(tmp_path / "g.onnx", "top")
    first, second = (build(graph, ["top"], SMALL, random_head(3), 1.5) for _ in range(2))
    assert first == second


SIDES = [(8, 8), (10, 10), (7, 200), (1, 1), (3, 2), (640, 480), (33, 1000), (1, 3000), (3000, 1)]


@pytest.mark.parametrize(("width", "height"), SIDES)
def test_images_of_any_sides_are_resized_and_cropped_as_the_loader_does(
    tmp_path: Path, width: int, height: int
) -> None:
    image = landscape(np.random.default_rng(width + height), width, height)
    head = Head(np.eye(3, dtype=np.float32) / 50, np.zeros(3, np.float32))
    network = build(mean_graph(tmp_path / "g.onnx", "top"), ["top"], SMALL, head, 1.0)
    got = open_session(network, 1).run(None, {"image": np.asarray(image)[None]})[0]
    colour = fit_pixels(image, SMALL).mean((0, 1))[None]
    assert got == pytest.approx(softmax(colour @ head.weight.T, 1.0), abs=0.02)


@pytest.mark.parametrize(("width", "height"), [(200, 3001), (3000, 123), (1000, 180)])
def test_the_middle_of_a_long_image_is_met_to_the_pixel(
    tmp_path: Path, width: int, height: int
) -> None:
    """A single bright stripe in the middle must land on the same pixel as in the loader."""
    pixels = np.zeros((height, width, 3), np.uint8)
    shorter = min(width, height)
    rows, columns = (slice(n // 2 - shorter // 40, n // 2 + shorter // 40) for n in (height, width))
    pixels[rows, columns] = 255
    pre = Preprocess(size_px=8, resize_px=8)
    graph = mean_graph(tmp_path / "g.onnx", "top")
    network = onnx.load_from_string(build(graph, ["top"], pre, random_head(3), 1.0))
    network.graph.output.append(
        helper.make_tensor_value_info("headstart/pixels", TensorProto.UINT8, None)
    )
    session = open_session(network.SerializeToString(), 1)
    seen = session.run(["headstart/pixels"], {"image": pixels[None]})[0][0]
    expected = fit_pixels(Image.fromarray(pixels), pre)
    assert np.abs(seen.astype(int) - expected).max() <= 2


def fitted_by(network: bytes, image: Image.Image) -> NDArray[np.int64]:
    """What the bundled network makes of an image, before the backbone sees it."""
    model = onnx.load_from_string(network)
    pixels = helper.make_tensor_value_info("headstart/pixels", TensorProto.UINT8, None)
    model.graph.output.append(pixels)
    session = open_session(model.SerializeToString(), 1)
    seen = session.run(["headstart/pixels"], {"image": np.asarray(image)[None]})[0]
    return np.asarray(seen[0].astype(np.int64))


def drawn(kind: str, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width + height)
    if kind == "landscape":
        return landscape(rng, width, height)
    pixels = np.zeros((height, width, 3), np.uint8)
    if kind == "noise":
        pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
    pixels[height // 2], pixels[:, width // 3] = 255, 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["landscape", "noise", "lines"])
@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_padded_and_squashed_images_are_those_of_the_loader(
    tmp_path: Path, fit: Any, kind: str
) -> None:
    sides = [*SIDES, (200, 3001), (3000, 123), (2, 2), (16_000, 5), (3, 20_000)]
    graph = mean_graph(tmp_path / "g.onnx", "top")
    for size in (8, 96):
        pre = Preprocess(size, size, fit, mean=(0.485, 0.456, 0.406))
        network = build(graph, ["top"], pre, random_head(3), 1.0)
        for width, height in [*sides, (size, size), (size, 5 * size)]:
            image = drawn(kind, width, height)
            difference = np.abs(fitted_by(network, image) - fit_pixels(image, pre))
            assert difference.max() <= 2, (size, width, height)


LINES = """
import sys
import numpy as np
from headstart.backbone.features import open_session
session = open_session(open(sys.argv[1], "rb").read(), 1)
for sides in ((1, 1_000_000), (1_000_000, 1)):
    session.run(None, {"image": np.zeros((1, *sides, 3), np.uint8)})
[line] = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
print(int(line.split()[1]) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_a_line_of_a_million_pixels_needs_no_gigabytes(tmp_path: Path, fit: Any) -> None:
    pre = Preprocess(512, 512, fit)  # 1.5 GB, if the line were widened before it is shortened
    graph = mean_graph(tmp_path / "g.onnx", "top", side_px=512)
    (tmp_path / "b.onnx").write_bytes(build(graph, ["top"], pre, random_head(3), 1.0))
    command = [sys.executable, "-c", LINES, str(tmp_path / "b.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 500


def test_a_mirrored_view_is_never_built_into_a_bundle(tmp_path: Path) -> None:
    graph = mean_graph(tmp_path / "g.onnx", "top")
    with pytest.raises(AssertionError, match="mirrored"):
        build(graph, ["top"], Preprocess(8, 10, mirror=True), random_head(3), 1.0)


def test_a_hidden_layer_answers_as_its_head_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.05, shape).astype(np.float32)

    head = MlpHead(draw(5, 6), draw(5), draw(2, 5), draw(2))
    names = ["before_relu", "hidden"]
    network = build(mean_graph(tmp_path / "g.onnx", *names), names, SMALL, head, 1.5)
    pixels = rng.integers(0, 256, (4, 10, 10, 3), dtype=np.uint8)
    got = open_session(network, 1).run(["probabilities"], {"image": pixels})[0]
    colour = pixels[:, 1:9, 1:9].mean((1, 2), dtype=np.float64).astype(np.float32)
    logits = head.logits(np.hstack([colour, colour]))
    assert np.ptp(logits) > 0.1
    assert got == pytest.approx(softmax(logits, 1.5), abs=1e-5)


def test_the_contract_names_types_and_shapes_of_the_outside(toys: Any) -> None:
    network = onnx.load(str(toys.run / "model" / "model.onnx"))
    image, probabilities = network.graph.input[0], network.graph.output[0]
    assert [entry.name for entry in network.graph.input] == ["image"]
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    sides = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert sides == ["N", "H", "W", 3]
    assert probabilities.name == "probabilities"
    assert probabilities.type.tensor_type.elem_type == TensorProto.FLOAT
    sides = [d.dim_param or d.dim_value for d in probabilities.type.tensor_type.shape.dim]
    assert sides == ["N", 3]


def test_whole_photos_give_what_our_loader_and_the_same_network_give(toys: Any) -> None:
    model = load(toys.run)
    rng = np.random.default_rng(3)
    for width, height in [(640, 480), (300, 900), (97, 61), (1024, 256), (224, 224), (1500, 1000)]:
        image = landscape(rng, width, height)
        whole = model.probabilities(np.asarray(image)[None])
        loaded = model.probabilities(fit_pixels(image, wide(model.bundle.preprocess))[None])
        assert np.abs(whole - loaded).max() < 0.02
        assert whole.sum() == pytest.approx(1, abs=1e-5)


def test_real_photos_give_what_our_loader_and_the_same_network_give(
    toys: Any, dataset: Callable[[str], Path]
) -> None:
    model = load(toys.run)
    files = sorted(dataset("hymenoptera").rglob("*.jpg"))[::40]
    assert files
    for file in files:
        image = Image.open(file).convert("RGB")
        whole = model.probabilities(np.asarray(image)[None])
        loaded = model.probabilities(fit_pixels(image, wide(model.bundle.preprocess))[None])
        assert np.abs(whole - loaded).max() < 0.02


def test_several_images_at_once_answer_as_one_by_one(toys: Any) -> None:
    model = load(toys.run)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 100, 130, 3), dtype=np.uint8)
    one_by_one = np.concatenate([model.probabilities(row[None]) for row in pixels])
    assert model.probabilities(pixels) == pytest.approx(one_by_one, abs=1e-5)


BARE = """
import sys
import numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
pixels = np.asarray(Image.open(sys.argv[2]).convert("RGB"))[None]
print(*session.run(None, {"image": pixels})[0][0])
assert "headstart" not in sys.modules and "torch" not in sys.modules
"""


def test_a_script_with_onnxruntime_numpy_and_pillow_alone_runs_it(toys: Any) -> None:
    photo = toys.photos / "red" / "red_3.png"
    command = [sys.executable, "-c", BARE, toys.run / "model" / "model.onnx", photo]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = next(load(toys.run).predict(photo)).probabilities
    assert [float(word) for word in done.stdout.split()] == pytest.approx(expected, abs=0.02)
