"""How fast are many small files checked, against a bare parallel decode of the same files?

python benchmarks/check.py [--files 100000] [--side 64]

Checked means: read, decoded whole, hashed, its metadata looked at, its fingerprint taken, copies found.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from sets import find, images_by_class

from headstart.data.check import check
from headstart.data.sources import read
from headstart.settings import threads

ROUNDS = 3
CHUNK = 64


def make(folder: Path, files: int, side: int, work: Path) -> None:
    """Distinct small JPEGs: random cuts from the photos of trashnet, in ten classes."""
    photos = [p for some in images_by_class(find("trashnet", work)).values() for p in some]
    for k in range(10):
        (folder / f"class{k}").mkdir(parents=True)
    each = -(-files // len(photos))

    def cut(number: int) -> None:
        rng = np.random.default_rng(number)
        image = Image.open(photos[number]).convert("RGB")
        for i in range(number * each, min(files, (number + 1) * each)):
            scale = rng.uniform(1, 2)
            big = int(side * scale)
            left, top = (int(rng.integers(0, full - big)) for full in image.size)
            small = image.crop((left, top, left + big, top + big)).resize((side, side))
            small.save(folder / f"class{i % 10}" / f"{i}.jpg", quality=88)

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(cut, range(len(photos))))


def bare(paths: list[Path]) -> float:
    """Files per second of a plain parallel decode to RGB."""

    def some(part: list[Path]) -> None:
        for path in part:
            with Image.open(path) as image:
                image.convert("RGB")

    parts = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    began = time.perf_counter()
    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(some, parts))
    return len(paths) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make(work / "data", asked.files, asked.side, work)
        dataset = read(work / "data")
        paths = [dataset.locate(sample) for sample in dataset.samples]
        rows = []
        for _ in range(ROUNDS):
            decoded = bare(paths)
            began = time.perf_counter()
            check(dataset, threads(), 256)
            rows.append((decoded, len(paths) / (time.perf_counter() - began)))
    found = np.array(rows)
    ratio = np.median(found[:, 1] / found[:, 0])
    print("| files | side, px | bare decode, files/s | checked, files/s | ratio, median of 3 |")
    print("|---|---|---|---|---|")
    print(
        f"| {asked.files} | {asked.side} | {np.median(found[:, 0]):.0f} "
        f"| {np.median(found[:, 1]):.0f} | {ratio:.2f} |"
    )


if __name__ == "__main__":
    main()
