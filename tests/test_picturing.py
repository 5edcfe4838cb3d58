"""The report's pictures: of the user's images and the finished model, and never at its cost."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import heating, picturing, pipeline
from headstart.errors import MachineError
from headstart.run import read_json
from headstart.settings import FitSettings
from networks import export_here
from runs import noise, table

SIDES = ((60, 40), (32, 80), (400, 300))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the demonstration network."""
    import torch
    from safetensors.torch import save_file

    from headstart.backbone.demo_net import DemoNet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "demo.safetensors"
    save_file(DemoNet(4).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    export_here(monkeypatch)
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)


def coins(folder: Path, per_class: int = 8) -> Path:
    """Noise whose class nothing tells, of several sides, so that there are mistakes."""
    rng = np.random.default_rng(5)
    for name in ("=heads", "tails"):
        (folder / name).mkdir(parents=True)
        for i, pixels in enumerate(noise(rng, per_class, 32)):
            picture = Image.fromarray(pixels).resize(SIDES[i % 3])
            picture.save(folder / name / f"+{i:02}.png")
    return folder


def fitted(data: Path, weights: Path, out: Path, **more: Any) -> Path:
    settings = FitSettings(data=data, backbone="demo", weights=weights, out=out, **more)
    return pipeline.fit(settings).folder


def opened(encoded: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))
    picture.load()
    return picture


