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

from headstart import pipeline
from headstart.learning import answer, learn
from headstart.opening import Outcome, open_run
from headstart.plan.criterion import choose_criterion, evaluate
from headstart.run import read_json
from headstart.settings import fit_settings, threads

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


def family(
    folder: Path,
    out: Path,
    metric: str = "auto",
    budget: float | None = None,
    size: int | None = None,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Labels and probabilities [n, C] of the test part by the best frozen candidate, and its name."""
    values = {"data": folder, "out": out, "metric": metric, "budget": budget, "size": size}
    settings = fit_settings(values)
    opened = open_run(settings, "fit")
    assert not isinstance(opened, Outcome)
    with opened.run as run:
        prepared = pipeline.look_again(pipeline.prepare(settings, opened), settings, run)
        learned = learn(prepared, prepared.development, settings, threads())
        labels = np.array([prepared.dataset.samples[i].label for i in prepared.split.test])
        found = answer(prepared, learned, prepared.test_rows)
    return labels, found, learned.verified.chosen.name


def widest(folder: Path, out: Path, budget: float) -> tuple[float, str, float]:
    """As `one`, but the frozen family alone: `fit` would go on and train the network."""
    began = time.perf_counter()
    labels, found, name = family(folder, out, budget=budget)
    seconds = time.perf_counter() - began
    classes = sorted(path.name for path in (folder / "train").iterdir())
    learned = [classes.index(path.parent.name) for path in (folder / "train").glob("*/*")]
    criterion = choose_criterion("auto", np.array(learned), classes)  # as the choice was made
    return evaluate(criterion, np.log(np.maximum(found, 1e-12)), labels).value, name, seconds


def split(name: str, work: Path, k: int, most: int, share: float = 0.6) -> Path:
    """A draw of the set as {train,test}: whole groups, at most so many images to learn from."""
    classes = images_by_class(find(name, work))
    paths = np.array([path for some in classes.values() for path in some])
    groups = groups_of(name, list(paths))
    rng = np.random.default_rng(k)
    place = rng.permutation(groups.max() + 1)[groups]
    order = np.argsort(place, kind="stable")
    cut = int(min(most, share * len(paths)))
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
                after = widest(folder, work / f"{name}-{k}-after", float(asked.budget))
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
