"""The run folder: every path, the lock, the log and the manifest. Nobody else invents a path.

    RUN/  run.json · data.json · split.csv · plan.json · evaluation.json · predictions.csv
          mistakes.json · suggestions.csv · held_out.csv · learned_from.json · report.html · log.jsonl
          model/

How a file is written, whole or not at all, is told in files.py; what a folder is called, in naming.py.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from headstart.errors import HeadstartError, RunFolderError, show, told
from headstart.files import (
    atomic_write,
    csv_cell,
    csv_text,
    read_json,
    strict,
    sync_folder,
    temporary,
    write_json,
)
from headstart.naming import latest, next_free

__all__ = [
    "Run",
    "atomic_write",
    "csv_cell",
    "csv_text",
    "differences",
    "existing_manifest",
    "latest",
    "make_folder",
    "next_free",
    "peak_rss_mb",
    "read_json",
    "sync_folder",
    "versions",
    "write_json",
]
RESULTS = ("run.json", "data.json", "split.csv", "plan.json", "evaluation.json")
VERSIONS_THAT_MATTER = ("headstart", "onnxruntime", "scikit-learn", "numpy", "pillow")
VERSIONS_THAT_TRAIN = ("torch", "timm")
LOOKED = "test_part_scored"
TRAINING = "training"
"""folder of what is needed to go on with the training of a network"""


# -- the run -------------------------------------------------------------------------------------


class Run:
    """One run folder, locked while it is open; its manifest is written at every change of state.

    Use as a context manager: an exception that leaves the block is recorded in run.json.
    """

    def __init__(self, folder: Path, command: str, settings: dict[str, Any], threads: int) -> None:
        self.folder = folder
        self.resumed_note: str | None = None
        self._began = time.perf_counter()
        self._manifest: dict[str, Any] = {
            "status": "running",
            "headstart": versions().get("headstart"),
            "command": command,
            "name": folder.absolute().name,
            "settings": settings,
            "seed": settings.get("seed"),
            "threads": threads,
            "versions": versions(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": [],
            "error": None,
        }
        self._lock: int | None = None
        self._staged: dict[Path, Path] | None = None
        """where a result lies until all are written, and where it goes; None: nothing is staged"""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the command began to work in this folder."""
        return time.perf_counter() - self._began

    def path(self, name: str) -> Path:
        """The path of one result by its name in the contract."""
        return self.folder / name

    @property
    def model(self) -> Path:
        """The bundle's folder."""
        return self.folder / "model"

    def __enter__(self) -> Self:
        make_folder(self.folder)
        self._lock = _lock(self.folder / ".lock")
        try:
            self._mend()
            if (before := existing_manifest(self.folder)) is not None and before.get(
                LOOKED
            ) is True:
                self.note(LOOKED, True)  # what was seen once is not unseen
            self._save()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        running = self._manifest["status"] == "running"
        try:
            if error is None and running:
                self.finish("done")
            elif isinstance(error, KeyboardInterrupt | SystemExit) and running:
                self.finish("stopped", "stopped by the user")
            elif isinstance(error, Exception):
                own = isinstance(error, HeadstartError)
                self.finish("failed", f"{'' if own else type(error).__name__ + ': '}{show(error)}")
        except HeadstartError:
            if error is None:
                raise  # else the first error is the one to tell
        finally:
            self._unlock()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step of the job and record it."""
        began = time.perf_counter()
        yield
        seconds = round(time.perf_counter() - began, 3)
        self._manifest["steps"].append({"name": name, "seconds": seconds})
        self.log("step", name=name, seconds=seconds)

    def note(self, key: str, value: object) -> None:
        """Record one more fact in run.json."""
        self._manifest[key] = strict(value)

    def finish(self, status: str, error: str | None = None) -> None:
        """Close the manifest with `done`, `stopped` or `failed`."""
        self._manifest |= {
            "status": status,
            "error": error,
            "seconds": round(time.perf_counter() - self._began, 3),
            "peak_rss_mb": peak_rss_mb(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._save()

    def write_json(self, name: str, value: object) -> None:
        """Write one JSON result."""
        write_json(self._place(name), value)

    def write_text(self, name: str, text: str) -> None:
        """Write one text result."""
        atomic_write(self._place(name), text)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Results that belong together appear when the last of them is written; after an error none
        does, and what was there before stays as it was."""
        staged: dict[Path, Path] = {}
        self._staged = staged
        try:
            yield
            with told("Could not put the results in their places", self.folder):
                for place, goal in staged.items():
                    place.replace(goal)
        finally:
            self._staged = None
            for place in staged:
                with contextlib.suppress(OSError):
                    place.unlink(missing_ok=True)

    def _place(self, name: str) -> Path:
        if self._staged is None:
            return self.path(name)
        place = self.folder / f".{name}.together.tmp"
        self._staged[place] = self.path(name)
        return place

    def look_at_test(self) -> bool:
        """Record, before it happens, that the test part is scored; True when it was before in this run,
        also by a process that was stopped."""
        again = self.looked_at_test
        self.note(LOOKED, True)
        self._save()
        return again

    @property
    def looked_at_test(self) -> bool:
        """Whether the test part of this run has been scored."""
        return self._manifest.get(LOOKED) is True

    def log(self, event: str, **facts: object) -> None:
        """Append one event to log.jsonl: one line, whatever the strings hold."""
        seconds = round(time.perf_counter() - self._began, 3)
        try:
            facts = strict(facts)
        except TypeError:
            facts = {key: str(fact) for key, fact in facts.items()}
        line = json.dumps(strict({"t": seconds, "event": event, **facts}), allow_nan=False)
        path = self.path("log.jsonl")
        with told("Could not write the log", path), path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _save(self) -> None:
        write_json(self.path("run.json"), self._manifest)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _mend(self) -> None:
        """Clear away what a killed process left: temporary files, half a line of the log."""
        log = self.path("log.jsonl")
        with told("Could not tidy the run folder", self.folder):
            for leftover in [*self.folder.glob(".*.tmp"), *self.model.glob(".*.tmp")]:
                leftover.unlink()
            if log.exists():
                with log.open("r+b") as file:
                    file.truncate(file.read().rfind(b"\n") + 1)


