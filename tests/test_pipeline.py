"""The whole job on toys: what it writes, what it decides, and that it does the same again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import learning, pipeline
from headstart.errors import ArgumentError, DataError, InternalError, MachineError, RunFolderError
from headstart.plan.show import fit_text
from headstart.run import read_json
from headstart.settings import FitSettings
from runs import bright_or_dark, call, noise, table, train
from toys import draw_photos

RESULTS = {
    "run.json", "data.json", "findings.json", "surgery.json", "split.csv", "plan.json", "evaluation.json", "predictions.csv",
    "mistakes.json", "suggestions.csv", "held_out.csv", "learned_from.json", "log.jsonl", "model", ".lock",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys are small; here they are split as large sets are."""
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan_of(run: Path) -> dict[str, Any]:
    return read_json(run / "plan.json")


# -- the contract --------------------------------------------------------------------------------


def test_a_run_holds_every_file_of_the_contract(photos: Path) -> None:
    run = pipeline.fit(FitSettings(data=photos, out=Path("run"))).folder
    assert {path.name for path in run.iterdir()} == RESULTS | {"pictures.json", "report.html"}
    stored = read_json(run / "run.json")
    assert stored["status"] == "done"
    assert stored["error"] is None
    assert stored["test_set_scored"] >= 1
    assert {"settings", "versions", "seed", "threads", "seconds", "peak_rss_mb"} <= set(stored)
    steps = [step["name"] for step in stored["steps"]]
    assert steps == ["check", "features", "gate", "learn", "guard", "evaluate", "bundle", "picture"]
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [event["name"] for event in events if event["event"] == "step"] == steps


def test_the_split_names_every_file_once_and_predictions_are_its_test_part(photos: Path) -> None:
    (photos / "red" / "broken.png").write_bytes(b"no picture")
    run = train(photos, Path("run"))
    split = table(run / "split.csv")
    assert list(split[0]) == ["path", "label", "split", "group", "fold"]
    assert len({row["path"] for row in split}) == len(split) == 37
    tested = [row["path"] for row in split if row["split"] == "test"]
    predicted = table(run / "predictions.csv")
    assert [row["path"] for row in predicted] == tested
    assert list(predicted[0])[:4] == ["path", "label", "predicted", "confidence"]
    assert [row["path"] for row in split if row["split"] == "left out"] == ["red/broken.png"]
    evaluation = read_json(run / "evaluation.json")
    assert evaluation["n"] == len(tested)
    correct = np.mean([row["label"] == row["predicted"] for row in predicted])
    accuracy = next(m for m in evaluation["metrics"] if m["name"] == "accuracy")
    assert accuracy["value"] == pytest.approx(correct)
    assert sum(map(sum, evaluation["confusion"])) == len(tested)


PLAN_KEYS = {
    "case_prior", "case", "strategy", "cut", "size", "similarity", "reasons", "candidates",
    "flips_if", "budget_steps", "threads",
}  # fmt: skip
FORCED: list[tuple[dict[str, Any], str, str | None, int | None]] = [
    ({"case": 1}, "head_top", None, 1),
    ({"cut": "b2"}, "head_cut", "b2", 2),
    ({"cut": "b2", "case": 2}, "head_cut", "b2", 2),
    ({"cut": "b3"}, "head_cut", "b3", None),
    ({"cut": "b6"}, "head_cut", "b6", None),
]


@pytest.mark.parametrize(("force", "strategy", "cut", "case"), FORCED)
def test_a_forced_case_is_done_to_the_letter(
    photos: Path, force: dict[str, Any], strategy: str, cut: str | None, case: int | None
) -> None:
    plan = plan_of(train(photos, Path("run"), **force))
    assert PLAN_KEYS <= set(plan)
    assert (plan["strategy"], plan["cut"], plan["case"]) == (strategy, cut, case)
    assert set(plan["size"]) >= {"n", "per_class", "verdict"}
    assert (plan["size"]["n"], plan["size"]["verdict"]) == (30, "small")
    assert plan["size"]["per_class"] == {"blue": 10, "green": 10, "red": 10}
    assert set(plan["similarity"]) >= {"verdict", "bn_shift", "low", "high"}
    assert plan["similarity"]["verdict"] in ("similar", "unclear", "different")
    names = [row["name"] for row in plan["candidates"]]
    cuts = [f"head_cut@{stage}" for stage in ("stem", "b0", "b1", "b2", "b3", "b4", "b5", "b6")]
    assert names == ["head_top", *cuts, "all_stages"]
    for row in plan["candidates"]:
        assert set(row) >= {
            "name", "strategy", "cut", "case", "score", "se", "train_score", "seconds",
        }  # fmt: skip
    described = read_json(Path("run/model/headstart.json"))
    assert (described["strategy"], described["cut"], described["case"]) == (strategy, cut, case)


