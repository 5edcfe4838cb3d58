"""The run folder: one run at a time, and records that tell how it ended whatever happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import DataError, RunFolderError
from headstart.files import strict
from headstart.run import (
    Run,
    atomic_write,
    differences,
    existing_manifest,
    latest,
    make_folder,
    next_free,
    read_json,
    versions,
)

NASTY = ["", "two\nlines", "\x1b[31mred\x07", "\u202ertl", "\r", "\0", "\ud800", "\udcff", '"']


def strict_json(path: Path) -> Any:
    """What a reader that knows UTF-8 and RFC 8259, and nothing beyond, gets from a file."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = path.read_bytes().decode("utf-8")
    value = json.loads(text, parse_constant=refuse)
    assert json.dumps(value, ensure_ascii=False).encode("utf-8")  # no half of a surrogate pair
    return value


# -- folders that cannot be ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_text("a file"), "is not a folder"),
        (lambda p: p.symlink_to(p), "is not a folder|circle"),
        (lambda p: p.symlink_to("nowhere"), "is not a folder"),
    ],
)
def test_a_path_that_cannot_hold_a_run_is_the_users_to_mend(
    tmp_path: Path, make: Any, words: str
) -> None:
    bad = tmp_path / "bad"
    make(bad)
    for attempt in (
        lambda: atomic_write(bad / "run.json", "x"),
        lambda: make_folder(bad / "run"),
        lambda: Run(bad / "run", "fit", {}, 1).__enter__(),
    ):
        with pytest.raises(RunFolderError, match=words) as refused:
            attempt()
        assert str(bad) in str(refused.value)


def test_a_folder_that_may_not_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere (root)")
        with pytest.raises(RunFolderError, match="permission denied"):
            make_folder(tmp_path / "run")
        with pytest.raises(RunFolderError, match="permission denied"):
            atomic_write(tmp_path / "file", "x")
    finally:
        tmp_path.chmod(0o700)


# -- one run at a time ---------------------------------------------------------------------------


def test_a_second_run_in_the_folder_is_refused_naming_the_process(tmp_path: Path) -> None:
    with Run(tmp_path, "fit", {}, 1) as first:
        with pytest.raises(RunFolderError, match=rf"pid {os.getpid()}\b"):
            Run(tmp_path, "fit", {}, 1).__enter__()
        first.note("mine", True)
    assert strict_json(tmp_path / "run.json")["mine"] is True
    with Run(tmp_path, "fit", {}, 1):  # free again
        pass


