"""The bundle: small, equal for equal training, checked before it is handed over and when it is read."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from safetensors import safe_open

from headstart.backbone.features import features
from headstart.backbone.graph import TapGraph, tap_graph
from headstart.data.images import content_hash, load_pixels
from headstart.errors import BundleError, InternalError
from headstart.judge.calibration import softmax
from headstart.plan.decide import Candidate
from headstart.ship.bundle import describe, read_bundle, taps_of, write_bundle
from headstart.ship.model_card import model_card
from headstart.ship.predict import load, wide
from headstart.train.head import Head, train_head
from headstart.train.mlp import MlpHead, train_mlp
from networks import export_here, random_weights
from runs import landscape, refused

FILES = {"headstart.json", "model.safetensors", "model.onnx", "README.md"}


@pytest.fixture(autouse=True)
def _hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys are small; here they are split as large sets are."""
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)


@pytest.fixture
def model(toys: Any, tmp_path: Path) -> Path:
    """A copy of the toy model that a test may damage."""
    return Path(shutil.copytree(toys.run / "model", tmp_path / "model"))


def names_of(file: Path) -> set[str]:
    with safe_open(file, framework="numpy") as stored:
        return set(stored.keys())


def test_four_files_and_nothing_that_is_executed(toys: Any) -> None:
    assert {path.name for path in (toys.run / "model").iterdir()} == FILES


def test_an_early_cut_is_smaller_and_holds_nothing_of_the_removed_stages(toys: Any) -> None:
    whole, early = toys.run / "model", toys.early / "model"
    for name in ("model.safetensors", "model.onnx"):
        assert (early / name).stat().st_size < (whole / name).stat().st_size / 10
    removed = names_of(whole / "model.safetensors") - names_of(early / "model.safetensors")
    kept = {re.sub(r"\.[^.]*$", "", n) for n in names_of(early / "model.safetensors")}
    assert any(name.startswith("backbone.blocks.6") for name in removed)
    assert any(name.startswith("backbone.blocks.1") for name in kept)
    assert not [n for n in kept if re.match(r"backbone\.(blocks\.[2-6]|conv_head|bn2|classif)", n)]
    described = read_bundle(toys.early).description
    assert described["stages"]["kept"] == ["stem", "b0", "b1"]
    assert described["stages"]["removed"] == ["b2", "b3", "b4", "b5", "b6", "head"]
    assert described["head"]["reads"] == ["b1"]


def test_the_stored_tensors_are_those_of_the_pre_trained_network(toys: Any) -> None:
    graph = tap_graph("tf_efficientnet_lite0", None, None, [])
    with (
        safe_open(graph.weights, framework="numpy") as before,
        safe_open(toys.early / "model" / "model.safetensors", framework="numpy") as after,
    ):
        for name in (n for n in after.keys() if n.startswith("backbone.")):
            source = before.get_tensor(name.removeprefix("backbone."))
            assert np.array_equal(after.get_tensor(name), source)


@pytest.mark.parametrize("which", ["run", "early"])
def test_the_stored_head_is_the_one_inside_the_network(toys: Any, which: str) -> None:
    folder = getattr(toys, which) / "model"
    network = {t.name: t for t in onnx.load(str(folder / "model.onnx")).graph.initializer}
    with safe_open(folder / "model.safetensors", framework="numpy") as stored:
        for name in ("head.weight", "head.bias"):
            inside = numpy_helper.to_array(network[f"headstart/{name}"])
            assert np.array_equal(stored.get_tensor(name), inside)


def test_no_time_path_or_run_name_is_inside(toys: Any) -> None:
    words = [str(toys.run.parent), "toys", "photos", "20[0-9][0-9]-[0-9][0-9]"]
    for name in FILES:
        content = (toys.run / "model" / name).read_bytes()
        content = content.replace(b"photos anywhere", b"")
        found = [word for word in words if re.search(word.encode(), content)]
        assert found in ([], ["photos"]), name  # the card shows how to predict `folder_of_photos/`


def test_a_model_that_was_moved_still_answers(toys: Any, model: Path, tmp_path: Path) -> None:
    moved = model.rename(tmp_path / "elsewhere")
    photo = toys.photos / "blue" / "blue_0.png"
    there, here = (next(load(path).predict(photo)) for path in (toys.run, moved))
    assert there == here


