from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from headstart.backbone import features as passing
from headstart.backbone.features import _compute, _onnx_runner, _torch_runner, features
from headstart.backbone.graph import TapGraph, tap_graph
from headstart.data.images import Preprocess, content_hash, load_pixels
from headstart.errors import DataError
from headstart.settings import DEFAULT_BACKBONE
from networks import export_here, random_weights

SIDE = 64


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> TapGraph:
    """A small network's graph, which every cache of these tests can use."""
    folder = tmp_path_factory.mktemp("graph")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        export_here(patch)
        weights = random_weights("test_resnet", folder / "w.pth")
        return tap_graph("test_resnet", weights, SIDE, [])


@pytest.fixture(autouse=True)
def own_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No features of other tests."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files_of(folder: Path) -> tuple[list[Path], list[str]]:
    paths = sorted(folder.rglob("*.png"))
    return paths, [content_hash(path.read_bytes()) for path in paths]


def everything(found: passing.Features) -> NDArray[np.float32]:
    return np.concatenate([found.stage(name) for name in found.names], axis=1)


def test_every_row_is_the_graph_at_its_image(graph: TapGraph, photos: Path) -> None:
    paths, hashes = files_of(photos)
    found = features(graph, paths, hashes, "cpu", 2)
    assert found.names == graph.names
    assert found.names[-2:] == ("norm_mean", "norm_square")
    assert found.stages == graph.stage_names
    assert found.computed == len(paths) == 36
    run = _onnx_runner(graph)
    for i in (0, 17, 35):
        alone = run(load_pixels(paths[i], graph.preprocess)[0][None])[0]
        assert everything(found)[i].tobytes() == alone.tobytes()
    columns = np.concatenate([found.stage(name) for name in found.stages], axis=1)
    assert found.all_stages().tobytes() == columns.tobytes()
    some = np.array([5, 0, 5, 30])
    assert found.stage("head", some).tobytes() == found.stage("head")[some].tobytes()
    assert found.all_stages(some).tobytes() == found.all_stages()[some].tobytes()


def test_deviations_stand_behind_the_means(graph: TapGraph, photos: Path) -> None:
    paths, hashes = files_of(photos)
    found = features(graph, paths, hashes, "cpu", 2)
    some = np.array([5, 0, 5, 30])
    both = found.stage("layer1", some, spread=True)
    deviations = found.stage("layer1/std", some)
    assert both.tobytes() == np.hstack([found.stage("layer1", some), deviations]).tobytes()
    assert (deviations > 0).any()
    assert found.read_by("layer1", spread=True) == ("layer1", "layer1/std")
    # The last stage is pooled already.
    assert found.stage("head", spread=True).tobytes() == found.stage("head").tobytes()
    parts = [found.all_stages(some), *(found.stage(name, some) for name in graph.spread_names)]
    assert found.all_stages(some, spread=True).tobytes() == np.hstack(parts).tobytes()


def test_every_fit_and_view_has_features_of_its_own(graph: TapGraph, photos: Path) -> None:
    for path in photos.rglob("*.png"):
        Image.open(path).resize((90, 60)).save(path)
    paths, hashes = files_of(photos)
    own = graph.preprocess
    seen = []
    for change in ({}, {"fit": "squash"}, {"fit": "pad"}, {"mirror": True}):
        view = replace(graph, preprocess=replace(own, **change))  # type: ignore[arg-type]
        found = features(view, paths, hashes, "cpu", 2)
        assert found.computed == len(paths)
        assert features(view, paths, hashes, "cpu", 2).computed == 0
        pixels = load_pixels(paths[7], view.preprocess)[0][None]
        assert everything(found)[7].tobytes() == _onnx_runner(graph)(pixels)[0].tobytes()
        seen.append(everything(found).tobytes())
    assert len(set(seen)) == 4


