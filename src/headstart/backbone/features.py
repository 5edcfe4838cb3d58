"""One pass through the frozen backbone: pooled features of every stage, computed once and kept.

N images, D width of one output, S stages, B batch.

On a CPU every worker thread decodes one image and runs it through ONNX Runtime by itself: with one
image at a time the activations stay in the processor's cache, decoding overlaps computing, nothing
waits for a batch, and memory does not depend on the number of images. On a GPU the same outputs
come from torch in bf16.

Rows stay in the files of the feature cache and are read by stage when a step asks for them, so the
memory of the pass is that of one shard, not of the data set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.feature_cache import Array, FeatureCache
from headstart.backbone.graph import SPREAD, TapGraph
from headstart.data.images import Preprocess, load_pixels
from headstart.errors import DataError
from headstart.parallel import ordered_map, progress

ROWS_PER_SHARD = 2048
SHARD_BYTES = 40_000_000
"""what a shard holds at most, so that wide networks need no more memory than narrow ones"""
GPU_BATCH = 64
NORM_NAMES = ("norm_mean", "norm_square")


@dataclass(frozen=True, slots=True)
class Features:
    """Pooled features of N images: one row each, all outputs side by side, read when asked for."""

    names: tuple[str, ...]
    """stages in order, then `stage/std` of those with positions, then norm_mean and norm_square
    where the network has a BatchNorm"""
    widths: tuple[int, ...]
    shards: tuple[Array, ...]
    """[rows, sum of D] each; files mapped into memory where the cache could be written"""
    place: NDArray[np.int64]
    """[N, 2]: shard and row of every image"""
    computed: int
    """how many rows were not in the cache"""
    seconds: float

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in order, without deviations and norm statistics."""
        return tuple(n for n in self.names if not n.endswith(SPREAD) and n not in NORM_NAMES)

    def stage(
        self, name: str, images: NDArray[np.int64] | None = None, spread: bool = False
    ) -> Array:
        """Features of one output [n, D] for all images, or for those of the given indices.

        With `spread` the standard deviations over positions follow the means: [n, 2 D], or [n, D]
        for a stage without positions.
        """
        return self._read([self._columns(n) for n in self.read_by(name, spread)], images)

    def all_stages(self, images: NDArray[np.int64] | None = None, spread: bool = False) -> Array:
        """All stages side by side [n, sum of D over stages]; with `spread` all deviations follow."""
        last = len(self.stages)
        if spread:
            last += sum(name.endswith(SPREAD) for name in self.names)
        return self._read([slice(0, sum(self.widths[:last]))], images)

    def read_by(self, name: str, spread: bool) -> tuple[str, ...]:
        """The outputs that `stage` reads."""
        deviations = f"{name}{SPREAD}"
        return (name, deviations) if spread and deviations in self.names else (name,)

    def _columns(self, name: str) -> slice:
        i = self.names.index(name)
        start = sum(self.widths[:i])
        return slice(start, start + self.widths[i])

    def _read(self, columns: Sequence[slice], images: NDArray[np.int64] | None) -> Array:
        place = self.place if images is None else self.place[images]
        out = np.empty((len(place), sum(part.stop - part.start for part in columns)), np.float32)
        for k in np.unique(place[:, 0]):
            mine = np.flatnonzero(place[:, 0] == k)
            start = 0
            for part in columns:
                stop = start + part.stop - part.start
                out[mine, start:stop] = self.shards[k][place[mine, 1], part]
                start = stop
        return out


def features(
    graph: TapGraph, paths: Sequence[Path], hashes: Sequence[str], device: str, workers: int
) -> Features:
    """Features of images, from the cache where their content is known, else computed and stored.

    Args:
        paths: N image files that passed the check. hashes: their content hashes, same order.
        device: "cpu" or "cuda". workers: threads.

    Raises:
        DataError: a file changed or vanished since it was checked.
    """
    began = time.perf_counter()
    cache = FeatureCache(graph, device)
    shards, known = cache.read(set(hashes))
    todo = {h: path for h, path in zip(hashes, paths, strict=True) if h not in known}
    if todo:
        run = _torch_runner(graph) if device == "cuda" else _onnx_runner(graph)
        computed = _compute(run, list(todo.items()), graph.preprocess, workers)
        for keys, rows in _in_shards(progress(computed, len(todo), "features"), sum(graph.widths)):
            known |= {key: (len(shards), i) for i, key in enumerate(keys)}
            shards.append(cache.add(keys, rows))
    return Features(
        names=graph.names,
        widths=graph.widths,
        shards=tuple(shards),
        place=np.array([known[h] for h in hashes], dtype=np.int64).reshape(-1, 2),
        computed=len(todo),
        seconds=time.perf_counter() - began,
    )


