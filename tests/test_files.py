"""Files that are whole or not there, JSON that every reader can parse, CSV that runs no formula."""

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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headstart.errors import RunFolderError
from headstart.files import atomic_write, csv_cell, csv_text, read_json, strict, write_json
from headstart.run import Run

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates and control characters too


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


def test_text_of_undecodable_names_is_written_all_the_same(tmp_path: Path) -> None:
    atomic_write(tmp_path / "page.html", "caf\udce9 ü\ud800")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "caf\\udce9 ü\\ud800"


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


def test_a_folder_in_the_place_of_a_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "run.json" / "inside").mkdir(parents=True)
    with pytest.raises(RunFolderError, match="a folder has this name"):
        atomic_write(tmp_path / "run.json", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


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
