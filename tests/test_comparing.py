"""Every strategy on the same held-out images, on the demonstration network: complete, resumable, honest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import headstart
from headstart.backbone.graph import tap_graph
from headstart.compared import Tried, head_start, score_of
from headstart.comparing import compare
from headstart.errors import ArgumentError, RunFolderError, TrainingError
from headstart.plan.criterion import Criterion
from headstart.plan.decide import Strategy, deepest_early_stage
from headstart.run import read_json
from headstart.settings import CompareSettings, compare_settings
from headstart.ship.compare_page import images as images_chart
from headstart.ship.compare_page import render_comparison
from networks import export_here
from runs import bright_or_dark, call, refused, table

STRATEGIES = ["head_top", "head_cut", "finetune", "scratch", "all_stages", "partial"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export_here(monkeypatch)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration network as if it had been pre-trained."""
    import torch
    from safetensors.torch import save_file

    from headstart.backbone.demo_net import DemoNet

    path = tmp_path_factory.mktemp("weights") / "demo.safetensors"
    torch.manual_seed(0)
    save_file(DemoNet(4).state_dict(), path)
    return path


def stripes(folder: Path, per_class: int, told: bool = True) -> Path:
    """Noise with stripes this way or that; or with stripes that have nothing to do with the class."""
    from PIL import Image

    rng = np.random.default_rng(0)
    wave = 40 * np.sin(np.arange(32) * np.pi / 2)
    for k, name in enumerate(("lying", "standing")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            lying = k == 0 if told else rng.random() < 0.5
            pattern = wave[:, None] if lying else wave[None, :]
            grey = np.clip(rng.normal(128, 50, (32, 32)) + pattern, 0, 255).astype(np.uint8)
            Image.fromarray(grey).convert("RGB").save(folder / name / f"{i}.png")
    return folder


def settings(data: Path, weights: Path, out: str = "run", **more: Any) -> CompareSettings:
    common = {"backbone": "demo", "weights": weights, "epochs": 2}
    return compare_settings({"data": data, "out": out, **common, **more})


def test_the_table_is_complete_and_everything_was_asked_the_same_images(
    tmp_path: Path, weights: Path, capsys: Any
) -> None:
    data = stripes(tmp_path / "stripes", 50)
    assert call(
        "compare", data, "--out", "run", "--backbone", "demo", "--weights", weights, "--epochs", 2
    ) == 0  # fmt: skip
    shown = capsys.readouterr().out
    run, stored = Path("run"), read_json(Path("run/compare.json"))
    assert [row["strategy"] for row in stored["rows"]] == STRATEGIES
    assert [row["case"] for row in stored["rows"]] == [1, 2, 3, 4, None, None]
    assert stored["left_out"] == []
    assert len(stored["pairs"]) == 15
    for row in stored["rows"]:
        assert row["low"] <= row["score"] <= row["high"]
        assert row["gap"] == pytest.approx(row["train_score"] - row["score"], abs=2e-6)
        assert row["seconds"] > 0
        assert row["n"] == stored["images"]["held_out"]
        assert row["name"] in shown
    assert stored["sentence"] in shown
    names = [info.name for info in tap_graph("demo", weights, None, []).stages]
    assert names.index(stored["rows"][1]["cut"]) <= deepest_early_stage(names)
    # One answer of every strategy for each image of one fold, and the scores are theirs.
    answers = table(run / "compare_answers.csv")
    assert len({row["path"] for row in answers}) == len(answers) == stored["images"]["held_out"]
    assert len({row["fold"] for row in answers}) == 1
    for row in stored["rows"]:
        right = np.mean([one[row["name"]] == one["label"] for one in answers])
        assert right == pytest.approx(row["score"], abs=1e-6)
    assert [row["name"] for row in table(run / "compare.csv")] == [
        r["name"] for r in stored["rows"]
    ]
    # What pre-training saves: nested sizes, and a schedule in which random weights may get there.
    found = stored["head_start"]
    for curve in found["curves"]:
        sizes = [point["n"] for point in curve["points"]]
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == stored["images"]["learn"]
        assert len(sizes) >= 3
    assert {curve["name"] for curve in found["curves"]} == {"head_top", "all_stages"}
    assert "Before its first step" in found["steps"]["sentence"]
    assert not (run / "training").exists()
    page = (run / "compare.html").read_text(encoding="utf-8")
    assert call("report", run) == 0  # the page once more, and no report of a fit
    assert (run / "compare.html").read_text(encoding="utf-8") == page
    assert not (run / "report.html").exists()
    assert all(f'data-chart="{name}"' in page for name in ("cost", "start", "images"))
    assert stored["sentence"] in page


def test_a_stopped_comparison_trains_nothing_again_and_ends_alike(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart import retraining, training

    search = training.search_head

    def slow(*given: Any) -> Any:
        time.sleep(0.5)
        return search(*given)

    monkeypatch.setattr(training, "search_head", slow)
    data = stripes(tmp_path / "stripes", 30)
    whole = compare(settings(data, weights, "whole", augment="none", epochs=1)).folder
    real, done = retraining.train_once, []

    def stops(*given: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(given[1].strategy)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(retraining, "train_once", stops)
        with pytest.raises(KeyboardInterrupt):
            compare(settings(data, weights, "broken", augment="none", epochs=1))
    assert read_json(Path("broken/run.json"))["status"] == "stopped"
    rest: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            retraining, "train_once", lambda *given: rest.append(given[1].strategy) or real(*given)
        )
        again = compare(
            settings(data, weights, "broken", augment="none", epochs=1, resume=True)
        ).folder
    assert sorted(done + rest) == ["finetune", "partial", "scratch"]
    one, other = (read_json(folder / "compare.json") for folder in (whole, again))
    for row, same in zip(one["rows"], other["rows"], strict=True):
        assert {**row, "seconds": 0} == {**same, "seconds": 0}
    assert one["pairs"] == other["pairs"]
    # The head to start from was searched for before the stop, and that took its time.
    for stored in (one, other):
        starts = {row["strategy"]: row["start_s"] for row in stored["histories"]}
        assert min(starts["finetune"], starts["partial"]) > 0.5
        assert starts["scratch"] == 0
    assert (whole / "compare_answers.csv").read_text() == (
        again / "compare_answers.csv"
    ).read_text()
    # A finished one is shown, not repeated; other settings are refused.
    with monkeypatch.context() as patch:
        patch.setattr("headstart.comparing.prepare", lambda *_: pytest.fail("it began again"))
        assert compare(
            settings(data, weights, "broken", augment="none", epochs=1, resume=True)
        ).already_done
        with pytest.raises(RunFolderError, match="--folds was 1, is 2"):
            compare(
                settings(data, weights, "broken", augment="none", epochs=1, resume=True, folds=2)
            )


def test_labels_without_meaning_make_no_difference_real(tmp_path: Path, weights: Path) -> None:
    data = stripes(tmp_path / "stripes", 45, told=False)
    found = headstart.compare(
        data, out="run", backbone="demo", weights=weights, epochs=1, folds=2, metric="auc"
    )
    assert found.sentence.startswith("No difference can be shown")
    assert found.sentence.endswith(
        "--folds 5 judges on all 90 images, and takes about 2.5 times as long."
    )
    saved = found.stored["head_start"]
    assert saved["images_held_out"] == 36  # what is saved is judged by both folds, too
    assert [curve["points"][-1]["n"] for curve in saved["curves"]] == [72, 72]
    assert all(len(curve["points"]) > 2 for curve in saved["curves"])
    assert not any(pair["real"] for pair in found.stored["pairs"])
    assert set(found.rows) == set(STRATEGIES)
    assert found.stored["images"]["held_out"] == 36  # two folds of five
    assert "2 of 5 folds" in found.stored["notes"][0]


@pytest.mark.parametrize("metric", ["log_loss", "balanced_accuracy"])
def test_what_diverges_is_left_out_and_named_and_any_metric_decides(
    tmp_path: Path, weights: Path, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart import comparing

    def diverges(planned: Any, start: Any) -> Any:
        raise TrainingError(f"Training ({planned.way.name}) diverged at every rate that was tried")

    monkeypatch.setattr(comparing, "verify_one", diverges)
    data = stripes(tmp_path / "stripes", 30)
    run = compare(settings(data, weights, metric=metric)).folder
    stored = read_json(run / "compare.json")
    assert [row["strategy"] for row in stored["rows"]] == ["head_top", "head_cut", "all_stages"]
    assert len(stored["left_out"]) == 3
    assert stored["head_start"]["steps"] is None
    for row in stored["rows"]:
        assert row["low"] <= row["score"] <= row["high"]
        assert (row["score"] <= 0) is (metric == "log_loss")
    assert "diverged at every rate" in (run / "compare.html").read_text(encoding="utf-8")


def test_hostile_names_stay_text_on_the_page() -> None:
    evil = "</script><img src=x onerror=alert(1)>\u202e"
    row = {"name": evil, "strategy": evil, "score": 0.5, "low": 0.4, "high": 0.6, "seconds": 3.0}
    epochs = [{"epoch": 1, "score": 0.5}, {"epoch": 2, "score": 0.6}]
    points = [{"n": 10, "score": 0.5, "se": 0.1}, {"n": 20, "score": 0.6, "se": 0.1}]
    stored = {
        "metric": evil,
        "sentence": evil,
        "preference": evil,
        "rows": [row, {"name": "__proto__", "strategy": "head_top", "score": None}],
        "pairs": [{"first": evil, "second": evil, "difference": "x", "real": True}],
        "histories": [{"strategy": "finetune", "start_score": 0.4, "epochs": epochs}],
        "head_start": {"curves": [{"name": evil, "points": points, "sentence": evil}]},
        "notes": [evil, 3],
        "left_out": [evil],
    }
    for name, value in (("run.json", {"name": evil}), ("compare.json", stored)):
        Path(name).write_text(json.dumps(value), encoding="utf-8")
    page = render_comparison(Path())
    assert "<img src=x" not in page
    assert page.count("</script>") == 3
    assert "\u202e" not in page


def test_damaged_results_still_make_a_page() -> None:
    Path("run.json").write_text("{}", encoding="utf-8")
    Path("compare.json").write_text('{"rows": 3, "histories": [1], "head_start": []}')
    assert "headstart compare" in render_comparison(Path())


def test_wrong_settings_are_refused_before_anything_is_written(photos: Path, capsys: Any) -> None:
    assert "--folds" in refused(capsys, "compare", photos, "--out", "run", "--folds", "6")
    assert "--epochs" in refused(capsys, "compare", photos, "--out", "run", "--epochs", "0")
    words = refused(capsys, "compare", photos, "--out", "run", "--augment", "shred")
    assert "shred" in words
    assert not Path("run").exists()
    with pytest.raises(ArgumentError, match="Unknown setting"):
        compare_settings({"data": photos, "fold": 2})
    with pytest.raises(ArgumentError, match="Give a folder of images"):
        compare_settings({"epochs": 2})


def answered(name: Strategy, right: NDArray[np.bool_], labels: NDArray[np.int64]) -> Tried:
    """A strategy that is right on these images."""
    scores = np.where(right[:, None], 3.0, -3.0) * (labels[:, None] == np.arange(2))
    epochs = ({"score": 0.6, "seconds": 1.0},)
    return Tried(name, name, None, 32, scores, 1.0, 1.0, epochs, start_score=0.9, steps_per_epoch=1)


def saved_on(groups: NDArray[np.int64], folds: int = 1) -> dict[str, Any]:
    """What 100 images of these groups say that a head saves against random weights, .95 right."""
    labels = np.arange(100) % 2
    dev = SimpleNamespace(labels=labels, groups=groups, classes=("a", "b"))
    prepared: Any = SimpleNamespace(criterion=Criterion("accuracy", "accuracy"), development=dev)
    right = np.arange(100) >= 5
    tried = [answered("scratch", right, labels), answered("finetune", right, labels)]
    less = score_of(prepared, np.arange(100), answered("head_top", ~right, labels).logits)
    full = score_of(prepared, np.arange(100), tried[0].logits)
    curves = {"head_top": [(50, less), (100, full)]}
    return head_start(prepared, np.arange(100), tried, curves, folds, 0)


def test_what_is_saved_is_only_told_where_groups_can_show_it() -> None:
    (shown,) = saved_on(np.arange(100))["curves"]
    assert shown["needed"]["low"] is not None
    assert all(point["se"] > 0 for point in shown["points"])
    for alone in (np.zeros(100, np.int64), np.arange(100) // 50):
        found = saved_on(alone)
        (row,) = found["curves"]
        assert "do not show what others would" in row["sentence"]
        assert (row["needed"]["low"], row["needed"]["high"]) == (None, None)
        assert [point["se"] for point in row["points"]] == [None, None]
        chart = images_chart({"metric": "accuracy", "head_start": found})
        assert chart is not None
        around = [one for one in chart.spec["layer"] if one["mark"]["type"] == "rule"]
        assert [one["data"]["values"] for one in around] == [[]]


def test_one_step_is_one_and_the_first_fold_is_named() -> None:
    assert (
        "never get there in this schedule (1 epoch, 1 step, 1.0 s"
        in (saved_on(np.arange(100))["steps"]["sentence"])
    )
    words = saved_on(np.arange(100), folds=3)["steps"]["sentence"]
    assert words.startswith("On the first of the 3 folds: before its first step")


def test_a_class_with_two_images_is_compared(tmp_path: Path, weights: Path) -> None:
    """One of them judges, so what is left of the class cannot be held out from any fold."""
    data = stripes(tmp_path / "stripes", 30)
    for part, count in (("train", 2), ("test", 1)):
        (data / part).mkdir()
        bright_or_dark(data / part, {"rare": count}, seed=count)
    for name in ("lying", "standing"):
        (data / name).rename(data / "train" / name)
        (data / "test" / name).mkdir()
        for i in range(3):
            (data / "train" / name / f"{i}.png").rename(data / "test" / name / f"{i}.png")
    run = compare(settings(data, weights, epochs=1)).folder
    stored = read_json(run / "compare.json")
    assert [row["strategy"] for row in stored["rows"]] == STRATEGIES
    rare = [row for row in table(run / "compare_answers.csv") if row["label"] == "rare"]
    assert len(rare) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's gloo is not built there")
def test_started_by_torchrun_one_process_compares_and_the_other_helps(
    tmp_path: Path, weights: Path
) -> None:
    data = stripes(tmp_path / "stripes", 20)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "headstart", "compare", str(data), "--epochs", "1", "--out", "run"]
    command += ["--backbone", "demo", "--weights", str(weights)]
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("comparing on") == 1
    stored = read_json(Path("run/compare.json"))
    assert [row["strategy"] for row in stored["rows"]] == STRATEGIES
    assert read_json(Path("run/run.json"))["status"] == "done"


@pytest.mark.parametrize("width_px", [390, 1280])
def test_the_page_draws_its_pictures_and_does_not_scroll_sideways(width_px: int) -> None:
    """In a real browser, where the policy of the page is in force."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium found")
    rows = [
        {"name": name, "strategy": name, "case": k, "score": 0.6 + k / 20, "low": 0.5, "high": 0.95,
         "gap": 0.1, "seconds": 3.0 * 7**k, "size_px": 224}
        for k, name in enumerate(STRATEGIES)
    ]  # fmt: skip
    epochs = [{"epoch": k, "score": k / 10, "seconds": 1.0} for k in range(1, 9)]
    runs = [
        {"name": n, "strategy": n, "start_score": 0.1, "steps_per_epoch": 7, "epochs": epochs}
        for n in ("finetune", "scratch")
    ]
    points = [{"n": 10 * 2**k, "score": k / 5, "se": 0.1} for k in range(5)]
    curves = {"scratch_score": 0.4, "curves": [{"name": "head_top", "points": points}]}
    stored = {"metric": "accuracy", "rows": rows, "histories": runs, "head_start": curves}
    Path("run.json").write_text('{"name": "toys"}', encoding="utf-8")
    Path("compare.json").write_text(json.dumps(stored), encoding="utf-8")
    Path("compare.html").write_text(render_comparison(Path()), encoding="utf-8")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": width_px, "height": 900})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(Path("compare.html").absolute().as_uri())
        page.wait_for_selector("body[data-drawn=yes]")
        drawn = page.eval_on_selector_all("[data-chart] svg", "all => all.map(e => e.clientWidth)")
        wide = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert said == []
    assert len(drawn) == 3
    assert min(drawn) > 250
    assert wide <= width_px
