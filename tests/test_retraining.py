"""Cases 3 and 4 to the letter, on the demonstration network: trained, compared, exported, shipped."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from headstart.plan.criterion import Criterion
from headstart.retraining import best_mixture
from headstart.run import read_json
from headstart.ship.predict import load
from networks import export_here
from runs import bright_or_dark, refused, train


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a fast job: the demonstration network as if it had been pre-trained."""
    import torch
    from safetensors.torch import save_file

    from headstart.backbone.demo_net import DemoNet
    from headstart.train import recipe

    export_here(monkeypatch)
    # One rate and one fold, but where a test says otherwise.
    first = {kind: rates[:1] for kind, rates in recipe.RATES.items()}
    monkeypatch.setattr(recipe, "RATES", first)
    monkeypatch.setattr("headstart.plan.folds.LEAST_HELD_OUT", 1)
    torch.manual_seed(0)
    save_file(DemoNet(4).state_dict(), tmp_path / "demo.safetensors")
    return {"backbone": "demo", "weights": tmp_path / "demo.safetensors", "epochs": 6}


@pytest.fixture
def shades(tmp_path: Path) -> Path:
    return bright_or_dark(tmp_path / "shades", {"dark": 30, "light": 30})


def weights_of(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("force", "strategies", "case"),
    [
        ({"case": 3}, ["finetune"], 3),
        ({"case": 4}, ["scratch", "finetune"], None),
        ({"from_scratch": True}, ["scratch"], 4),
    ],
)
def test_a_forced_case_trains_the_whole_network_and_ships_it(
    demo: dict[str, Any], shades: Path, force: dict[str, Any], strategies: list[str], case: Any
) -> None:
    run = train(shades, Path("run"), **demo, **force)
    plan = read_json(run / "plan.json")
    assert plan["strategy"] in strategies
    assert case is None or plan["case"] == case
    assert {row["name"] for row in plan["candidates"]} >= {"head_top", "all_stages", *strategies}
    # The test part was held out although the set is small, and what is shipped answers as evaluated.
    evaluation = read_json(run / "evaluation.json")
    assert "scored once" in evaluation["protocol"]
    with (run / "predictions.csv").open() as file:
        stored = {row["path"]: row for row in csv.DictReader(file)}
    assert len(stored) == 12
    answers = list(load(run).predict([shades / path for path in stored]))
    for path, answer in zip(stored, answers, strict=True):
        assert answer.confidence == pytest.approx(float(stored[path]["confidence"]), abs=1e-4)
    # Every learnable tensor of the network has moved, or none of it is the pre-trained one.
    before = {f"backbone.{k}": v for k, v in load_file(demo["weights"]).items()}
    after = weights_of(run)
    same = [
        name
        for name, value in after.items()
        if name in before and name.endswith("weight") and np.array_equal(value, before[name])
    ]
    assert same == []
    trained = read_json(run / "training.json")
    assert len(trained["epochs"]) == 6
    assert not (run / "training").exists() and not (run / ".tuned").exists()


def test_images_are_made_square_for_training_as_the_best_frozen_head_saw_them(
    demo: dict[str, Any], tmp_path: Path
) -> None:
    """The classes differ at the rims only, which a centre that is cut out does not hold."""
    folder = tmp_path / "wide"
    rng = np.random.default_rng(0)
    for name, left in (("left", 200), ("right", 60)):
        (folder / name).mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(100, 160, (64, 192, 3)).astype(np.uint8)
            pixels[:, :40], pixels[:, -40:] = left, 260 - left
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    run = train(folder, Path("run"), case=3, budget=1.0, **demo)
    assert read_json(run / "model" / "headstart.json")["preprocess"]["fit"] in ("squash", "pad")
    assert read_json(run / "evaluation.json")["metrics"][0]["value"] > 0.9


