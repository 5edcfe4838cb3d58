"""The run folder: whole files or none, one run at a time, and records that every reader can parse."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headstart.errors import DataError, HeadstartError, MachineError, RunFolderError
from headstart.files import strict
from headstart.run import (
    Run,
    atomic_write,
    count_test_use,
    csv_cell,
    csv_text,
    differences,
    existing_manifest,
    latest,
    make_folder,
    next_free,
    read_json,
    versions,
    write_json,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates and control characters too
NASTY = [
    "",
    "two\nlines",
    "\x1b[31mred\x07",
    "\u202ertl",
    "\r",
    "\0",
    "\ud800",
    "\udcff",
    '"',
    "=1",
]


def strict_json(path: Path) -> Any:
    """What a reader that knows UTF-8 and RFC 8259, and nothing beyond, gets from a file."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = path.read_bytes().decode("utf-8")
    value = json.loads(text, parse_constant=refuse)
    assert json.dumps(value, ensure_ascii=False).encode("utf-8")  # no half of a surrogate pair
    return value


def run_child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


# -- whole files or none -------------------------------------------------------------------------


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "file.txt"
    for content in ("first", "second, which is longer", b"\xff\0bytes"):
        atomic_write(path, content)
        want = content if isinstance(content, bytes) else content.encode()
        assert path.read_bytes() == want
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_others_may_read_a_result_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_the_longest_name_of_wide_letters_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    atomic_write(path, "x")
    assert path.read_text() == "x"


def test_bytes_reach_the_disk_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def noted_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    atomic_write(tmp_path / "file", "x")
    assert done == ["file", "rename", "folder"]


def test_a_file_system_that_cannot_flush_folders_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def no_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", no_folders)
    atomic_write(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from headstart.errors import HeadstartError
from headstart.run import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in range(0, 100_000, 5_000):  # twenty fill levels
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        atomic_write(Path(sys.argv[1]), b"new" * 50_000)
    except HeadstartError as error:
        print(type(error).__name__, error.exit_code, error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on file sizes here")
def test_a_full_disk_leaves_the_old_file_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("old")
    told = run_child(FULL_DISK, tmp_path / "results.csv").stdout.splitlines()
    assert len(told) == 20
    for line in told:
        assert line.startswith("MachineError 1 Could not write the file: the disk is full")
        assert str(tmp_path / "results.csv") in line
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"results.csv": "old"}


KILLED = """
import os, signal, sys
from pathlib import Path
from headstart.run import atomic_write
left = int(sys.argv[2])
def count(event, arguments):
    global left
    if event in ("open", "os.rename", "os.mkdir", "os.remove") and sys.argv[1] in str(arguments):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
atomic_write(Path(sys.argv[1]) / "run.json", '{"status": "new"}')
"""


@pytest.mark.skipif(os.name != "posix", reason="no SIGKILL here")
def test_a_kill_at_any_operation_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path, seen = tmp_path / "run.json", set()
    for operations in range(10):
        path.write_text('{"status": "old"}')
        code = run_child(KILLED, tmp_path, operations).returncode
        seen.add(read_json(path)["status"])
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert seen == {"old", "new"}
    with Run(tmp_path, "fit", {}, 1):  # the next run clears away what the killed ones left
        assert {p.name for p in tmp_path.iterdir()} == {"run.json", ".lock"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_text("a file"), "is a file, not a folder"),
        (lambda p: p.symlink_to(p), "circle"),
        (lambda p: p.symlink_to("nowhere"), "is a file, not a folder"),
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


def test_a_folder_in_the_place_of_a_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "run.json" / "inside").mkdir(parents=True)
    with pytest.raises(RunFolderError, match="a folder has this name"):
        atomic_write(tmp_path / "run.json", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


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


# -- strict JSON ---------------------------------------------------------------------------------


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner) | st.tuples(inner),
    max_leaves=12,
)


@given(VALUES)
def test_any_value_becomes_strict_json_that_stays_the_same(value: object) -> None:
    once = strict(value)
    text = json.dumps(once, ensure_ascii=False, allow_nan=False).encode("utf-8")
    assert strict(json.loads(text)) == json.loads(text) == once


