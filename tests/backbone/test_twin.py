"""The random twin is the same network without its training, and is made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from headstart.backbone import twin
from headstart.backbone.graph import tap_graph
from networks import export_here, random_weights


@pytest.mark.slow
def test_the_twin_has_other_weights_and_the_same_way_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    export_here(monkeypatch)
    made = []
    monkeypatch.setattr(
        twin, "_make_in_child", lambda *given: made.append(given) or twin.write_twin(*given)
    )
    weights = random_weights("resnet10t", tmp_path / "net.safetensors", classes=1000, seed=3)
    graph = tap_graph("resnet10t", weights, 64, [])
    graph = replace(graph, preprocess=replace(graph.preprocess, fit="pad"))
    found, again = twin.random_twin(graph), twin.random_twin(graph)
    assert len(made) == 1
    assert found.preprocess == graph.preprocess
    assert found.stage_names == graph.stage_names and again.key == found.key != graph.key
    own, other = load_file(graph.weights), load_file(found.weights)
    assert not np.array_equal(own["conv1.0.weight"], other["conv1.0.weight"])
