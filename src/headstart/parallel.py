"""Ordered work in threads, and the one progress line on the terminal.

Threads, not processes: Pillow and ONNX Runtime release the interpreter lock, pixels need not be
copied, and nothing is imported twice.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")
R = TypeVar("R")

SECONDS_BETWEEN_LINES = 15.0


def ordered_map(
    work: Callable[[T], R], items: Sequence[T], workers: int, chunk: int = 1
) -> Iterator[R]:
    """Results of `work` in the order of `items`, computed by `workers` threads.

    At most 4 chunks per worker are in flight, so memory does not grow with the number of items. An
    exception, Ctrl-C or a caller that wants no more stops the rest: the items at work are waited for.
    """
    if workers == 1:  # in this thread: jobs that are small and many need no hand-over
        yield from map(work, items)
        return
    stopped = threading.Event()

    def work_chunk(part: Sequence[T]) -> list[R]:
        return [work(item) for item in part if not stopped.is_set()]

    parts = iter([items[i : i + chunk] for i in range(0, len(items), chunk)])
    pending: deque[Future[list[R]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for part in parts:
                pending.append(pool.submit(work_chunk, part))
                if len(pending) >= 4 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            stopped.set()
            for future in pending:
                future.cancel()


def one_blas_thread() -> AbstractContextManager[object]:
    """Linear algebra on one thread: jobs run side by side instead, which is faster for matrices
    of this size, and the sums are then the same whatever the number of processors."""
    return _blas().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]


@functools.cache
def _blas() -> Any:
    """The linear algebra libraries of this process; finding them takes milliseconds."""
    import scipy.linalg  # noqa: F401 - brings one of its own, which must be among them
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _RateColumn(ProgressColumn):
    """Images per second since the start."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        return Text(f"{task.completed / elapsed:.0f} img/s" if elapsed > 0.5 else "")


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Pass items through while one line on stderr shows how far, how fast and how long still.

    Without a terminal (a log file, CI) a plain line is printed every 15 seconds.
    """
    # Not Console.is_terminal: the variable FORCE_COLOR would draw bars into log files.
    if sys.stderr is None or not sys.stderr.isatty():
        yield from _plain_progress(items, total, label)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        for item in items:
            yield item
            bar.advance(task)


def _plain_progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    began = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done < total:
            rate = done / (now - began)
            left = (total - done) / rate
            with contextlib.suppress(AttributeError, OSError, ValueError):  # nobody is listening
                sys.stderr.write(
                    f"{label}: {done} of {total}, {rate:.0f} img/s, {left:.0f} s left\n"
                )
            last = now
