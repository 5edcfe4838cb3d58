"""Predict: the evaluated probabilities for any photos, streamed, and nothing but CSV on stdout."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.ship import predict as module
from headstart.ship.predict import Prediction, expand, load, write_predictions
from runs import call, landscape, refused, start, table


@pytest.fixture(autouse=True)
def _hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys are small; here they are split as large sets are."""
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def probabilities(row: dict[str, str]) -> list[float]:
    return [float(value) for name, value in row.items() if name.startswith("p_")]


# -- the same answers ----------------------------------------------------------------------------


def test_test_images_get_the_probabilities_that_were_evaluated(toys: Any, capsys: Any) -> None:
    """One at a time, in their folders, with one worker and with several."""
    evaluated = {row["path"]: row for row in table(toys.run / "predictions.csv")}
    assert evaluated
    assert call("predict", toys.run, toys.photos) == 0
    folder = {row["path"]: row for row in rows(capsys.readouterr().out)}
    assert len(folder) == 36
    model = load(toys.run / "model")
    for path, row in evaluated.items():
        alone = next(model.predict(toys.photos / path))
        assert alone.probabilities == pytest.approx(probabilities(row), abs=1e-4)
        together = folder[str(toys.photos / path)]
        assert probabilities(together) == pytest.approx(alone.probabilities, abs=1e-6)
        assert (together["predicted"], alone.predicted) == (row["predicted"], row["predicted"])
        assert float(together["confidence"]) == max(probabilities(together))
    several = list(model.predict([toys.photos], workers=3))
    assert several == list(model.predict(toys.photos))


def test_jpegs_of_a_camera_get_the_probabilities_that_were_evaluated(
    tmp_path: Path, toy_cache: Path
) -> None:
    """Large JPEGs are decoded at a fraction of their size, and some lie on their side."""
    from runs import train

    rng = np.random.default_rng(0)
    for name in ("day", "night"):
        (tmp_path / "shots" / name).mkdir(parents=True)
        for i in range(6):
            image = landscape(rng, 1600, 1100).point(
                lambda v, dark=name == "night": v // (1 + dark)
            )
            exif = Image.Exif()
            exif[0x0112] = 1 + i
            image.save(tmp_path / "shots" / name / f"{i}.jpg", exif=exif)
    run = train(tmp_path / "shots", tmp_path / "run")
    for row in table(run / "predictions.csv"):
        alone = next(load(run).predict(tmp_path / "shots" / row["path"]))
        assert alone.probabilities == pytest.approx(probabilities(row), abs=1e-4)


def test_images_of_any_sides_are_answered(toys: Any, tmp_path: Path) -> None:
    model = load(toys.run)
    for width, height in [(1, 1), (1, 3000), (3000, 1), (2000, 1500)]:
        Image.new("RGB", (width, height), (200, 50, 40)).save(tmp_path / "x.png")
        found = next(model.predict(tmp_path / "x.png"))
        assert found.error is None
        assert sum(found.probabilities or ()) == pytest.approx(1, abs=1e-5)


# -- what is given -------------------------------------------------------------------------------


def test_files_and_folders_are_answered_in_the_order_given(toys: Any, tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "1.png"):
        (tmp_path / "b" / "inner").mkdir(parents=True, exist_ok=True)
        shutil.copy(toys.photos / "red/red_0.png", tmp_path / "b" / "inner" / name)
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    lone = toys.photos / "blue/blue_1.png"
    found = expand([tmp_path / "b", lone, str(tmp_path / "b")])
    names = [f.name for f in found]
    assert names == ["1.png", "2.png", "10.png", "blue_1.png", "1.png", "2.png", "10.png"]


