"""What does re-training the network bring over the best frozen head? The product against itself.

    python benchmarks/tuning.py [SET ...] [--draws 3] [--train 1000] [--size 160]
    python benchmarks/tuning.py isic2017_skin --folds 5      cross-validation, two AUCs

Whole groups are drawn to learn from, at most four fifths of the images; up to 1,500 of the others are
the test part. Frozen: the best of the frozen family by its own cross-validation, with the default
budget; at its own size (with further looks at other sizes), and at the size that the network is tuned
at. Tuned: `fit --case 3`. All learn from the same images.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from frozen import family, split
from sets import draw, find, images_by_class
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from headstart import pipeline
from headstart.run import read_json
from headstart.settings import fit_settings

SETS = ("sign_digits", "brain_tumor_mri", "trashnet")
SHARE = 0.8
"""of a set's images that may be learned from"""
LESIONS = ("melanoma", "seborrheic_keratosis")


def tuned(folder: Path, out: Path, metric: str, size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """The same of `fit --case 3`."""
    values = {"data": folder, "out": out, "metric": metric, "case": 3, "size": size}
    pipeline.fit(fit_settings(values | {"report": False}))
    labels, found = stored_answers(out)
    verified = read_json(out / "training.json")["verified"][0]
    return labels, found, f"{verified['average']} {verified['alpha']}"


def stored_answers(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities as a run has stored them."""
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    classes = [key.removeprefix("p_") for key in rows[0] if key.startswith("p_")]
    labels = np.array([classes.index(row["label"]) for row in rows])
    return labels, np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows])


def accuracy(labels: np.ndarray, found: np.ndarray, _classes: list[str]) -> float:
    return float((found.argmax(1) == labels).mean())


def lesions(labels: np.ndarray, found: np.ndarray, classes: list[str]) -> float:
    """Mean of the areas of melanoma and of seborrheic keratosis against the rest."""
    where = [classes.index(name) for name in LESIONS]
    return float(np.mean([roc_auc_score(labels == c, found[:, c]) for c in where]))


def folders(
    name: str, work: Path, first: int, draws: int, most: int, folds: int
) -> Iterator[tuple[int, Path, list[str]]]:
    """Number of the draw or the fold, its data folder {train,test}/CLASS/*, and the classes."""
    classes = images_by_class(find(name, work))
    if not folds:
        for k in range(first, draws):
            yield k, split(name, work, k, most, SHARE), list(classes)
        return
    paths = np.array([path for some in classes.values() for path in some])
    labels = np.array([i for i, some in enumerate(classes.values()) for _ in some])
    cuts = StratifiedKFold(folds, shuffle=True, random_state=0).split(paths, labels)
    for k, (train, test) in enumerate(cuts):
        if first <= k < draws:
            folder = draw(work / f"{name}-{k}", list(paths[train]), list(paths[test]))
            yield k, folder, list(classes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--draws", type=int, help="draws (3), or folds, to stop before")
    parser.add_argument("--first", type=int, default=0, help="draw or fold to begin with")
    parser.add_argument("--train", type=int, default=1_000)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder that keeps the runs (a temporary one)")
    asked = parser.parse_args()
    last = asked.draws or asked.folds or 3
    score, metric = (lesions, "auc") if asked.folds else (accuracy, "accuracy")
    print(
        f"| set | draw | frozen | frozen, {asked.size} px | tuned | gain | gain at one size | chosen "
        "| mixture | minutes |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work or Path(temporary)
        for name in asked.sets:
            gains: list[tuple[float, float]] = []
            scores = []
            drawn = folders(name, work, asked.first, last, asked.train, asked.folds)
            for k, folder, classes in drawn:
                labels, before, chosen = family(folder, work / f"{name}-{k}-frozen", metric)
                like = work / f"{name}-{k}-same-size"
                _, beside, _ = family(folder, like, metric, size=asked.size)
                began = time.perf_counter()
                same, after, mixture = tuned(folder, work / f"{name}-{k}-tuned", metric, asked.size)
                assert sorted(labels) == sorted(same)
                a, b = score(labels, before, classes), score(same, after, classes)
                small = score(labels, beside, classes)
                minutes = (time.perf_counter() - began) / 60
                print(
                    f"| {name} | {k} | {a:.4f} | {small:.4f} | {b:.4f} | {100 * (b - a):+.2f} "
                    f"| {100 * (b - small):+.2f} | {chosen} | {mixture} | {minutes:.1f} |",
                    flush=True,
                )
                gains.append((100 * (b - a), 100 * (b - small)))
                scores.append(b)
            found = np.array(gains)
            error = found.std(0, ddof=1) / len(found) ** 0.5 if len(found) > 1 else [np.nan] * 2
            mean = found.mean(0)
            print(
                f"\n{name}: tuned {np.mean(scores):.4f}, {mean[0]:+.2f} ± {error[0]:.2f} points over "
                f"the best frozen head, {mean[1]:+.2f} ± {error[1]:.2f} over the best at "
                f"{asked.size} px\n",
                flush=True,
            )


if __name__ == "__main__":
    main()