def test_case_2_keeps_at_most_half_of_the_stages(photos: Path) -> None:
    plan = plan_of(train(photos, Path("run"), case=2))
    assert (plan["case"], plan["strategy"]) == (2, "head_cut")
    assert plan["cut"] in ("stem", "b0", "b1", "b2")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"case": 3, "augment": "flap"}, "--augment: there is no such operation"),
    ({"cut": "b99"}, "Stages in order: stem, b0, b1"),
    ({"cut": "head"}, "removes nothing"),
]


@pytest.mark.parametrize(("force", "told"), REFUSED)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    photos: Path, force: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "check", lambda *_: pytest.fail("it looked at the images"))
    with pytest.raises(ArgumentError, match=told):
        train(photos, Path("run"), **force)
    assert not Path("run").exists()


# -- the same again ------------------------------------------------------------------------------


def test_equal_images_in_another_place_and_order_give_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(draw_photos(tmp_path / "a" / "photos", 8), tmp_path / "first")
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "copied"
    for path in sorted((tmp_path / "a" / "photos").rglob("*.png"), reverse=True):
        target = copy / path.relative_to(tmp_path / "a" / "photos")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    monkeypatch.setattr(pipeline, "threads", lambda: 1)
    second = train(copy, tmp_path / "other-name", resume=True)
    names = [f"model/{path.name}" for path in (first / "model").iterdir()]
    assert len(names) == 4
    for name in (*names, "predictions.csv", "split.csv", "evaluation.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_another_seed_draws_another_split(photos: Path) -> None:
    first, second = (train(photos, Path(f"run{s}"), seed=s) for s in (0, 1))
    assert (first / "split.csv").read_bytes() != (second / "split.csv").read_bytes()


# -- what is honest ------------------------------------------------------------------------------


def test_labels_without_meaning_are_called_not_learnable(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for name in ("heads", "tails"):
        (tmp_path / "coins" / name).mkdir(parents=True)
        for i, pixels in enumerate(noise(rng, 15)):
            Image.fromarray(pixels).save(tmp_path / "coins" / name / f"{i}.png")
    run = train(tmp_path / "coins", Path("run"))
    assert plan_of(run)["learnable"] is False
    text = fit_text(run, plan_of(run), read_json(run / "evaluation.json"))
    assert "These 24 images cannot show whether anything was learned" in text


def test_few_images_without_a_test_part_are_all_learned_from_and_each_judged_by_others(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 1_000)
    run = train(photos, Path("run"))
    evaluation = read_json(run / "evaluation.json")
    assert evaluation["n"] == 36
    assert evaluation["protocol"].startswith("nested cross-validation")
    assert len(table(run / "predictions.csv")) == 36
    assert {row["split"] for row in table(run / "split.csv")} == {"train"}
    nested = read_json(run / "nested.json")
    assert sum(row["times"] for row in nested["chosen"]) == nested["folds"] * nested["repeats"]
    assert "test_set_scored" not in read_json(run / "run.json")
    assert "each held out in turn" in fit_text(run, plan_of(run), evaluation)


def test_refit_all_ships_a_head_that_saw_the_test_part_but_scores_without_it(photos: Path) -> None:
    plain = train(photos, Path("plain"))
    refitted = train(photos, Path("refitted"), refit_all=True)
    scores = [read_json(run / "evaluation.json")["metrics"] for run in (plain, refitted)]
    assert scores[0] == scores[1]
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in (plain, refitted)]
    assert weights[0] != weights[1]


def test_groups_of_a_table_stay_on_one_side(photos: Path) -> None:
    rows = [
        f"{p.relative_to(photos.parent)},{p.parent.name},g{i // 3}"
        for i, p in enumerate(sorted(photos.rglob("*.png")))
    ]
    file = photos.parent / "images.csv"
    file.write_text("\n".join(["path,label,patient", *rows]), encoding="utf-8")
    run = pipeline.plan(FitSettings(table=file, group="patient", out=Path("run"))).folder
    patient = {row.split(",")[0]: row.split(",")[2] for row in rows}
    sides: dict[str, set[str]] = {}
    for row in table(run / "split.csv"):
        place = row["split"] + row["fold"]
        sides.setdefault(patient[row["path"]], set()).add(place)
    assert all(len(places) == 1 for places in sides.values())


def test_a_picture_saved_again_stays_with_its_original(photos: Path) -> None:
    rng = np.random.default_rng(3)
    for k in range(3):  # pictures with structure, each saved a second time as JPEG
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
        picture.save(photos / "red" / f"original_{k}.png")
        picture.save(photos / "red" / f"again_{k}.jpg", quality=85)
    run = pipeline.plan(FitSettings(data=photos, out=Path("run"))).folder
    pairs = {frozenset(pair["paths"]) for pair in read_json(run / "data.json")["near_duplicates"]}
    place = {row["path"]: row["split"] + row["fold"] for row in table(run / "split.csv")}
    for k in range(3):
        one, other = f"red/original_{k}.png", f"red/again_{k}.jpg"
        assert frozenset((one, other)) in pairs
        assert place[one] == place[other]


def test_with_rare_classes_balanced_accuracy_decides_and_it_is_said(tmp_path: Path) -> None:
    run = train(bright_or_dark(tmp_path / "data", {"common": 30, "rare": 5}), Path("run"))
    assert plan_of(run)["metric"] == "balanced_accuracy"
    assert plan_of(run)["chance"] == 0.5
    text = fit_text(run, plan_of(run), read_json(run / "evaluation.json"))
    assert "Balanced accuracy drives every choice" in text


# -- the user's own split ------------------------------------------------------------------------


def test_copies_of_test_images_leave_training_and_it_is_said(tmp_path: Path, capsys: Any) -> None:
    draw_photos(tmp_path / "data" / "train", 8)
    draw_photos(tmp_path / "data" / "test", 4, seed=1)
    shutil.copy(tmp_path / "data/test/red/red_0.png", tmp_path / "data/train/red/leak.png")
    run = train(tmp_path / "data", Path("run"))
    place = {row["path"]: row["split"] for row in table(run / "split.csv")}
    assert place["train/red/leak.png"] == "left out"
    assert place["test/red/red_0.png"] == "test"
    assert list(place.values()).count("test") == 12
    assert "Left out of training: 1 copy of test images." in capsys.readouterr().err
    assert read_json(run / "data.json")["leaks"] == [["test/red/red_0.png", "train/red/leak.png"]]


def test_val_joins_development_beside_a_test_part_and_is_it_when_alone(tmp_path: Path) -> None:
    for part, seed in (("train", 0), ("val", 1), ("test", 2)):
        draw_photos(tmp_path / "data" / part, 4, seed=seed)

    def places(run: Path) -> set[tuple[str, str]]:
        return {(row["path"].split("/")[0], row["split"]) for row in table(run / "split.csv")}

    joined = places(train(tmp_path / "data", Path("joined")))
    assert joined == {("train", "train"), ("val", "train"), ("test", "test")}
    shutil.move(tmp_path / "data" / "test", tmp_path / "own")
    assert places(train(tmp_path / "data", Path("alone"))) == {("train", "train"), ("val", "test")}
    given = places(train(tmp_path / "data", Path("given"), test=tmp_path / "own"))
    assert given == {("train", "train"), ("val", "train"), ("test:blue", "test"),
                     ("test:green", "test"), ("test:red", "test")}  # fmt: skip


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["check", "measure", "search_head", "evaluate", "write_bundle"])
def test_a_fault_in_any_step_is_recorded_and_leaves_no_half_result(
    photos: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise InternalError("A wheel came off")

    with monkeypatch.context() as patch:
        patch.setattr(learning if hasattr(learning, step) else pipeline, step, broken)
        with pytest.raises(InternalError):
            train(photos, Path("run"))
    stored = read_json(Path("run/run.json"))
    assert (stored["status"], stored["error"]) == ("failed", "A wheel came off.")
    for path in Path("run").iterdir():
        assert path.name in RESULTS - {"model"}
        if path.suffix == ".json":
            read_json(path)
    train(photos, Path("run"), resume=True)
    assert read_json(Path("run/run.json"))["status"] == "done"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MachineError])
