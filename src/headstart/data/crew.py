"""Many files are looked at by processes of their own: threads would queue for the interpreter.

Of a small file most of the time is Python's (headers, paths, objects), of which one process does
one thing at a time. The children are this file, run as a module; they answer over pipes in JSON and
raw bytes, a chunk of files at a time, and end when their input does.

    question: one line, a JSON list of paths
    answer: one line, a JSON list of records, then the fingerprints of those that are readable
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from itertools import chain
from pathlib import Path
from typing import IO, Any

from headstart.data.align import SIDE_PX
from headstart.data.images import ImageInfo, ImageRefused, inspect
from headstart.data.near import CHROMA_PX, Fingerprint, fingerprint
from headstart.errors import MachineError
from headstart.parallel import ordered_map

GREY_BYTES, CHROMA_BYTES = SIDE_PX**2, 2 * CHROMA_PX**2
CHUNK = 128
Looked = tuple[ImageInfo, Fingerprint] | tuple[str, str]
"""what is known of a file, or the reason and the detail of its refusal"""


def look(path: str | os.PathLike[str], min_side_px: int) -> Looked:
    """Decode one file whole, hash it, and take its fingerprint."""
    try:
        info, image = inspect(path, min_side_px=min_side_px)
    except ImageRefused as error:
        return error.reason, error.detail
    return info, fingerprint(image)


def look_at_many(paths: Sequence[Path], min_side_px: int, workers: int) -> Iterator[Looked]:
    """`look` at every file, in order, by as many child processes as there are workers.

    Raises:
        MachineError: a child has ended before its work was done.
    """
    parts = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    with contextlib.ExitStack() as stack:
        idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for _ in range(min(workers, len(parts))):
            child = _start(min_side_px)
            stack.callback(_end, child)
            idle.put(child)

        def ask(part: Sequence[Path]) -> list[Looked]:
            child = idle.get()
            try:
                return _ask(child, part)
            finally:
                idle.put(child)

        yield from chain.from_iterable(ordered_map(ask, parts, workers))


def _start(min_side_px: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P: a file random.py in the current folder must not stand in for a module.
        [sys.executable, "-P", "-m", "headstart.data.crew", str(min_side_px)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


def _ask(child: subprocess.Popen[bytes], part: Sequence[Path]) -> list[Looked]:
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps([os.fspath(path) for path in part]).encode() + b"\n")
        child.stdin.flush()
        records = json.loads(child.stdout.readline())
        return [_record(record, child.stdout) for record in records]
    except (OSError, ValueError) as cause:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=1)  # it has ended by itself; or it is ended now
        child.kill()
        raise MachineError(
            "A process that looked at files has ended before its work was done",
            received=f"exit code {child.wait()}",
            do="Run it again; if it happens again, there may be too little memory.",
        ) from cause


def _record(record: list[Any], prints: IO[bytes]) -> Looked:
    if len(record) == 2:
        return str(record[0]), str(record[1])
    *fields, detail_px = record
    grey, chroma = prints.read(GREY_BYTES), prints.read(CHROMA_BYTES)
    if len(chroma) < CHROMA_BYTES:
        raise ValueError("the answer is cut short")
    return ImageInfo(*fields), Fingerprint(grey, chroma, detail_px)


def main() -> None:
    """A child: answer until there are no more questions. Stopping is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    min_side_px = int(sys.argv[1])
    for line in sys.stdin.buffer:
        records: list[list[Any]] = []
        prints: list[bytes] = []
        for path in json.loads(line):
            info, found = look(path, min_side_px)
            if isinstance(info, ImageInfo) and isinstance(found, Fingerprint):
                records.append([*astuple(info), found.detail_px])
                prints += [found.grey, found.chroma]
            else:
                records.append([info, found])
        sys.stdout.buffer.write(json.dumps(records).encode() + b"\n" + b"".join(prints))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