HOLDER = """
import sys, time
from pathlib import Path
from headstart.run import Run
with Run(Path(sys.argv[1]), "fit", {}, 1) as run:
    run.log("begun")
    with run.path("log.jsonl").open("a") as log:
        log.write('{"half a li')
    run.path(".plan.json.0123.tmp").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="no SIGKILL here")
def test_the_lock_of_a_live_process_holds_and_of_a_killed_one_is_taken_over(
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            with pytest.raises(RunFolderError, match=rf"pid {child.pid}\b"):
                Run(tmp_path, "fit", {}, 1).__enter__()
        finally:
            child.kill()
    assert strict_json(tmp_path / "run.json")["status"] == "running"
    with Run(tmp_path, "fit", {}, 1) as run:
        run.log("gone on")
        assert not list(tmp_path.glob(".*.tmp"))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["begun", "gone on"]


def test_a_run_that_cannot_begin_gives_its_lock_back(tmp_path: Path) -> None:
    (tmp_path / "run.json" / "inside").mkdir(parents=True)
    with pytest.raises(RunFolderError):
        Run(tmp_path, "fit", {}, 1).__enter__()
    (tmp_path / "run.json" / "inside").rmdir()
    (tmp_path / "run.json").rmdir()
    with Run(tmp_path, "fit", {}, 1):
        pass


def test_a_lock_that_cannot_be_opened_is_an_error_of_the_run_folder(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunFolderError, match="lock"):
        Run(tmp_path, "fit", {}, 1).__enter__()


# -- the manifest and the log --------------------------------------------------------------------


def ended(folder: Path, error: BaseException | None, finish: str | None = None) -> dict[str, Any]:
    try:
        with Run(folder, "fit", {"seed": 3}, 2) as run:
            assert strict_json(folder / "run.json")["status"] == "running"
            with run.step("check"):
                pass
            if finish:
                run.finish(finish)
            if error:
                raise error
    except BaseException as left:
        if left is not error:
            raise
    manifest: dict[str, Any] = strict_json(folder / "run.json")
    return manifest


@pytest.mark.parametrize(
    ("error", "finish", "status", "words"),
    [
        (None, "done", "done", None),
        (None, None, "done", None),
        (DataError("No images", where="x"), None, "failed", "No images: x."),
        (RuntimeError("\x1b[31mtoy\n\udcff"), None, "failed", "RuntimeError: \\x1b[31mtoy\\n"),
        (MemoryError(), None, "failed", "MemoryError"),
        (KeyboardInterrupt(), None, "stopped", "stopped by the user"),
        (SystemExit(143), None, "stopped", "stopped by the user"),
        (KeyboardInterrupt(), "done", "done", None),
        (ValueError("late"), "done", "failed", "ValueError: late"),
    ],
)
def test_run_json_tells_how_it_ended(
    tmp_path: Path, error: BaseException | None, finish: str | None, status: str, words: str | None
) -> None:
    manifest = ended(tmp_path / "run", error, finish)
    assert manifest["status"] == status
    assert (manifest["error"] or "").startswith(words or "")
    assert (manifest["error"] is None) == (words is None)
    assert manifest["steps"][0]["name"] == "check"
    assert manifest["peak_rss_mb"] > 1
    assert (manifest["seed"], manifest["threads"], manifest["name"]) == (3, 2, "run")
    assert manifest["versions"]["numpy"] == np.__version__


def test_facts_of_any_kind_leave_run_json_strict(tmp_path: Path) -> None:
    with Run(tmp_path, "fit", {"data": Path("a"), "budget": float("nan")}, 1) as run:
        for i, text in enumerate(NASTY):
            run.note(f"{i}{text}", {text: [text, np.float64("inf")]})
    manifest = strict_json(tmp_path / "run.json")
    assert manifest["status"] == "done"
    assert len([key for key in manifest if key[0].isdigit()]) == len(NASTY)


def test_the_first_error_is_told_when_recording_it_fails_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the first"), Run(tmp_path, "fit", {}, 1) as run:
        (tmp_path / "run.json").unlink()
        (tmp_path / "run.json" / "inside").mkdir(parents=True)
        raise DataError("the first")
    with pytest.raises(RunFolderError):
        run.finish("done")


def test_an_end_that_cannot_be_recorded_is_no_good_end(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="a folder has this name"), Run(tmp_path, "fit", {}, 1):
        (tmp_path / "run.json").unlink()
        (tmp_path / "run.json" / "inside").mkdir(parents=True)


def test_every_event_is_one_line_of_strict_json(tmp_path: Path) -> None:
    with Run(tmp_path, "fit", {}, 1) as run:
        for text in NASTY:
            run.log(text, path=Path(text.replace("\0", "") or "."), text=text, score=float("nan"))
        run.log("odd", error=ValueError("x"), kinds={1})
    lines = (tmp_path / "log.jsonl").read_bytes().decode("utf-8").split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(NASTY) + 1
    for line, text in zip(lines, [*NASTY, "odd"], strict=True):
        (tmp_path / "line").write_text(line)
        assert strict_json(tmp_path / "line")["event"] == strict(text)


def test_threads_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    with Run(tmp_path, "fit", {}, 1) as run:
        jobs = [
            threading.Thread(target=lambda: [run.log("x", text="y" * 500) for _ in range(50)])
            for _ in range(4)
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 200
    assert all(json.loads(line)["event"] == "x" for line in lines)


# -- names, resume -------------------------------------------------------------------------------


def test_the_default_folder_is_the_next_free_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert next_free(Path("my photos/")) == Path("runs/my_photos-1")
    for name in ("my_photos-1", "my_photos-2", "my_photos-10", "my_photos-x", "other-30"):
        Path("runs", name).mkdir(parents=True)
    assert next_free(Path("my photos")) == Path("runs/my_photos-11")
    Path("runs/my_photos-1").rmdir()
    assert next_free(Path("my photos")) == Path("runs/my_photos-11")
    Path("runs/my_photos-11").symlink_to("nowhere")
    assert next_free(Path("my photos")) == Path("runs/my_photos-12")


def test_the_newest_run_is_that_of_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = Path("my photos")
    assert latest(photos, "fit") is None
    made = {2: "fit", 9: "fit", 10: "plan", 11: None, 12: "[]", 13: "no JSON", 30: "fit"}
    for number, command in made.items():
        folder = Path("runs", f"{'other' if number == 30 else 'my_photos'}-{number}")
        folder.mkdir(parents=True)
        if command is not None:
            text = command if number in (12, 13) else json.dumps({"command": command})
            (folder / "run.json").write_text(text)
    assert latest(photos, "fit") == Path("runs/my_photos-9")
    assert latest(photos, "plan") == Path("runs/my_photos-10")
    assert latest(photos, "compare") is None
    assert next_free(photos) == Path("runs/my_photos-14")


@pytest.mark.parametrize(
    "name",
    ["/", ".", "..", "-rf", "$(id)", "a" * 255, "é" * 127, "..hidden", "\udcff\x1b\n", "日本"],
)
def test_any_data_folder_gives_a_name_that_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = next_free(Path(name))
    folder.mkdir(parents=True)
    assert folder.parent == Path("runs")
    assert folder.name[0] not in "-.$"
    assert folder.name.isprintable()


def test_a_missing_or_empty_folder_holds_no_run(tmp_path: Path) -> None:
    assert existing_manifest(tmp_path / "absent") is None
    assert existing_manifest(tmp_path) is None
    for litter in (".lock", ".DS_Store", ".run.json.12ab.tmp"):  # as a kill at the start leaves it
        (tmp_path / litter).touch()
    assert existing_manifest(tmp_path) is None


def test_what_is_not_a_run_is_refused_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").touch()
    for folder, words in [
        (tmp_path, "not a headstart run"),
        (tmp_path / "thesis.docx", "is not a folder"),
    ]:
        with pytest.raises(RunFolderError, match=words) as refused:
            existing_manifest(folder)
        assert "--out" in str(refused.value)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        existing_manifest(tmp_path)


def test_a_finished_run_is_found_again(tmp_path: Path) -> None:
    ended(tmp_path, None, "done")
    manifest = existing_manifest(tmp_path)
    assert manifest is not None
    assert manifest["status"] == "done"


def test_differences_name_what_changed_and_nothing_else(tmp_path: Path) -> None:
    settings = {"seed": 1, "small_below": 10, "data": Path("a"), "sides": (1, 2), "cut": None}
    with Run(tmp_path, "fit", settings, 1):
        pass
    manifest = read_json(tmp_path / "run.json")
    assert differences(manifest, settings) == []
    assert differences(manifest, settings | {"small_below": 20, "cut": "\x1b"}) == [
        "--small-below was 10, is 20",
        "--cut was not given, is \\x1b",
    ]
    old = manifest | {"versions": versions() | {"numpy": "1.0", "python": "2.7"}}
    assert differences(old, settings) == [f"numpy was 1.0, is {np.__version__}"]


@pytest.mark.parametrize("damage", [{}, {"settings": None, "versions": 3}, {"settings": []}])
def test_a_manifest_that_was_edited_by_hand_differs_and_does_not_crash(damage: Any) -> None:
    assert differences(damage, {"seed": 1}) == ["--seed was not given, is 1"]


# -- results that belong together ----------------------------------------------------------------


def test_results_that_belong_together_appear_together_or_not_at_all(tmp_path: Path) -> None:
    with Run(tmp_path / "run", "fit", {}, threads=1) as run:
        run.write_json("plan.json", {"of": "first"})
        with pytest.raises(OSError, match="full"), run.together():
            run.write_json("plan.json", {"of": "second"})
            run.write_text("predictions.csv", "path")
            raise OSError("the disk is full")
        assert read_json(run.path("plan.json")) == {"of": "first"}
        assert not run.path("predictions.csv").exists()
        with run.together():
            run.write_json("plan.json", {"of": "second"})
            assert read_json(run.path("plan.json")) == {"of": "first"}
            run.write_text("predictions.csv", "path")
        assert read_json(run.path("plan.json")) == {"of": "second"}
        assert run.path("predictions.csv").read_text() == "path"
    assert not list(run.folder.glob(".*.tmp"))


def test_what_a_killed_process_had_not_published_is_swept(tmp_path: Path) -> None:
    with Run(tmp_path / "run", "fit", {}, threads=1) as run:
        (run.folder / ".plan.json.together.tmp").write_text("half")
    with Run(tmp_path / "run", "fit", {}, threads=1) as run:
        assert not list(run.folder.glob(".*.tmp"))


def test_a_test_part_that_was_scored_stays_scored_after_a_stop(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "run", "fit", {}, threads=1) as run:
        assert not run.looked_at_test
        assert run.look_at_test() is False
        raise KeyboardInterrupt
    with Run(tmp_path / "run", "fit", {}, threads=1) as run:
        assert run.looked_at_test and run.look_at_test() is True


def test_a_training_goes_on_only_by_the_torch_that_began_it() -> None:
    stored = {"settings": {}, "versions": versions() | {"torch": "0.1"}}
    assert differences(stored, {}) == []
    assert "torch was 0.1" in differences(stored, {}, trained=True)[0]
