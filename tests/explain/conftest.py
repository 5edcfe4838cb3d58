"""Bundles of small networks with heads of every kind, trained on a few pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.backbone.features import features
from headstart.backbone.graph import TapGraph, tap_graph
from headstart.data.images import content_hash, load_pixels
from headstart.judge.calibration import softmax
from headstart.plan.decide import Candidate
from headstart.ship.bundle import describe, write_bundle
from headstart.ship.predict import wide
from headstart.train.head import train_head
from headstart.train.mlp import train_mlp
from networks import export_here, random_weights
from runs import landscape

SIDES = [(90, 60), (40, 150), (200, 80), (64, 64), (120, 119), (70, 30), (100, 80), (500, 90)]


@pytest.fixture(scope="package")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos of many proportions, saved without loss."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(len(SIDES))]
    for path, (width, height) in zip(paths, SIDES, strict=True):
        landscape(rng, width, height).save(path)
    return paths


@pytest.fixture(scope="package")
def graph_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TapGraph]:
    """`graph_of("test_resnet")`: exported once, with random weights."""
    folder = tmp_path_factory.mktemp("graphs")
    known: dict[str, TapGraph] = {}

    def find(name: str) -> TapGraph:
        if name not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
                export_here(patch)
                if name == "demo":
                    weights, side = demo_weights(folder / "demo.safetensors"), None
                else:
                    weights, side = random_weights(name, folder / f"{name}.safetensors"), 64
                known[name] = tap_graph(name, weights, side, [])
        return known[name]

    return find


def demo_weights(path: Path, classes: int = 4) -> Path:
    """A file with random weights of the demonstration network."""
    import torch
    from safetensors.torch import save_file

    from headstart.backbone.demo_net import DemoNet

    torch.manual_seed(0)
    save_file(DemoNet(classes).state_dict(), path)
    return path


@pytest.fixture(scope="package")
def bundle_of(
    graph_of: Callable[[str], TapGraph],
    pictures: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """`bundle_of("test_resnet", candidate, fit="pad")`: the folder of a model, made once."""
    known: dict[Any, Path] = {}

    def make(name: str, candidate: Candidate, fit: Any = "crop") -> Path:
        key = (name, candidate, fit)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("bundles") / "model"
            graph = graph_of(name)
            graph = replace(graph, preprocess=replace(graph.preprocess, fit=fit))
            _write(known[key], graph, candidate, pictures)
        return known[key]

    return make


def _write(folder: Path, graph: TapGraph, candidate: Candidate, pictures: list[Path]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder.parent / "cache"))
        hashes = [content_hash(path.read_bytes()) for path in pictures]
        found = features(graph, pictures, hashes, "cpu", 1)
    if candidate.strategy == "all_stages":
        x = found.all_stages(spread=candidate.spread)
    else:
        x = found.stage(candidate.cut or "head", spread=candidate.spread)
    labels = np.arange(len(pictures)) % 3
    head = (
        train_mlp(x, labels, 3, candidate.hidden, 0.1, 0)
        if candidate.hidden
        else train_head(x, labels, 3, 0.1, 0)
    )
    description = describe(graph, candidate, ["ant", "bee/<b>", "cat"], 1.5)
    pixels = np.stack([load_pixels(path, wide(graph.preprocess))[0] for path in pictures])
    check = (pixels, softmax(head.logits(x), 1.5))
    write_bundle(folder, graph, description, head, check, "card")
