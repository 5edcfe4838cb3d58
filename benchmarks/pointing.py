"""Pointing test: two photos of different classes side by side; does the heat lie on the right one?

python benchmarks/pointing.py RUN DATA [--pairs 200] [--stages head,b6,b5] [--method gradcam]

Only photos that the model answers rightly and surely are composed. Each fills half of the network's
square with its own middle, at the scale at which the model usually sees it; left and right change
from pair to pair, and either class is explained. Share: heat on the explained class's half, mean
over pairs. The middle columns of a coarse map belong to both halves, so no map reaches 100 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sets import images_by_class

from headstart.data.images import load_pixels
from headstart.explain.gradcam import heat_map, sanity
from headstart.explain.rebuild import rebuild
from headstart.run import read_json
from headstart.ship.predict import load, wide

SURE = 0.8
SANITY_IMAGES = 6


def sure_photos(model, data: Path, most: int) -> dict[int, list[np.ndarray]]:
    """Pixels of photos that the model answers rightly with at least `SURE`, by class."""
    found: dict[int, list[np.ndarray]] = {}
    pre = model.bundle.preprocess
    for name, paths in images_by_class(data).items():
        label = model.classes.index(name)
        rng = np.random.default_rng(label)
        mine = found.setdefault(label, [])
        for i in rng.permutation(len(paths)):
            if len(mine) == most:
                break
            answer = model.probabilities(load_pixels(paths[i], wide(pre))[0][None])[0]
            if int(answer.argmax()) == label and answer[label] >= SURE:
                mine.append(load_pixels(paths[i], pre)[0])
    return found


def compose(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The middles of two squares, side by side in one of the same side."""
    half, rest = left.shape[1] // 2, left.shape[1] // 4
    return np.concatenate([left[:, rest : rest + half], right[:, rest : rest + half]], axis=1)


def share_on(heat: np.ndarray, on_left: bool) -> float:
    """Share of the heat on one half; a middle column counts for both by halves."""
    columns = heat.sum(0)
    weights = np.clip(len(columns) / 2 - np.arange(len(columns)), 0, 1)
    left = float((columns * weights).sum() / max(columns.sum(), 1e-12))
    return left if on_left else 1 - left


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--stages", default="")
    parser.add_argument("--method", default="gradcam")
    given = parser.parse_args()
    model = load(given.run)
    bundle = model.bundle
    network = rebuild(bundle.folder, bundle.description, bundle.preprocess)
    photos = sure_photos(model, given.data, given.pairs)
    rng = np.random.default_rng(0)
    labels = sorted(photos)
    pairs = []
    for _ in range(given.pairs):
        a, b = rng.choice(labels, 2, replace=False)
        left, right = (photos[k][rng.integers(len(photos[k]))] for k in (a, b))
        on_left = bool(rng.integers(2))
        pairs.append((compose(left, right), int(a if on_left else b), on_left))
    strategy = bundle.description["strategy"]
    if (given.run / "evaluation.json").is_file():
        scores = read_json(given.run / "evaluation.json")["metrics"]
        strategy += f", {scores[0]['name']} {scores[0]['value']:.3f}"
    print(f"{given.run.name}: {strategy}; sure photos {[len(photos[k]) for k in labels]}")
    for stage in given.stages.split(",") if given.stages else [None]:
        shares, hits, empty = [], 0, 0
        for pixels, target, on_left in pairs:
            heat = heat_map(network, pixels, target, given.method, stage)
            positive = heat.positive
            if positive.max() == 0:
                empty += 1
                shares.append(0.0)
                continue
            shares.append(share_on(positive, on_left))
            top = np.unravel_index(positive.argmax(), positive.shape)[1]
            hits += (top < positive.shape[1] / 2) == on_left
        left = sanity(network, [(p, t) for p, t, _ in pairs[:SANITY_IMAGES]], given.method, stage)
        print(
            f"| {heat.stage or given.method} | {positive.shape[0]} | {np.mean(shares):.1%} | "
            f"{np.mean(np.array(shares) > 0.5):.1%} | {hits / len(pairs):.1%} | {empty} | {left:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
