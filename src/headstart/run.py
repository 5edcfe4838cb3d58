"""The run folder: every path, atomic writes, lock, log and manifest. Nobody else invents a path.

    RUN/  run.json · data.json · split.csv · plan.json · evaluation.json · predictions.csv
          mistakes.json · report.html · log.jsonl · model/

A file appears under its name only when it is whole: it is written beside itself, flushed to the
disk and renamed. A reader, a crash or a full disk never meets half of one.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from headstart.errors import HeadstartError, RunFolderError, from_os, show

RESULTS = ("run.json", "data.json", "split.csv", "plan.json", "evaluation.json")
FORMULA_STARTS = tuple("=+-@＝＋－＠\t\r\n\x00")  # the wide ones count in East Asian spreadsheets
VERSIONS_THAT_MATTER = ("headstart", "onnxruntime", "scikit-learn", "numpy", "pillow")


# -- atomic writes -------------------------------------------------------------------------------


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing: temporary file, fsync, rename, fsync of the folder.

    Text becomes UTF-8; the undecodable bytes of a file name are written as `\\udcff`.

    Raises:
        MachineError: the disk is full. RunFolderError: no permission. The old file stays.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as cause:
        raise from_os(cause, "Could not write the file", path) from cause
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # there only when something failed


def _temporary(path: Path) -> Path:
    """A name beside the file. Opened as any file, so that its mode follows the user's umask."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.tmp")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut (POSIX only)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as cause:
        if cause.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise  # those three: a file system, often of a network, that cannot flush a folder
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Write strict JSON atomically, keys in the order given; what is not finite becomes null."""
    text = json.dumps(strict(value), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(path, text + "\n")


def strict(value: object) -> Any:
    """The value in the words of strict JSON: every reader can parse it and print it.

    NaN and infinity become null, numbers of NumPy plain numbers, paths text, and the undecodable
    bytes of a file name the text `\\udcff`, as in the tables and on the terminal.

    >>> strict({"score": float("nan"), "path": Path("a/b"), "where": "\\udcff"})
    {'score': None, 'path': 'a/b', 'where': '\\\\udcff'}
    """
    match value:
        case None | bool():
            return value
        case str() | os.PathLike():
            return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
        case Integral():
            return int(value)
        case Real():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {strict(str(key)): strict(item) for key, item in value.items()}
        case list() | tuple():
            return [strict(item) for item in value]
    if hasattr(value, "tolist"):  # an array, or a truth value of NumPy
        return strict(value.tolist())
    raise TypeError(f"a {type(value).__name__} has no place in a JSON file")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that this project wrote.

    Raises:
        RunFolderError: missing, unreadable, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as cause:
        raise RunFolderError(f"Could not read the file ({cause.strerror})", where=path) from cause
    except (ValueError, RecursionError) as cause:
        raise RunFolderError(
            "This file is damaged: it is not valid JSON",
            where=path,
            do="Restore it from a copy, or start a new run with another --out.",
        ) from cause
    if not isinstance(value, dict):
        raise RunFolderError("This file does not hold a JSON object", where=path)
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


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
    """One cell: text that begins like a formula gets a leading apostrophe, numbers stay numbers.

    None is an empty cell. What the csv module cannot carry is escaped: NUL, CR, undecodable bytes.
    """
    if isinstance(value, Real):
        return str(value)
    text = "" if value is None else str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    quote = "'" if text.startswith(FORMULA_STARTS) else ""
    return quote + text.replace("\x00", "\\x00").replace("\r", "\\r")


# -- the run -------------------------------------------------------------------------------------


def next_free(data: Path, base: Path = Path("runs")) -> Path:
    """The default run folder: runs/<data>-<k> with the next free k."""
    name = Path(os.path.abspath(data)).name  # noqa: PTH100 - as typed; resolve() fails on link loops
    stem = re.sub(r"[^\w.-]+", "_", name)[:48].strip("._-") or "data"
    k = 1
    while os.path.lexists(base / f"{stem}-{k}"):
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
        try:
            self._mend()
            self._save()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                if self._manifest["status"] == "running":
                    self.finish("done")
            elif isinstance(error, KeyboardInterrupt | SystemExit):
                self.finish("stopped", "stopped by the user")
            else:
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
        write_json(self.path(name), value)

    def write_text(self, name: str, text: str) -> None:
        """Write one text result."""
        atomic_write(self.path(name), text)

    def log(self, event: str, **facts: object) -> None:
        """Append one event to log.jsonl: one line, whatever the strings hold."""
        seconds = round(time.perf_counter() - self._began, 3)
        try:
            facts = strict(facts)
        except TypeError:
            facts = {key: str(fact) for key, fact in facts.items()}
        line = json.dumps(strict({"t": seconds, "event": event, **facts}), allow_nan=False)
        try:
            with self.path("log.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as cause:
            raise from_os(cause, "Could not write the log", self.path("log.jsonl")) from cause

    def _save(self) -> None:
        write_json(self.path("run.json"), self._manifest)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _mend(self) -> None:
        """Clear away what a killed process left: temporary files, half a line of the log."""
        try:
            for folder in (self.folder, self.model):
                for leftover in folder.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
            log = self.path("log.jsonl")
            if log.exists():
                with log.open("r+b") as file:
                    file.truncate(file.read().rfind(b"\n") + 1)
        except OSError as cause:
            raise from_os(cause, "Could not tidy the run folder", self.folder) from cause


def make_folder(folder: Path) -> None:
    """Create a folder and prove that it can be written to, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _temporary(folder / "probe")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as cause:
        raise from_os(cause, "Could not create the run folder", folder) from cause


def _lock(path: Path) -> int:
    """Hold an advisory lock that the system drops when the process dies, however it dies."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as cause:
        raise from_os(cause, "Could not lock the run folder", path.parent) from cause
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
    os.ftruncate(handle, 0)
    os.write(handle, f"pid {os.getpid()}\n".encode())
    return handle


# -- resume --------------------------------------------------------------------------------------


def existing_manifest(folder: Path) -> dict[str, Any] | None:
    """The run.json of an existing run folder, or None when the folder is missing or empty.

    Raises:
        RunFolderError: the path is a file, or a non-empty folder that is not a run.
    """
    try:
        # Hidden files do not count: .DS_Store, and the lock of a run that died before its first line.
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise from_os(cause, "Could not read the run folder", folder) from cause
    if not names:
        return None
    if "run.json" not in names:
        raise RunFolderError(
            "This folder is not empty and is not a headstart run",
            where=folder,
            do="Choose a new folder with --out.",
        )
    return read_json(folder / "run.json")


def differences(manifest: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What a stored run disagrees with: settings that matter and versions, one phrase each."""
    stored, old_versions = (
        found if isinstance(found := manifest.get(key), dict) else {}
        for key in ("settings", "versions")
    )
    found = [
        f"--{key.replace('_', '-')} was {show(stored.get(key))}, is {show(value)}"
        for key, value in strict(settings).items()
        if stored.get(key) != value
    ]
    now = versions()
    found += [
        f"{name} was {show(old)}, is {now.get(name)}"
        for name, old in old_versions.items()
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
    """The largest resident memory of this process so far, in MB (0 where nobody counts it)."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1_048_576 if sys.platform == "darwin" else 1024), 1)
