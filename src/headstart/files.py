"""Files that are whole or not there, JSON that every reader can parse, CSV that runs no formula.

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
import secrets
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from headstart.errors import RunFolderError, told

FORMULA_STARTS = tuple("=+-@＝＋－＠\t\r\n\x00")  # the wide ones count in East Asian spreadsheets


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing: temporary file, fsync, rename, fsync of the folder.

    Text becomes UTF-8; the undecodable bytes of a file name are written as `\\udcff`.

    Raises:
        MachineError: the disk is full. RunFolderError: no permission. The old file stays.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    beside = temporary(path)
    try:
        with told("Could not write the file", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()  # there only when something failed


def temporary(path: Path) -> Path:
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
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        absent = isinstance(cause, FileNotFoundError) and path.name == "run.json"
        raise RunFolderError(
            f"Could not read the file ({cause.strerror})",
            where=path,
            do="Give the folder of a run, such as runs/photos-1." if absent else None,
        ) from cause
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RunFolderError(
            "This file is damaged: it does not hold a JSON object",
            where=path,
            do="Restore it from a copy, or start a new run with another --out.",
        )
    return value


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV text whose cells no spreadsheet takes for a formula.

    >>> csv_text(["path"], [["=1+1"]])
    "path\\n'=1+1\\n"
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([csv_cell(cell) for cell in row] for row in (header, *rows))
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
