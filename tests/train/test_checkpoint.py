"""Every write, flush and rename of a checkpoint may be the last thing that happens."""

from __future__ import annotations

import errno
import json
import os
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from headstart import files
from headstart.errors import MachineError, RunFolderError
from headstart.train.checkpoint import clear, load_newest, save

OPERATIONS = 8  # per checkpoint: two files, each written, flushed, renamed, its folder flushed


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 4), value), "count": torch.tensor(7), "b": torch.arange(5.0)}


def value_of(folder: Path) -> float | None:
    found = load_newest(folder)
    return None if found is None else float(found.tensors["a"][0, 0])


class Killed(BaseException):
    """The process ends here: nothing of ours may run after it, tidying up included."""


@contextmanager
def failing_at(
    monkeypatch: pytest.MonkeyPatch, at: int, fail: Callable[[], Any]
) -> Iterator[list[str]]:
    """Call `fail` before the `at`-th (from 0) write, flush or rename; list what was done."""
    done: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(done) == at:
                done.append("failed")
                if name == "write":  # half of it arrives
                    real(args[0], args[1][: len(args[1]) // 2])
                fail()
            done.append(name)
            return real(*args, **kwargs)

        return call

    def opened(self: Path, mode: str = "r", **kwargs: Any) -> Any:
        file = real_open(self, mode, **kwargs)
        if "x" not in mode:
            return file
        return Counted(file, counted("write", lambda f, data: f.write(data)))

    real_open = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        patch.setattr(files.os, "fsync", counted("flush", os.fsync))
        patch.setattr(Path, "replace", counted("rename", Path.replace))
        yield done


class Counted:
    """A file whose writes are counted."""

    def __init__(self, file: Any, write: Callable[..., Any]) -> None:
        self._file, self._write = file, write

    def write(self, data: bytes) -> int:
        return int(self._write(self._file, data))

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    facts = {"loss": 0.1 + 0.2, "rows": [{"epoch": 1}], "name": "ü"}
    held = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    save(tmp_path, 12, {"x": held, "y": held[0]}, facts)
    found = load_newest(tmp_path)
    assert found is not None and found.step == 12 and dict(found.facts) == facts
    assert torch.equal(found.tensors["x"], held) and torch.equal(found.tensors["y"], held[0])


def test_saving_changes_neither_tensors_nor_random_numbers(tmp_path: Path) -> None:
    held = tensors(1.0)
    before = torch.get_rng_state()
    save(tmp_path, 1, held, {})
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(held["a"], tensors(1.0)["a"])


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        save(tmp_path, step, tensors(step), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-0000000{step}.{kind}" for step in (3, 4) for kind in ("json", "safetensors")
    ]
    assert value_of(tmp_path) == 4


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "nowhere") is None
    save(tmp_path, 1, tensors(1), {})
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", range(OPERATIONS))
@pytest.mark.parametrize("how", ["killed", "full disk"])
def test_a_save_that_fails_anywhere_leaves_the_one_before(
    at: int, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, tensors(1), {})
    save(tmp_path, 2, tensors(2), {})

    def fail() -> None:
        if how == "full disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # the dead do not tidy up
        raise Killed

    with (
        failing_at(monkeypatch, at, fail) as done,
        pytest.raises(MachineError if how == "full disk" else Killed),
    ):
        save(tmp_path, 3, tensors(3), {})
    monkeypatch.undo()
    assert done[-1] == "failed"
    # The last flush of the folder comes after the rename: then the new one is there already.
    assert value_of(tmp_path) == (3 if at == OPERATIONS - 1 else 2)
    save(tmp_path, 4, tensors(4), {})
    assert value_of(tmp_path) == 4
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_checkpoint_is_two_writes_two_renames_and_every_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing_at(monkeypatch, -1, lambda: None) as done:
        save(tmp_path, 1, tensors(1), {})
    assert done == ["write", "flush", "rename", "flush"] * 2
    assert len(done) == OPERATIONS


def test_a_real_limit_on_file_sizes_leaves_the_old_one_intact(tmp_path: Path) -> None:
    save(tmp_path, 1, tensors(1), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
    try:
        with pytest.raises(MachineError, match="disk is full"):
            save(tmp_path, 2, {"a": torch.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert value_of(tmp_path) == 1
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("damage", ["cut", "flip", "zeros", "empty", "gone"])
def test_a_damaged_newest_is_passed_over_with_a_warning(
    kind: str, damage: str, tmp_path: Path
) -> None:
    save(tmp_path, 1, tensors(1), {"loss": 1.0})
    save(tmp_path, 2, tensors(2), {"loss": 2.0})
    path = tmp_path / f"step-00000002.{kind}"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-3:]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "zeros":
        data = bytearray(len(data))
    path.write_bytes(b"" if damage == "empty" else bytes(data))
    if damage == "gone":
        path.unlink()
    if (kind, damage) == ("json", "gone"):  # then it was never finished
        assert value_of(tmp_path) == 1
        return
    with pytest.warns(UserWarning, match="step 2 is damaged.*going on from step 1"):
        assert value_of(tmp_path) == 1


def test_every_flipped_bit_of_the_description_is_found(tmp_path: Path) -> None:
    save(tmp_path, 1, tensors(1), {})
    save(tmp_path, 2, tensors(2), {"scale": 0.3, "note": "x"})
    path = tmp_path / "step-00000002.json"
    whole = path.read_bytes()
    for i in range(0, len(whole) * 8, 5):
        data = bytearray(whole)
        data[i // 8] ^= 1 << (i % 8)
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = load_newest(tmp_path)
        assert found is not None
        # A bit that changes nothing in JSON's eyes, such as a kind of space, may pass.
        same = _same_json(bytes(data), whole)
        assert same or (found.step == 1 and told)


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_when_none_is_whole_nothing_starts_afresh_in_silence(tmp_path: Path) -> None:
    save(tmp_path, 1, tensors(1), {})
    (tmp_path / "step-00000001.safetensors").write_bytes(b"")
    with pytest.raises(RunFolderError, match="No checkpoint can be used"):
        load_newest(tmp_path)


def test_checkpoints_of_another_version_are_not_guessed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.train.checkpoint.VERSION", 99)
    save(tmp_path, 1, tensors(1), {})
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match="version 99"):
        load_newest(tmp_path)
