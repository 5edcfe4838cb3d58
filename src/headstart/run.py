"""The run folder: every path, atomic writes, lock, log and manifest. Nobody else invents a path.

    RUN/  run.json · data.json · split.csv · plan.json · evaluation.json · predictions.csv
          mistakes.json · report.html · log.jsonl · model/

A file appears under its name only when it is whole: it is written beside itself, flushed to the
disk and renamed. A reader, a crash or a full disk never meets half of one.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import platform
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from headstart.errors import HeadstartError, RunFolderError, from_os, show

RESULTS = ("run.json", "data.json", "split.csv", "plan.json", "evaluation.json")
VERSIONS_THAT_MATTER = ("headstart", "onnxruntime", "scikit-learn", "numpy", "pillow")


# -- atomic writes -------------------------------------------------------------------------------


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing: temporary file, fsync, rename, fsync of the folder.

    Raises:
        MachineError: the disk is full. RunFolderError: no permission. The old file stays.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        temporary = None
        sync_folder(path.parent)
    except OSError as cause:
        raise from_os(cause, "Could not write the file", path) from cause
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut (POSIX only)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    # There is no way to read the umask but to set it; mkstemp's 0600 would hide results from others.
    current = os.umask(0o022)
    os.umask(current)
    return current


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (no NaN) atomically, keys in the order given."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that this project wrote.

    Raises:
        RunFolderError: missing, unreadable, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise RunFolderError(f"Could not read the file ({cause.strerror})", where=path) from cause
    except ValueError as cause:
        raise RunFolderError("This file is not valid JSON", where=path) from cause
    if not isinstance(value, dict):
        raise RunFolderError("This file does not hold a JSON object", where=path)
    return value


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV text whose cells no spreadsheet takes for a formula.

    >>> csv_text(["path"], [["=1+1"]])
    "path\\n'=1+1\\n"
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([csv_cell(cell) for cell in header])
    for row in rows:
        writer.writerow([csv_cell(cell) for cell in row])
    return buffer.getvalue()


def csv_cell(value: object) -> str:
    """One cell: text that begins like a formula gets a leading apostrophe, numbers stay numbers."""
    if isinstance(value, float | int):
        return repr(value)
    text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = text.replace("\x00", "\\x00")
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


# -- the run -------------------------------------------------------------------------------------


def next_free(data: Path, base: Path = Path("runs")) -> Path:
    """The default run folder: runs/<data>-<k> with the next free k."""
    stem = re.sub(r"[^\w.-]+", "_", data.resolve().name).strip("._-") or "data"
    k = 1
    while (base / f"{stem}-{k}").exists():
        k += 1
    return base / f"{stem}-{k}"


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
            "headstart": version("headstart"),
            "command": command,
            "name": folder.name,
            "settings": settings,
            "seed": settings.get("seed"),
            "threads": threads,
            "versions": versions(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": [],
            "error": None,
        }
        self._lock: int | None = None

    # paths
    def path(self, name: str) -> Path:
        """The path of one result by its name in the contract."""
        return self.folder / name

    @property
    def model(self) -> Path:
        """The bundle's folder."""
        return self.folder / "model"

    # life
    def __enter__(self) -> Self:
        make_folder(self.folder)
        self._lock = _lock(self.folder / ".lock")
        self._save()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None and self._manifest["status"] == "running":
                stopped = isinstance(error, KeyboardInterrupt | SystemExit)
                self.finish(
                    "stopped" if stopped else "failed",
                    "stopped by the user"
                    if stopped
                    else str(error)
                    if isinstance(error, HeadstartError)
                    else f"{type(error).__name__}: {show(error)}",
                )
        except HeadstartError:
            if error is None:
                raise
        finally:
            if self._lock is not None:
                os.close(self._lock)

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
        self._manifest[key] = value

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
        write_json(self.path(name), value)

    def write_text(self, name: str, text: str) -> None:
        """Write one text result."""
        atomic_write(self.path(name), text)

    def log(self, event: str, **facts: object) -> None:
        """Append one event to log.jsonl: one line, whatever the strings hold."""
        line = json.dumps(
            {"t": round(time.perf_counter() - self._began, 3), "event": event, **facts},
            default=str,
        )
        try:
            with self.path("log.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as cause:
            raise from_os(cause, "Could not write the log", self.path("log.jsonl")) from cause

    def _save(self) -> None:
        write_json(self.path("run.json"), self._manifest)


def make_folder(folder: Path) -> None:
    """Create a folder and prove that it can be written to, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(prefix=".probe.", dir=folder)
        os.close(handle)
        Path(probe).unlink()
    except OSError as cause:
        raise from_os(cause, "Could not create the run folder", folder) from cause


def _lock(path: Path) -> int:
    """Hold an advisory lock that the system drops when the process dies, however it dies."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:  # pragma: no cover - exercised on Windows only
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as cause:
        owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise RunFolderError(
            f"Another headstart process ({owner}) is working in this run folder",
            where=path.parent,
            do="Wait for it, or choose another folder with --out.",
        ) from cause
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"pid {os.getpid()}\n".encode(), 0)
    return handle


# -- resume --------------------------------------------------------------------------------------


def existing_manifest(folder: Path) -> dict[str, Any] | None:
    """The run.json of an existing run folder, or None when the folder is missing or empty.

    Raises:
        RunFolderError: the path is a file, or a non-empty folder that is not a run.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise RunFolderError(
            "The run folder's path is a file", where=folder, do="Choose another with --out."
        )
    if not any(entry for entry in folder.iterdir() if entry.name != ".lock"):
        return None
    if not (folder / "run.json").exists():
        raise RunFolderError(
            "This folder is not empty and is not a headstart run",
            where=folder,
            do="Choose a new folder with --out.",
        )
    return read_json(folder / "run.json")


def differences(manifest: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What a stored run disagrees with: settings that matter and versions, one phrase each."""
    stored = manifest.get("settings", {})
    found = [
        f"--{key.replace('_', '-')} was {show(stored.get(key))}, is {show(value)}"
        for key, value in settings.items()
        if stored.get(key) != value
    ]
    now = versions()
    found += [
        f"{name} was {show(old)}, is {now.get(name)}"
        for name, old in manifest.get("versions", {}).items()
        if name in VERSIONS_THAT_MATTER and now.get(name) != old
    ]
    return found


# -- facts about this process --------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Versions of what decides a result, without importing any of it."""
    found = {"python": platform.python_version()}
    for package in (*VERSIONS_THAT_MATTER, "torch", "timm"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1_048_576 if sys.platform == "darwin" else 1024), 1)
