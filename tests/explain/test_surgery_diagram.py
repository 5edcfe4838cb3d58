from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from torch import nn

from headstart.backbone.demo_net import DemoNet
from headstart.backbone.graph import StageInfo, tap_graph
from headstart.backbone.load import create
from headstart.backbone.stages import describe
from headstart.backbone.surgery import Adapted, freeze, random_head
from headstart.errors import ArgumentError
from headstart.explain.surgery_diagram import (
    TITLES,
    WORDS,
    Surgery,
    description,
    draw_surgery,
    overview,
    plan_surgery,
    surgery_of,
)
from networks import export_here, random_weights
from toys import REPOSITORY

CUTS = {"head_cut": "conv3", "partial": "conv2"}
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '"><script>alert(1)</script>&amp;\x1b[31m\u202e\ud800]]>'


def stages_of(network: nn.Module, side: int) -> tuple[StageInfo, ...]:
    found = describe(network, torch.zeros(1, 3, side, side))
    return tuple(
        StageInfo(s.name, s.width, s.side_px, s.parameters, s.macs, s.keeps) for s in found
    )


@pytest.fixture(scope="module")
def demo() -> tuple[StageInfo, ...]:
    return stages_of(DemoNet(4).eval(), 32)


def surgery(demo: tuple[StageInfo, ...], strategy: str, classes: int = 6) -> Surgery:
    cut = CUTS.get(strategy)
    return plan_surgery(demo, strategy, cut, classes, input_px=32, classifier=(4, 64 * 4 + 4))


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(drawing).iter(f"{SVG}text")]