def _in_shards(
    computed: Iterable[tuple[str, Array]], width: int
) -> Iterator[tuple[list[str], Array]]:
    """Gather rows into shards; a shard is stored when full, so a killed pass keeps what it did.

    An error or Ctrl-C stores what was gathered until then, and goes on its way.
    """
    most = max(1, min(ROWS_PER_SHARD, SHARD_BYTES // (4 * width)))
    keys: list[str] = []
    rows: list[Array] = []
    stopped: BaseException | None = None
    try:
        for key, row in computed:
            keys.append(key)
            rows.append(row)
            if len(keys) == most:
                yield keys, np.stack(rows)
                keys, rows = [], []
    except (Exception, KeyboardInterrupt) as cause:
        stopped = cause
    if keys:
        yield keys, np.stack(rows)
    if stopped is not None:
        raise stopped


# -- computing -----------------------------------------------------------------------------------

Runner = Callable[[NDArray[np.uint8]], Array]
"""uint8 [B, H, W, 3] -> float32 [B, sum of D]"""


def open_session(network: Path | bytes, threads: int) -> Any:
    """An ONNX Runtime session on the CPU with a fixed number of threads and quiet logging."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = network if isinstance(network, bytes) else str(network)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _onnx_runner(graph: TapGraph) -> Runner:
    session = open_session(graph.onnx, threads=1)

    def run(pixels: NDArray[np.uint8]) -> Array:
        return np.concatenate(session.run(None, {"image": pixels}), axis=1)

    return run


def _torch_runner(graph: TapGraph, device: str = "cuda") -> Runner:
    """The same outputs from torch, in float32: the bundle must answer what was evaluated."""
    import torch

    from headstart.backbone.load import network_of
    from headstart.backbone.stages import Taps, last_norm

    network = network_of(graph.name, graph.weights, graph.source_classes)
    side = graph.preprocess.size_px
    norm = last_norm(network, torch.zeros(1, 3, side, side)) if graph.has_norm else None
    pre, spread = graph.preprocess, [name.removesuffix(SPREAD) for name in graph.spread_names]
    taps = Taps(network, pre.mean, pre.std, norm, spread).eval()
    taps = taps.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(pixels: NDArray[np.uint8]) -> Array:
        with torch.inference_mode():
            outputs = taps(torch.from_numpy(pixels).to(device, non_blocking=True))
        return np.asarray(torch.cat(outputs, dim=1).float().cpu().numpy())

    run.batch = GPU_BATCH  # type: ignore[attr-defined]
    return run


def _compute(
    run: Runner, work: Sequence[tuple[str, Path]], preprocess: Preprocess, workers: int
) -> Iterator[tuple[str, Array]]:
    """(content hash, row [sum of D]) for every image, in order."""

    def read(item: tuple[str, Path]) -> NDArray[np.uint8]:
        expected, path = item
        try:
            pixels, content = load_pixels(path, preprocess)
        except DataError as cause:
            raise _changed(path) from cause
        if content != expected:
            raise _changed(path)
        return pixels

    batch = getattr(run, "batch", 1)
    if batch == 1:
        rows = ordered_map(lambda item: run(read(item)[None])[0], work, workers)
        yield from zip((h for h, _ in work), rows, strict=True)
        return
    waiting: list[tuple[str, NDArray[np.uint8]]] = []
    for (content, _), pixels in zip(work, ordered_map(read, work, workers, chunk=4), strict=True):
        waiting.append((content, pixels))
        if len(waiting) == batch:
            yield from _run_batch(run, waiting)
            waiting = []
    if waiting:
        yield from _run_batch(run, waiting)


def _run_batch(
    run: Runner, waiting: list[tuple[str, NDArray[np.uint8]]]
) -> Iterator[tuple[str, Array]]:
    rows = run(np.stack([pixels for _, pixels in waiting]))
    yield from zip((content for content, _ in waiting), rows, strict=True)


def _changed(path: Path) -> DataError:
    return DataError(
        "This file changed or vanished while it was being read",
        where=path,
        do="Let the folder rest, then run the command again with --resume.",
    )
