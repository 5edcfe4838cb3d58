"""Ordered work in threads, and a progress line that is quiet where nobody looks."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart import parallel
from headstart.parallel import ordered_map, progress


@given(st.lists(st.integers(), max_size=40), st.integers(1, 4), st.integers(1, 9))
def test_results_come_in_the_order_of_the_items(items: list[int], workers: int, chunk: int) -> None:
    assert list(ordered_map(lambda i: i + 1, items, workers, chunk)) == [i + 1 for i in items]


def test_the_order_holds_when_early_items_are_slow() -> None:
    delays = [0.05, 0.0, 0.03, 0.0, 0.0, 0.01]
    assert list(ordered_map(lambda d: time.sleep(d) or d, delays, 3)) == delays


def test_arrays_are_items_too() -> None:
    assert list(ordered_map(int, np.arange(5), 2, 2)) == [0, 1, 2, 3, 4]


def test_work_in_flight_is_bounded_however_slow_the_caller_is() -> None:
    begun: list[int] = []
    results = ordered_map(lambda i: begun.append(i), range(1_000), workers=2, chunk=3)
    for taken, _ in enumerate(results, 1):
        if taken in (1, 10, 100):
            time.sleep(0.03)
            assert len(begun) <= taken + 4 * 2 * 3
    assert sorted(begun) == list(range(1_000))


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_arrives_in_its_place_and_stops_the_rest(kind: type[BaseException]) -> None:
    begun: list[int] = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 20:
            raise kind("toy")
        time.sleep(0.001)
        return i

    got: list[int] = []
    with pytest.raises(kind, match="toy"):
        got.extend(ordered_map(work, range(1_000), workers=2))
    assert got == list(range(20))
    assert len(begun) < 60


def test_a_caller_that_wants_no_more_stops_the_rest() -> None:
    begun: list[int] = []
    results = ordered_map(lambda i: begun.append(i) or time.sleep(0.001), range(1_000), 2, 4)
    next(results)
    results.close()
    after = len(begun)
    time.sleep(0.05)
    assert len(begun) == after < 60
    assert threading.active_count() < 10


def test_ctrl_c_waits_for_the_items_at_work_only() -> None:
    code = (
        "import sys, time\n"
        "from headstart.parallel import ordered_map\n"
        "def work(i):\n"
        "    if i == 0: print('begun', flush=True)\n"
        "    time.sleep(0.2)\n"
        "for _ in ordered_map(work, range(1000), 2, chunk=64): pass\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    assert time.monotonic() - began < 5  # a whole chunk takes 13 s


# -- progress ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_items_pass_through_unchanged_and_lazily() -> None:
    seen: list[int] = []

    def items() -> Iterator[int]:
        for i in range(3):
            seen.append(i)
            yield i

    passed = progress(items(), 3, "toy")
    assert seen == []
    assert next(passed) == 0
    assert seen == [0]
    assert list(passed) == [1, 2]


def test_a_log_file_gets_no_bar_not_even_with_forced_colour(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(progress(range(100), 100, "toy")) == list(range(100))
    assert capfd.readouterr() == ("", "")


def test_slow_work_without_a_terminal_gets_plain_lines(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "SECONDS_BETWEEN_LINES", 0.01)
    for _ in progress(range(4), 4, "checking"):
        time.sleep(0.02)
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert 1 <= len(lines) <= 3
    assert lines[0].startswith("checking: 1 of 4, ")
    assert all(line.isprintable() for line in lines)


def test_a_terminal_gets_a_bar_whose_label_is_taken_literally(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress(range(5), 5, "[/red] x")) == list(range(5))
    assert "[/red] x" in terminal.getvalue()


def test_nobody_listening_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "SECONDS_BETWEEN_LINES", 0.0)
    for stream in (Broken(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress(range(3), 3, "toy")) == [0, 1, 2]