def make_folder(folder: Path) -> None:
    """Create a folder and prove that it can be written to, before any work is done."""
    with told("Could not create the run folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = temporary(folder / "probe")
        probe.touch(exist_ok=False)
        probe.unlink()


def _lock(path: Path) -> int:
    """Hold an advisory lock that the system drops when the process dies, however it dies."""
    with told("Could not lock the run folder", path.parent):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:  # pragma: no cover - exercised on Windows only
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as cause:
        if cause.errno in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            return handle  # a file system without locks, as on some clusters: work unguarded
        owner = ""
        with contextlib.suppress(OSError):
            owner = os.read(handle, 32).decode(errors="replace").strip()
        os.close(handle)
        raise RunFolderError(
            f"Another headstart process ({owner or 'unknown'}) is working in this run folder",
            where=path.parent,
            do="Wait for it, or choose another folder with --out.",
        ) from cause
    with contextlib.suppress(OSError):  # a full disk: the next write says so; the lock holds
        os.ftruncate(handle, 0)
        os.write(handle, f"pid {os.getpid()}\n".encode())
    return handle


# -- resume --------------------------------------------------------------------------------------


def existing_manifest(folder: Path) -> dict[str, Any] | None:
    """The run.json of an existing run folder, or None when the folder is missing or empty.

    Raises:
        RunFolderError: the path is a file, or a non-empty folder that is not a run.
    """
    if not os.path.lexists(folder):
        return None
    with told("Could not read the run folder", folder):
        # Hidden files do not count: .DS_Store, and the lock of a run that died before its first line.
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    if not names:
        return None
    if "run.json" not in names:
        raise RunFolderError(
            "This folder is not empty and is not a headstart run",
            where=folder,
            do="Choose a new folder with --out.",
        )
    return read_json(folder / "run.json")


def differences(
    manifest: dict[str, Any], settings: dict[str, Any], trained: bool = False
) -> list[str]:
    """What a stored run disagrees with: settings that matter and versions, one phrase each.

    Args:
        trained: a network is being trained there: it goes on as it began only by the same torch.
    """
    stored, old_versions = (
        found if isinstance(found := manifest.get(key), dict) else {}
        for key in ("settings", "versions")
    )
    found = [
        f"--{key.replace('_', '-')} was {_given(stored.get(key))}, is {_given(value)}"
        for key, value in strict(settings).items()
        if stored.get(key) != value
    ]
    now = versions()
    matter = (*VERSIONS_THAT_MATTER, *(VERSIONS_THAT_TRAIN if trained else ()))
    found += [
        f"{name} was {show(old)}, is {now.get(name)}"
        for name, old in old_versions.items()
        if name in matter and now.get(name) != old
    ]
    return found


def _given(value: object) -> str:
    """
    >>> _given(None), _given([]), _given(0.5)
    ('not given', 'not given', '0.5')
    """
    return "not given" if value is None or value == [] else show(value)


def versions() -> dict[str, str]:
    """Versions of what decides a result, without importing any of it."""
    found = {"python": platform.python_version()}
    for package in (*VERSIONS_THAT_MATTER, *VERSIONS_THAT_TRAIN):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in MB (0 where nobody counts it)."""
    if sys.platform == "win32":
        return 0.0
    with contextlib.suppress(OSError, StopIteration, ValueError):  # Linux
        # Not ru_maxrss: a process inherits that from the one that started it.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        peak_kb = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return round(int(peak_kb) / 1024, 1)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1_048_576 if sys.platform == "darwin" else 1024), 1)
