"""The selection: any metric drives it, further looks are used where they help, and it ships what it chose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.pipeline import fit
from headstart.run import read_json
from headstart.settings import FitSettings
from headstart.ship.predict import load
from runs import bright_or_dark, refused, table, train


@pytest.fixture(autouse=True)
def _hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys are small; here they are split as large sets are."""
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told_by_the_rim(folder: Path, per_class: int) -> Path:
    """Wide pictures whose ends, which a central square leaves out, tell the class."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cold", "warm")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 256, (64, 192, 3), dtype=np.uint8)
            pixels[:, :56, 2 * k] = 255
            pixels[:, -56:, 2 * k] = 255
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    "metric", ["auc", "auc:dark", "log_loss", "sens@spec=0.8", "balanced_accuracy"]
)
def test_any_metric_drives_the_choices_and_is_reported(tmp_path: Path, metric: str) -> None:
    data = bright_or_dark(tmp_path / "shades", {"dark": 24, "light": 24})
    run = train(data, tmp_path / "run", metric=metric)
    plan, evaluation = read_json(run / "plan.json"), read_json(run / "evaluation.json")
    assert plan["metric"] == metric
    scores = {m["name"]: m["value"] for m in evaluation["metrics"]}
    assert scores[metric] is not None
    assert plan["learnable"]
    assert np.isfinite([row["score"] for row in plan["candidates"]]).all()


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("f1", "There is no such metric"),
        ("auc:owl", "--metric names no class. Received: owl"),
        ("sens@spec=0.9", "needs exactly two classes"),
    ],
)
def test_a_metric_that_cannot_be_is_refused_before_anything_is_written(
    photos: Path, tmp_path: Path, metric: str, words: str, capsys: Any
) -> None:
    assert words in refused(capsys, "fit", photos, "--out", "run", "--metric", metric)
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_further_look_is_taken_and_shipped_where_the_rim_tells_the_class(tmp_path: Path) -> None:
    data = told_by_the_rim(tmp_path / "wide", 40)
    run = train(data, tmp_path / "run", budget=2)
    plan = read_json(run / "plan.json")
    names = [row["name"] for row in plan["candidates"]]
    assert {"all_stages+spread@squash", "all_stages+spread@pad"} <= set(names)
    chosen = next(row for row in plan["candidates"] if row["name"] == plan["chosen"])
    assert chosen["view"] in ("squash", "pad")
    top = next(row for row in plan["candidates"] if row["name"] == "head_top")
    assert chosen["score"] > top["score"] + 0.1
    assert plan["depth_control"] is not None
    # What was evaluated is what the bundle answers, from the files alone.
    stored = {row["path"]: row for row in table(run / "predictions.csv")}
    paths = [path for path in sorted(data.rglob("*.png")) if str(path.relative_to(data)) in stored]
    for answer in load(run).predict(paths):
        row = stored[str(Path(answer.path).relative_to(data))]
        assert answer.predicted == row["predicted"]
        assert answer.confidence == pytest.approx(float(row["confidence"]), abs=1e-4)


def test_a_given_fit_is_the_only_one_that_is_tried(tmp_path: Path) -> None:
    data = told_by_the_rim(tmp_path / "wide", 20)
    scores = []
    for kind in ("crop", "squash"):
        run = train(data, tmp_path / kind, fit_image=kind)
        plan = read_json(run / "plan.json")
        assert {row["view"] for row in plan["candidates"]} == {"own"}
        scores.append(max(row["score"] for row in plan["candidates"]))
        described = read_json(run / "model" / "headstart.json")
        assert described["preprocess"]["fit"] == kind
    assert scores[1] > scores[0] + 0.1


def test_a_hidden_layer_is_trained_and_shipped_when_it_is_asked_for(photos: Path) -> None:
    run = train(photos, Path("run"), head="mlp:12")
    described = read_json(run / "model" / "headstart.json")
    assert described["head"]["hidden"] == 12
    right = [row["label"] == row["predicted"] for row in table(run / "predictions.csv")]
    assert np.mean(right) > 0.9


def test_rare_classes_are_named_more_often_for_balanced_accuracy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k, (name, count) in enumerate({"often": 160, "seldom": 32}.items()):
        (tmp_path / "uneven" / name).mkdir(parents=True)
        for i in range(count):  # overlapping shades
            shade = np.clip(rng.normal(110 + 22 * k, 16), 0, 255)
            pixels = np.clip(rng.normal(shade, 40, (48, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "uneven" / name / f"{i}.png")

    def recall(metric: str) -> float:
        run = fit(
            FitSettings(
                data=tmp_path / "uneven", out=tmp_path / metric, metric=metric, report=False, case=1
            )
        ).folder
        found = read_json(run / "evaluation.json")["per_class"][1]["recall"]["value"]
        return float(found)

    assert recall("balanced_accuracy") > recall("accuracy")


def test_of_many_images_a_part_compares_heads_and_all_judge_the_chosen_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bright_or_dark(tmp_path / "shades", {"dark": 40, "light": 40})
    monkeypatch.setattr("headstart.learning.COMPARED_ON", 30)
    run = train(data, tmp_path / "run", budget=0)
    plan = read_json(run / "plan.json")
    assert "compared on 30 of the 64 images" in plan["switch"][0]
    methods = {row["name"]: row["method"] for row in plan["candidates"]}
    assert methods[plan["chosen"]] == "head, cross-validated"
    assert "head, cross-validated on 30 images" in methods.values()
    assert (run / "suggestions.csv").is_file()
    assert len(list(load(run / "model").predict(sorted(data.rglob("*.png"))))) == 80


def test_a_rare_class_of_few_bursts_does_not_end_a_job_of_many_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bright_or_dark(tmp_path / "shades", {"dark": 90, "light": 9})
    burst = {path.name: f"burst{i // 3}" for i, path in enumerate(sorted(data.glob("light/*")))}
    rows = [
        (path, path.parent.name, burst[path.name] if path.parent.name == "light" else path.stem)
        for path in sorted(data.rglob("*.png"))
    ]
    lines = ["path,label,burst", *(f"{path},{label},{group}" for path, label, group in rows)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    monkeypatch.setattr("headstart.learning.COMPARED_ON", 20)
    for seed in range(3):
        out = tmp_path / f"run-{seed}"
        settings = FitSettings(
            table=tmp_path / "table.csv", group="burst", out=out, budget=0, seed=seed, report=False
        )
        fit(settings)
        assert "compared on" in read_json(out / "plan.json")["switch"][0]
