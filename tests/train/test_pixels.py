from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headstart.data.images import ImageRefused, Preprocess, load_pixels
from headstart.errors import MachineError
from headstart.train.augment import Augment
from headstart.train.pixels import PixelSource, decode_once

CROP = Preprocess(size_px=32, resize_px=40)


@pytest.fixture
def paths(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))[:10]


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize(
    ("limits", "place"), [((9, 9), "memory"), ((0, 9), "file"), ((0, 0), "none")]
)
def test_the_whole_view_is_what_the_network_sees_when_it_serves(
    fit: str, limits: tuple[float, float], place: str, paths: list[Path], tmp_path: Path
) -> None:
    pre = Preprocess(32, 40, fit=fit)  # type: ignore[arg-type]
    images = decode_once(paths, pre, 2, tmp_path / "scratch", *limits)
    assert images.place == place
    rows = np.array([3, 0, 7])
    seen = PixelSource(images, Augment(), 0, np.arange(10)).whole(rows)
    np.testing.assert_array_equal(seen, [load_pixels(paths[i], pre)[0] for i in rows])


def test_views_are_the_same_wherever_the_images_are_kept(paths: list[Path], tmp_path: Path) -> None:
    seen = []
    for limits in ((9.0, 9.0), (0.0, 9.0), (0.0, 0.0)):
        images = decode_once(paths, CROP, 2, tmp_path, *limits)
        source = PixelSource(images, Augment(("crop", "flip")), 3, np.arange(10), mix=True)
        seen.append(source.views(4, np.arange(6)).inputs)
    assert np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], seen[2])


def test_the_file_has_no_name_and_so_leaves_nothing_behind(
    paths: list[Path], tmp_path: Path
) -> None:
    images = decode_once(paths, CROP, 2, tmp_path / "scratch", 0, 9)
    assert images.place == "file" and list((tmp_path / "scratch").iterdir()) == []


def test_a_full_disk_is_found_out_before_anything_is_decoded(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(MachineError, match="disk is full"):
        decode_once(paths, CROP, 2, tmp_path, 0, 9)


def test_a_file_that_cannot_be_read_is_named(paths: list[Path], tmp_path: Path) -> None:
    paths[4] = tmp_path / "gone.png"
    with pytest.raises(ImageRefused, match="gone"):
        decode_once(paths, CROP, 2, tmp_path)