def test_json_files_are_strict_whatever_the_numbers_and_names(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    value = {
        "nan": float("nan"),
        "inf": [-float("inf"), np.float32("nan")],
        "numpy": [np.float32(0.5), np.int64(3), np.bool_(True), np.arange(3)],
        "path": Path("a") / name,
        name: "ü, 日本, 😀, \x1b",
    }
    write_json(tmp_path / "x.json", value)
    got = strict_json(tmp_path / "x.json")
    assert got == {
        "nan": None,
        "inf": [None, None],
        "numpy": [0.5, 3, True, [0, 1, 2]],
        "path": "a/caf\\udce9.png",
        "caf\\udce9.png": "ü, 日本, 😀, \x1b",
    }
    assert list(got) == ["nan", "inf", "numpy", "path", "caf\\udce9.png"]
    assert type(got["numpy"][2]) is bool


def test_what_has_no_place_in_json_is_refused_where_it_is_handed_in(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="set"):
        write_json(tmp_path / "x.json", {"classes": {1, 2}})
    with pytest.raises(TypeError), Run(tmp_path / "run", "fit", {}, 1) as run:
        run.note("classes", {1, 2})
    assert strict_json(tmp_path / "run" / "run.json")["status"] == "failed"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a": 1} x', b"null"]
)
def test_a_damaged_record_is_named_and_not_a_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"damaged.*run\.json"):
        read_json(path)
    with pytest.raises(RunFolderError, match="No such file"):
        read_json(tmp_path / "absent.json")


# -- CSV -----------------------------------------------------------------------------------------


def read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@given(st.lists(st.lists(ANY_TEXT, min_size=2, max_size=2), max_size=8))
@example([["a\rb", "x"], ["\r\n", '"\n"'], ["\0", "\t=1"], ["\udcff", "\ud800"]])
def test_tables_read_back_with_as_many_rows_and_no_formula(rows: list[list[str]]) -> None:
    text = csv_text(["path", "label"], rows)
    back = read_csv(text.encode("utf-8").decode("utf-8"))
    assert len(back) == len(rows) + 1
    for cells in back:
        assert len(cells) == 2
        assert not any(cell.startswith(tuple("=+-@\t\r\n\0")) for cell in cells)


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1))
def test_text_that_is_no_formula_comes_back_exactly(text: str) -> None:
    (cell,) = read_csv(csv_text([text], []))[0]
    assert cell in (text, f"'{text}")
    if text[0].isalnum():
        assert cell == text


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("-rf.png", "'-rf.png"),
        ("@cmd", "'@cmd"),
        ("＝1", "'＝1"),
        ("\ttab", "'\ttab"),
        ("\rcr", "'\\rcr"),
        ("\0nul", "'\\x00nul"),
        ("cats/1.jpg", "cats/1.jpg"),
        (-0.5, "-0.5"),
        (-3, "-3"),
        (1e-300, "1e-300"),
        (np.float64(-0.25), "-0.25"),  # its repr is np.float64(-0.25)
        (np.float32(-0.25), "-0.25"),
        (np.int64(-3), "-3"),
        (True, "True"),
        (None, ""),
        (Path("a/b"), "a/b"),
    ],
)
def test_numbers_stay_numbers_and_formulas_become_text(value: object, cell: str) -> None:
    assert csv_cell(value) == cell
    if isinstance(value, float):
        assert float(csv_cell(value)) == value


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
    assert latest(Path("my photos")) is None
    for name in ("my_photos-1", "my_photos-2", "my_photos-10", "my_photos-x", "other-30"):
        Path("runs", name).mkdir(parents=True)
    assert next_free(Path("my photos")) == Path("runs/my_photos-11")
    assert latest(Path("my photos")) == Path("runs/my_photos-10")
    Path("runs/my_photos-1").rmdir()
    assert latest(Path("my photos")) == Path("runs/my_photos-10")
    Path("runs/my_photos-11").symlink_to("nowhere")
    assert next_free(Path("my photos")) == Path("runs/my_photos-12")


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
        (tmp_path / "thesis.docx", "is a file, not a folder"),
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
        "--cut was None, is \\x1b",
    ]
    old = manifest | {"versions": versions() | {"numpy": "1.0", "python": "2.7"}}
    assert differences(old, settings) == [f"numpy was 1.0, is {np.__version__}"]


@pytest.mark.parametrize("damage", [{}, {"settings": None, "versions": 3}, {"settings": []}])
def test_a_manifest_that_was_edited_by_hand_differs_and_does_not_crash(damage: Any) -> None:
    assert differences(damage, {"seed": 1}) == ["--seed was None, is 1"]


def test_looks_at_one_test_part_are_counted_and_a_damaged_count_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    assert [count_test_use(["b", "a"]), count_test_use(["a", "b"]), count_test_use(["c"])] == [
        1,
        2,
        1,
    ]
    for path in (tmp_path / "test_sets").iterdir():
        path.write_text('{"scored": "many"}')
    assert count_test_use(["a", "b"]) == 1


def test_every_error_of_this_module_is_one_of_ours() -> None:
    assert issubclass(MachineError, HeadstartError)
    assert issubclass(RunFolderError, HeadstartError)