def test_rows_do_not_depend_on_workers_order_or_batch(
    graph: TapGraph, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths, hashes = files_of(photos)
    expected = everything(features(graph, paths, hashes, "cpu", 1))
    order = np.random.default_rng(0).permutation(len(paths))
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "again"))
    turned = features(graph, [paths[i] for i in order], [hashes[i] for i in order], "cpu", 3)
    assert everything(turned).tobytes() == expected[order].tobytes()
    run = _onnx_runner(graph)
    pixels = np.stack([load_pixels(path, graph.preprocess)[0] for path in paths])
    for batch in (2, 7, 16):
        parts = [run(pixels[i : i + batch]) for i in range(0, len(pixels), batch)]
        assert np.concatenate(parts).tobytes() == expected.tobytes()


@pytest.mark.parametrize("rest", [0, 3])
def test_the_torch_runner_computes_what_the_graph_does(
    graph: TapGraph, photos: Path, rest: int
) -> None:
    paths, hashes = files_of(photos)
    paths, hashes = paths[: 4 + rest], hashes[: 4 + rest]
    run = _torch_runner(graph, "cpu")
    run.batch = 4  # type: ignore[attr-defined]
    work = list(zip(hashes, paths, strict=True))
    ours = dict(_compute(run, work, graph.preprocess, 2))
    assert list(ours) == hashes
    theirs = everything(features(graph, paths, hashes, "cpu", 2))
    for row, key in zip(theirs, hashes, strict=True):
        np.testing.assert_allclose(ours[key], row, atol=1e-4 * np.abs(theirs).max())


