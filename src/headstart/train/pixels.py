"""Images for training: each file is decoded once, every epoch then takes its views from memory.

N images, B batch, S side in px of what is kept, H W side of a view, C colour channels.

What is kept is the square of `Preprocess.resize_px`: its centre is, bit for bit, what the network
sees when it serves, and its rim is what a random crop may move into.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headstart.data.images import Preprocess, load_pixels
from headstart.errors import told
from headstart.parallel import ordered_map
from headstart.train.augment import Augment, centre, mixed, partner, view

Int = NDArray[np.int64]
Pixels = NDArray[np.uint8]

MEMORY_MB = 1_500
"""more than this goes to a file; the system then keeps in memory what fits"""
DISK_MB = 20_000
"""more than this is decoded anew in every epoch"""


@dataclass(frozen=True, slots=True)
class Views:
    """One batch of training inputs, and what each was mixed with."""

    inputs: NDArray[np.uint8] | NDArray[np.float16]  # [B, H, W, C] pixels, [B, H, W, D] activations
    partners: Int | None = None  # [B] image that was mixed in
    shares: NDArray[np.float32] | None = None  # [B] share of the first image


class Source(Protocol):
    """Where the loop takes its inputs from."""

    def prepare(self, epoch: int) -> None:
        """Called once before an epoch's first batch."""

    def views(self, epoch: int, rows: Int) -> Views:
        """Training inputs of these images in this epoch."""

    def whole(self, rows: Int) -> NDArray[np.uint8] | NDArray[np.float16]:
        """The inputs that the network sees when it serves."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Images as squares of one side: in memory, in a file, or still to be decoded."""

    paths: tuple[Path, ...]
    preprocess: Preprocess
    """of what is kept: the square before the centre crop"""
    size_px: int
    """of what the network sees"""
    kept: Pixels | None  # [N, S, S, C]
    place: str
    """memory, file or none"""

    def square(self, index: int) -> Pixels:
        """uint8 [S, S, C]"""
        if self.kept is not None:
            return np.asarray(self.kept[index])
        return load_pixels(self.paths[index], self.preprocess)[0]


def decode_once(
    paths: Sequence[Path],
    preprocess: Preprocess,
    workers: int,
    scratch: Path,
    memory_mb: float = MEMORY_MB,
    disk_mb: float = DISK_MB,
) -> Decoded:
    """Decode every image once.

    Args:
        scratch: folder for the file when the images take more than `memory_mb`; the file has no
            name there and goes with the process.

    Raises:
        ImageRefused: a file cannot be read. MachineError: the disk is full.
    """
    size = preprocess.size_px
    wide = preprocess
    if preprocess.fit == "crop":
        wide = replace(preprocess, size_px=preprocess.resize_px)
    shape = (len(paths), wide.size_px, wide.size_px, 3)
    mb = float(np.prod(shape)) / 1e6
    if mb > max(memory_mb, disk_mb):
        return Decoded(tuple(paths), wide, size, None, "none")
    kept: Pixels
    if mb <= memory_mb:
        kept = np.empty(shape, np.uint8)
    else:
        kept = _in_a_file(shape, scratch)

    def put(index: int) -> None:
        kept[index] = load_pixels(paths[index], wide)[0]

    for _ in ordered_map(put, range(len(paths)), workers, chunk=8):
        pass
    return Decoded(tuple(paths), wide, size, kept, "memory" if mb <= memory_mb else "file")


def _in_a_file(shape: tuple[int, ...], scratch: Path) -> Pixels:
    with told("Could not keep the decoded images", scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch) as file:
            # Reserved at once: a disk that is full when a page is written would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))
            return np.memmap(file, np.uint8, "w+", shape=shape)


@dataclass(frozen=True, slots=True)
class PixelSource:
    """Views made from decoded images."""

    images: Decoded
    augment: Augment
    seed: int
    learn: Int
    """images that may be mixed in: those that are learned from"""
    mix: bool = False

    def prepare(self, epoch: int) -> None:
        """Nothing: a view costs little."""

    def views(self, epoch: int, rows: Int) -> Views:
        """uint8 [B, H, W, C]"""
        if not self.mix:
            return Views(np.stack([self._view(epoch, int(i)) for i in rows]))
        n = len(self.learn)
        others = self.learn[[partner(self.seed, epoch, int(i), n) for i in rows]]
        pairs = [
            mixed(self._view(epoch, int(i)), self._view(epoch, int(k)), self.seed, epoch, int(i))
            for i, k in zip(rows, others, strict=True)
        ]
        shares = np.array([share for _, share in pairs], np.float32)
        return Views(np.stack([pixels for pixels, _ in pairs]), others, shares)

    def whole(self, rows: Int) -> Pixels:
        """uint8 [B, H, W, C]"""
        return np.stack([centre(self.images.square(int(i)), self.images.size_px) for i in rows])

    def _view(self, epoch: int, index: int) -> Pixels:
        square = self.images.square(index)
        return view(square, self.augment, self.images.size_px, self.seed, epoch, index)
