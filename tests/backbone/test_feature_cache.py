from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.backbone import feature_cache
from headstart.backbone.feature_cache import (
    FeatureCache,
    cache_entries,
    cache_limit_mb,
    clear,
    prune,
)
from headstart.data.images import Preprocess
from headstart.errors import ArgumentError, MachineError


@dataclass(frozen=True)
class Graph:
    """As much of a tap graph as the cache looks at."""

    key: str = "toy-64-0123"
    widths: tuple[int, ...] = (3, 4)
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(64, 64))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def cache(device: str = "cpu", **changes: Any) -> FeatureCache:
    return FeatureCache(Graph(**changes), device)  # type: ignore[arg-type]


def rows(n: int, start: int = 0) -> tuple[list[str], NDArray[np.float32]]:
    hashes = [f"{start + i:032x}" for i in range(n)]
    return hashes, np.arange(start * 7, (start + n) * 7, dtype=np.float32).reshape(n, 7)


def test_rows_come_back_bit_by_bit_under_their_content() -> None:
    hashes, values = rows(5)
    values[0] = [np.nan, np.inf, -0.0, 1e-45, 3e38, 1, 2]
    stored = cache().add(hashes, values)
    assert stored.tobytes() == values.tobytes()
    shards, found = cache().read(set(hashes) | {"f" * 32})
    assert set(found) == set(hashes)
    for i, key in enumerate(hashes):
        shard, row = found[key]
        assert shards[shard][row].tobytes() == values[i].tobytes()
    assert cache().read(set()) == ([], {})


def test_graphs_preprocessings_and_devices_do_not_mix() -> None:
    hashes, values = rows(2)
    cache().add(hashes, values)
    for other in (
        cache("cuda"),
        cache(key="other-64-0123"),
        cache(preprocess=Preprocess(64, 70)),
        cache(preprocess=Preprocess(64, 64, mean=(0.5, 0.5, 0.5))),
    ):
        assert other.read(set(hashes))[1] == {}
    assert len(cache().read(set(hashes))[1]) == 2


@pytest.mark.parametrize("harm", ["header", "keys", "rows", "short", "long", "empty", "no rows"])
def test_a_damaged_shard_is_found_removed_and_told(harm: str, folder: Path) -> None:
    cache().add(*rows(4))
    cache().add(*rows(4, start=10))
    [path, other] = sorted(folder.glob("*/*.shard"))
    content = bytearray(path.read_bytes())
    if harm in ("header", "keys", "rows"):
        content[{"header": 9, "keys": 30, "rows": -1}[harm]] ^= 1
    elif harm == "no rows":
        content = bytearray(feature_cache.HEADER.pack(feature_cache.MAGIC, 0, 0, 7))
    else:
        content = {"short": content[:-1], "long": content + b"x", "empty": bytearray()}[harm]
    path.write_bytes(content)
    wanted = set(rows(4)[0]) | set(rows(4, start=10)[0])
    with pytest.warns(UserWarning, match=path.name):
        _, found = cache().read(wanted)
    assert len(found) == 4
    assert (path.exists(), other.exists()) == (False, True)
    assert len(cache().read(wanted)[1]) == 4  # and no second warning


def test_a_damaged_shard_that_cannot_be_removed_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache().add(*rows(4))
    [path] = folder.glob("*/*.shard")
    path.write_bytes(path.read_bytes()[:-1])

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.warns(UserWarning, match="damaged"):
        assert cache().read(set(rows(4)[0]))[1] == {}


@pytest.mark.parametrize(
    "error", [MachineError("The disk is full"), PermissionError(13, "Permission denied")]
)
def test_what_cannot_be_written_stays_in_memory_with_a_warning(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(feature_cache, "atomic_write", fail)
    hashes, values = rows(3)
    with pytest.warns(UserWarning, match="kept in memory"):
        stored = cache().add(hashes, values)
    assert stored.tobytes() == values.tobytes()


def test_a_file_in_the_place_of_the_cache_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match="kept in memory"):
        assert len(cache().add(*rows(3))) == 3
    assert cache().read(set(rows(3)[0])) == ([], {})
    assert cache_entries() == ()
    assert prune() == 0


def aged(folder: Path, name: str, days: float, kb: int) -> Path:
    path = folder / "toy" / f"{name}.shard"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(kb * 1000))
    then = time.time() - days * 86_400
    os.utime(path, (then, then))
    return path


