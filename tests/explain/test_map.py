"""The map keeps neighbours together, is the same for the same seed, and names what is wrong."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.errors import DataError
from headstart.explain.map import MOST, FeatureMap, feature_map, map_json, neighbours_kept
from toys import draw_photos

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = draw_photos(tmp_path_factory.mktemp("map") / "photos", per_class=20)
    return sorted(folder.rglob("*.png"))


def blobs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = rng.normal(0, 1, (n, 24)) + 8 * rng.normal(0, 1, (3, 24))[labels]
    return x.astype(np.float32), labels


def laid_out(files: list[Path], seed: int = 0) -> FeatureMap:
    x, labels = blobs(60)
    predicted = labels.copy()
    predicted[:4] = (labels[:4] + 1) % 3
    names = [f"a\udcff/{path.name}" for path in files]
    return feature_map(x, labels, predicted, files, names, CLASSES, seed)


def test_equal_seeds_draw_equal_maps(files: list[Path]) -> None:
    a, b, other = laid_out(files), laid_out(files), laid_out(files, seed=1)
    assert np.array_equal(a.points, b.points)
    assert not np.array_equal(a.points, other.points)


def test_groups_of_the_features_are_groups_on_the_map(files: list[Path]) -> None:
    found = laid_out(files)
    assert found.points.shape == (60, 2)
    assert np.abs(found.points).max() == pytest.approx(1)
    away = np.linalg.norm(found.points[:, None] - found.points[None], axis=2)
    np.fill_diagonal(away, np.inf)
    assert (found.labels[away.argmin(1)] == found.labels).all()
    assert found.kept > 0.4  # of 60 images, 10 by chance would be 0.17


def test_neighbours_kept_is_one_for_the_same_points_and_small_for_others() -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    assert neighbours_kept(x, x) == 1.0
    assert neighbours_kept(x, x[::-1].copy()) < 0.2


def test_what_is_wrong_is_marked_and_thumbnails_are_small(files: list[Path]) -> None:
    stored = map_json(laid_out(files))
    json.dumps(stored, allow_nan=False).encode()
    points = stored["points"]
    assert [p["wrong"] for p in points] == [True] * 4 + [False] * 56
    assert all((p["label"] != p["predicted"]) == p["wrong"] for p in points)
    for point in points[:5]:
        picture = Image.open(BytesIO(base64.b64decode(point["thumbnail"])))
        assert picture.format == "WEBP" and max(picture.size) <= 32
    assert "cannot show" in stored["caption"]


def test_a_vanished_file_costs_only_its_thumbnail(files: list[Path], tmp_path: Path) -> None:
    found = laid_out([tmp_path / "gone.png", *files[1:]])
    assert found.thumbnails[0] is None
    assert None not in found.thumbnails[1:]


def test_large_sets_are_drawn_in_proportion(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST == 2000
    monkeypatch.setattr("headstart.explain.map.MOST", 40)
    x, labels = blobs(300)
    labels[labels == 2] = 0
    found = feature_map(x, labels, labels, files[:1] * 300, ["a"] * 300, CLASSES, 0)
    assert len(found.points) == len(set(found.rows.tolist())) == 40
    assert found.of == 300
    assert np.array_equal(found.labels, labels[found.rows])
    assert np.bincount(found.labels)[1] == pytest.approx(40 / 3, abs=2)


@pytest.mark.parametrize("same", ["all", "pairs", "constant feature"])
def test_equal_images_still_make_a_map(files: list[Path], same: str) -> None:
    x, labels = blobs(60)
    if same == "all":
        x[:] = 1
    elif same == "pairs":
        x[1::2] = x[::2]
    else:
        x[:, 3] = 7
    found = feature_map(x, labels, labels, files, [""] * 60, CLASSES, 0)
    assert np.isfinite(found.points).all()


def test_too_few_images_are_refused(files: list[Path]) -> None:
    x, labels = blobs(9)
    with pytest.raises(DataError, match="at least 10"):
        feature_map(x, labels, labels, files[:9], [""] * 9, CLASSES, 0)
