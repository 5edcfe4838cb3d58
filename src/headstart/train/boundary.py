"""Cheap partial tuning: the frozen part's activations are computed once per view and kept on disk.

N images, V views, H W height and width and D channels of the activation at the boundary.

Views are made before the network, since flipping an activation is not the activation of a flipped
image. With V views an image is seen in V shapes, again and again, and an epoch costs only the part
that learns.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from headstart.backbone.load import sha256_of
from headstart.backbone.surgery import Lower
from headstart.errors import InternalError, RunFolderError, told
from headstart.files import read_json, write_json
from headstart.train.pixels import PixelSource, Views

Int = NDArray[np.int64]
Half = NDArray[np.float16]

CHUNK = 16
"""images per pass; fixed, so that a view that is computed again is the same to the last bit"""
MAX_VIEWS = 6
BUDGET_MB = 8_000


def views_that_fit(
    learn: int, valid: int, activation_bytes: int, epochs: int, budget_mb: float = BUDGET_MB
) -> int:
    """V: how many views of `learn` images fit beside one of the `valid` ones; 0: none.

    >>> views_that_fit(800, 200, 43_000, epochs=12, budget_mb=120)
    3
    """
    room = budget_mb * 1e6 - valid * activation_bytes
    return max(0, min(int(room // (learn * activation_bytes)), MAX_VIEWS, epochs))


class BoundarySource:
    """Activations at the boundary as fp16, computed when an epoch first needs its view.

    Args:
        pixels: makes the views. valid: images [n] whose `whole` may be asked for.
        lower: the frozen part, on its device.
        count: V. key: what the activations depend on (weights, images, seed, operations); a file
            with another key or checksum is computed anew.
        say: told when a view is computed.
    """

    def __init__(
        self,
        pixels: PixelSource,
        valid: Int,
        lower: Lower,
        folder: Path,
        count: int,
        key: str,
        say: Callable[[str], None],
    ) -> None:
        assert not pixels.mix, "a view that is kept has one label"
        self.pixels, self.lower, self.folder, self.say = pixels, lower, folder, say
        self.count, self.key = count, key
        self.learn, self.valid = np.unique(pixels.learn), np.unique(valid)
        first = self._activations(pixels.whole(self.learn[:1]))
        self.shape = first.shape[1:]  # H, W, D
        self.computed = 0
        """views computed by this process"""
        self.seconds = 0.0
        """that the views which were used took, also in a process that was stopped"""
        self._maps: dict[int | None, Half] = {}

    @property
    def image_bytes(self) -> int:
        """Of one view of one image."""
        return 2 * int(np.prod(self.shape))

    def prepare(self, epoch: int) -> None:
        """See that the view of this epoch is there."""
        self._map(epoch % self.count)

    def views(self, epoch: int, rows: Int) -> Views:
        """fp16 [B, H, W, D]"""
        stored = self._map(epoch % self.count)
        return Views(np.asarray(stored[_places(self.learn, rows)]))

    def whole(self, rows: Int) -> Half:
        """fp16 [B, H, W, D] of the images as they are served."""
        return np.asarray(self._map(None)[_places(self.valid, rows)])

    def _map(self, view: int | None) -> Half:
        if view not in self._maps:
            path = self.folder / f"activations-{'whole' if view is None else view}.f16"
            rows = self.valid if view is None else self.learn
            marker = path.with_suffix(".json")
            facts = {"key": self.key, "images": len(rows), "shape": list(self.shape)}
            if not _whole(path, marker, facts):
                began = time.perf_counter()
                self._compute(path, rows, view)
                took = {"seconds": round(time.perf_counter() - began, 3)}
                write_json(marker, facts | {"sha256": sha256_of(path)} | took)
            self.seconds += float(read_json(marker)["seconds"])
            self._maps[view] = np.memmap(path, np.float16, "r", shape=(len(rows), *self.shape))
        return self._maps[view]

    def _compute(self, path: Path, rows: Int, view: int | None) -> None:
        if view == 0:
            self.say(
                f"keeping what the frozen part says of {len(rows):,} images, {self.count} views"
            )
        size = len(rows) * self.image_bytes
        with told("Could not keep the activations of the frozen part", path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)  # a full disk is found out at once
                for i in range(0, len(rows), CHUNK):
                    some = rows[i : i + CHUNK]
                    whole = view is None
                    seen = self.pixels.whole(some) if whole else self._seen(view, some)
                    file.write(self._activations(seen).tobytes())
                file.flush()
                os.fsync(file.fileno())
        self.computed += 1

    def _seen(self, view: int | None, rows: Int) -> NDArray[np.uint8]:
        assert view is not None
        seen = self.pixels.views(view, rows).inputs
        assert seen.dtype == np.uint8
        return seen.astype(np.uint8, copy=False)

    def _activations(self, pixels: NDArray[np.uint8]) -> Half:
        device = self.lower.model.head.weight.device
        found = self.lower(torch.from_numpy(pixels).to(device))
        half: Half = found.to(torch.float16).cpu().contiguous().numpy()
        if not np.isfinite(half).all():
            raise InternalError(
                "The activations at this stage are too large for 16 bits",
                do="Choose another boundary, or train without the cache.",
            )
        return half


def _places(kept: Int, rows: Int) -> Int:
    """Where the activations of these images lie."""
    assert np.isin(rows, kept).all()
    return np.searchsorted(kept, rows)


def _whole(path: Path, marker: Path, facts: dict[str, object]) -> bool:
    """Whether a view is on disk, finished and undamaged."""
    if not marker.exists():
        return False
    with contextlib.suppress(RunFolderError, OSError):
        stored = read_json(marker)
        found = facts | {"sha256": sha256_of(path)}
        return "seconds" in stored and {key: stored.get(key) for key in found} == found
    return False