def rewritten(model: Path, change: dict[str, Any]) -> None:
    """Change the description as someone would who also knows how to mend its checksum."""
    file = model / "headstart.json"
    description = json.loads(file.read_text()) | change
    rest = {key: value for key, value in description.items() if key != "sha256"}
    own = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    description["sha256"] |= {"headstart.json": own}
    if (model / "model.onnx").exists():
        network = hashlib.sha256((model / "model.onnx").read_bytes()).hexdigest()
        description["sha256"] |= {"model.onnx": network}
    file.write_text(json.dumps(description))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "one bit": flip,
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_every_damaged_file_is_refused_in_one_sentence(
    toys: Any, model: Path, capsys: Any, name: str, damage: str
) -> None:
    DAMAGES[damage](model / name)
    told = refused(capsys, "predict", model, toys.photos)
    assert str(model) in told
    assert "damaged" in told or "no model" in told


@pytest.mark.parametrize("text", ["no JSON", "[1]", "{}", '"a"', "[" * 100_000, "\\xff", '{"a":'])
def test_a_description_that_is_none_is_refused(model: Path, text: str) -> None:
    (model / "headstart.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match="damaged"):
        load(model)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["a", "b"]},
        {"classes": None},
        {"preprocess": {}},
        {
            "preprocess": {
                "size_px": 8,
                "resize_px": 8,
                "mean": [0] * 3,
                "std": [1] * 3,
                "mirror": 1,
            }
        },
        {"preprocess": {"size_px": 224, "resize_px": 1, "fit": "crop", "mean": [0], "std": [1]}},
        {"temperature": "warm"},
        {"head": []},
        {"sha256": {}},
    ],
)
def test_a_description_that_does_not_fit_is_refused(model: Path, change: dict[str, Any]) -> None:
    rewritten(model, change)
    with pytest.raises(BundleError):
        load(model)


def test_a_network_that_cannot_run_is_refused(model: Path) -> None:
    (model / "model.onnx").write_bytes(b"not a network")
    rewritten(model, {})
    with pytest.raises(BundleError, match="cannot be run"):
        load(model)


def test_another_version_is_named_and_what_to_do(model: Path) -> None:
    rewritten(model, {"version": 99})
    with pytest.raises(BundleError, match=r"another version.*format 99.*update headstart"):
        load(model)


@pytest.mark.parametrize("place", ["nowhere", "photos", "photos/red/red_0.png", "run/run.json"])
def test_what_is_no_model_is_refused_with_what_to_give(toys: Any, place: str) -> None:
    with pytest.raises(BundleError, match="Give a run folder"):
        read_bundle(toys.run.parent / place)


# -- writing -------------------------------------------------------------------------------------


def parts(toys: Any) -> tuple[Any, dict[str, Any], Head, Any]:
    """What write_bundle takes, for a head on the first stage, with the right expected answers."""
    graph = tap_graph("tf_efficientnet_lite0", None, None, [])
    stored = toys.early / "model"
    with safe_open(stored / "model.safetensors", framework="numpy") as tensors:
        head = Head(tensors.get_tensor("head.weight"), tensors.get_tensor("head.bias"))
    bundle = read_bundle(toys.early)
    candidate = Candidate("head_cut@b1", "head_cut", "b1", 2)
    description = describe(graph, candidate, bundle.classes, bundle.temperature)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    return graph, description, head, (pixels, load(toys.early).probabilities(pixels))


def test_wrong_probabilities_are_found_and_nothing_is_handed_over(
    toys: Any, tmp_path: Path
) -> None:
    graph, description, head, (pixels, expected) = parts(toys)
    for wrong in (
        expected[::-1],
        expected + 2e-4,
        expected * np.nan,
        expected[:1],
        expected[:, :2],
    ):
        with pytest.raises(InternalError, match="Nothing was handed over"):
            write_bundle(tmp_path / "model", graph, description, head, (pixels, wrong), "card")
        assert list(tmp_path.iterdir()) == []


