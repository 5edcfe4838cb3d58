"""Patches are those that excite a unit most, cut to what it sees, one per picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from headstart.backbone.demo_net import DemoNet
from headstart.data.images import Preprocess
from headstart.explain.excite import (
    PAPER,
    Excited,
    Peaks,
    choose_units,
    cut_patch,
    cut_px,
    excite,
    to_input,
    units,
)
from headstart.explain.field import Field
from headstart.explain.receptive import activations, fields

PRE = Preprocess(32, 32, mean=(0.5,) * 3, std=(0.25,) * 3)


class Spots(nn.Module):
    """Unit 0 sees red squares of 5 px, unit 1 blue ones."""

    def __init__(self) -> None:
        super().__init__()
        self.spot = nn.Conv2d(3, 2, 5, padding=2)
        nn.init.zeros_(self.spot.bias)
        nn.init.zeros_(self.spot.weight)
        self.spot.weight.data[0, 0] = 1 / 25
        self.spot.weight.data[1, 2] = 1 / 25
        self.feature_info = [{"module": "spot"}]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.spot(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x.mean((2, 3))


@pytest.fixture
def spotted(tmp_path: Path) -> tuple[list[Path], list[tuple[int, int]]]:
    """Black pictures with a red spot here and a blue one there, each brighter than the one before."""
    rng = np.random.default_rng(0)
    paths, reds = [], []
    for i in range(12):
        pixels = np.zeros((32, 32, 3), np.uint8)
        (y, x), (v, u) = rng.integers(2, 12, 2), rng.integers(16, 27, 2)
        pixels[y : y + 5, x : x + 5, 0] = 100 + 10 * i
        pixels[v : v + 5, u : u + 5, 2] = 255 - 10 * i
        paths.append(tmp_path / ("odd" if i % 2 else "even") / f"{i}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(paths[-1])
        reds.append((int(x), int(y)))
    return paths, reds


def seen(network: nn.Module) -> dict[str, Field]:
    draw = torch.Generator().manual_seed(0)
    return fields(network, [torch.randn((1, 3, 32, 32), generator=draw) for _ in range(3)])


def test_the_patches_are_the_spots_themselves_and_the_brightest_come_first(spotted: Any) -> None:
    paths, reds = spotted
    network = Spots().eval()
    found = seen(network)
    excited = excite(network, paths, PRE, found)
    by_index = {unit.index: unit for unit in units(excited, found["spot"])}
    assert set(by_index) == {0, 1}
    red = by_index[0]
    assert [patch.path for patch in red.patches] == paths[:5:-1]
    for patch, (x, y) in zip(red.patches, reds[:5:-1], strict=True):
        assert patch.box == (x, y, x + 5, y + 5)
    assert [patch.path for patch in by_index[1].patches] == paths[:6]
    assert red.mostly is None


def test_the_value_of_a_patch_is_the_activation_of_its_middle(spotted: Any) -> None:
    paths, _ = spotted
    torch.manual_seed(0)
    network = DemoNet(4).eval()
    found = seen(network)
    excited = excite(network, paths, PRE, found)
    for stage in ("conv1", "conv2"):
        for unit in units(excited, found[stage]):
            patch = unit.patches[0]
            pixels = np.array(Image.open(patch.path))
            with torch.no_grad():
                whole = activations(network, to_input(pixels[None], PRE))[stage][0, unit.index]
            assert float(whole.max()) >= patch.value - 1e-5
            assert (whole - patch.value).abs().min() < 1e-5
            left, top, right, bottom = patch.box
            assert min(left, top) >= 0 and max(right, bottom) <= 32


def test_one_content_counts_once_and_what_is_unreadable_is_counted(
    spotted: Any, tmp_path: Path
) -> None:
    paths, _ = spotted
    copy, broken = tmp_path / "copy.png", tmp_path / "broken.png"
    copy.write_bytes(paths[0].read_bytes())
    broken.write_bytes(b"no")
    network = Spots().eval()
    excited = excite(network, [*paths, copy, broken], PRE, seen(network))
    assert excited.paths == tuple(paths)
    assert excited.refused == 1
    assert excited.peaks["spot"].values.shape == (12, 2)


def test_a_picture_that_was_saved_twice_is_shown_once() -> None:
    values = np.array([[9.0], [8.99], [8.98], [5.0], [4.0]], np.float32)
    rows = np.array([[3], [3], [4], [3], [2]])
    paths = tuple(Path(f"{i}.png") for i in range(5))
    field = Field("a", 100, 10, 20, 10, 10.0, 5.0)
    excited = Excited(paths, 0, {"a": Peaks(values, rows, rows)})
    (unit,) = units(excited, field)
    assert [patch.path.name for patch in unit.patches] == ["0.png", "2.png", "3.png", "4.png"]


def test_a_cut_that_is_not_the_field_lies_within_the_picture() -> None:
    values = np.arange(3, dtype=np.float32)[:, None]
    at = np.array([[0], [5], [9]])
    field = Field("a", 100, 10, 100, 60, 10.0, 5.0)
    excited = Excited((Path("0"), Path("1"), Path("2")), 0, {"a": Peaks(values, at, at)})
    (unit,) = units(excited, field)
    assert [patch.box[0] for patch in unit.patches] == [40, 25, 0]


def test_a_unit_that_is_fond_of_one_folder_says_so(spotted: Any) -> None:
    paths, _ = spotted
    network = Spots().eval()
    excited = excite(network, paths, PRE, seen(network))
    peaks = excited.peaks["spot"]
    odd = np.array([path.parent.name == "odd" for path in excited.paths])
    values = peaks.values + 1000 * odd[:, None]
    moved = Excited(
        excited.paths, 0, {"spot": Peaks(values.astype(np.float32), peaks.rows, peaks.columns)}
    )
    assert {unit.mostly for unit in units(moved, seen(network)["spot"])} == {"odd"}


def test_units_that_say_the_same_or_nothing_are_not_shown_together() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (60, 5))
    values[:6, 0] += 12
    values[:, 1] = 3 * values[:, 0] + 1  # the same once more
    values[10:16, 2] += 9
    values[:, 4] = 0.25  # dead
    none = np.zeros((60, 5), np.int64)
    found = choose_units(Peaks(values.astype(np.float32), none, none), count=3)
    assert found[:2] in ([0, 2], [1, 2])
    assert found[2] == 3
    assert choose_units(Peaks(np.ones((9, 4), np.float32), none, none)) == []


def test_a_patch_beyond_the_rim_is_paper() -> None:
    pixels = np.full((10, 10, 3), 7, np.uint8)
    cut = np.asarray(cut_patch(pixels, (-2, 3, 4, 9)))
    assert cut.shape == (6, 6, 3)
    assert (cut[:, :2] == PAPER).all() and (cut[:, 2:] == 7).all()
    assert (np.asarray(cut_patch(pixels, (20, 20, 24, 24))) == PAPER).all()


def test_a_field_that_covers_most_of_the_picture_is_cut_to_where_it_listens() -> None:
    small = Field("a", 100, 50, 50, 30, 2.0, 1.0)
    large = Field("b", 100, 50, 51, 30, 2.0, 1.0)
    assert (cut_px(small), cut_px(large)) == (50, 30)
