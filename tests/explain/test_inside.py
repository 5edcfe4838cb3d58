"""What is looked into is the network that was handed over, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from headstart.backbone.export_graph import write_onnx
from headstart.backbone.graph import HEAD, TapGraph
from headstart.errors import BundleError
from headstart.explain.inside import (
    Inside,
    first_weights,
    open_up,
    shape_of,
    shuffled,
    with_shapes,
)
from headstart.explain.reach import reaches
from headstart.explain.rebuild import as_input, on_activation, rebuild
from headstart.plan.decide import Candidate
from headstart.ship.predict import load

TOP = Candidate("t", "head_top", None, 1)
ALL = Candidate("a", "all_stages", None, None)


def opened(folder: Path, graph: TapGraph) -> Inside:
    bundle = load(folder).bundle
    return open_up(bundle.onnx, graph, bundle.description["stages"]["kept"], bundle.taps)


def noise(side: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


class Padded(torch.nn.Module):
    """Padding as the exporter writes it: computed from constants, node by node."""

    names = ("out",)

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.ZeroPad2d((0, 1, 0, 1)),
            torch.nn.Conv2d(3, 4, 3, stride=2),
            torch.nn.ZeroPad2d((1, 2, 1, 2)),
            torch.nn.Conv2d(4, 4, 5, stride=2),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image.permute(0, 3, 1, 2).float())


def test_shapes_are_known_behind_padding_that_is_computed(tmp_path: Path) -> None:
    write_onnx(Padded().eval(), 32, tmp_path / "padded.onnx")
    model = onnx.load(str(tmp_path / "padded.onnx"))
    assert shape_of(onnx.shape_inference.infer_shapes(model))["out"][2:] != (8, 8)
    found = with_shapes(model)
    assert shape_of(found)["out"][1:] == (4, 8, 8)
    reach = reaches(found)["out"]
    assert (reach.low, reach.high, reach.apart) == (-2, 9, 4)
    onnx.checker.check_model(found)


@pytest.mark.parametrize(
    ("name", "candidate"),
    [
        ("test_resnet", TOP),
        ("test_resnet", replace(ALL, spread=True)),
        ("test_efficientnet", ALL),
        ("demo", TOP),
    ],
)
def test_every_map_is_the_one_that_torch_computes(
    bundle_of: Callable[..., Path], graph_of: Callable[[str], TapGraph], name: str, candidate: Any
) -> None:
    folder = bundle_of(name, candidate, "squash")
    inside, model = opened(folder, graph_of(name)), load(folder)
    network = rebuild(folder, model.bundle.description, model.bundle.preprocess)
    pixels = noise(network.preprocess.size_px)
    taken: dict[str, Any] = {}
    for stage in network.kept:
        on_activation(*network.place(stage), stage, lambda s, a: taken.update({s: a.clone()}))
    with torch.inference_mode():
        network(as_input(pixels[None]))
    spatial = [stage for stage in network.kept if min(network.positions[stage]) > 1]
    assert list(inside.maps) == spatial
    seen = inside.look(pixels, spatial)
    for stage in spatial:
        expected = taken[stage][0].numpy()
        assert np.abs(seen.maps[stage] - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(seen.probabilities - model.probabilities(pixels[None])[0]).max() < 1e-6
    assert inside.averaged == (name != "demo")


def test_a_cut_network_has_the_maps_of_what_is_left(
    bundle_of: Callable[..., Path], graph_of: Callable[[str], TapGraph]
) -> None:
    cut = Candidate("c", "head_cut", "layer2", 2)
    inside = opened(bundle_of("test_resnet", cut), graph_of("test_resnet"))
    assert list(inside.maps) == [s.name for s in inside.stages][-len(inside.maps) :]
    assert list(inside.maps)[-1] == "layer2" and HEAD not in inside.maps


def test_a_network_of_another_backbone_is_refused(
    bundle_of: Callable[..., Path], graph_of: Callable[[str], TapGraph]
) -> None:
    bundle = load(bundle_of("test_efficientnet", ALL)).bundle
    with pytest.raises(BundleError, match="does not have the maps"):
        open_up(bundle.onnx, graph_of("demo"), ["conv1", "head"], ["head"])


def test_shuffling_keeps_the_weights_of_a_layer_and_moves_them(
    bundle_of: Callable[..., Path], graph_of: Callable[[str], TapGraph]
) -> None:
    inside = opened(bundle_of("test_resnet", ALL, "squash"), graph_of("test_resnet"))
    twin, again, other = (shuffled(inside, seed) for seed in (0, 0, 1))
    for mine, theirs in ((inside.bundle, twin.bundle), (inside.backbone, twin.backbone)):
        before, after = (
            {t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (mine, theirs)
        )
        moved = [n for n in before if not np.array_equal(before[n], after[n])]
        weights = [n for n in before if "Conv" in n and np.ptp(before[n]) > 0]
        assert set(weights) <= set(moved) and weights
        assert all(
            np.array_equal(np.sort(before[n].ravel()), np.sort(after[n].ravel())) for n in moved
        )
    assert twin.bundle == again.bundle and twin.bundle != other.bundle
    # The bundle and the backbone it was cut from stay one network.
    pixels = noise(64)
    stages = list(inside.maps)
    seen, changed = inside.look(pixels, stages), twin.look(pixels, stages)
    assert all(not np.allclose(seen.maps[s], changed.maps[s]) for s in stages)


def test_the_first_filters_are_those_that_read_the_pixels(
    bundle_of: Callable[..., Path], graph_of: Callable[[str], TapGraph]
) -> None:
    folder = bundle_of("demo", TOP)
    inside, bundle = opened(folder, graph_of("demo")), load(folder).bundle
    network = rebuild(folder, bundle.description, bundle.preprocess).network
    theirs = network.conv1[0].weight.detach().permute(0, 2, 3, 1).numpy()  # type: ignore[index,union-attr]
    scale = network.conv1[1].weight / (network.conv1[1].running_var + 1e-5).sqrt()  # type: ignore[index,union-attr,operator]
    expected = theirs * scale.detach().numpy()[:, None, None, None]
    assert np.allclose(first_weights(inside), expected, atol=1e-5)
