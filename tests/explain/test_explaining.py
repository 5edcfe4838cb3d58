"""The command writes maps under safe names, a page that runs nothing, and facts for programs."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import explaining
from headstart.data.images import load_image
from headstart.explain.heat import Heat, rank_correlation
from headstart.explaining import explain
from headstart.plan.decide import Candidate
from headstart.ship.predict import load
from runs import call, refused

TOP = Candidate("t", "head_top", None, 1)
ALL = Candidate("a", "all_stages", None, None, spread=True)
HOSTILE = '"><img src=x onerror=alert(1)>\u202e.png'


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def model(bundle_of: Callable[..., Path]) -> Path:
    return bundle_of("test_resnet", TOP)


def test_every_picture_gets_a_map_of_its_own_size(
    model: Path, pictures: list[Path], tmp_path: Path, capsys: Any
) -> None:
    assert call("explain", model, *pictures, "--out", tmp_path / "why") == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "why" / "index.html")
    stored = json.loads((tmp_path / "why" / "explanations.json").read_text())
    answers = list(load(model).predict(pictures))
    assert stored["method"] == "gradcam" and stored["stage"] == "head"
    assert 0 <= stored["sanity"] <= 1 and stored["agreement"] < 1e-4
    said = (
        f"leave {100 * stored['sanity']:.0f} % of them ({100 * stored['chance']:.0f} % by chance)"
    )
    assert said in printed.err
    for path, row, answer in zip(pictures, stored["explanations"], answers, strict=True):
        assert load_image(tmp_path / "why" / row["file"]).size == load_image(path).size
        assert re.fullmatch(r"[0-9]{4}-[A-Za-z0-9_-]+\.png", row["file"])
        assert (row["predicted"], row["explained"]) == (answer.predicted, answer.predicted)
        assert row["confidence"] == pytest.approx(answer.confidence, abs=1e-6)
        assert 0 < row["seen_share"] <= 1


@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize("method", ["gradcam", "saliency"])
def test_every_fit_and_method_is_explained(
    bundle_of: Callable[..., Path], pictures: list[Path], tmp_path: Path, fit: str, method: str
) -> None:
    found = explain(
        bundle_of("test_resnet", ALL, fit), pictures[:2], tmp_path, target="cat", method=method
    )
    assert {one.explained for one in found.explanations} == {"cat"}
    assert {one.seen_share for one in found.explanations} == {1.0}
    overlay = np.asarray(load_image(tmp_path / str(found.explanations[0].file)))
    assert np.ptp(overlay) > 50


def test_a_stage_can_be_chosen(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    maps = {}
    for stage in ("layer1", "layer4"):
        found = explain(model, pictures[0], tmp_path / stage, stage=stage)
        maps[stage] = (tmp_path / stage / str(found.explanations[0].file)).read_bytes()
    assert maps["layer1"] != maps["layer4"]


def test_equal_calls_write_equal_files(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    for name in "ab":
        explain(model, pictures[:2], tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_names_are_text_and_the_page_runs_and_loads_nothing(
    model: Path, pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    hostile = tmp_path / "in" / HOSTILE.replace("/", "")
    shutil.copy(pictures[0], hostile)
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG no")
    found = explain(model, tmp_path / "in", tmp_path / "out", target="bee/<b>")
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    tags = Tags(page).found
    assert not [
        tag for tag, _ in tags if tag in ("script", "iframe", "object", "base", "form", "b")
    ]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    sources = [a["src"] for tag, a in tags if tag == "img"]
    assert sources and all(re.match(r"data:image/(png|webp);base64,", str(s)) for s in sources)
    targets = {a["href"] for tag, a in tags if tag == "a"}
    assert targets == {e.file for e in found.explanations if e.file}
    policy = next(a["content"] for t, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "\u202e" not in page and "bee/&lt;b&gt;" in page
    assert "Not explained: " in page
    assert len(page.encode()) < 5_000_000
    inside = {path.name for path in (tmp_path / "out").iterdir()}
    assert inside == {"index.html", "explanations.json", *targets}


def test_a_map_of_the_picture_only_is_said_to_be_one(
    model: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.explain.gradcam.sanity", lambda *_: 0.9)
    explain(model, pictures[0], tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "they show the pictures rather" in page and "90 % of a map&#39;s order" in page
    assert "by chance about" in page


def test_maps_that_have_nothing_in_common_are_as_alike_as_chance_makes_them() -> None:
    rng = np.random.default_rng(0)
    for places in (16, 49, 400):
        pairs = rng.normal(size=(2000, 2, places)).astype(np.float32)
        met = np.mean([abs(rank_correlation(a, b)) for a, b in pairs])
        assert explaining.chance(places) == pytest.approx(met, rel=0.05)


def test_a_class_for_which_nothing_speaks_is_said_to_be_one(
    model: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = Heat("gradcam", "head", 0, -np.ones((2, 2), np.float32))
    monkeypatch.setattr("headstart.explain.gradcam.grad_cam", lambda *_: blank)
    found = explain(model, pictures[0], tmp_path)
    assert found.explanations[0].empty and found.sanity == 0
    assert "Nothing in the picture speaks for it." in (tmp_path / "index.html").read_text()


def test_only_the_first_pictures_are_on_the_page(
    model: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "PAGE_IMAGES", 2)
    explain(model, pictures[:4], tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert page.count("<figure>") == 2 and "2 more pictures" in page
    assert len(list(tmp_path.glob("*.png"))) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--class", "caat"], "no class of this name.*Did you mean cat"),
        (["--stage", "layer9"], "no stage of this name.*layer4"),
        (["--method", "magic"], "No such method.*gradcam, saliency"),
        (["--method", "saliency", "--stage", "layer1"], "reads the pixels"),
    ],
)
def test_mistakes_are_one_sentence(
    model: Path, pictures: list[Path], tmp_path: Path, capsys: Any, arguments: list[str], words: str
) -> None:
    out = tmp_path / "out"
    told = refused(capsys, "explain", model, pictures[0], "--out", out, *arguments)
    assert re.search(words, told)
    assert not out.exists()


def test_pictures_that_cannot_be_read_are_an_error_only_when_all_are(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    told = refused(capsys, "explain", model, tmp_path / "a.png", "--out", tmp_path / "out")
    assert "No picture could be explained" in told
    told = refused(capsys, "explain", model, tmp_path / "none.png", "--out", tmp_path / "out")
    assert "does not exist" in told


def test_a_missing_extra_is_named_before_anything_is_read(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    told = refused(capsys, "explain", tmp_path, tmp_path, "--out", tmp_path / "out")
    assert "pip install 'headstart[explain]'" in told


def test_an_early_cut_is_explained_at_its_own_last_stage(
    bundle_of: Callable[..., Path], pictures: list[Path], tmp_path: Path
) -> None:
    early = replace(TOP, strategy="head_cut", cut="layer2", case=2)
    assert explain(bundle_of("test_resnet", early), pictures[0], tmp_path).stage == "layer2"