def test_the_second_pass_computes_nothing_and_opens_no_network(
    graph: TapGraph, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, hashes = files_of(photos)
    first = features(graph, paths[:20], hashes[:20], "cpu", 2)
    whole = features(graph, paths, hashes, "cpu", 2)
    assert (first.computed, whole.computed) == (20, 16)
    monkeypatch.setattr(passing, "open_session", lambda *_a, **_k: pytest.fail("a network"))
    again = features(graph, paths, hashes, "cpu", 2)
    assert again.computed == 0
    assert everything(again).tobytes() == everything(whole).tobytes()


def test_equal_content_under_two_paths_is_computed_once(
    graph: TapGraph, photos: Path, tmp_path: Path
) -> None:
    paths, hashes = files_of(photos)
    copy = Path(shutil.copy(paths[0], tmp_path / "copy.png"))
    found = features(graph, [paths[0], paths[1], copy], [*hashes[:2], hashes[0]], "cpu", 2)
    assert found.computed == 2
    assert found.stage("head")[0].tobytes() == found.stage("head")[2].tobytes()


def test_no_images_are_no_rows(graph: TapGraph) -> None:
    found = features(graph, [], [], "cpu", 2)
    assert found.computed == 0
    assert found.all_stages().shape == (0, sum(stage.width for stage in graph.stages))


def repainted(path: Path) -> None:
    Image.new("RGB", (40, 40), "white").save(path)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("change", [repainted, emptied, Path.unlink])
def test_a_file_that_changed_since_the_check_is_an_error_that_names_it(
    graph: TapGraph, photos: Path, change: Callable[[Path], object]
) -> None:
    paths, hashes = files_of(photos)
    change(paths[20])
    with pytest.raises(DataError, match=f"changed or vanished.*{paths[20].name}"):
        features(graph, paths, hashes, "cpu", 2)


def test_what_was_computed_before_an_error_or_ctrl_c_is_kept(
    graph: TapGraph, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, hashes = files_of(photos)
    real = passing.load_pixels
    for stop, done in ((paths[10], 10), (paths[25], 25)):

        def load(path: Path, pre: Preprocess, stop: Path = stop) -> tuple[object, str]:
            if path == stop:
                raise KeyboardInterrupt
            return real(path, pre)

        monkeypatch.setattr(passing, "load_pixels", load)
        with pytest.raises(KeyboardInterrupt):
            features(graph, paths, hashes, "cpu", 1)
        monkeypatch.setattr(passing, "load_pixels", real)
        known = features(graph, paths[:done], hashes[:done], "cpu", 1)
        assert known.computed == 0


def test_shards_are_cut_at_their_number_of_rows_and_bytes(
    graph: TapGraph, photos: Path, monkeypatch: pytest.MonkeyPatch, own_features: Path
) -> None:
    paths, hashes = files_of(photos)
    monkeypatch.setattr(passing, "ROWS_PER_SHARD", 10)
    found = features(graph, paths, hashes, "cpu", 2)
    assert [len(shard) for shard in found.shards] == [10, 10, 10, 6]
    shutil.rmtree(own_features)
    monkeypatch.setattr(passing, "SHARD_BYTES", 4 * sum(graph.widths) * 20)
    monkeypatch.setattr(passing, "ROWS_PER_SHARD", 2048)
    wide = features(graph, paths, hashes, "cpu", 2)
    assert [len(shard) for shard in wide.shards] == [20, 16]
    assert everything(wide).tobytes() == everything(found).tobytes()


def test_a_damaged_shard_is_computed_again(
    graph: TapGraph, photos: Path, own_features: Path
) -> None:
    paths, hashes = files_of(photos)
    expected = everything(features(graph, paths, hashes, "cpu", 2))
    [shard] = own_features.rglob("*.shard")
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        again = features(graph, paths, hashes, "cpu", 2)
    assert again.computed == 36
    assert everything(again).tobytes() == expected.tobytes()


def test_a_cache_that_cannot_be_written_costs_only_a_warning(
    graph: TapGraph, photos: Path, own_features: Path
) -> None:
    paths, hashes = files_of(photos)
    own_features.write_text("a file where the cache should be")
    with pytest.warns(UserWarning, match="kept in memory"):
        found = features(graph, paths, hashes, "cpu", 2)
    assert found.computed == 36
    assert np.isfinite(found.all_stages()).all()


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from headstart.backbone import features as passing
from headstart.backbone.graph import read_graph
graph = read_graph(Path(sys.argv[1]))
row = np.zeros(sum(graph.widths), np.float32)
passing._onnx_runner = lambda _graph: lambda pixels: row[None]
passing.load_pixels = lambda path, _pre: (np.zeros((1, 1, 3), np.uint8), path.name)
passing.SHARD_BYTES = 4_000_000
for n in (2_000, 40_000):
    names = [f"{n + i:032x}" for i in range(n)]
    found = passing.features(graph, [Path(name) for name in names], names, "cpu", 2)
    assert found.stage("head", np.array([0, n - 1])).shape[0] == 2
    # Not getrusage: a child starts with the peak of the process that forked it.
    [line] = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
    print(int(line.split()[1]) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_images(graph: TapGraph) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(graph.folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    few, many = (float(line) for line in done.stdout.split())
    rows_mb = 38_000 * sum(graph.widths) * 4 / 1e6
    assert many - few < rows_mb / 3
    assert many < 400


FROZEN_ROAD = """
import sys
from pathlib import Path
import numpy as np
from headstart.backbone.device import detect_device
from headstart.backbone.features import features
from headstart.backbone.graph import tap_graph
from headstart.data.images import content_hash
from headstart.plan.measure import Development, measure
from headstart.plan.criterion import Criterion
from headstart.train.head import HeadTask, search_head, train_head
paths = sorted(Path(sys.argv[1]).rglob("*.png"))
hashes = [content_hash(path.read_bytes()) for path in paths]
graph = tap_graph(sys.argv[2], None, None, paths)
found = features(graph, paths, hashes, detect_device("cpu"), 2)
n = len(paths)
labels = np.arange(n) // (n // 3)
folds = np.arange(n) % 3
development = Development(
    np.arange(n), labels, np.arange(n), folds, tuple(hashes), ("blue", "green", "red")
)
accuracy = Criterion("accuracy", "accuracy")
measured = measure(graph, found, development, accuracy, 0, 2)
assert measured.learnable and measured.similarity.bn_shift > 0
x = found.all_stages(development.rows)
search = search_head(x, HeadTask(labels, folds, np.arange(n), 3, accuracy), 0, 2)
head = train_head(x, labels, 3, search.strength, 0)
assert (head.logits(x).argmax(1) == labels).all()
assert "torch" not in sys.modules and "timm" not in sys.modules and "sklearn" not in sys.modules
"""


def test_the_frozen_road_imports_no_torch(
    photos: Path, toy_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(toy_cache))
    tap_graph(DEFAULT_BACKBONE, None, None, files_of(photos)[0][:2])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FROZEN_ROAD, str(photos), DEFAULT_BACKBONE],
        check=False,
    )
    assert done.returncode == 0
