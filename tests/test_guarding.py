"""What a run says beyond its scores: curves, thresholds, prediction sets, unfamiliar pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from headstart import guarding
from headstart.backbone.features import open_session
from headstart.errors import BundleError
from headstart.judge.conformal import cross_judged_sets, fit_sets
from headstart.learning import OutOfFold
from headstart.plan.show import fit_text
from headstart.run import read_json
from headstart.ship.bundle import _own_sha256, _sha256_of
from headstart.ship.predict import load
from runs import bright_or_dark, call, noise, refused, table, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_cache: Path) -> Any:
    """Two classes, held out in turn, and a prevalence."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HEADSTART_CACHE", str(toy_cache))
    folder = tmp_path_factory.mktemp("guarded")
    data = bright_or_dark(folder / "data", {"dark": 40, "bright|light": 40})
    yield train(data, folder / "run", budget=0, prevalence={"bright|light": 0.01})
    patch.undo()


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory, toy_cache: Path) -> Any:
    """Two classes with a test part of their own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HEADSTART_CACHE", str(toy_cache))
    folder = tmp_path_factory.mktemp("tested")
    bright_or_dark(folder / "data" / "train", {"dark": 40, "light": 40})
    bright_or_dark(folder / "data" / "test", {"dark": 12, "light": 12}, seed=1)
    yield train(folder / "data", folder / "run", budget=0)
    patch.undo()


def evaluation(folder: Path) -> dict[str, Any]:
    return read_json(folder / "evaluation.json")


def test_thresholds_are_chosen_on_held_out_answers_and_judged_on_the_test_part(
    tested: Path,
) -> None:
    found = evaluation(tested)
    assert [c["name"] for c in found["curves"]] == ["dark", "light"]
    points = [p for p in found["operating"] if not p["refused"]]
    assert points
    assert all(not p["cross_fitted"] and "80 held-out answers" in p["chosen_on"] for p in points)
    assert points[0]["sensitivity"]["n"] == 12
    assert "as wide" not in found["curves"][0]["auc"]["method"]


def test_without_a_test_part_they_are_cross_fitted(run: Path) -> None:
    points = [p for p in evaluation(run)["operating"] if not p["refused"]]
    assert points and all(p["cross_fitted"] for p in points)
    assert {p["prevalence"] for p in points} == {0.01, 0.99}
    assert all(p["ppv"] is not None for p in points)


def test_the_result_tells_the_operating_point_of_the_rarer_of_two_classes(run: Path) -> None:
    text = fit_text(run, read_json(run / "plan.json"), evaluation(run))
    (line,) = [line for line in text.splitlines() if "for a sensitivity of" in line]
    assert line.startswith("Call it bright|light from a probability of ")
    assert "Where 1 % of the images are" in line


def test_a_prevalence_of_no_class_is_refused_before_anything_is_written(
    run: Path, capsys: Any, tmp_path: Path
) -> None:
    data, out = run.parent / "data", tmp_path / "out"
    told = refused(capsys, "fit", data, "--prevalence", "drak=0.1", "--out", out)
    assert "Did you mean dark?" in told
    assert not out.exists()
    for text, words in (
        ("dark", "CLASS=SHARE"),
        ("dark=1.5", "between 0 and 1"),
        ("dark=x", "number"),
        ("dark=.1,dark=.2", "two shares"),
        ("dark=.8,bright|light=.8", "more than 1"),
    ):
        assert words in refused(capsys, "fit", data, "--prevalence", text, "--out", out)


def test_sets_and_the_bank_of_images_lie_in_the_model_and_in_the_evaluation(run: Path) -> None:
    found, bundle = evaluation(run), load(run).bundle
    assert bundle.sets is not None and bundle.unlike is not None
    stored = read_json(run / "model" / "headstart.json")["sets"]
    assert stored["coverage"] == found["sets"]["coverage"] == 0.9
    assert stored["n"] == 80
    seen = found["sets"]["seen"]
    assert seen["coverage"]["low"] <= seen["coverage"]["value"] <= seen["coverage"]["high"]
    assert [row["class"] for row in seen["of_class"]] == list(bundle.classes)
    assert found["unlike"]["false_alarms"]["value"] == bundle.unlike.false_alarms < 0.3
    assert "Prediction sets for 90 % coverage" in found["sets"]["sentence"]


def test_predict_names_the_set_and_calls_noise_unlike(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    """The toys are dim noise; a white square and stripes are none of them."""
    known = sorted((run.parent / "data" / "dark").iterdir())[:10]
    stripes = np.zeros((48, 48, 3), np.uint8)
    stripes[:, ::12] = (255, 40, 0)
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    out = tmp_path / "a.csv"
    assert call("predict", run, *known, tmp_path / "stripes.png", "--out", out) == 0
    rows = table(out)
    assert list(rows[0])[-3:] == ["set", "unlike", "error"]
    assert [row["unlike"] for row in rows].count("false") >= 8
    assert rows[-1]["unlike"] == "true"
    for row in rows:
        assert set(row["set"].replace("\\|", "/").split("|")) <= {"dark", "bright/light"}
        assert row["predicted"].replace("|", "\\|") in row["set"]


def test_the_second_output_is_what_the_head_reads(run: Path) -> None:
    bundle = load(run).bundle
    session = open_session(bundle.onnx, 1)
    assert [out.name for out in session.get_outputs()] == ["probabilities", "features"]
    rng = np.random.default_rng(0)
    pixels = np.stack(list(noise(rng, 2, 224)))
    features = session.run(["features"], {"image": pixels})[0]
    assert features.shape == (2, bundle.description["head"]["inputs"])


def test_a_model_from_before_has_neither_column_and_still_answers(
    run: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    old = shutil.copytree(run / "model", tmp_path / "model")
    tensors = load_file(old / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if not k.startswith("unlike.")}
    assert len(kept) == len(tensors) - 2
    save_file(kept, old / "model.safetensors")
    mend(old, lambda described: described.pop("sets"))
    model = load(old)
    assert model.columns == ()
    (answer,) = model.predict(next((run.parent / "data" / "dark").iterdir()))
    assert answer.predicted is not None and answer.possible is None and answer.unlike is None


def test_a_rule_for_other_classes_is_a_damaged_model(run: Path, tmp_path: Path) -> None:
    model = shutil.copytree(run / "model", tmp_path / "model")
    mend(model, lambda described: described["sets"].update(least=[0.1] * 3))
    with pytest.raises(BundleError, match="do not fit the model"):
        load(model)


def mend(model: Path, change: Any) -> None:
    described = read_json(model / "headstart.json")
    change(described)
    described["sha256"]["model.safetensors"] = _sha256_of(model / "model.safetensors")
    described["sha256"]["headstart.json"] = _own_sha256(described)
    (model / "headstart.json").write_text(json.dumps(described), encoding="utf-8")


def test_with_too_few_images_the_model_goes_without_and_it_is_said(
    tmp_path: Path, capsys: Any
) -> None:
    few = train(bright_or_dark(tmp_path / "few", {"dark": 4, "light": 4}), tmp_path / "run")
    assert load(few).columns == ()
    found = evaluation(few)
    no_sets = "No prediction sets (column `set`): they take 9 different images, here are 8."
    no_warning = (
        "No warning of images unlike the training's (column `unlike`): that takes 19 different "
        "images, here are 8."
    )
    assert found["sets"]["sentence"] == no_sets
    assert found["unlike"]["sentence"] == no_warning
    assert {no_sets, no_warning} <= set(capsys.readouterr().err.splitlines())


def test_sets_that_can_be_made_but_not_judged_say_so() -> None:
    """Ten images in two folds: enough for a rule, not for one of each half."""
    p, labels = drawn(10)
    rule = fit_sets(labels, p)
    guarded: Any = SimpleNamespace(sets=rule, no_sets="")
    told = guarding.sets_json(guarded, p, labels, np.arange(10), np.arange(10) % 2, "abc")
    assert told["seen"] is None
    assert told["sentence"] == (
        f"{rule.sentence} How often they hold the right class is not known: that takes, beside every "
        "fold, 9 different images, here are 5."
    )


def drawn(n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    p = rng.dirichlet([1, 1, 1], n) + 1.5 * np.eye(3)[labels] * rng.random((n, 1))
    return p / p.sum(1, keepdims=True), labels


def test_cross_judged_sets_cover_what_was_promised_and_are_less_sure() -> None:
    p, labels = drawn(2_000)
    seen = cross_judged_sets(labels, p, np.arange(2_000) % 5, coverage=0.9)
    assert seen.coverage.value == pytest.approx(0.9, abs=0.02)
    assert "1.30 times as wide" in seen.coverage.method


@pytest.mark.parametrize(("refit", "fits"), [(True, False), (False, True), (None, False)])
def test_a_tuned_network_warns_only_by_images_that_it_never_saw(
    refit: bool | None, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One verifying fold of 40 images; the shipped network learned from all, or not from these."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 16)).astype(np.float32) + 3
    monkeypatch.setattr(guarding, "read", lambda _prepared, _chosen, rows: features[rows])
    positions = np.arange(0, 120, 3)
    groups, labels = np.arange(40), np.arange(40) % 2
    held = OutOfFold(positions, np.full((40, 2), 0.5), labels, groups, groups % 2)
    prepared: Any = SimpleNamespace(
        development=SimpleNamespace(folds=np.arange(120) % 3, rows=np.arange(120))
    )
    learned: Any = SimpleNamespace(
        held_out=object(),
        steps=None if refit is None else SimpleNamespace(refit=refit),
        verified=SimpleNamespace(chosen=None),
    )
    unlike, strange, why = guarding._unlike(prepared, learned, held, seed=0)
    assert (unlike is not None) is fits
    assert ("learned from all images" in why) is not fits
    assert strange is None or strange.shape == (40,)
