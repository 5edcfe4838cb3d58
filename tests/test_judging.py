"""Doubtful labels are listed, corrected ones come back in, and what changes with them is said."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from headstart.plan.show import fit_text
from headstart.run import read_json
from runs import bright_or_dark, call, refused, table, train

SWAPPED = ("dark/3.png", "light/7.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes, and two pictures that lie in the other's folder."""
    folder = bright_or_dark(tmp_path / "data", {"dark": 20, "light": 20})
    one, two = (folder / name for name in SWAPPED)
    one.rename(folder / "aside.png")
    two.rename(one)
    (folder / "aside.png").rename(two)
    return folder


def corrected(run: Path, names: dict[str, str]) -> Path:
    """suggestions.csv as a person would hand it back."""
    file = run.parent / "corrected.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerows([("path", "label"), *names.items()])
    return file


def test_doubtful_labels_are_listed_and_corrected_ones_change_the_score(
    data: Path, tmp_path: Path, capsys: Any
) -> None:
    run = train(data, tmp_path / "run")
    listed = table(run / "suggestions.csv")
    assert {row["path"] for row in listed[:2]} == set(SWAPPED)
    assert {(r["label"], r["suggested"]) for r in listed[:2]} == {
        ("dark", "light"), ("light", "dark"),
    }  # fmt: skip
    assert all(
        "candidates say" in row["reason"] and "none says" in row["reason"] for row in listed[:2]
    )
    first = read_json(run / "evaluation.json")
    assert first["suggestions"]["listed"] == len(listed)
    assert "before_relabel" not in first
    assert "suggestions.csv (correct `label`" in fit_text(run, read_json(run / "plan.json"), first)

    file = corrected(run, {row["path"]: row["suggested"] for row in listed[:2]})
    capsys.readouterr()
    assert call("fit", data, "--relabel", file, "--out", tmp_path / "again", "--no-report") == 0
    shown = capsys.readouterr()
    assert "2 labels corrected by" in shown.err
    again = read_json(tmp_path / "again" / "evaluation.json")
    before = again["before_relabel"]
    assert before["changed"] == 2
    scores = [
        next(m for m in rows if m["name"] == "accuracy")
        for rows in (before["metrics"], again["metrics"])
    ]
    assert scores[0]["value"] == pytest.approx(scores[1]["value"] - 2 / 40)
    assert before["sentence"] in shown.out
    labels = {row["path"]: row["label"] for row in table(tmp_path / "again" / "predictions.csv")}
    assert [labels[name] for name in SWAPPED] == ["light", "dark"]
    assert (data / SWAPPED[0]).exists()

    other = corrected(run, {SWAPPED[0]: "light"})
    told = refused(capsys, "fit", data, "--relabel", other, "--out", tmp_path / "again", "--resume", "--no-report")  # fmt: skip
    assert "--relabel was" in told


def test_corrections_outside_the_test_part_leave_one_score(tmp_path: Path) -> None:
    bright_or_dark(tmp_path / "data" / "train", {"dark": 12, "light": 12})
    bright_or_dark(tmp_path / "data" / "test", {"dark": 5, "light": 5}, seed=1)
    for name, both in (("train/dark/1.png", False), ("test/dark/1.png", True)):
        file = corrected(tmp_path / "x", {name: "light"})
        run = train(tmp_path / "data", tmp_path / f"run{both}", relabel=file)
        assert ("before_relabel" in read_json(run / "evaluation.json")) is both


def test_a_table_that_fits_not_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, capsys: Any
) -> None:
    file = corrected(tmp_path / "x", {"dark/3.pgn": "light"})
    told = refused(capsys, "fit", data, "--relabel", file, "--out", tmp_path / "run")
    assert "dark/3.png" in told
    assert not (tmp_path / "run").exists()


def test_with_minutes_to_spend_a_frozen_winner_gets_a_learning_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.pipeline.random_control", lambda *_: None)
    data = bright_or_dark(tmp_path / "data", {"dark": 20, "light": 20})
    without = read_json(train(data, tmp_path / "a", case=1, budget=0) / "evaluation.json")
    assert "learning_curve" not in without
    run = train(data, tmp_path / "b", case=1, budget=1)
    found = read_json(run / "evaluation.json")["learning_curve"]
    assert found["n"] == 40
    assert len(found["points"]) == 8 or "No learning curve" in found["sentence"]
