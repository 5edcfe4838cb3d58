"""What does time buy the frozen family? Paired on the same files, in the score that drives the choice.

python benchmarks/frozen.py [--draws 3] [--train 1000] [--before CHECKOUT] [SET ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sets import REPOSITORY, draw, find, groups_of, images_by_class

from headstart.run import read_json

SETS = (
    "clothing_small", "trashnet", "sign_digits", "brain_tumor_mri", "isic2017_skin", "eurosat",
)  # fmt: skip
MOST_TESTED = 1_500


def one(code: Path, folder: Path, out: Path, budget: str) -> tuple[float, str, float]:
    """The driving score on the test part, the chosen candidate, and the seconds of a fit."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "headstart", "fit", str(folder), "--out", str(out)]
    subprocess.run(
        [*command, "--budget", budget, "--no-report"],
        env={**os.environ, "PYTHONPATH": str(code / "src")},
        check=True,
        capture_output=True,
    )
    plan = read_json(out / "plan.json")
    scores = {m["name"]: m["value"] for m in read_json(out / "evaluation.json")["metrics"]}
    return scores[plan["metric"]], plan["chosen"], time.perf_counter() - began


def split(name: str, work: Path, k: int, most: int) -> Path:
    """A draw of the set as {train,test}: whole groups, at most so many images to learn from."""
    classes = images_by_class(find(name, work))
    paths = np.array([path for some in classes.values() for path in some])
    groups = groups_of(name, list(paths))
    rng = np.random.default_rng(k)
    place = rng.permutation(groups.max() + 1)[groups]
    order = np.argsort(place, kind="stable")
    cut = int(min(most, 0.6 * len(paths)))
    last = place[order[cut - 1]]
    train, test = order[place[order] <= last], order[place[order] > last][:MOST_TESTED]
    return draw(work / f"{name}-{k}", list(paths[train]), list(paths[test]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--train", type=int, default=1_000)
    parser.add_argument("--budget", default="10")
    parser.add_argument("--before", type=Path, help="another checkout; its --budget 0 is the base")
    asked = parser.parse_args()
    base = asked.before or REPOSITORY
    print(
        "| set | draws | budget 0 | with budget | gain, points | s, budget 0 | s, with | chosen |"
    )
    print("|---|---|---|---|---|---|---|---|")
    gains = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name in asked.sets or SETS:
            rows, chosen = [], []
            for k in range(asked.draws):
                folder = split(name, work, k, asked.train)
                before = one(base, folder, work / f"{name}-{k}-before", "0")
                after = one(REPOSITORY, folder, work / f"{name}-{k}-after", asked.budget)
                rows.append((before[0], after[0], before[2], after[2]))
                chosen.append(after[1])
            found = np.array(rows)
            gain = 100 * (found[:, 1] - found[:, 0])
            gains.append(gain.mean())
            error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
            print(
                f"| {name} | {asked.draws} | {found[:, 0].mean():.4f} | {found[:, 1].mean():.4f} "
                f"| {gain.mean():+.2f} ± {error:.2f} | {found[:, 2].mean():.0f} "
                f"| {found[:, 3].mean():.0f} | {', '.join(sorted(set(chosen)))} |",
                flush=True,
            )
    print(f"\nmean gain over sets: {np.mean(gains):+.2f} points")


if __name__ == "__main__":
    main()