def test_the_model_outlives_its_report(
    photos: Path, kind: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise kind("The printer is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "atomic_write", broken)
        if kind is KeyboardInterrupt:
            pipeline.fit(FitSettings(data=photos, out=Path("run")))
        else:
            with pytest.raises(MachineError):
                pipeline.fit(FitSettings(data=photos, out=Path("run")))
    assert "the model is ready" in capsys.readouterr().err
    assert read_json(Path("run/run.json"))["status"] == "done"
    assert not Path("run/report.html").exists()
    assert pipeline.fit(FitSettings(data=photos, out=Path("run"), resume=True)).already_done
    assert Path("run/report.html").exists()


def test_a_cache_that_cannot_count_costs_only_the_count(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise MachineError("The disk is full")

    monkeypatch.setattr("headstart.judging.count_test_use", full)
    assert "test_set_scored" not in read_json(train(photos, Path("run")) / "run.json")


# -- resume --------------------------------------------------------------------------------------


def test_resume_starts_afresh_where_there_is_nothing_and_says_so(photos: Path, capsys: Any) -> None:
    Path("empty").mkdir()
    for out in ("missing", "empty"):
        train(photos, Path(out), resume=True)
        assert f"nothing to resume in {out}: starting afresh" in capsys.readouterr().err


def test_a_finished_run_is_not_done_again(photos: Path) -> None:
    run = train(photos, Path("run"))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    again = pipeline.fit(FitSettings(data=photos, out=run, resume=True, report=False))
    assert again.already_done
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def resumed(photos: Path, **settings: Any) -> None:
    train(photos, Path("run"), resume=True, **settings)


def test_resume_with_other_settings_names_them(photos: Path) -> None:
    train(photos, Path("run"))
    with pytest.raises(RunFolderError, match="--seed was 0, is 3"):
        resumed(photos, seed=3)
    with pytest.raises(RunFolderError, match=r"--case was not given, is 1; --small-below was 1000"):
        resumed(photos, case=1, small_below=500)
    with pytest.raises(RunFolderError, match="made by headstart fit"):
        pipeline.plan(FitSettings(data=photos, out=Path("run"), resume=True))


def test_resume_with_other_data_says_how_they_differ(photos: Path, tmp_path: Path) -> None:
    train(photos, Path("run"))
    moved = photos.rename(tmp_path / "moved")
    resumed(moved)  # the same files elsewhere are the same data
    extra = shutil.copy(moved / "red/red_0.png", moved / "red/more.png")
    with pytest.raises(RunFolderError, match=r"36 files of \d+ bytes, now 37 files of \d+ bytes"):
        resumed(moved)
    Path(extra).unlink()
    (moved / "red/red_0.png").rename(moved / "red/renamed.png")
    with pytest.raises(RunFolderError, match=r"36 files of .*, of which some changed"):
        resumed(moved)


def test_a_run_that_failed_on_its_data_starts_afresh_once_they_are_mended(
    photos: Path, capsys: Any
) -> None:
    few = shutil.copytree(photos / "red", photos / "rare")
    for path in sorted(few.iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match=r"rare \(0|rare \(1"):
        train(photos, Path("run"))
    assert read_json(Path("run/run.json"))["status"] == "failed"
    shutil.rmtree(few)
    resumed(photos)
    assert "failed before it had any result: starting afresh" in capsys.readouterr().err


# -- the frozen road -----------------------------------------------------------------------------

WITHOUT_TORCH = """
import json, sys
from headstart.entry import run_command
for arguments in json.loads(sys.argv[1]):
    assert run_command(arguments) == 0
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & {"torch", "torchvision", "timm"}, (arguments, loaded)
"""


def test_no_command_of_the_frozen_road_loads_torch(photos: Path) -> None:
    train(photos, Path("cached"))
    data = str(photos)
    commands = [
        ["predict", "cached", data],
        ["plan", data, "--out", "plan"],
        ["fit", data, "--out", "run"],
        ["report", "run"],
    ]
    call_python = [sys.executable, "-c", WITHOUT_TORCH, json.dumps(commands)]
    done = subprocess.run(call_python, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_plan_measures_and_decides_only(photos: Path, capsys: Any) -> None:
    assert call("plan", photos, "--out", "run") == 0
    assert {path.name for path in Path("run").iterdir()} == {
        "run.json", "data.json", "findings.json", "split.csv", "plan.json", "log.jsonl", ".lock",
    }  # fmt: skip
    plan = plan_of(Path("run"))
    assert PLAN_KEYS <= set(plan)
    assert plan["case_prior"] in ([1], [2], [1, 2])
    out = capsys.readouterr().out
    assert out.count("30 images to learn from: small (fewer than 1,000).") == 1
    assert "What would flip it:" in out
    assert out.endswith(f"next:    headstart fit {photos}\n")
