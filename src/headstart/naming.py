"""The names of run folders: the next free one of a data set, and the newest of a command."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from headstart.errors import HeadstartError, told
from headstart.files import read_json


def next_free(data: Path, base: Path = Path("runs")) -> Path:
    """The default run folder: runs/<data>-<k>, where k is one more than the largest there is."""
    stem, numbers = _taken(data, base)
    return base / f"{stem}-{max(numbers, default=0) + 1}"


def latest(data: Path, command: str, base: Path = Path("runs")) -> Path | None:
    """The newest default run folder of this data set that this command made, for --resume without
    --out; what is no run, or a damaged one, is passed over."""
    stem, numbers = _taken(data, base)
    for number in sorted(numbers, reverse=True):
        folder = base / f"{stem}-{number}"
        with contextlib.suppress(HeadstartError):
            if read_json(folder / "run.json").get("command") == command:
                return folder
    return None


def _taken(data: Path, base: Path) -> tuple[str, list[int]]:
    """The name of a data set's runs, and the numbers among them."""
    name = Path(os.path.abspath(data)).name  # noqa: PTH100 - as typed; resolve() fails on link loops
    stem = re.sub(r"[^\w.-]+", "_", name)[:48].strip("._-") or "data"
    with told("Could not read the folder of runs", base):
        names = os.listdir(base) if os.path.lexists(base) else []  # noqa: PTH208 - names are enough
    # Not "-01": a folder is found again by the number in its name.
    numbers = [re.fullmatch(re.escape(stem) + r"-([1-9][0-9]{0,8})", name) for name in names]
    return stem, [int(number[1]) for number in numbers if number]
