"""A finished model on new images: judged like a test part, and asked what to label next."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from headstart.run import read_json
from runs import bright_or_dark, call, refused, table, train


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, toy_cache: Path) -> Any:
    """A finished run, and new images of its classes with a table beside them."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HEADSTART_CACHE", str(toy_cache))
    folder = tmp_path_factory.mktemp("evaluated")
    bright_or_dark(folder / "data" / "train", {"dark": 40, "light": 40})
    bright_or_dark(folder / "data" / "test", {"dark": 5, "light": 5}, seed=1)
    train(folder / "data", folder / "run")
    new = bright_or_dark(folder / "new", {"light": 60, "dark": 60}, seed=7)
    # The toys' brightness follows the order of the classes, so the folders change their names.
    (new / "light").rename(new / "aside")
    (new / "dark").rename(new / "light")
    (new / "aside").rename(new / "dark")
    (new / "dark" / "broken.png").write_bytes(b"no picture")
    rows = [
        (p.relative_to(folder).as_posix(), p.parent.name, "ab"[int(p.stem) % 2])
        for p in sorted(new.rglob("[0-9]*.png"))
    ]
    with (folder / "new.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "camera"), *rows])
    with (folder / "people.csv").open("w", newline="", encoding="utf-8") as file:
        wrong = {path: "dark" if i % 5 == 0 else label for i, (path, label, _) in enumerate(rows)}
        told = [("Ann", path, label) for path, label in wrong.items()]
        csv.writer(file).writerows([("reader", "path", "answer"), *told])
    yield folder
    patch.undo()


def test_new_images_are_judged_at_the_thresholds_of_the_run(toy: Path, capsys: Any) -> None:
    out = toy / "judged"
    assert (
        call("evaluate", toy / "run", toy / "new", "--out", out, "--prevalence", "light=0.1") == 0
    )
    shown = capsys.readouterr()
    found = read_json(out / "evaluation.json")
    assert found["n"] == len(table(out / "predictions.csv")) == 120
    assert [row["path"] for row in found["unreadable"]] == [str(toy / "new/dark/broken.png")]
    points = [p for p in found["operating"] if not p["refused"]]
    assert points
    assert all("80 held-out answers on images to learn from" in p["chosen_on"] for p in points)
    named = read_json(toy / "run" / "evaluation.json")["operating"]
    asked = [(p["name"], p["target"], p["threshold"]) for p in named if not p["refused"]]
    assert [(p["name"], p["target"], p["threshold"]) for p in points] == asked
    accuracy = next(m for m in found["metrics"] if m["name"] == "accuracy")
    assert accuracy["value"] > 0.8
    assert "as wide" not in accuracy["method"]
    assert found["sets"]["seen"]["coverage"]["n"] == 120
    assert found["unlike"]["flagged"]["value"] < 0.5
    assert found["learned_from"] == 0
    assert "On 120 new images" in shown.out
    assert "Where 10 % of the images are light" in shown.out
    assert "1 could not be read" in shown.out
    assert f"next:    headstart report {out}" in shown.out
    run = read_json(out / "run.json")
    assert (run["command"], run["status"], run["test_set_scored"]) == ("evaluate", "done", 1)
    assert "exists already" in refused(capsys, "evaluate", toy / "run", toy / "new", "--out", out)


def test_a_threshold_that_the_report_names_is_the_one_that_is_judged(
    toy: Path, tmp_path: Path, capsys: Any
) -> None:
    run = shutil.copytree(toy / "run", tmp_path / "my run")
    stored = read_json(run / "evaluation.json")
    for row in stored["operating"]:
        if not row["refused"]:
            row |= {"threshold": 0.875, "chosen_on": "80 held-out answers, each judged at the "
                    "choice of the others", "cross_fitted": True}  # fmt: skip
    (run / "evaluation.json").write_text(json.dumps(stored), encoding="utf-8")
    asked = ("--prevalence", "light=0.01", "--out", tmp_path / "my out")
    assert call("evaluate", run, toy / "new", *asked) == 0
    shown = capsys.readouterr().out
    found = read_json(tmp_path / "my out" / "evaluation.json")
    points = [p for p in found["operating"] if not p["refused"]]
    p = {row["path"]: row for row in table(tmp_path / "my out" / "predictions.csv")}.values()
    for point in points:
        column = f"p_{point['name']}"
        mine = [float(row[column]) >= 0.875 for row in p if row["label"] == point["name"]]
        assert (point["threshold"], point["chosen_on"]) == (0.875, "80 held-out answers")
        assert point["sensitivity"]["value"] == pytest.approx(sum(mine) / len(mine))
    assert "Call it light from a probability of 0.875 on (chosen on 80 held-out answers" in shown
    assert shown.rstrip().endswith(f"next:    headstart report '{tmp_path}/my out'")
    stored["operating"][0].pop("threshold")
    (run / "evaluation.json").write_text(json.dumps(stored), encoding="utf-8")
    told = refused(capsys, "evaluate", run, toy / "new", "--out", tmp_path / "none")
    assert "thresholds in this file are damaged" in told


def test_parts_of_a_table_and_readers_stand_beside_the_model(toy: Path, tmp_path: Path) -> None:
    found = headstart.evaluate(
        toy / "run", table=toy / "new.csv", out=tmp_path / "out", by="camera",
        readers=toy / "people.csv",
    )  # fmt: skip
    (part,) = found.evaluation["subgroups"]
    assert (part["column"], [row["n"] for row in part["subgroups"]]) == ("camera", [60, 60])
    (study,) = found.evaluation["readers"]
    assert study["name"] == "light"
    assert [reader["name"] for reader in study["readers"]] == ["Ann"]
    assert study["mean"]["paired"]
    assert found.score("accuracy")[0] is not None
    with pytest.raises(KeyError, match="no score"):
        found.score("beauty")


def test_classes_taken_together_get_curves_thresholds_and_readers_of_their_own(
    toy: Path, tmp_path: Path, capsys: Any
) -> None:
    people = tmp_path / "people.csv"
    people.write_text((toy / "people.csv").read_text().replace(",light", ",not night"))
    headstart.evaluate(
        toy / "run", table=toy / "new.csv", out=tmp_path / "judged", readers=people,
        together={"night": ["dark"]},
    )  # fmt: skip
    found = read_json(tmp_path / "judged" / "evaluation.json")
    assert [row["name"] for row in found["curves"]] == ["dark", "light", "night"]
    same = [
        next(row for row in found["curves"] if row["name"] == name) for name in ("dark", "night")
    ]
    assert same[0]["auc"]["value"] == same[1]["auc"]["value"]
    assert [study["name"] for study in found["readers"]] == ["night"]
    arguments = ("evaluate", toy / "run", toy / "new", "--out", tmp_path / "none")
    assert "No such class" in refused(capsys, *arguments, "--together", "night=drak")
    assert "NAME=CLASS" in refused(capsys, *arguments, "--together", "night")
    assert "others beside" in refused(
        capsys, *arguments, "--together", "all=dark", "--together", "all=light"
    )
    assert not (tmp_path / "none").exists()


def test_images_that_it_learned_from_are_told_and_a_bare_model_crosses_its_thresholds(
    toy: Path, tmp_path: Path, capsys: Any
) -> None:
    assert call("evaluate", toy / "run", toy / "data" / "train", "--out", tmp_path / "a") == 0
    shown = capsys.readouterr().out
    assert "The model learned from all of them: these scores are too good." in shown
    assert "On 80 images" in shown and "new images" not in shown
    protocol = read_json(tmp_path / "a" / "evaluation.json")["protocol"]
    assert protocol.startswith("labelled images, 80 of which the model had learned from")
    bare = shutil.copytree(toy / "run" / "model", tmp_path / "model")
    assert call("evaluate", bare, toy / "new", "--out", tmp_path / "b") == 0
    assert "thresholds are cross-fitted" in capsys.readouterr().err
    found = read_json(tmp_path / "b" / "evaluation.json")
    assert all(p["cross_fitted"] for p in found["operating"] if not p["refused"])
    assert found["learned_from"] is None
    assert "may have learned from" in found["protocol"]
    assert "as wide" not in found["curves"][0]["auc"]["method"]


def test_what_cannot_be_judged_is_refused_before_anything_is_written(
    toy: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    strange = shutil.copytree(toy / "new", tmp_path / "strange")
    (strange / "dark").rename(strange / "drak")
    for arguments, words in (
        ((strange,), "does not know 1 class of these images"),
        ((toy / "new", "--by", "camera"), "--by COLUMN needs --table"),
        (("--table", toy / "new.csv", "--by", "camra"), "Did you mean camera?"),
        ((toy / "new", "--prevalence", "drak=0.1"), "Did you mean dark?"),
        ((toy / "new", "--readers", toy / "new.csv"), "columns of neither form"),
        ((toy / "nowhere",), "does not exist"),
    ):
        assert words in refused(capsys, "evaluate", toy / "run", *arguments, "--out", out)
        assert not out.exists()
    assert "no model here" in refused(capsys, "evaluate", toy / "data", toy / "new", "--out", out)


def test_the_next_images_are_a_table_most_doubtful_first(
    toy: Path, tmp_path: Path, capsys: Any
) -> None:
    assert call("next", toy / "run", toy / "new", "--n", 7, "--out", tmp_path / "next.csv") == 0
    assert "7 of 120 images" in (told := capsys.readouterr().err)
    assert "1 could not be read" in told
    rows = table(tmp_path / "next.csv")
    assert list(rows[0]) == ["path", "predicted", "confidence", "second", "margin"]
    assert len({row["path"] for row in rows}) == 7
    assert all(Path(row["path"]).is_file() for row in rows)
    assert call("next", toy / "run", toy / "new", "--n", 7) == 0
    assert capsys.readouterr().out == (tmp_path / "next.csv").read_text(encoding="utf-8")
    found = headstart.next_images(toy / "run", toy / "new", 3)
    assert len(found.chosen) == 3
    for arguments, words in (
        (("--n", 0), "--n must be at least 1"),
        (("--out", "a.txt"), "no CSV file"),
    ):
        assert words in refused(capsys, "next", toy / "run", toy / "new", *arguments)


def test_what_a_model_has_learned_from_is_what_it_was_trained_on(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from headstart.held_out import learned_from_json

    infos = [SimpleNamespace(content_hash=name) for name in "abcdet"]
    prepared: Any = SimpleNamespace(
        development=SimpleNamespace(
            hashes=("a", "b", "c", "d", "e"),
            labels=np.array([0, 0, 1, 1, 0]),
            folds=np.array([1, 0, 1, 0, 2]),  # the first of them judges first, the others may, too
        ),
        findings=SimpleNamespace(infos=infos),
        split=SimpleNamespace(test=[5]),
    )
    held = SimpleNamespace(positions=np.array([0, 1, 2, 3]))

    def told(learned: Any, refit_all: bool = False) -> list[str]:
        found: list[str] = learned_from_json(prepared, learned, refit_all)["contents"]
        return found

    frozen: Any = SimpleNamespace(held_out=None, steps=None)
    assert told(frozen) == list("abcde") and told(frozen, refit_all=True) == list("abcdet")
    for refit, expected in ((True, "abcde"), (False, "ace")):
        tuned: Any = SimpleNamespace(held_out=held, steps=SimpleNamespace(refit=refit))
        assert told(tuned) == list(expected)