@pytest.fixture(scope="module")
def finished(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `picture` is given at the end of a run with a test part."""
    folder, given = tmp_path_factory.mktemp("run"), []

    def kept(*args: Any) -> None:
        given.append(args)
        picturing.picture(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        patch.setattr("headstart.data.split.NESTED_BELOW", 0)
        patch.setattr(pipeline, "picture", kept)
        export_here(patch)
        fitted(coins(folder / "coins", 24), weights, folder / "run", budget=0)
    return given[0]


@pytest.fixture
def run(finished: Any) -> Path:
    """The folder of that run."""
    return Path(finished[3].folder)


@pytest.fixture
def again(finished: Any) -> Any:
    """`again(refit_all=True)`: the pictures of that run once more, under other settings."""
    prepared, learned, settings, run = finished

    def draw(**more: Any) -> dict[str, Any]:
        changed = settings.model_copy(update=more)
        return picturing.pictures(prepared, learned, changed, run.folder)

    return draw


def test_the_mistakes_are_those_of_the_evaluation_each_with_three_pictures(run: Path) -> None:
    found = read_json(run / "pictures.json")
    rows = read_json(run / "mistakes.json")["mistakes"]
    assert found["notes"] == []
    assert [m["path"] for m in found["mistakes"]] == [row["path"] for row in rows] != []
    for mine, row in zip(found["mistakes"], rows, strict=True):
        assert (mine["label"], mine["predicted"]) == (row["label"], row["predicted"])
        assert mine["confidence"] == pytest.approx(row["confidence"], abs=1e-6)
        assert max(mine["width"], mine["height"]) <= heating.PICTURE_PX
        for name in ("picture", "heat_predicted", "heat_label"):
            assert opened(mine[name]).size == (mine["width"], mine["height"])
        assert mine["heat_predicted"] != mine["picture"]
        p = [value for _, value in mine["probabilities"]]
        assert mine["label"] in [name for name, _ in mine["probabilities"]]
        assert p == sorted(p, reverse=True) and p[0] == pytest.approx(mine["confidence"])
    assert found["heat"]["stage"] == found["mistakes"][0]["stage"] == "head"
    assert 0 <= found["heat"]["sanity"] <= 1


def test_right_answers_are_the_least_certain_ones(run: Path) -> None:
    rows = [row for row in table(run / "predictions.csv") if row["label"] == row["predicted"]]
    rows.sort(key=lambda row: float(row["confidence"]))
    shown = read_json(run / "pictures.json")["right"]
    assert [one["path"] for one in shown] == [r["path"].lstrip("'") for r in rows[: heating.RIGHT]]


def test_the_map_holds_every_image_with_an_answer_that_was_held_out(run: Path) -> None:
    found = read_json(run / "pictures.json")["map"]
    places = {row["path"].lstrip("'"): row["split"] for row in table(run / "split.csv")}
    assert {point["path"]: point["split"] for point in found["points"]} == places
    said = {row["path"].lstrip("'"): row for row in table(run / "predictions.csv")}
    for point in found["points"]:
        assert point["wrong"] == (point["label"] != point["predicted"])
        if point["split"] == "test":
            name = found["classes"][point["predicted"]]
            assert name == said[point["path"]]["predicted"].lstrip("'")
    assert (found["n"], found["of"]) == (48, 48)


def test_the_suggestions_are_the_first_of_the_list(run: Path) -> None:
    rows = table(run / "suggestions.csv")[: picturing.SUGGESTIONS]
    shown = read_json(run / "pictures.json")["suggestions"]
    assert [s["path"] for s in shown] == [row["path"].lstrip("'") for row in rows] != []
    for one, row in zip(shown, rows, strict=True):
        assert one["probability_given"] == pytest.approx(1 - float(row["score"]), abs=1e-4)
        assert one["reason"] == row["reason"]
        assert one["label"] in ("=heads", "tails") and one["suggested"] != one["label"]
        assert opened(one["picture"]).size == (one["width"], one["height"])
        assert max(one["width"], one["height"]) <= picturing.SUGGESTION_PX


def test_every_stage_shows_patches_of_the_users_images(run: Path) -> None:
    found = read_json(run / "pictures.json")["filters"]
    assert {opened(kernel).size for kernel in found["first"]} == {(3, 3)}
    reads = read_json(run / "model" / "headstart.json")["head"]["reads"]
    vectors = [name for name in ("fc1", "fc2", "head") if name in reads]
    assert [s["stage"] for s in found["stages"]] == ["conv1", "conv2", "conv3", *vectors]
    assert [s["sees_px"] for s in found["stages"]] == [4, 10, 22, *(32 for _ in vectors)]
    for stage in found["stages"]:
        assert len(stage["units"]) == picturing.UNITS
        for unit in stage["units"]:
            sides = {opened(patch).size for patch in unit["patches"]}
            assert len(unit["patches"]) == picturing.PATCHES and len(sides) == 1


def test_equal_runs_have_equal_pictures_whatever_the_number_of_processors(
    run: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.scene.threads", lambda: 3)
    other = fitted(coins(tmp_path / "coins", 24), weights, tmp_path / "run", budget=0)
    first, second = (read_json(r / "pictures.json") for r in (run, other))
    assert first.pop("seconds").keys() == second.pop("seconds").keys()
    assert first == second


def test_it_says_whether_the_model_has_learned_from_the_images(
    run: Path, again: Any, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "has not learned from these" in read_json(run / "pictures.json")["heat"]["sentence"]
    assert "has learned from these images too" in again(refit_all=True)["heat"]["sentence"]
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 1_000)
    monkeypatch.setattr("headstart.judging.REPEATS", 1)
    nested = fitted(coins(tmp_path / "coins", 7), weights, tmp_path / "nested", budget=0)
    found = read_json(nested / "pictures.json")
    assert "has learned from these images too" in found["heat"]["sentence"]
    assert found["notes"] == []


def test_a_cut_network_is_drawn_too(weights: Path, tmp_path: Path) -> None:
    folder = fitted(coins(tmp_path / "coins"), weights, tmp_path / "run", budget=0, cut="conv2")
    found = read_json(folder / "pictures.json")
    assert found["notes"] == []
    assert found["heat"]["stage"] == "conv2"
    assert [stage["stage"] for stage in found["filters"]["stages"]] == ["conv1", "conv2"]


def test_a_vanished_file_keeps_its_row_and_is_counted(
    run: Path, again: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_json(run / "mistakes.json")["mistakes"]
    real = heating.read_bytes

    def lost(path: Path) -> bytes:
        gone = path.parts[-2:] == Path(rows[0]["path"]).parts
        return real(path.with_name("gone") if gone else path)

    monkeypatch.setattr(heating, "read_bytes", lost)
    found = again()
    assert ["picture" in shown for shown in found["mistakes"]] == [False] + [True] * (len(rows) - 1)
    assert found["notes"] == ["1 file has vanished or changed since it was judged."]


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ("feature_map", "map"),
        ("mistakes_with_heat", "mistakes"),
        ("fields_of", "filters"),
        ("table", "suggestions"),
    ],
)
def test_what_cannot_be_drawn_is_left_out_and_said(
    again: Any, part: str, what: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("The paint is dry")

    monkeypatch.setattr(picturing, part, broken)
    found = again()
    (note,) = found["notes"]
    assert "The paint is dry" in note and note in capsys.readouterr().err
    assert {"map", "mistakes", "suggestions", "filters"} - set(found) == {what}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MachineError])
def test_neither_ctrl_c_nor_a_full_disk_is_more_than_said(
    finished: Any, kind: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stopped(*_: Any) -> Any:
        raise kind("Enough")

    monkeypatch.setattr(picturing, "pictures", stopped)
    picturing.picture(*finished)
    assert "report comes without its pictures" in capsys.readouterr().err


def test_a_run_that_was_stopped_at_its_pictures_is_done(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(picturing, "pictures", stopped)
    folder = fitted(coins(tmp_path / "coins"), weights, tmp_path / "run", budget=0)
    assert read_json(folder / "run.json")["status"] == "done"
    assert not (folder / "pictures.json").exists()
    assert (folder / "report.html").exists()


def test_a_retrained_network_is_drawn_as_it_was_handed_over(weights: Path, tmp_path: Path) -> None:
    data = coins(tmp_path / "coins", 15)
    folder = fitted(data, weights, tmp_path / "run", case=3, epochs=1, augment="none")
    found = read_json(folder / "pictures.json")
    assert found["notes"] == []
    shown = [*found["mistakes"], *found["right"]]
    assert all(one["heat_predicted"] for one in shown) and shown and found["filters"]["stages"]


def test_without_a_report_there_are_no_pictures(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "picture", lambda *_: pytest.fail("it drew"))
    data = coins(tmp_path / "coins", 6)
    folder = fitted(data, weights, tmp_path / "run", budget=0, report=False)
    assert (folder / "evaluation.json").exists() and not (folder / "pictures.json").exists()
