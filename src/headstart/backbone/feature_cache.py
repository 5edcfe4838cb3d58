"""The feature cache: rows of features on disk, keyed by image content, one folder per graph.

Features were found bit-equal for every batch size and thread count, so rows of different passes
may be mixed. A shard is one file: magic, checksum, sizes, keys, rows. It is written once, whole,
and never changed; a damaged one is found by its checksum, removed with a warning, computed again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import time
import uuid
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.graph import TapGraph
from headstart.errors import ArgumentError, HeadstartError
from headstart.run import atomic_write
from headstart.settings import cache_dir

Array = NDArray[np.float32]

CACHE_LIMIT_MB = 5_000
MAGIC = b"HSFEAT1\n"
HEADER = struct.Struct("<8sIII")  # magic, crc32 of the rest, rows, width
KEY_BYTES = 16
CHUNK_BYTES = 1 << 22
LEFTOVER_S = 86_400
"""no write takes a day: a temporary file of this age belongs to nobody"""


class FeatureCache:
    """The shards of one graph on one kind of device."""

    def __init__(self, graph: TapGraph, device: str = "cpu") -> None:
        cache_limit_mb()  # a wrong limit is refused now, not when the work is done
        # bf16 features of a GPU are not those of a CPU: they never mix.
        suffix = "" if device == "cpu" else f"-{device}"
        self.folder = cache_dir() / "features" / f"{graph.key}-{graph.preprocess.key()}{suffix}"
        self.width = sum(graph.widths)

    def read(self, wanted: set[str]) -> tuple[list[Array], dict[str, tuple[int, int]]]:
        """Shards that hold wanted contents, and (shard, row) of each content that was found."""
        shards: list[Array] = []
        found: dict[str, tuple[int, int]] = {}
        for path in sorted(self.folder.glob("*.shard")) if wanted else []:
            if len(found) == len(wanted):
                break
            shard = self._read_shard(path)
            if shard is None:
                continue
            keys, rows = shard
            hits = {key: (len(shards), i) for i, key in enumerate(keys) if key in wanted}
            if hits:
                found |= hits
                shards.append(rows)
                with contextlib.suppress(OSError):
                    os.utime(path)  # used now: pruned last
        return shards, found

    def add(self, hashes: Sequence[str], rows: Array) -> Array:
        """Store rows [n, sum of D] and return them, from the file if possible.

        A full disk costs the cache, never the run: the rows then stay in memory, with a warning.
        """
        keys = b"".join(bytes.fromhex(h) for h in hashes)
        body = keys + np.ascontiguousarray(rows, dtype="<f4").tobytes()
        header = HEADER.pack(MAGIC, zlib.crc32(body), len(hashes), self.width)
        rows = np.frombuffer(body, "<f4", offset=len(keys)).reshape(rows.shape)  # one copy, not two
        path = self.folder / f"{uuid.uuid4().hex}.shard"
        try:
            atomic_write(path, header + body)
            stored = self._map(path, len(hashes))
        except (HeadstartError, OSError) as error:
            warnings.warn(
                f"Features are kept in memory only: the cache could not be written ({error})",
                stacklevel=2,
            )
            return rows
        prune()
        return stored

    def _map(self, path: Path, rows: int) -> Array:
        offset = HEADER.size + rows * KEY_BYTES
        return np.memmap(path, "<f4", "r", offset=offset, shape=(rows, self.width))

    def _read_shard(self, path: Path) -> tuple[list[str], Array] | None:
        try:
            with path.open("rb") as file:
                header = file.read(HEADER.size)
                if len(header) == HEADER.size:
                    magic, checksum, n, width = HEADER.unpack(header)
                    size = HEADER.size + n * (KEY_BYTES + 4 * width)
                    size_is = path.stat().st_size if n else 0  # no shard is empty
                    if (magic, width, size) == (MAGIC, self.width, size_is):
                        keys = file.read(n * KEY_BYTES)
                        found = zlib.crc32(keys)
                        while chunk := file.read(CHUNK_BYTES):
                            found = zlib.crc32(chunk, found)
                        if found == checksum:
                            names = [keys[i : i + 16].hex() for i in range(0, len(keys), 16)]
                            return names, self._map(path, n)
        except OSError:
            return None  # pruned by another process meanwhile
        warnings.warn(
            f"A damaged file of the feature cache is removed and its features computed again: {path}",
            stacklevel=3,
        )
        with contextlib.suppress(OSError):  # a cache that is read-only for us stays as it is
            path.unlink()
        return None


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What the cache holds for one graph."""

    name: str
    mb: float
    images: int
    used_days_ago: float


def cache_entries() -> tuple[CacheEntry, ...]:
    """What the feature cache holds, by graph."""
    entries = []
    for folder in sorted((cache_dir() / "features").glob("*")):
        sizes, used, images = [], [], 0
        for path in folder.glob("*.shard"):
            with contextlib.suppress(OSError), path.open("rb") as file:  # pruned meanwhile
                header = file.read(HEADER.size)
                if len(header) == HEADER.size and header.startswith(MAGIC):
                    images += HEADER.unpack(header)[2]
                sizes.append(path.stat().st_size)
                used.append(path.stat().st_mtime)
        if sizes:
            days = (time.time() - max(used)) / 86_400
            entries.append(
                CacheEntry(folder.name, round(sum(sizes) / 1e6, 1), images, round(days, 1))
            )
    return tuple(entries)


def cache_limit_mb() -> float:
    """The size limit: 5 GB, or $HEADSTART_CACHE_MB."""
    text = os.environ.get("HEADSTART_CACHE_MB", str(CACHE_LIMIT_MB))
    with contextlib.suppress(ValueError):
        if (limit := float(text)) >= 0:  # not for nan
            return limit
    raise ArgumentError(
        "$HEADSTART_CACHE_MB is not a number of megabytes",
        received=text,
        do=f"Give a number, 0 or more; the default is {CACHE_LIMIT_MB}.",
    )


def prune(limit_mb: float | None = None) -> int:
    """Remove the least recently used shards until the cache fits its limit; returns how many.

    Rows that a process has mapped into memory stay readable for it.
    """
    limit = (cache_limit_mb() if limit_mb is None else limit_mb) * 1e6
    shards = []
    for path in (cache_dir() / "features").glob("*/*.shard"):
        with contextlib.suppress(OSError):  # another process may prune as well
            status = path.stat()
            shards.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in shards)
    removed = 0
    for _, size, path in sorted(shards):
        if total <= limit:
            break
        with contextlib.suppress(OSError):  # gone already, or not ours to remove
            path.unlink()
            removed += 1
        total -= size
    _remove_leftovers()
    return removed


def _remove_leftovers() -> None:
    """Temporary files and folders that killed processes left behind."""
    for path in [*cache_dir().glob("features/*/.*.tmp"), *cache_dir().glob("graphs/.export-*")]:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def clear(everything: bool = False) -> None:
    """Empty the feature cache; with `everything` also the exported networks."""
    for name in ("features", "graphs") if everything else ("features",):
        shutil.rmtree(cache_dir() / name, ignore_errors=True)
