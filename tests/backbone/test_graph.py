from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.backbone import graph as graphs
from headstart.backbone.graph import TapGraph, graph_key, read_graph, tap_graph, to_json
from headstart.data.images import Preprocess
from headstart.errors import (
    ArgumentError,
    InternalError,
    MachineError,
    RunFolderError,
    WeightsError,
)
from headstart.settings import DEFAULT_BACKBONE
from networks import export_here, random_weights
from toys import draw_photos

NAME = "test_resnet"


@pytest.fixture
def default(toy_cache: Path, tmp_path: Path) -> TapGraph:
    """The default network's graph, exported by a child process once per session."""
    photos = sorted(draw_photos(tmp_path / "p", per_class=1).rglob("*.png"))
    return tap_graph(DEFAULT_BACKBONE, None, None, photos)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def requests(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """An empty cache, exports in this process, and the list of them."""
    return export_here(monkeypatch)


def test_the_graph_of_the_default_network_equals_torch(default: TapGraph) -> None:
    assert default.parity < 1e-4
    assert default.stage_names == tuple("stem b0 b1 b2 b3 b4 b5 b6 head".split())
    inner = (32, 16, 24, 40, 80, 112, 192, 320)
    assert default.widths == (*inner, 1280, *inner, 1280, 1280)  # means, deviations, the last norm
    assert default.spread_names == tuple(f"{name}/std" for name in default.stage_names[:-1])
    assert default.source_classes == 1000
    assert default.has_norm
    mean, variance = default.norm_statistics()
    assert mean.shape == variance.shape == (1280,)
    assert (variance > 0).all()


def test_a_graph_is_exported_once(default: TapGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs.subprocess, "run", lambda *_a, **_k: pytest.fail("a child"))
    assert tap_graph(DEFAULT_BACKBONE, None, None, []) == default


def test_all_taps_come_from_one_graph_in_order(default: TapGraph) -> None:
    import onnx

    model = onnx.load(default.onnx)
    assert [o.name for o in model.graph.output] == list(default.names)
    assert default.names[9:] == (*default.spread_names, "norm_mean", "norm_square")
    assert [i.name for i in model.graph.input] == ["image"]
    # Padding that depends on the size would be dozens of small operators per layer.
    assert not {"Shape", "Gather", "Loop", "If"} & {node.op_type for node in model.graph.node}


def test_the_description_survives_the_disk(default: TapGraph) -> None:
    assert read_graph(default.folder) == default
    assert "folder" not in json.dumps(to_json(default))
    assert default.stage("b2").keeps[0] == "conv_stem.weight"


def test_the_key_changes_with_name_weights_and_size() -> None:
    keys = {
        graph_key(*parts)
        for parts in [("a", "1" * 64, 224), ("b", "1" * 64, 224), ("a", "2" * 64, 224)]
    }
    keys.add(graph_key("a", "1" * 64, 192))
    assert len(keys) == 4
    assert "/" not in graph_key("hf/name", "1" * 64, 224)


def test_another_size_or_other_weights_are_another_graph(
    requests: list[dict[str, Any]], tmp_path: Path
) -> None:
    one = random_weights(NAME, tmp_path / "one.pth", seed=1)
    two = random_weights(NAME, tmp_path / "two.pth", seed=2)
    found = [tap_graph(NAME, one, 64, []), tap_graph(NAME, two, 64, [])]
    found.append(tap_graph(NAME, one, 96, []))
    assert len({graph.key for graph in found}) == 3
    assert [graph.preprocess.size_px for graph in found] == [64, 64, 96]
    assert tap_graph(NAME, one, 64, []) == found[0]
    renamed = one.rename(tmp_path / "renamed.pth")  # the content counts, not the name
    assert tap_graph(NAME, renamed, 64, []) == found[0]
    assert len(requests) == 3


def test_a_network_without_batchnorm_says_so(
    requests: list[dict[str, Any]], tmp_path: Path
) -> None:
    weights = random_weights("test_convnext", tmp_path / "w.safetensors")
    graph = tap_graph("test_convnext", weights, 64, [])
    assert not graph.has_norm
    assert graph.names == (*graph.stage_names, *graph.spread_names)
    assert not (graph.folder / "norm.safetensors").exists()
    assert graph.parity < 1e-4


@pytest.mark.parametrize("harm", ["half", "truncated", "flipped", "no json", "bad json", "empty"])
def test_a_damaged_graph_is_exported_again(
    harm: str, requests: list[dict[str, Any]], tmp_path: Path
) -> None:
    weights = random_weights(NAME, tmp_path / "w.pth")
    graph = tap_graph(NAME, weights, 64, [])
    whole = {path.name: path.read_bytes() for path in graph.folder.iterdir()}
    if harm == "half":
        graph.onnx.unlink()
    elif harm == "truncated":
        graph.weights.write_bytes(whole["weights.safetensors"][:-10])
    elif harm == "flipped":
        middle = len(whole["graph.onnx"]) // 2
        content = bytearray(whole["graph.onnx"])
        content[middle] ^= 1
        graph.onnx.write_bytes(content)
    elif harm == "no json":
        (graph.folder / "graph.json").unlink()
    elif harm == "bad json":
        (graph.folder / "graph.json").write_text('{"files": []')
    else:
        shutil.rmtree(graph.folder)
        graph.folder.mkdir()
    assert tap_graph(NAME, weights, 64, []) == graph
    assert len(requests) == 2
    assert {path.name for path in graph.folder.iterdir()} == set(whole)
    assert graph.onnx.stat().st_size == len(whole["graph.onnx"])
    assert not list(graph.folder.parent.glob(".export-*"))


def test_a_damaged_note_of_the_key_is_written_again(
    requests: list[dict[str, Any]], tmp_path: Path, own_cache: Path
) -> None:
    weights = random_weights(NAME, tmp_path / "w.pth")
    graph = tap_graph(NAME, weights, 64, [])
    [alias] = (own_cache / "graphs").glob("alias-*")
    for content in (b"\xff\xfe", b"../../elsewhere"):
        alias.write_bytes(content)
        assert tap_graph(NAME, weights, 64, []) == graph
        assert alias.read_text() == graph.key


def test_two_that_export_at_once_end_with_one_graph(
    requests: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = random_weights(NAME, tmp_path / "w.pth")
    graph = tap_graph(NAME, weights, 64, [])
    copy = shutil.copytree(graph.folder, tmp_path / "copy")
    shutil.rmtree(graph.folder.parent)
    both_exported = threading.Barrier(2)

    def slow_export(request: dict[str, Any]) -> None:
        shutil.copytree(copy, request["folder"], dirs_exist_ok=True)
        both_exported.wait(timeout=30)

    monkeypatch.setattr(graphs, "_export_in_child", slow_export)
    found: list[TapGraph] = []
    work = [
        threading.Thread(target=lambda: found.append(tap_graph(NAME, weights, 64, [])))
        for _ in range(2)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert found == [graph, graph]
    names = sorted(path.name.split("-")[0] for path in graph.folder.parent.iterdir())
    assert names == ["alias", NAME]


def test_an_error_in_the_child_comes_back_as_the_same_error(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Modules of this name in the current folder must not be picked up by the child.
    (tmp_path / "random.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    weights = random_weights(NAME, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        tap_graph("test_efficientnet", weights, None, [])
    assert "do not fit test_efficientnet" in caught.value.what
    assert caught.value.where == str(weights)
    assert "--backbone" in str(caught.value.do)
    assert not list((own_cache / "graphs").iterdir())


def child_says(
    monkeypatch: pytest.MonkeyPatch, code: int, stderr: str = "", stdout: str = ""
) -> None:
    done = graphs.subprocess.CompletedProcess([], code, stdout, stderr)
    monkeypatch.setattr(graphs.subprocess, "run", lambda *_a, **_k: done)


def test_a_child_that_dies_is_our_own_fault_and_leaves_nothing(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_says(monkeypatch, -9, "some\nlast words\n")
    with pytest.raises(InternalError, match="last words"):
        tap_graph(DEFAULT_BACKBONE, None, 64, [])
    assert not list((own_cache / "graphs").iterdir())


@pytest.mark.parametrize(
    "error",
    [
        ArgumentError("There is no backbone of this name", received="x\ny", do="Look."),
        MachineError("The disk is full", where="/some/place"),
        WeightsError("No"),
    ],
)
def test_errors_cross_the_process_boundary_unchanged(
    error: Any, own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from headstart.backbone.export_graph import _hand_back

    code = _hand_back(error)
    child_says(monkeypatch, code, stdout="Warning: x\n" + capsys.readouterr().out)
    with pytest.raises(type(error)) as caught:
        tap_graph(DEFAULT_BACKBONE, None, 64, [])
    assert str(caught.value) == str(error)


def test_a_full_disk_in_the_child_is_told_with_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    import errno
    import io

    from headstart.backbone import export_graph

    def full(_request: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_graph, "export", full)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"folder": str(tmp_path)})))
    assert export_graph.main() == 1
    assert "HEADSTART_CACHE" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_names_the_way_out(own_cache: Path) -> None:
    own_cache.mkdir()
    own_cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(RunFolderError, match="HEADSTART_CACHE"):
        tap_graph(DEFAULT_BACKBONE, None, 64, [])


def test_a_cache_that_is_a_file_names_the_way_out(own_cache: Path) -> None:
    own_cache.write_text("a file")
    with pytest.raises(RunFolderError, match="HEADSTART_CACHE"):
        tap_graph(DEFAULT_BACKBONE, None, 64, [])


def test_parity_is_measured_on_the_given_images(
    requests: list[dict[str, Any]],
    own_cache: Path,
    tmp_path: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from headstart.backbone import export_graph

    compared: list[Any] = []
    parity = export_graph._parity

    def watched(path: Path, pixels: Any, *rest: Any) -> float:
        compared.append(pixels)
        return parity(path, pixels, *rest)

    monkeypatch.setattr(export_graph, "_parity", watched)
    files = [*sorted(photos.rglob("*.png"))[:3], tmp_path / "gone.png"]
    (tmp_path / "broken.png").write_bytes(b"no image")
    weights = random_weights(NAME, tmp_path / "w.pth")
    tap_graph(NAME, weights, 64, [*files, tmp_path / "broken.png"])
    assert [p.shape for p in compared] == [(3, 64, 64, 3)]


def test_a_graph_that_does_not_compute_what_torch_does_is_not_stored(
    requests: list[dict[str, Any]],
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from headstart.backbone import export_graph

    whole = export_graph.write_onnx

    def wrong(module: Any, size_px: int, path: Path) -> None:
        module.scale *= 1.1
        whole(module, size_px, path)

    monkeypatch.setattr(export_graph, "write_onnx", wrong)
    with pytest.raises(InternalError, match="differs from torch"):
        tap_graph(NAME, random_weights(NAME, tmp_path / "w.pth"), 64, [])
    assert not list((own_cache / "graphs").iterdir())


def test_the_stage_of_an_output_and_the_deepest_of_several() -> None:
    def stage(name: str, side_px: int) -> graphs.StageInfo:
        return graphs.StageInfo(name, 4, side_px, 0, 0, ())

    stages = tuple(stage(*row) for row in [("stem", 8), ("b0", 4), ("b1", 1), ("head", 1)])
    graph = TapGraph(Path(), "", "", stages, Preprocess(), False, "", "", "", "", 0, 0.0)
    assert graph.spread_names == ("stem/std", "b0/std")  # no positions, no deviations
    assert graph.widths == (4,) * 6
    assert graph.stage("b0/std") == graph.stage("b0") == stages[1]
    assert graph.deepest(["b1", "stem", "b0/std"]) == stages[2]
    assert graph.deepest(["stem", "b0/std"]) == stages[1]


class Wavy(torch.nn.Module):
    """One stage: large values of which every second one differs by little."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.stages = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1))
        weight = torch.tensor([[step, 0, 0], [0, 0, 0]])
        self.stages[0].weight.data = weight[:, :, None, None]
        self.stages[0].bias.data = torch.tensor([100.0, -7.0])

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return x.mean((2, 3))


def test_deviations_are_those_over_positions_and_keep_their_digits(tmp_path: Path) -> None:
    from headstart.backbone.export_graph import write_onnx
    from headstart.backbone.features import open_session
    from headstart.backbone.stages import Taps

    network = Wavy(0.01)
    taps = Taps(network, (0.5,) * 3, (0.5,) * 3, None, ["s0"]).eval()
    assert taps.names == ["stem", "s0", "head", "s0/std"]
    write_onnx(taps, 32, tmp_path / "g.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    activation = 100 + 0.01 * (pixels[..., 0] / 255 * 2 - 1)  # in float64
    expected = activation.std((1, 2))
    assert expected.max() < 1e-4 * activation.mean()
    with torch.inference_mode():
        in_torch = taps(torch.from_numpy(pixels))[-1].numpy()
    in_onnx = open_session(tmp_path / "g.onnx", 1).run(["s0/std"], {"image": pixels})[0]
    for found in (in_torch, in_onnx):
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-3)
        assert (found[:, 1] == 0).all()  # not the root of a rounding error


def test_another_size_squashed_or_not_equals_torch(
    requests: list[dict[str, Any]], tmp_path: Path, photos: Path
) -> None:
    weights = random_weights("test_efficientnet", tmp_path / "w.pth")
    files = sorted(photos.rglob("*.png"))[:2]
    for side in (96, 128):
        graph = tap_graph("test_efficientnet", weights, side, files)
        assert graph.preprocess.size_px == side
        assert graph.parity < 1e-4
        squashed = replace(graph, preprocess=replace(graph.preprocess, fit="squash"))
        assert squashed.key == graph.key  # one network for every fit
        assert squashed.preprocess.key() != graph.preprocess.key()
    assert len(requests) == 2


def test_pixels_without_any_image_fill_every_size() -> None:
    from headstart.backbone.export_graph import _real_pixels

    pixels = _real_pixels([], Preprocess(100, 110))
    assert pixels.shape == (2, 100, 100, 3)
    assert np.unique(pixels).size > 50