def test_a_stopped_training_goes_on_and_ends_with_the_same_weights(
    demo: dict[str, Any], shades: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(shades, Path("whole"), case=3, **demo)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("headstart.improving.train_winner", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(shades, Path("broken"), case=3, **demo)
    verified = []
    with monkeypatch.context() as patch:
        patch.setattr(
            "headstart.retraining.train_once",
            lambda *given: verified.append(given[5]) or train_once(*given),
        )
        from headstart.training import train_once

        resumed = train(shades, Path("broken"), case=3, resume=True, **demo)
    assert verified == ["all"]  # the verifying run was not repeated
    assert read_json(resumed / "run.json")["status"] == "done"
    one, other = weights_of(whole), weights_of(resumed)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_stop_after_training_does_not_train_again(
    demo: dict[str, Any], shades: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("headstart.pipeline.judge", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(shades, Path("run"), case=3, **demo)
    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            "headstart.train.loop.Loop.run_epoch",
            lambda *_: pytest.fail("it trained again"),
        )
        patch.setattr("headstart.train.tell.LiveLine.__call__", lambda *_: steps.append(1))
        train(shades, Path("run"), case=3, resume=True, **demo)
    assert not steps
    assert not Path("run/training").exists()


def test_the_start_is_no_result_of_training_even_when_nothing_is_better(
    demo: dict[str, Any], shades: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.train import recipe

    # Nothing moves: all mixtures score the same.
    monkeypatch.setattr(recipe, "RATES", {"finetune": (0.0,)})
    run = train(shades, Path("run"), case=3, **demo)
    verified = read_json(run / "training.json")["verified"]
    assert [one["alpha"] > 0 for one in verified] == [True]


def test_a_rate_that_suits_the_network_better_is_found_and_shipped(
    demo: dict[str, Any], shades: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.train import recipe

    monkeypatch.setattr(recipe, "RATES", {"scratch": (0.0, 3e-3)})
    monkeypatch.setattr("headstart.plan.folds.LEAST_HELD_OUT", 20)
    run = train(shades, Path("run"), from_scratch=True, **demo)
    verified = {row["name"]: row for row in read_json(run / "training.json")["verified"]}
    assert list(verified) == ["scratch", "scratch@rate0.003"]
    plan = read_json(run / "plan.json")
    assert (plan["chosen"], plan["strategy"]) == ("scratch@rate0.003", "scratch")
    (row,) = (one for one in plan["candidates"] if one["name"] == plan["chosen"])
    # Folds have ten or nine images: two are needed for twenty.
    assert row["method"] == "trained 2 x at 32 px, rate 0.003, 20 images held out"


def test_when_every_way_diverges_it_is_said_and_nothing_is_shipped(
    demo: dict[str, Any], shades: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.errors import TrainingError
    from headstart.train import recipe

    monkeypatch.setattr(recipe, "RATES", {"finetune": (float("nan"),)})
    with pytest.raises(TrainingError, match="diverged at every rate"):
        train(shades, Path("run"), case=3, **demo)
    assert not (Path("run") / "model").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--case", "3", "--budget", "0"], "--budget 0 means a frozen network"),
        (["--case", "4", "--head", "mlp:8"], "--head mlp:WIDTH goes with a frozen network"),
        (["--epochs", "3"], "--epochs belongs to --case 3"),
        (["--budget", "0", "--augment", "flip"], "--augment is for training the network"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    photos: Path, capsys: Any, flags: list[str], words: str
) -> None:
    assert words in refused(capsys, "fit", photos, "--out", "run", *flags)


def test_refit_all_is_refused_for_a_trained_network(photos: Path, capsys: Any) -> None:
    words = refused(capsys, "fit", photos, "--out", "run", "--case", "3", "--refit-all")
    assert "--refit-all goes with a frozen network" in words
    assert not Path("run").exists()


def test_tensorboard_finds_the_curves_of_every_training_by_name(
    demo: dict[str, Any], shades: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(shades, Path("run"), case=3, tensorboard=True, **demo)
    seen = EventAccumulator(str(run / "tensorboard"))
    seen.Reload()
    scalars = set(seen.Tags()["scalars"])
    assert any(name.endswith("-all/loss") for name in scalars)
    assert any(name.endswith("-all/img_s") for name in scalars)
    scores = [name for name in scalars if name.endswith("/score")]
    assert [len(seen.Scalars(name)) for name in scores] == [6]  # one per epoch


def test_equal_mixtures_are_told_apart_by_what_they_are_not_by_their_order() -> None:
    truth = np.array([0, 1] * 10)
    sure = np.where(truth[:, None] == np.arange(2), 9.0, -9.0)
    trials = {("last", 1.0): sure, ("average", 0.5): sure, ("average", 1.0): sure}
    criterion = Criterion("accuracy", "accuracy")
    found = {
        best_mixture(dict(order), truth, criterion)
        for order in itertools.permutations(trials.items())
    }
    assert found == {("average", 0.5)}
