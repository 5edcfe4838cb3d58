"""The page of filters holds what it says, is small, loads nothing, and is made in bounded time."""

from __future__ import annotations

import base64
import re
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from headstart.backbone.demo_net import DemoNet
from headstart.data.images import Preprocess
from headstart.explain import filters
from headstart.explain.filters import first_filters, show_filters
from headstart.explain.maximise import leaky, maximise, reach
from networks import random_network, random_weights
from runs import call, landscape, refused

PRE = Preprocess(32, 32, mean=(0.5,) * 3, std=(0.25,) * 3)
HOSTILE = '"><script>alert(1)</script>\u202e'


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "demo.safetensors"
    torch.manual_seed(0)
    save_file(DemoNet(4).state_dict(), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(14):
        place = tmp_path / "photos" / ("a" if i < 7 else "b") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        landscape(rng, 50, 40).save(place)
    return tmp_path / "photos"


def pictures_in(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/(?:png|webp);base64,([^"]+)"', page)
    return [Image.open(BytesIO(base64.b64decode(one))) for one in found]


def test_a_folder_gives_patches_of_every_stage(
    weights: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert call("filters", "demo", folder, "--weights", weights, "--out", out) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    page = (out / "index.html").read_text()
    stages = ["conv1", "conv2", "conv3", "fc1", "fc2", "head"]
    assert re.findall(r"<h2>Stage <bdi>(\w+)</bdi></h2>", page) == stages
    sides = {image.size for image in pictures_in(page)}
    assert sides == {
        (3, 3),
        (4, 4),
        (10, 10),
        *{s for s in sides if s[0] in range(11, 23)},
        (32, 32),
    }
    assert "sees 4 × 4 of the picture&#39;s 32 px" in page
    assert page.count('class="patches"') <= 6 * len(stages)
    assert "patches of 14 images" in page
    assert len(page.encode()) < 5_000_000


def test_equal_seeds_write_equal_pages(weights: Path, folder: Path, tmp_path: Path) -> None:
    pages = [
        show_filters("demo", folder, tmp_path / name, weights=weights).read_bytes() for name in "ab"
    ]
    assert pages[0] == pages[1]


def test_without_a_folder_pictures_are_made(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.explain.filters.DREAM_STEPS", 3)
    page = show_filters("demo", None, tmp_path, weights=weights).read_text()
    assert page.count("<figcaption>Unit") == 6 * filters.DREAMS
    assert {image.size for image in pictures_in(page)} == {(3, 3), (32, 32)}
    assert "No image was looked at" in page


def test_no_picture_is_made_for_a_unit_that_never_answers() -> None:
    a, b = torch.rand(1, 5, 4, 4), torch.rand(1, 5, 4, 4)
    for one in (a, b):
        one[:, 1] = 0
        one[:, 4] = 2.5
    assert filters._alive([a, b]).tolist() == [0, 2, 3]
    assert filters._alive([a * 0, b * 0]).tolist() == [0, 1, 2, 3, 4]


def test_the_page_runs_nothing_and_names_are_text(
    weights: Path, folder: Path, tmp_path: Path
) -> None:
    for path in sorted(folder.rglob("*.png")):
        shutil.move(path, path.with_name(HOSTILE.replace("/", "") + path.name))
    page = show_filters("demo", folder, tmp_path / "out", weights=weights).read_text()
    assert "<script" not in page and "\u202e" not in page
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_the_first_filters_are_the_weights_with_grey_as_zero() -> None:
    torch.manual_seed(0)
    network = DemoNet(4)
    kernel = network.conv1[0].weight.data
    kernel[0] = 0
    kernel[0, 0, 1, 2] = 2.0  # red, on the right
    kernel[1] = torch.tensor([[1.0, -1.0, 0.0]]).expand(3, 3, 3)  # an edge without colour
    found = {one.index: one.pixels for one in first_filters(network)}
    assert len(found) == 32
    assert found[0][1, 2].tolist() == [255, 128, 128]
    assert found[0][0, 0].tolist() == [128, 128, 128]
    assert found[1][1].tolist() == [[255] * 3, [0] * 3, [128] * 3]
    assert first_filters(network)[0].index == 1  # grey before coloured
    kernel[5] = 1e-6
    assert 5 not in {one.index for one in first_filters(network)}


def test_a_network_of_many_stages_shows_some_and_names_the_rest(
    weights: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "MOST_STAGES", 3)
    page = show_filters("demo", folder, tmp_path / "out", weights=weights).read_text()
    assert "3 of 6 stages are shown; left out: conv2, fc1, fc2." in page
    assert re.findall(r"<h2>Stage <bdi>(\w+)</bdi></h2>", page) == ["conv1", "conv3", "head"]


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_networks_of_timm_have_a_page_too(name: str, folder: Path, tmp_path: Path) -> None:
    weights = random_weights(name, tmp_path / "w.safetensors")
    page = show_filters(name, folder, tmp_path / "out", weights=weights, size_px=64).read_text()
    assert page.count("<h2>Stage") >= 4
    assert pictures_in(page)


def test_mistakes_are_one_sentence(weights: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no")
    out = ["--out", tmp_path / "out", "--weights", weights]
    for folder, words in (("empty", "no image"), ("bad", "could be read"), ("gone", "not exist")):
        assert words in refused(capsys, "filters", "demo", tmp_path / folder, *out)
    assert "Did you mean" in refused(capsys, "filters", "resnt18", *out)
    assert "--size" in refused(capsys, "filters", "demo", "--size", 64, *out)
    assert "32 to 1024" in refused(capsys, "filters", "test_resnet", "--size", 8, *out)


# -- activation maximisation ----------------------------------------------------------------------


def test_the_made_picture_excites_its_unit_more_than_the_start_and_than_noise() -> None:
    network: nn.Module = random_network("test_resnet")
    network.requires_grad_(False)
    pre = Preprocess(64, 64, mean=(0.5,) * 3, std=(0.25,) * 3)
    for stage in ("layer1", "layer3"):
        made, start = (maximise(network, stage, [1, 4], pre, 64, 0, s) for s in (40, 0))
        noise = np.random.default_rng(0).integers(0, 256, made.shape, dtype=np.uint8)
        value = {}
        for name, pixels in (("made", made), ("start", start), ("noise", noise)):
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
            with torch.no_grad():
                activation = reach(network, stage, (x / 255 - 0.5) / 0.25)
            value[name] = [float(activation[i, unit].mean()) for i, unit in enumerate((1, 4))]
        for i in range(2):
            assert value["made"][i] > max(value["start"][i], value["noise"][i])


def test_a_sleeping_unit_gets_a_slope_and_the_network_computes_what_it_did() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2), nn.ReLU6()))
    network[2][0].bias.data[:] = torch.tensor([-50.0, 50.0])
    x = torch.randn(5, 4)
    before = network(x)
    assert set(before.flatten().tolist()) == {0.0, 6.0}
    with leaky(network):
        moved = x.clone().requires_grad_()
        inside = network(moved)
        inside.sum().backward()
    assert torch.equal(inside, before) and moved.grad.abs().sum() > 0
    assert [type(m) for m in network.modules()].count(nn.ReLU) == 1
    assert type(network[2][1]) is nn.ReLU6


def test_equal_seeds_make_equal_pictures() -> None:
    torch.manual_seed(0)
    network = DemoNet(4).eval().requires_grad_(False)
    a, b, other = (maximise(network, "fc1", [0], PRE, 32, seed, 4) for seed in (0, 0, 1))
    assert a.dtype == np.uint8 and a.shape == (1, 32, 32, 3)
    assert np.array_equal(a, b) and not np.array_equal(a, other)


def test_nothing_after_the_stage_runs() -> None:
    network = DemoNet(4).eval()
    ran = []
    network.conv3.register_forward_hook(lambda *_: ran.append(1))
    found = reach(network, "conv2", torch.zeros(1, 3, 32, 32))
    assert found.shape == (1, 64, 8, 8) and ran == []
    assert reach(network, "head", torch.zeros(1, 3, 32, 32)).shape == (1, 64)
