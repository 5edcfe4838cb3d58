"""What a report costs beside the job it tells of: seconds, memory, and the size of the page.

    python benchmarks/report.py [SET ...] [--learn N] [--test N]

A frozen `fit` with an empty cache; the pictures are a step of it, the page is rendered after it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sets import draw, find, images_by_class

RENDER = """
import sys, time
from pathlib import Path
from headstart.ship.report import render
began = time.perf_counter()
page = render(Path(sys.argv[1]))
print(time.perf_counter() - began)
"""


def drawn(name: str, learn: int, test: int, work: Path) -> Path:
    """A data folder with so many images to learn from and to test, classes in proportion."""
    every = [path for some in images_by_class(find(name, work)).values() for path in some]
    order = np.random.default_rng(0).permutation(len(every))
    picked = [every[i] for i in order[: learn + test]]
    return draw(work / f"{name}-{learn}-{test}", picked[:learn], picked[learn:])


def fitted(data: Path, out: Path, cache: Path, *flags: str) -> dict[str, Any]:
    """The manifest of a fit with an empty cache."""
    subprocess.run(
        [sys.executable, "-m", "headstart", "fit", str(data), "--out", str(out), "--budget", "0", *flags],
        env=os.environ | {"HEADSTART_CACHE": str(cache)}, check=True, capture_output=True,
    )  # fmt: skip
    manifest: dict[str, Any] = json.loads((out / "run.json").read_text())
    return manifest


def rendered(run: Path) -> float:
    """Seconds for the page alone, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", RENDER, str(run)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="*", default=["cifar10"])
    parser.add_argument("--learn", type=int, default=2000)
    parser.add_argument("--test", type=int, default=2000)
    asked = parser.parse_args()
    print(
        "| set | images | fit, s | pictures, s | page, s | share | peak, MB | without | page, MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in asked.sets:
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            data = drawn(name, asked.learn, asked.test, work)
            plain = fitted(data, work / "plain", work / "cache-a", "--no-report")
            full = fitted(data, work / "full", work / "cache-b")
            steps = {step["name"]: step["seconds"] for step in full["steps"]}
            pictures, page = steps["picture"], rendered(work / "full")
            fit = full["seconds"] + full["backbone_s"] - pictures
            size = (work / "full" / "report.html").stat().st_size / 1e6
            stored = work / "full" / "pictures.json"
            print(
                f"| {name} | {asked.learn} + {asked.test} | {fit:.1f} | {pictures:.1f} | {page:.1f} "
                f"| {(pictures + page) / fit:.0%} | {full['peak_rss_mb']:.0f} "
                f"| {plain['peak_rss_mb']:.0f} | {size:.1f} |"
            )
            parts = json.loads(stored.read_text())["seconds"]
            print(f"  pictures.json {stored.stat().st_size / 1e6:.1f} MB; seconds: {parts}")


if __name__ == "__main__":
    main()
