"""The demonstration: works anywhere, again and again, and never touches what it did not make."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from headstart import demo as module
from headstart.demo import demo, write_digits
from headstart.run import Run, read_json
from runs import call, refused, train


@pytest.fixture(autouse=True)
def _hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys are small; here they are split as large sets are."""
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)


@pytest.fixture(autouse=True)
def few_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The first 60 digits only, in a cache of this test's own; features in the session's cache."""
    whole = sklearn.datasets.load_digits()
    few = SimpleNamespace(images=whole.images[:60], target=whole.target[:60])
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: few)
    monkeypatch.setattr(module, "cache_dir", lambda: tmp_path / "cache")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return few


def test_digits_become_grey_images_that_hold_every_number(tmp_path: Path, few_digits: Any) -> None:
    folder = write_digits(tmp_path / "digits")
    files = sorted(folder.rglob("*.png"))
    assert len(files) == 60
    for path in files[::7]:
        i = int(path.stem)
        assert path.parent.name == str(few_digits.target[i])
        with Image.open(path) as image:
            pixels = np.asarray(image, dtype=np.float64)
        assert np.round(pixels * 16 / 255) == pytest.approx(few_digits.images[i])
    before = [path.stat().st_mtime_ns for path in files]
    write_digits(folder)
    assert [path.stat().st_mtime_ns for path in files] == before


def test_an_interrupted_writing_is_finished_the_next_time(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits")
    (folder / ".complete").unlink()
    victim = min(folder.rglob("*.png"))
    victim.write_bytes(b"half")
    write_digits(folder)
    with Image.open(victim) as image:
        assert image.size == (8, 8)


def test_it_runs_from_anywhere_and_twice(capsys: Any) -> None:
    for _ in range(2):
        assert call("demo") == 0
        shown = capsys.readouterr()
        assert "model:   runs/demo/model" in shown.out
        assert "headstart fit my_photos" in shown.out
        assert "handwritten digits" in shown.err
    assert Path("runs/demo/report.html").exists()
    assert read_json(Path("runs/demo/run.json"))["status"] == "done"
    assert [path.name for path in Path("runs").iterdir()] == ["demo"]


@pytest.mark.parametrize("known", [True, False])
def test_it_ends_with_what_to_type_also_where_the_shell_does_not_know_the_command(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if known else None)
    here = tmp_path / "here"
    monkeypatch.setattr(sys, "prefix", str(here / "my venv"))
    if known:
        assert module.how_to_go_on() == ["headstart fit my_photos"]
        return
    assert module.how_to_go_on() == [f"{shlex.quote(sys.executable)} -m headstart fit my_photos"]
    (here / "my venv" / "bin").mkdir(parents=True)
    (here / "my venv" / "bin" / "activate").touch()
    assert module.how_to_go_on() == [". 'my venv/bin/activate'", "headstart fit my_photos"]
    monkeypatch.chdir(tmp_path)
    assert module.how_to_go_on()[0] == ". 'here/my venv/bin/activate'"


def test_a_run_of_the_users_own_is_left_alone(photos: Path, capsys: Any) -> None:
    train(photos, Path("runs/demo"))
    before = (Path("runs/demo") / "run.json").read_bytes()
    assert "left alone" in refused(capsys, "demo")
    assert (Path("runs/demo") / "run.json").read_bytes() == before
    assert Path("runs/demo/model/model.onnx").exists()


def test_a_demo_with_files_of_the_users_own_in_it_is_left_alone(capsys: Any) -> None:
    demo(Path("runs/demo"))
    Path("runs/demo/notes.txt").write_text("my thoughts")
    assert "notes.txt" in refused(capsys, "demo")
    assert Path("runs/demo/notes.txt").read_text() == "my thoughts"
    assert Path("runs/demo/model/model.onnx").exists()


@pytest.mark.parametrize("content", ["{}", '{"settings": 3}', '{"settings": {"data": 1}}'])
def test_a_folder_that_only_looks_like_a_run_is_left_alone(capsys: Any, content: str) -> None:
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/run.json").write_text(content)
    assert "left alone" in refused(capsys, "demo")
    assert Path("runs/demo/run.json").read_text() == content


def test_an_interrupted_demo_is_gone_on_with_and_one_at_work_is_left_alone(capsys: Any) -> None:
    demo(Path("runs/demo"))
    stored = read_json(Path("runs/demo/run.json"))
    Path("runs/demo/run.json").write_text(json.dumps(stored | {"status": "running"}))
    shutil.rmtree("runs/demo/model")
    with Run(Path("runs/demo"), "fit", stored["settings"], 1):
        assert "is working in this run folder" in refused(capsys, "demo")
    Path("runs/demo/run.json").write_text(json.dumps(stored | {"status": "running"}))
    assert call("demo") == 0
    assert Path("runs/demo/model/model.onnx").exists()
