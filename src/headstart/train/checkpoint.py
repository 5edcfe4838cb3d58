"""Checkpoints that survive a kill, a full disk and a damaged file; the two newest are kept.

    FOLDER/step-00000012.safetensors    tensors by name
    FOLDER/step-00000012.json           everything else, and the checksums of both files

Each file is written beside itself, flushed, renamed, and the folder is flushed; the JSON comes
last, so a checkpoint without it was never finished and does not count. Both are data formats: none
of them can hold code. Saving draws no random numbers and changes no tensor.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from headstart.errors import RunFolderError, told
from headstart.files import atomic_write, strict

VERSION = 1
KEPT = 2
NAME = re.compile(r"step-([0-9]{8})\.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a training run after `step` steps."""

    step: int
    tensors: Mapping[str, Tensor]
    """on the CPU, contiguous"""
    facts: Mapping[str, Any]
    """plain JSON values; finite numbers come back exactly as they were"""


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    instead_of: int | None = None,
) -> None:
    """Write a checkpoint, then remove all but the two newest.

    Args:
        instead_of: step of a checkpoint that goes as soon as this one is there.

    Raises:
        MachineError: the disk is full; the checkpoints from before are untouched.
        RunFolderError: no permission.
    """
    # safetensors stores memory as it lies and refuses views and channels-last.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    data = to_bytes(plain)
    body = {
        "version": VERSION,
        "step": step,
        "sha256": hashlib.sha256(data).hexdigest(),
        "facts": strict(facts),
    }
    weights, description = _paths(folder, step)
    atomic_write(weights, data)
    atomic_write(description, json.dumps({**body, "own_sha256": _hash_of(body)}, allow_nan=False))
    with told("Could not remove an old checkpoint", folder):
        if instead_of not in (None, step):
            _remove(folder, instead_of)
        _tidy(folder)


def load_newest(folder: Path, but: int | None = None) -> Checkpoint | None:
    """The newest checkpoint that is whole; None when none was ever finished.

    A damaged one is passed over with a warning that names it and the one that is used.

    Args:
        but: step of one that does not count while there is another.

    Raises:
        RunFolderError: there are checkpoints, but none is whole: starting afresh would throw away
            work without a word.
    """
    steps = _finished(folder)
    steps = [step for step in steps if step != but] or steps
    damaged: list[str] = []
    for step in reversed(steps):
        found = _read(folder, step)
        if isinstance(found, Checkpoint):
            if damaged:
                warnings.warn(
                    f"{'; '.join(damaged)}: going on from step {step} instead", stacklevel=2
                )
            return found
        damaged.append(f"the checkpoint of step {step} is damaged ({found})")
    if damaged:
        raise RunFolderError(
            f"No checkpoint can be used: {'; '.join(damaged)}",
            where=folder,
            do="Restore the folder from a copy, or start a new run with another --out.",
        )
    return None


def clear(folder: Path) -> None:
    """Remove the checkpoints of a training that is over."""
    with told("Could not remove the checkpoints", folder):
        for step in _finished(folder):
            _remove(folder, step)
        _tidy(folder)


def _paths(folder: Path, step: int) -> tuple[Path, Path]:
    stem = f"step-{step:08}"
    return folder / f"{stem}.safetensors", folder / f"{stem}.json"


def _finished(folder: Path) -> list[int]:
    """Steps with a description, oldest first."""
    if not folder.is_dir():
        return []
    with told("Could not read the checkpoints", folder):
        names = [NAME.fullmatch(path.name) for path in folder.iterdir()]
    return sorted(int(name[1]) for name in names if name)


def _read(folder: Path, step: int) -> Checkpoint | str:
    """A checkpoint whose checksums hold, or what is wrong with it."""
    weights, description = _paths(folder, step)
    try:
        stored = json.loads(description.read_text(encoding="utf-8"))
        own = stored.pop("own_sha256")
        if own != _hash_of(stored):
            return f"{description.name} fails its checksum"
        if stored["version"] != VERSION:
            return f"{description.name} is of version {stored['version']}, not {VERSION}"
        data = weights.read_bytes()
        if hashlib.sha256(data).hexdigest() != stored["sha256"]:
            return f"{weights.name} fails its checksum"
        return Checkpoint(step, from_bytes(data), stored["facts"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        return f"it cannot be read: {type(cause).__name__}"


def _hash_of(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _remove(folder: Path, step: int) -> None:
    weights, description = _paths(folder, step)
    # First what makes it count: a kill in between leaves no description without tensors.
    description.unlink(missing_ok=True)
    weights.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Drop what is older than the newest two, and what a kill left half-written."""
    for step in _finished(folder)[:-KEPT]:
        _remove(folder, step)
    whole = {path for step in _finished(folder) for path in _paths(folder, step)}
    for path in folder.glob("step-*.safetensors"):
        if path not in whole:
            path.unlink(missing_ok=True)
    for path in folder.glob(".step-*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