def learnable(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(
    ("strategy", "states", "tapped"),
    [
        ("head_top", ["frozen"] * 6, ["head"]),
        ("head_cut", ["frozen"] * 3 + ["removed"] * 3, ["conv3"]),
        ("all_stages", ["frozen"] * 6, "conv1 conv2 conv3 fc1 fc2 head".split()),
        ("partial", ["frozen"] * 2 + ["trained"] * 4, ["head"]),
        ("finetune", ["trained"] * 6, ["head"]),
        ("scratch", ["random"] * 6, ["head"]),
    ],
)
def test_every_strategy_is_drawn_as_what_it_does(
    demo: tuple[StageInfo, ...], strategy: str, states: list[str], tapped: list[str]
) -> None:
    done = surgery(demo, strategy)
    assert [block.state for block in done.blocks] == [*states, "removed"]  # the classifier goes
    assert [block.name for block in done.blocks if block.tapped] == tapped
    drawing = draw_surgery(done)
    words = texts(drawing)
    assert TITLES[strategy].format(cut=CUTS.get(strategy)) in words
    for state in {*states, "removed", "new"}:
        assert WORDS[state] in words
    for block in done.blocks:
        assert block.name in words
    dots = [c for c in ET.fromstring(drawing).iter(f"{SVG}circle") if c.get("r") == "3.2"]
    assert len(dots) == len(tapped) + 1 + 2  # the legend's, and the handles of the scissors


def test_all_strategies_are_covered_above() -> None:
    assert set(TITLES) == {*CUTS, "head_top", "all_stages", "finetune", "scratch"}


def test_parameters_are_those_of_the_real_networks(demo: tuple[StageInfo, ...]) -> None:
    network, six = DemoNet(4), DemoNet(6)
    layers = [network.conv1, network.conv2, network.conv3, network.fc1, network.fc2]
    drawn = surgery(demo, "finetune")
    assert [b.parameters for b in drawn.blocks] == [
        *(learnable(layer) for layer in layers),
        0,
        learnable(network.fc3),
    ]
    assert drawn.trained_parameters == drawn.kept_parameters == learnable(six)
    assert surgery(demo, "scratch").trained_parameters == learnable(six)
    assert surgery(demo, "head_top").trained_parameters == learnable(six.fc3)
    assert surgery(demo, "head_top").kept_parameters == learnable(six)
    cut = surgery(demo, "head_cut")
    new = nn.Linear(128, 6)
    assert cut.trained_parameters == learnable(new)
    assert cut.kept_parameters == learnable(*layers[:3], new)
    assert surgery(demo, "partial").trained_parameters == learnable(*layers[2:], six.fc3)
    everything = surgery(demo, "all_stages")
    assert everything.head_widths == (sum(stage.width for stage in demo), 6)
    assert everything.trained_parameters == learnable(nn.Linear(480, 6))


@pytest.mark.parametrize(
    ("strategy", "through"), [("head_top", "head"), ("partial", "conv2"), ("finetune", None)]
)
def test_what_is_drawn_as_learning_is_what_learns_after_the_real_surgery(
    demo: tuple[StageInfo, ...], strategy: str, through: str | None
) -> None:
    model = Adapted(DemoNet(4), *random_head(6, 64, seed=0), (0.5,) * 3, (0.25,) * 3)
    freeze(model, torch.zeros(1, 3, 32, 32), through, norm_eval=False)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learning == surgery(demo, strategy).trained_parameters


@pytest.mark.parametrize("strategy", TITLES)
def test_every_count_stands_in_the_drawing_and_in_its_words(
    demo: tuple[StageInfo, ...], strategy: str
) -> None:
    done = surgery(demo, strategy)
    words = texts(draw_surgery(done))
    told = description(done)
    for block in done.blocks:
        assert (f"{block.parameters:,}" if block.parameters else "no weights") in words
        assert f"× {block.width:,}" in words
        assert f"{block.name}: {block.shape}, {block.parameters:,} parameters" in told
    assert f"{done.trained_parameters:,} of {done.kept_parameters:,} parameters learn" in words


def test_cutting_the_network_where_it_is_drawn_yields_the_shapes_that_are_drawn(
    demo: tuple[StageInfo, ...],
) -> None:
    network = DemoNet(4).eval()
    done = surgery(demo, "head_top")
    x = torch.zeros(1, 3, 32, 32)
    with torch.inference_mode():
        for i, name in enumerate(["conv1", "conv2", "conv3", "fc1", "fc2"]):
            x = network.get_submodule(name)(x.flatten(1) if name == "fc1" else x)
            shape = (1, done.blocks[i].width, done.blocks[i].side_px, done.blocks[i].side_px)
            assert (*x.shape, 1, 1)[:4] == shape
    assert done.blocks[2].shape == "4 × 4 × 128"
    assert done.blocks[3].shape == "128"


def test_a_graph_is_drawn_with_its_own_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    export_here(monkeypatch)
    weights = random_weights("test_resnet", tmp_path / "w.safetensors", classes=11)
    graph = tap_graph("test_resnet", weights, 64, [])
    done = surgery_of(graph, "finetune", None, 3)
    network = create("test_resnet", 11)
    assert done.input_px == 64
    assert done.blocks[-1].width == 11
    assert sum(block.parameters for block in done.blocks) == learnable(network)
    assert done.kept_parameters == learnable(create("test_resnet", 3))
    spread = surgery_of(graph, "all_stages", None, 3, reads=graph.names[:-2], hidden=5)
    assert spread.head_widths == (sum(graph.widths[:-2]), 5, 3)


@pytest.mark.parametrize("strategy", TITLES)
def test_the_drawing_is_whole_and_needs_nothing_else(
    demo: tuple[StageInfo, ...], strategy: str
) -> None:
    drawing = draw_surgery(surgery(demo, strategy))
    root = ET.fromstring(drawing)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert set(root.get("aria-labelledby", "").split()) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", drawing)) <= set(ids)
    # A strict Content-Security-Policy forbids styles, scripts and whatever lies elsewhere.
    assert not re.search(r"<script|<style| style=|href|@import|data:| on\w+=", drawing)
    assert drawing.count("http") == 1  # the name space
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for element in root.iter(f"{SVG}text"):
        assert 0 < float(element.get("x", 0)) < width
        assert 0 < float(element.get("y", 0)) < height
        assert float(element.get("font-size", 0)) >= 12
    assert len(drawing) < 16_000


def test_every_string_is_escaped(demo: tuple[StageInfo, ...]) -> None:
    stages = [StageInfo(HOSTILE, s.width, s.side_px, s.parameters, s.macs, ()) for s in demo]
    stages = [StageInfo(f"{i}", 3, 2, 5, 5, ()) for i in range(2)] + stages[:1] + [demo[-1]]
    cut = plan_surgery(stages, "head_cut", HOSTILE, 6, input_px=32, classifier=(4, 9))
    seen = overview(stages, input_px=32, classifier=(4, 9), groups=[HOSTILE] * 4, title=HOSTILE)
    for drawing in (draw_surgery(cut), draw_surgery(seen)):
        tags = {element.tag.removeprefix(SVG) for element in ET.fromstring(drawing).iter()}
        allowed = {"svg", "title", "desc", "defs", "pattern", "g", "path", "rect", "circle", "text"}
        assert tags <= allowed
        assert drawing.isprintable()
        assert "&lt;script&gt;" in drawing
        assert "&amp;amp;" in drawing


def test_a_long_name_is_cut_to_its_column() -> None:
    stages = [
        StageInfo("features.denseblock4", 8, 4, 10, 10, ()),
        StageInfo("head", 8, 1, 10, 10, ()),
    ]
    drawing = draw_surgery(
        plan_surgery(stages, "head_top", None, 2, input_px=32, classifier=(2, 18))
    )
    assert "…enseblock4" in texts(drawing)
    assert "features.denseblock4: 4 × 4 × 8" in drawing


def test_a_network_without_a_classifier_gets_room_for_its_new_head(
    demo: tuple[StageInfo, ...],
) -> None:
    done = plan_surgery(demo, "all_stages", None, 6, input_px=32, classifier=(0, 0))
    drawing = draw_surgery(done)
    assert done.blocks[-1].name == "head"
    assert WORDS["removed"] not in texts(drawing)
    assert "6 4" not in drawing  # the dashes of the cut line


def test_a_head_with_a_hidden_layer_that_reads_deviations_too(demo: tuple[StageInfo, ...]) -> None:
    reads = [*(stage.name for stage in demo), "conv1/std", "conv2/std", "conv3/std"]
    done = plan_surgery(
        demo, "all_stages", None, 6, input_px=32, classifier=(4, 260), reads=reads, hidden=16
    )
    inputs = 480 + 32 + 64 + 128
    assert done.head_widths == (inputs, 16, 6)
    assert done.trained_parameters == learnable(nn.Linear(inputs, 16), nn.Linear(16, 6))
    words = texts(draw_surgery(done))
    assert f"{inputs} → 16 → 6" in words
    assert any("standard deviation" in line for line in words)


def test_the_new_head_cannot_read_what_is_removed(demo: tuple[StageInfo, ...]) -> None:
    with pytest.raises(ArgumentError, match="cannot read this stage"):
        plan_surgery(demo, "head_cut", "conv2", 6, input_px=32, classifier=(4, 260), reads=["fc1"])


def test_two_drawings_on_one_page_share_no_id(demo: tuple[StageInfo, ...]) -> None:
    def ids(strategy: str) -> set[str]:
        return set(re.findall(r' id="([^"]+)"', draw_surgery(surgery(demo, strategy))))

    assert not ids("finetune") & ids("partial")


def test_equal_surgeries_are_drawn_equally(demo: tuple[StageInfo, ...]) -> None:
    assert draw_surgery(surgery(demo, "head_cut")) == draw_surgery(surgery(demo, "head_cut"))


@pytest.mark.parametrize(
    ("strategy", "cut", "words"),
    [
        ("head_cut", None, "needs a stage"),
        ("finetune", "conv1", "cuts at no stage"),
        ("head_cut", "head", "no such stage"),
        ("partial", "conv9", "no such stage"),
        ("finetun", None, "Did you mean finetune"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    demo: tuple[StageInfo, ...], strategy: str, cut: str | None, words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        plan_surgery(demo, strategy, cut, 6, input_px=32, classifier=(4, 260))


def test_the_pictures_of_the_docs_are_what_the_code_draws() -> None:
    spec = importlib.util.spec_from_file_location("draw", REPOSITORY / "docs" / "draw.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = module.pictures()
    folder = REPOSITORY / "docs" / "pictures"
    assert {path.stem for path in folder.glob("*.svg")} == set(drawn)
    for name, drawing in drawn.items():
        assert (folder / f"{name}.svg").read_text(encoding="utf-8").strip() == drawing, name