def test_pruning_keeps_what_was_used_last(folder: Path) -> None:
    ages = {"new": 1, "old": 9, "older": 20, "newest": 0.1}
    paths = {name: aged(folder, name, days, kb=400) for name, days in ages.items()}
    assert prune(limit_mb=10) == 0
    assert prune(limit_mb=1) == 2
    assert {name for name, path in paths.items() if path.exists()} == {"new", "newest"}
    assert prune(limit_mb=0) == 2


def test_reading_counts_as_use(folder: Path) -> None:
    cache().add(*rows(4))
    cache().add(*rows(4, start=10))
    first, second = sorted(folder.glob("*/*.shard"))
    for path in (first, second):
        os.utime(path, (1e9, 1e9))
    keys = feature_cache.FeatureCache._read_shard(cache(), first)
    assert keys is not None
    cache().read(set(keys[0]))
    prune(limit_mb=first.stat().st_size / 1e6)
    assert (first.exists(), second.exists()) == (True, False)


def test_rows_that_are_in_use_outlive_their_file(folder: Path) -> None:
    hashes, values = rows(50)
    stored = cache().add(hashes, values)
    assert prune(limit_mb=0) == 1
    assert stored.tobytes() == values.tobytes()


def test_the_limit_comes_from_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_limit_mb() == 5000
    monkeypatch.setenv("HEADSTART_CACHE_MB", "0.0003")
    for start in (0, 10, 20):
        cache().add(*rows(4, start))
    assert len(list(folder.glob("*/*.shard"))) == 1


@pytest.mark.parametrize("text", ["much", "", "nan", "-1"])
def test_a_limit_that_is_no_number_is_refused_before_the_work(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE_MB", text)
    with pytest.raises(ArgumentError, match="HEADSTART_CACHE_MB"):
        cache()


def test_leftovers_of_killed_processes_are_removed_in_time(folder: Path) -> None:
    old = aged(folder, "x", 2, 1).rename(folder / "toy" / ".x.shard.0a.tmp")
    fresh = aged(folder, "y", 0, 1).rename(folder / "toy" / ".y.shard.0b.tmp")
    staging = folder.parent / "graphs" / ".export-abc"
    (staging / "graph").mkdir(parents=True)
    os.utime(staging, (1e9, 1e9))
    prune()
    assert (old.exists(), fresh.exists(), staging.exists()) == (False, True, False)


def test_two_processes_write_at_once_and_both_are_read(folder: Path) -> None:
    code = """
import sys; from types import SimpleNamespace
import numpy as np
from headstart.backbone.feature_cache import FeatureCache
from headstart.data.images import Preprocess
graph = SimpleNamespace(key="toy-64-0123", widths=(3, 4), preprocess=Preprocess(64, 64))
for k in range(30):
    start = int(sys.argv[1]) + k
    FeatureCache(graph).add([f"{start:032x}"], np.full((1, 7), start, np.float32))
    FeatureCache(graph).read({f"{i:032x}" for i in range(200)})
"""
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", code, s]) for s in ("0", "100")]
    assert [process.wait() for process in both] == [0, 0]
    shards, found = cache().read({f"{i:032x}" for i in range(200)})
    assert sorted(int(key, 16) for key in found) == [*range(30), *range(100, 130)]
    assert all(shards[s][r, 0] == int(key, 16) for key, (s, r) in found.items())
    assert not list(folder.glob("*/.*"))


def test_what_the_cache_holds_is_told_by_graph(folder: Path) -> None:
    cache().add(*rows(4))
    cache().add(*rows(3, start=10))
    cache(key="other").add(*rows(2))
    (folder / "toy-junk").mkdir()
    (folder / "toy-junk" / f"{uuid.uuid4().hex}.shard").write_bytes(b"junk" * 20)
    entries = {entry.name.split("-")[0] + str(entry.images): entry for entry in cache_entries()}
    assert set(entries) == {"toy7", "other2", "toy0"}
    assert all(entry.used_days_ago < 0.1 for entry in entries.values())


def test_clearing_leaves_the_exported_networks_unless_everything_goes(folder: Path) -> None:
    cache().add(*rows(4))
    (folder.parent / "graphs" / "x").mkdir(parents=True)
    clear()
    assert cache_entries() == ()
    assert (folder.parent / "graphs" / "x").exists()
    clear(everything=True)
    assert not (folder.parent / "graphs").exists()
    shutil.rmtree(folder.parent)
    clear()
