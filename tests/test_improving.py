"""The frozen result is ready first; training takes its place only where it is measurably better."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headstart import budgeting, improving
from headstart.files import read_json
from headstart.plan.steps import Images, Offer, Speed, Steps, Way
from headstart.settings import fit_settings
from headstart.ship.predict import load
from networks import export_here
from runs import bright_or_dark, call, train


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a fast job on a machine whose speed is known."""
    import torch
    from safetensors.torch import save_file

    from headstart.backbone.demo_net import DemoNet

    export_here(monkeypatch)
    torch.manual_seed(0)
    save_file(DemoNet(4).state_dict(), tmp_path / "demo.safetensors")
    monkeypatch.setattr("headstart.train.pace.pace", lambda *_: (Speed(2_000.0, 6_000.0), 0))
    real = budgeting.plan_steps

    def fewer(*given: Any) -> Steps:
        """One fold and the two costliest ways: enough to show what is done with them."""
        found = real(*given)
        return replace(found, planned=tuple(replace(o, folds=1) for o in found.planned[-2:]))

    monkeypatch.setattr(budgeting, "plan_steps", fewer)
    for length in ("epochs_for", "least_epochs"):
        monkeypatch.setattr(f"headstart.train.recipe.{length}", lambda *_: 4)
    return {"backbone": "demo", "weights": tmp_path / "demo.safetensors", "budget": 3.0}


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """Noise with stripes this way or that, fainter than the noise: the frozen head is often wrong."""
    from PIL import Image

    rng = np.random.default_rng(0)
    folder = tmp_path / "stripes"
    wave = 14 * np.sin(np.arange(32) * np.pi / 2)
    for name, pattern in {"lying": wave[:, None], "standing": wave[None, :]}.items():
        (folder / name).mkdir(parents=True)
        for i in range(60):
            noise = rng.normal(128, 60, (32, 32)) + np.broadcast_to(pattern, (32, 32))
            grey = np.clip(noise, 0, 255).astype(np.uint8)
            Image.fromarray(grey).convert("RGB").save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def better(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if everything that is trained were measurably better than what was before."""
    monkeypatch.setattr(improving, "against", lambda one, *_: (True, f"{one.way.name} is better."))


def _surgery_is_told(run: Path, plan: dict[str, Any]) -> None:
    """The model and the picture say of each stage whether it learned."""
    counts = read_json(run / "model" / "headstart.json")["parameters"]
    states = [block["state"] for block in read_json(run / "surgery.json")["blocks"]]
    assert ("frozen" in states) == (counts["frozen"] > 0) == (plan["strategy"] == "partial")
    assert counts["trained"] > 0


@pytest.mark.usefixtures("better")
def test_a_better_network_takes_the_place_of_the_frozen_result(
    demo: dict[str, Any], stripes: Path
) -> None:
    run = train(stripes, Path("run"), **demo)
    plan = read_json(run / "plan.json")
    assert plan["strategy"] in ("partial", "finetune", "scratch")
    _surgery_is_told(run, plan)
    steps = plan["budget_steps"]
    assert steps["planned"] and steps["seconds"] <= steps["left_s"]
    tried = {one["way"]["name"] for one in steps["planned"]}
    assert tried <= {row["name"] for row in plan["candidates"]}
    evaluation = read_json(run / "evaluation.json")
    assert "selection not nested" in evaluation["protocol"]
    with (run / "predictions.csv").open() as file:
        answered = [row["path"] for row in csv.DictReader(file)]
    assert len(set(answered)) == len(answered) == evaluation["n"]
    assert len(list(load(run).predict([stripes / path for path in answered]))) == len(answered)
    assert not (run / "training").exists()


def test_without_a_gain_the_frozen_result_stays_and_what_was_tried_is_told(
    demo: dict[str, Any], stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.train import recipe

    monkeypatch.setattr(recipe, "RATES", dict.fromkeys(recipe.RATES, (0.0,)))  # nothing moves
    run = train(stripes, Path("run"), **demo)
    plan = read_json(run / "plan.json")
    assert plan["strategy"] not in ("partial", "finetune", "scratch")
    assert any("not measurably better" in sentence for sentence in plan["switch"])
    assert plan["budget_steps"]["planned"][-1]["way"]["name"] in {
        row["name"] for row in plan["candidates"]
    }
    # Judged once: what was ready is what is shipped.
    assert "every choice was made again" in read_json(run / "evaluation.json")["protocol"]
    assert call("report", run) == 0


def test_a_head_without_headroom_is_not_followed_by_training(
    demo: dict[str, Any], tmp_path: Path
) -> None:
    shades = bright_or_dark(tmp_path / "shades", {"dark": 30, "light": 30})
    run = train(shades, Path("run"), **demo)
    plan = read_json(run / "plan.json")
    assert any("a gain could not be measured" in reason for reason in plan["reasons"])
    assert plan["budget_steps"] is None


@pytest.mark.usefixtures("better")
def test_whoever_stops_the_training_keeps_the_model_and_can_go_on(
    demo: dict[str, Any], stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(stripes, Path("whole"), **demo)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(improving, "train_winner", stopped)
        run = train(stripes, Path("run"), **demo)  # no error: a model is there
    assert read_json(run / "run.json")["status"] == "stopped"
    assert read_json(run / "plan.json")["strategy"] not in ("partial", "finetune", "scratch")
    assert len(load(run).classes) == 2
    with monkeypatch.context() as patch:  # the plan is replayed: nothing is measured again
        patch.setattr(budgeting, "_offers", stopped)
        resumed = train(stripes, Path("run"), resume=True, **demo)
    assert read_json(resumed / "run.json")["status"] == "done"
    for name in ("model.safetensors", "model.onnx"):
        assert (whole / "model" / name).read_bytes() == (resumed / "model" / name).read_bytes()


@pytest.mark.usefixtures("better")
def test_the_test_part_is_scored_once_although_two_models_were_ready(
    demo: dict[str, Any], stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)
    run = train(stripes, Path("run"), **demo)
    assert read_json(run / "run.json")["test_set_scored"] == 1
    assert "scored once" in read_json(run / "evaluation.json")["protocol"]


def test_a_full_disk_during_training_leaves_the_frozen_model(
    demo: dict[str, Any], stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.errors import MachineError

    def full(*_: Any) -> None:
        raise MachineError("No space is left on the disk")

    monkeypatch.setattr(improving, "verify_all", full)
    run = train(stripes, Path("run"), **demo)
    assert read_json(run / "run.json")["status"] == "done"
    plan = read_json(run / "plan.json")
    assert any("No space is left" in reason for reason in plan["reasons"])
    assert len(load(run).classes) == 2


def test_no_image_helps_to_choose_the_mixture_that_answers_for_it() -> None:
    from headstart.plan.criterion import Criterion
    from headstart.retraining import best_mixture, crossed

    truth = np.arange(40) // 2 % 2
    groups = np.arange(40)
    right = np.where(truth[:, None] == np.arange(2), 2.0, -2.0)
    even = groups % 2 == 0
    # One mixture is right on the even groups only, the other on the odd ones only.
    first, second = (np.where(half[:, None], right, -right) for half in (even, ~even))
    trials = {("last", 1.0): first, ("last", 0.5): second}
    accuracy = Criterion("accuracy", "accuracy")
    found = crossed(trials, truth, groups, accuracy)
    assert (found.argmax(1) == truth).mean() == 0.0  # each half answers by the other's favourite
    assert best_mixture({**trials, ("average", 1.0): right}, truth, accuracy) == ("average", 1.0)


@pytest.mark.usefixtures("better")
def test_a_winner_that_diverges_on_all_images_leaves_the_frozen_model(
    demo: dict[str, Any], stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.errors import TrainingError

    def diverges(*_: Any) -> None:
        raise TrainingError("Training diverged at every rate that was tried")

    monkeypatch.setattr(improving, "train_winner", diverges)
    run = train(stripes, Path("run"), **demo)
    assert read_json(run / "run.json")["status"] == "done"
    plan = read_json(run / "plan.json")
    assert plan["strategy"] not in ("partial", "finetune", "scratch")
    assert any("The frozen result stays" in reason for reason in plan["reasons"])
    assert len(load(run).classes) == 2


def test_testing_augmentations_is_part_of_the_predicted_time() -> None:
    prepared = SimpleNamespace(
        test_rows=range(100),
        graph=SimpleNamespace(
            preprocess=SimpleNamespace(size_px=160), stages=[SimpleNamespace(macs=4e8)]
        ),
    )
    offer = Offer(Way("way", "finetune", 160, None, 12), Speed(50.0, 100.0), 8)
    images = Images(500, (100,) * 5, held_out=True)
    asked, tested = (
        budgeting._beside_s([offer], prepared, fit_settings({"data": "x", **more}), images)  # type: ignore[arg-type]
        for more in ({"case": 3, "augment": "flip"}, {})
    )
    assert tested - asked == pytest.approx(6 * 300 / 100.0)  # as they are, and five operations


@pytest.mark.usefixtures("better")
def test_a_winner_that_cannot_be_stored_leaves_the_results_of_the_model_that_is_there(
    demo: dict[str, Any], stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart import pipeline
    from headstart.errors import MachineError

    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)
    real, strategies = pipeline.bundle, list[str]()

    def full_for_the_second(prepared: Any, learned: Any, *more: Any) -> Any:
        strategies.append(learned.verified.chosen.strategy)
        if len(strategies) == 2:
            raise MachineError("No space is left on the disk")
        return real(prepared, learned, *more)

    monkeypatch.setattr(pipeline, "bundle", full_for_the_second)
    run = train(stripes, Path("run"), **demo)
    ready, failed, again = strategies
    assert failed in ("partial", "finetune", "scratch") and ready == again
    plan, evaluation = read_json(run / "plan.json"), read_json(run / "evaluation.json")
    assert plan["strategy"] == ready
    assert any("No space is left" in reason for reason in plan["reasons"])
    assert "scored again" in evaluation["protocol"]  # the winner had been scored there
    with (run / "predictions.csv").open() as file:
        told = {row["path"]: float(row["p_lying"]) for row in csv.DictReader(file)}
    for path, answer in zip(told, load(run).predict([stripes / p for p in told]), strict=True):
        assert answer.probabilities[0] == pytest.approx(told[path], abs=2e-3)


@pytest.mark.usefixtures("better")
def test_a_test_part_that_a_stopped_run_has_scored_is_not_called_unseen(
    demo: dict[str, Any], stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(improving, "train_winner", stopped)
        run = train(stripes, Path("run"), **demo)
    assert "scored once" in read_json(run / "evaluation.json")["protocol"]
    train(stripes, Path("run"), resume=True, **demo)
    assert read_json(run / "plan.json")["strategy"] in ("partial", "finetune", "scratch")
    assert "scored again" in read_json(run / "evaluation.json")["protocol"]


def test_a_network_that_is_too_sure_loses_nothing_by_it() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 80)
    base = rng.normal(size=(80, 3)) + 1.5 * np.eye(3)[truth]
    groups = np.arange(80)
    calm, loud = (improving._tempered(k * base, truth, groups).mean() for k in (1.0, 8.0))
    assert loud == pytest.approx(calm, abs=0.01)
