"""Kill a training with SIGKILL at every operation of its checkpoints and at random moments; resume it.

python benchmarks/kills.py [--points 60]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))  # the lesson that is learned


def kills(points: int) -> None:
    """Kill a training by SIGKILL at operations of its checkpoints and at random moments; resume it.

    Every run is a process of its own, forked before anything was computed.
    """
    import torch

    import lessons

    torch.set_num_threads(1)  # a pool of threads would not come along into a fork

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        lessons.start()  # made once
        whole, seconds = in_child(lambda: lessons.train(root / "whole"))
        operations = int((root / "whole" / "operations").read_text())
        rng = np.random.default_rng(0)
        every = [("operation", k) for k in range(operations)]
        chosen = (
            every
            if points >= 60
            else [every[i] for i in np.linspace(0, operations - 1, points // 2).astype(int)]
        )
        chosen = chosen[: max(0, points - points // 4)] if points < 60 else chosen[: points - 12]
        plan: list[tuple[str, float]] = [(kind, float(k)) for kind, k in chosen]
        while len(plan) < points:
            plan.append(("moment", float(rng.uniform(0, seconds))))
        equal, died = 0, 0
        for i, (kind, at) in enumerate(plan):
            folder = root / str(i)
            died += killed(lambda folder=folder: lessons.train(folder), kind, at)
            again, _ = in_child(lambda folder=folder: lessons.train(folder))
            equal += again == whole
        print("| kill points | really killed | resumed to the same bits |\n|---|---|---|")
        print(f"| {points} ({operations} operations in a run) | {died} | {equal} of {points} |")
    if equal < points:
        raise SystemExit(1)


def in_child(work: Callable[[], Any]) -> tuple[str, float]:
    """Digest of a training in a process of its own, and its seconds."""
    import lessons

    reader, writer = os.pipe()
    began = time.perf_counter()
    if (child := os.fork()) == 0:
        code = 1
        try:
            done = count_operations(None)
            result = work()
            os.write(writer, lessons.digest_of(result).encode())
            if done and (whole := Path(done[0]).parent).name == "whole":
                (whole / "operations").write_text(str(len(done)))
            code = 0
        except BaseException as cause:  # the parent must hear of it
            os.write(writer, f"{type(cause).__name__}: {cause}".encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer, time.perf_counter() - began


def killed(work: Callable[[], Any], kind: str, at: float) -> bool:
    """Run work in a process that is killed; False when it was over before."""
    if (child := os.fork()) == 0:
        if kind == "operation":
            count_operations(int(at))
        work()
        os._exit(0)
    if kind == "moment":
        time.sleep(at)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def count_operations(fatal: int | None) -> list[str]:
    """List writes, flushes and renames of this process; before the fatal one it kills itself."""
    done: list[str] = []

    def dies(path: object) -> None:
        if len(done) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(str(path))

    real_open, real_replace, real_fsync = Path.open, Path.replace, os.fsync

    class Writing:
        def __init__(self, file: Any, path: Path) -> None:
            self.file, self.path = file, path

        def write(self, data: bytes) -> None:
            if len(done) == fatal:  # half of it arrives
                self.file.write(data[: len(data) // 2])
                self.file.flush()
            dies(self.path)
            self.file.write(data)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = real_open(path, mode, *args, **kwargs)
        return Writing(file, path) if "x" in mode else file

    def replaced(path: Path, target: Path) -> Path:
        dies(target)
        return real_replace(path, target)

    def flushed(handle: int) -> None:
        dies("flush")
        real_fsync(handle)

    Path.open, Path.replace, os.fsync = opened, replaced, flushed  # type: ignore[assignment, method-assign]
    return done


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=60)
    kills(parser.parse_args().points)


if __name__ == "__main__":
    main()