def test_a_corrupt_image_among_good_ones_gets_its_reason_and_the_exit_code_is_zero(
    toys: Any, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(toys.photos / "red", tmp_path / "new")
    (tmp_path / "new" / "red_1.png").write_bytes(b"no picture")
    (tmp_path / "new" / "red_2.png").write_bytes(b"")
    assert call("predict", toys.run, tmp_path / "new") == 0
    shown = capsys.readouterr()
    found = rows(shown.out)
    assert len(found) == 12
    bad = [row for row in found if row["error"]]
    assert [Path(row["path"]).name for row in bad] == ["red_1.png", "red_2.png"]
    assert all(row["predicted"] == row["confidence"] == row["p_red"] == "" for row in bad)
    assert shown.err == "10 predictions; 2 could not be read, see the column error\n"


@pytest.mark.parametrize("given", ["nothing.png", "empty", "empty/../nothing"])
def test_a_missing_image_or_an_empty_folder_is_refused(
    toys: Any, tmp_path: Path, capsys: Any, given: str
) -> None:
    (tmp_path / "empty").mkdir()
    told = refused(capsys, "predict", toys.run, tmp_path / given)
    assert given in told


def test_a_missing_model_is_refused(toys: Any, capsys: Any) -> None:
    told = refused(capsys, "predict", "runs/none", toys.photos)
    assert told == (
        "There is no model here: runs/none. Give a run folder, or the folder model/ in it, "
        "made by headstart fit."
    )


ODD = ["-rf.png", "=1+1.png", "new\nline.png", "😀.png", 'q"uo,te.png', "a\rb.png", " .png"]


def test_odd_file_names_stay_one_row_each_and_run_no_formula(
    toys: Any, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ODD:
        shutil.copy(toys.photos / "red/red_0.png", folder / name)
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:  # noqa: PTH123
        file.write((toys.photos / "red/red_0.png").read_bytes())
    assert call("predict", toys.run, folder) == 0
    found = rows(capsys.readouterr().out)
    assert len(found) == len(ODD) + 1
    assert all(row["predicted"] == "red" for row in found)
    assert sum("\\udcff" in row["path"] for row in found) == 1
    os.chdir(folder)
    assert call("predict", toys.run, "--", *ODD[:2]) == 0
    assert [row["path"] for row in rows(capsys.readouterr().out)] == ["'-rf.png", "'=1+1.png"]
    for out in ("x.csv", "x.jsonl"):
        assert call("predict", toys.run, folder, "--out", out) == 0
    assert len(Path("x.jsonl").read_text(encoding="utf-8").splitlines()) == len(ODD) + 1


# -- streaming -----------------------------------------------------------------------------------


def test_the_first_rows_appear_before_the_last_image_is_read(toys: Any) -> None:
    out = io.StringIO()
    seen: list[int] = []

    def answers() -> Iterator[Prediction]:
        for prediction in load(toys.run).predict(toys.photos):
            seen.append(len(rows(out.getvalue())))
            yield prediction

    write_predictions(answers(), ("blue", "green", "red"), None, out)
    assert seen == list(range(36))


def test_few_images_are_in_work_at_a_time(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory must not grow with the number of images: reading waits for the writer."""
    read: list[object] = []
    original = module.load_pixels

    def counting(path: Any, pre: Any) -> Any:
        read.append(path)
        return original(path, pre)

    monkeypatch.setattr(module, "load_pixels", counting)
    found = load(toys.run).predict([toys.photos / "red/red_0.png"] * 200, workers=2)
    next(found)
    time.sleep(0.3)
    assert len(read) < 20
    found.close()  # type: ignore[attr-defined]


def test_a_reader_that_wants_no_more_ends_it_quietly(toys: Any, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for i in range(60):
        shutil.copy(toys.photos / "red/red_0.png", many / f"{i}.png")
    with start("predict", toys.run, many) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("path,")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


# -- where it goes -------------------------------------------------------------------------------


def test_every_format_holds_the_same_rows(toys: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    images = (toys.photos / "red", tmp_path / "bad.png")
    assert call("predict", toys.run, *images, "--out", "a/b.csv") == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (
        shown.err
        == "12 predictions written to a/b.csv; 1 could not be read, see the column error\n"
    )
    assert call("predict", toys.run, *images, "--out", "c.JSONL") == 0
    lines = [json.loads(line) for line in Path("c.JSONL").read_text().splitlines()]
    for row, line in zip(table(Path("a/b.csv")), lines, strict=True):
        assert list(row) == list(line)
        told = {True: "true", False: "false", None: ""}
        assert row == {
            key: told[v] if v is None or isinstance(v, bool) else str(v) for key, v in line.items()
        }
    assert list(Path("a").iterdir()) == [Path("a/b.csv")]


def test_parquet_without_its_package_names_the_extra(
    toys: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    told = refused(capsys, "predict", toys.run, toys.photos, "--out", "x.parquet")
    assert "pip install 'headstart[data]'" in told


def test_parquet_holds_the_same_rows(toys: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for out in ("x.parquet", "x.jsonl"):
        assert call("predict", toys.run, toys.photos, "bad.png", "--out", out) == 0
    lines = [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()]
    assert parquet.read_table("x.parquet").to_pylist() == lines


def test_an_out_that_cannot_be_written_is_refused_before_any_image_is_read(
    toys: Any, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    assert ".csv, .jsonl, .parquet" in refused(
        capsys, "predict", toys.run, toys.photos, "--out", "x.xlsx"
    )
    assert "a folder" in refused(capsys, "predict", toys.run, toys.photos, "--out", "folder.csv")
    told = refused(capsys, "predict", toys.run, toys.photos, "--out", "file/x.csv")
    assert "not a folder" in told


def test_an_older_file_stays_until_the_new_one_is_whole(toys: Any, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    out.write_text("older")

    def broken() -> Iterator[Prediction]:
        yield from load(toys.run).predict(toys.photos / "red")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(broken(), ("blue", "green", "red"), out, sys.stdout)
    assert out.read_text() == "older"
    assert list(tmp_path.iterdir()) == [out]


# -- speed ---------------------------------------------------------------------------------------


def test_one_photo_is_answered_soon_and_without_torch(toys: Any) -> None:
    """1.5 s of processor time, the interpreter's start included."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = start("predict", toys.run, toys.photos / "red/red_0.png")
    out, _ = process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert out.count("\n") == 2
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5
