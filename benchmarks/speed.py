"""The feature pass against its own parts, and `fit` on ants/bees with a cold and a warm cache.

    python benchmarks/speed.py

Ratios are measured in one run, so a shared machine's drift does not decide them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from sets import find, images_by_class

ROUNDS = 5
PASS_IMAGES = 400


def whole_pass(paths: list[str]) -> None:
    """Child: print decode, forward and pass seconds of every round, then the peak memory in MB."""
    from headstart.backbone.features import _compute, _onnx_runner
    from headstart.backbone.graph import tap_graph
    from headstart.data.images import load_pixels
    from headstart.run import peak_rss_mb
    from headstart.settings import DEFAULT_BACKBONE, threads

    graph = tap_graph(DEFAULT_BACKBONE, None, None, [])
    run, pre, workers = _onnx_runner(graph), graph.preprocess, threads()
    loaded = [load_pixels(path, pre) for path in paths]
    work = [(content, Path(path)) for (_, content), path in zip(loaded, paths, strict=True)]
    pixels = [array[None] for array, _ in loaded]
    for _ in range(ROUNDS + 1):
        with ThreadPoolExecutor(workers) as pool:
            began = time.perf_counter()
            list(pool.map(lambda path: load_pixels(path, pre), paths))
            decoded = time.perf_counter()
            list(pool.map(run, pixels))
            forwarded = time.perf_counter()
        list(_compute(run, work, pre, workers))
        passed = time.perf_counter()
        print(decoded - began, forwarded - decoded, passed - forwarded)
    print(peak_rss_mb())


def pass_memory(folder: str) -> None:
    """Child: a pass over a whole folder through the cache; print its peak memory in MB."""
    from headstart.backbone.features import features
    from headstart.backbone.graph import tap_graph
    from headstart.data.images import content_hash
    from headstart.run import peak_rss_mb
    from headstart.settings import DEFAULT_BACKBONE, threads

    paths = [path for some in images_by_class(Path(folder)).values() for path in some]
    hashes = [content_hash(path.read_bytes()) for path in paths]
    graph = tap_graph(DEFAULT_BACKBONE, None, None, [])
    found = features(graph, paths, hashes, "cpu", threads())
    print(found.computed, peak_rss_mb())


def child(*arguments: str, cache: Path) -> list[list[float]]:
    environment = os.environ | {"HEADSTART_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return [[float(v) for v in line.split()] for line in done.stdout.splitlines()]


def timed_fit(data: Path, out: Path, cache: Path) -> float:
    command = [sys.executable, "-m", "headstart", "fit", str(data), "--out", str(out)]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--budget", "0", "--no-report"],
        env=os.environ | {"HEADSTART_CACHE": str(cache)}, check=True, capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        cache = work / "cache"
        bees = find("hymenoptera", work)
        paths = [str(path) for some in images_by_class(bees).values() for path in some]
        child("pass", *paths[:20], cache=cache)  # exports the network
        *rounds, (peak,) = child("pass", *paths[:PASS_IMAGES], cache=cache)
        ratios = [(decode + forward) / whole for decode, forward, whole in rounds[1:]]
        decode, forward, whole = (median(column) for column in zip(*rounds[1:], strict=True))
        n = len(paths[:PASS_IMAGES])
        raw = n / forward
        print("| feature pass, 256-px JPEGs | |\n|---|---|")
        print(f"| decode alone, img/s | {n / decode:.0f} |")
        print(f"| raw ONNX Runtime, img/s | {raw:.0f} |")
        print(f"| pass, img/s | {n / whole:.0f} |")
        print(f"| (decode + forward) / pass, median of {ROUNDS} | {median(ratios):.2f} |")
        print(f"| peak memory, {n} images | {peak:.0f} MB |")
        for name in ("cifar10",):
            ((count, mb),) = child("memory", str(find(name, work)), cache=cache)
            print(f"| peak memory, {count:.0f} images | {mb:.0f} MB |")
        cold, warm = [], []
        for k in range(3):
            fresh = work / f"cache-{k}"
            fresh.mkdir()
            child("pass", *paths[:2], cache=fresh)  # the network is exported, no feature is cached
            cold.append(timed_fit(bees, work / f"cold-{k}", fresh))
            warm.append(timed_fit(bees, work / f"warm-{k}", fresh))
        empty = work / "cache-empty"
        first = timed_fit(bees, work / "first", empty)
        bound = 2.5 * len(paths) / raw + 12
        print("\n| fit --budget 0 --no-report on ants/bees | s | bound, s |\n|---|---|---|")
        print(f"| cold feature cache, median of 3 | {median(cold):.1f} | {bound:.1f} |")
        print(f"| cold, network exported too | {first:.1f} | |")
        print(f"| warm, median of 3 | {median(warm):.1f} | 8 |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["pass"]:
        whole_pass(sys.argv[2:])
    elif sys.argv[1:2] == ["memory"]:
        pass_memory(sys.argv[2])
    else:
        main()