def test_an_older_model_stays_when_the_new_one_fails_and_goes_when_it_is_whole(
    toys: Any, model: Path
) -> None:
    graph, description, head, (pixels, expected) = parts(toys)
    before = (model / "model.onnx").read_bytes()
    with pytest.raises(InternalError):
        write_bundle(model, graph, description, head, (pixels, 1 - expected), "card")
    assert (model / "model.onnx").read_bytes() == before
    write_bundle(model, graph, description, head, (pixels, expected), "card")
    assert (model / "model.onnx").read_bytes() == (toys.early / "model/model.onnx").read_bytes()
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_what_a_killed_process_left_is_cleared_away(toys: Any, tmp_path: Path) -> None:
    graph, description, head, check = parts(toys)
    (tmp_path / ".model-0123abcd").mkdir()
    (tmp_path / ".model-0123abcd" / "model.onnx").write_bytes(b"half")
    (tmp_path / ".model-mine").mkdir()
    write_bundle(tmp_path / "model", graph, description, head, check, "card")
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model-mine"}


# -- richer candidates ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oblong(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos of many proportions, lines of 1 px among them."""
    folder = tmp_path_factory.mktemp("oblong")
    sides = [(90, 60), (40, 150), (200, 80), (64, 64), (1, 70), (70, 1), (30, 20), (500, 90)] * 2
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(len(sides))]
    for path, (width, height) in zip(paths, sides, strict=True):
        landscape(rng, width, height).save(path)
    return paths


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[int, TapGraph]:
    """A small network's graphs at two input sizes."""
    folder = tmp_path_factory.mktemp("small")
    weights = random_weights("test_resnet", folder / "w.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        export_here(patch)
        return {side: tap_graph("test_resnet", weights, side, []) for side in (64, 96)}


ALL = Candidate("a", "all_stages", None, None)
CUT = Candidate("c", "head_cut", "layer1", None)
TOP = Candidate("t", "head_top", None, None)


@pytest.mark.parametrize(
    ("candidate", "side_px", "fit"),
    [
        (replace(ALL, spread=True), 64, "crop"),
        (replace(ALL, spread=True, hidden=6), 64, "squash"),
        (replace(CUT, spread=True), 96, "pad"),
        (replace(CUT, hidden=6), 96, "squash"),
        (replace(TOP, spread=True), 96, "crop"),
    ],
)
def test_what_a_head_reads_is_what_its_bundle_serves(
    small: dict[int, TapGraph],
    oblong: list[Path],
    tmp_path: Path,
    candidate: Candidate,
    side_px: int,
    fit: Any,
) -> None:
    graph = small[side_px]
    graph = replace(graph, preprocess=replace(graph.preprocess, fit=fit))
    hashes = [content_hash(path.read_bytes()) for path in oblong]
    found = features(graph, oblong, hashes, "cpu", 2)
    if candidate.strategy == "all_stages":
        x = found.all_stages(spread=candidate.spread)
    else:
        x = found.stage(candidate.cut or "head", spread=candidate.spread)
    head: Head | MlpHead
    labels = np.arange(len(oblong)) % 2
    if candidate.hidden:
        head = train_mlp(x, labels, 2, candidate.hidden, 0.1, 0)
    else:
        head = train_head(x, labels, 2, 0.1, 0)
    expected = softmax(head.logits(x), 1.5)
    assert np.ptp(expected) > 0.2
    description = describe(graph, candidate, ["a", "b"], 1.5)
    assert description["head"]["inputs"] == x.shape[1]
    assert description["head"]["hidden"] == candidate.hidden
    pixels = np.stack([load_pixels(path, wide(graph.preprocess))[0] for path in oblong])
    write_bundle(tmp_path / "model", graph, description, head, (pixels, expected), "card")
    model = load(tmp_path / "model")
    assert model.bundle.preprocess == graph.preprocess
    answers = np.array([answer.probabilities for answer in model.predict(oblong)])
    assert np.abs(answers - expected).max() < 1e-4
    for path, answer in zip(oblong, expected, strict=True):  # as a program without us would
        whole = model.probabilities(np.asarray(Image.open(path).convert("RGB"))[None])
        assert np.abs(whole - answer).max() < 0.02


def test_deviations_of_an_early_stage_need_nothing_of_the_later_ones(
    small: dict[int, TapGraph], tmp_path: Path
) -> None:
    graph, candidate = small[64], replace(CUT, spread=True)
    assert taps_of(graph, candidate) == ("layer1", "layer1/std")
    description = describe(graph, candidate, ["a", "b"], 1.0)
    kept = graph.stage_names[: graph.stage_names.index("layer1") + 1]
    assert description["stages"]["kept"] == list(kept)
    assert description["parameters"]["frozen"] == graph.stage("layer1").parameters
    head = Head(np.zeros((2, 2 * graph.stage("layer1").width), np.float32), np.zeros(2, np.float32))
    check = np.zeros((1, 64, 64, 3), np.uint8), np.full((1, 2), 0.5)
    write_bundle(tmp_path / "model", graph, description, head, check, "card")
    stored = names_of(tmp_path / "model" / "model.safetensors")
    assert stored == {"head.weight", "head.bias"} | {
        f"backbone.{k}" for k in graph.stage("layer1").keeps
    }
    nodes = onnx.load(str(tmp_path / "model" / "model.onnx")).graph.node
    outputs = {name for node in nodes for name in node.output}
    assert {"layer1", "layer1/std"} <= outputs
    assert not outputs & set(graph.stage_names[graph.stage_names.index("layer1") + 1 :])


def test_all_deviations_of_a_network_keep_its_whole(small: dict[int, TapGraph]) -> None:
    """Although the last output that is read belongs to an earlier stage than the head."""
    graph = small[64]
    reads = taps_of(graph, replace(ALL, spread=True))
    assert reads == (*graph.stage_names, *graph.spread_names)
    described = describe(graph, replace(ALL, spread=True), ["a", "b"], 1.0)
    assert described["stages"] == {"kept": list(graph.stage_names), "removed": []}
    assert taps_of(graph, replace(TOP, spread=True)) == ("head",)


def test_a_mirrored_view_is_never_described(small: dict[int, TapGraph]) -> None:
    graph = small[64]
    mirrored = replace(graph, preprocess=replace(graph.preprocess, mirror=True))
    with pytest.raises(AssertionError, match="mirrored"):
        describe(mirrored, TOP, ["a", "b"], 1.0)


# -- the model card ------------------------------------------------------------------------------


def test_the_card_says_what_it_is_how_it_was_made_and_how_good_it_is(toys: Any) -> None:
    card = (toys.early / "model" / "README.md").read_text()
    evaluation = json.loads((toys.early / "evaluation.json").read_text())
    for text in (
        "Tells apart 3 classes: blue, green, red.",
        "Strategy: new head on the early stages, frozen, up to stage b1 (case 2)",
        "stages kept: stem, b0, b1; removed: b2, b3, b4, b5, b6, head.",
        f"{evaluation['n']} images",
        "output `probabilities`, float32 [N, C]",
    ):
        assert text in card
    for metric in evaluation["metrics"]:
        row = next(
            r for r in card.splitlines() if r.startswith("| " + metric["name"].replace("_", "\\_"))
        )
        assert f"{metric['value']:.3f}" in row


HOSTILE = ["<script>x</script>", "a|b", "# big", "[x](http://evil)", "![i](x)", "`c`", "a\nb\x1b[31m",
           "*b*", "www.evil.com", "http://evil.com", "@you", "\u202ereversed"]  # fmt: skip


def test_class_names_cannot_write_markup_into_the_card(toys: Any) -> None:
    described = read_bundle(toys.run).description | {"classes": HOSTILE}
    unsure = SimpleNamespace(temperature=None)
    evaluation = SimpleNamespace(protocol="held out", n=1, metrics=[], calibration=unsure)
    measured = SimpleNamespace(n=1, similarity=SimpleNamespace(sentence="Like the source."))
    card = model_card(described, evaluation, measured)  # type: ignore[arg-type]
    line = next(line for line in card.splitlines() if line.startswith("Tells apart"))
    assert line.endswith(".")
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", line.removeprefix("Tells apart 12 classes: "))
    assert not re.search(r"[<>|#`*\[\]!@]|http:|www\.", bare)
    assert card.isprintable() or set(c for c in card if not c.isprintable()) == {"\n"}
