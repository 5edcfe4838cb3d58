from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headstart.backbone.catalogue import stages_text
from headstart.backbone.demo_net import CONFIG, DemoNet
from headstart.backbone.graph import tap_graph
from headstart.backbone.load import config_of, create, load, network_of, preprocess_of
from headstart.backbone.stages import Taps, describe, last_norm
from headstart.data.images import load_pixels
from headstart.errors import ArgumentError, WeightsError
from networks import export_here, random_network
from toys import draw_photos

STAGES = ["conv1", "conv2", "conv3", "fc1", "fc2", "head"]
EXAMPLE = torch.zeros(1, 3, 32, 32)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Random weights for five classes; the BatchNorms have seen something."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = DemoNet(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    save_file(network.state_dict(), tmp_path / "demo.safetensors")
    return tmp_path / "demo.safetensors"


def test_its_stages_have_the_shapes_and_parameters_of_its_layers() -> None:
    stages = describe(DemoNet(10).eval(), EXAMPLE)
    assert [s.name for s in stages] == STAGES
    assert [s.width for s in stages] == [32, 64, 128, 128, 64, 64]
    assert [s.side_px for s in stages] == [16, 8, 4, 1, 1, 1]
    by_hand = np.cumsum(
        [
            3 * 32 * 9 + 2 * 32,
            32 * 64 * 9 + 2 * 64,
            64 * 128 * 9 + 2 * 128,
            128 * 4 * 4 * 128 + 128,
            128 * 64 + 64,
            0,
        ]
    )
    assert [s.parameters for s in stages] == by_hand.tolist()
    assert stages[0].macs == 3 * 32 * 9 * 32 * 32
    assert stages[-1].macs - stages[3].macs == 128 * 64


def test_it_has_three_convolutional_and_three_fully_connected_layers_and_what_freezing_must_hold():
    kinds = [type(module) for module in DemoNet(10).modules()]
    assert kinds.count(nn.Conv2d) == kinds.count(nn.Linear) == kinds.count(nn.BatchNorm2d) == 3
    assert kinds.count(nn.Dropout) == 2


def test_a_stage_keeps_exactly_what_its_features_need() -> None:
    network = DemoNet(3).eval()
    taps = Taps(network, CONFIG["mean"], CONFIG["std"], None).eval()
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    whole = {key: value.clone() for key, value in network.state_dict().items()}
    for i, stage in enumerate(describe(network, EXAMPLE)):
        with torch.inference_mode():
            expected = taps(pixels)[i]
            for key, value in network.state_dict().items():
                if key not in stage.keeps and value.is_floating_point():
                    value.fill_(torch.nan)
            assert torch.equal(taps(pixels)[i], expected), stage.name
        network.load_state_dict(whole)


def test_the_classifier_reads_the_head_and_can_be_replaced() -> None:
    network = DemoNet(4).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features = network.forward_head(network.forward_features(pixels), pre_logits=True)
        assert torch.equal(network.get_classifier()(features), network(pixels))
        network.reset_classifier(7)
        assert network(pixels).shape == (2, 7)
        network.reset_classifier(0)
        assert torch.equal(network(pixels), features)


def test_it_loads_as_any_backbone_does(weights: Path) -> None:
    backbone = load("demo", weights)
    assert (backbone.name, backbone.classifier) == ("demo", "fc3")
    assert not backbone.network.training
    assert not any(p.requires_grad for p in backbone.network.parameters())
    assert backbone.preprocess.size_px == backbone.preprocess.resize_px == 32
    again = network_of("demo", weights, 5)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(pixels), backbone.network(pixels))
    assert last_norm(backbone.network, EXAMPLE) == "conv3.1"
    assert create("demo", 9).get_classifier().out_features == 9
    assert config_of("demo") == CONFIG
    assert config_of("demo") is not CONFIG


def test_its_graph_computes_what_torch_computes(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    export_here(monkeypatch)
    photos = sorted(draw_photos(tmp_path / "p", per_class=1).rglob("*.png"))
    graph = tap_graph("demo", weights, None, photos)
    assert graph.stage_names == tuple(STAGES)
    assert [stage.width for stage in graph.stages] == [32, 64, 128, 128, 64, 64]
    assert (graph.source_classes, graph.classifier) == (5, "fc3")
    assert graph.parity < 1e-4
    norm = load("demo", weights).network.get_submodule("conv3.1")
    mean, variance = graph.norm_statistics()
    assert np.array_equal(mean, norm.running_mean)
    assert np.array_equal(variance, norm.running_var)
    from headstart.backbone.features import open_session

    pixels = np.stack([load_pixels(path, graph.preprocess)[0] for path in photos])
    network = load("demo", weights).network
    taps = Taps(network, graph.preprocess.mean, graph.preprocess.std, "conv3.1").eval()
    with torch.inference_mode():
        expected = taps(torch.from_numpy(pixels))
    got = open_session(graph.onnx, threads=1).run(taps.names, {"image": pixels})
    for ours, theirs in zip(got, expected, strict=True):
        assert np.allclose(ours, theirs, atol=1e-4)
    text = stages_text("demo", weights, None)
    assert all(f"{stage.parameters:,}" in text for stage in graph.stages)


def test_without_weights_the_error_says_how_to_train_it() -> None:
    with pytest.raises(WeightsError, match=r"python -m headstart\.backbone\.demo_net") as caught:
        load("demo")
    assert "--weights" in str(caught.value)


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(random_network("test_resnet").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="do not fit demo"):
        load("demo", tmp_path / "other.safetensors")


def test_another_size_is_refused() -> None:
    assert preprocess_of(CONFIG, 32).size_px == 32
    with pytest.raises(ArgumentError, match=r"one size only.*32 px"):
        preprocess_of(CONFIG, 64)


def test_the_command_trains_it() -> None:
    command = [sys.executable, "-m", "headstart.backbone.demo_net", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--data" in done.stdout
    assert "--out" in done.stdout
