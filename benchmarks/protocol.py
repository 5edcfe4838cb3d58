"""Is the nested estimate honest? Against a large unseen part, and on labels that mean nothing.

python benchmarks/protocol.py [--draws 20] [--sizes 100,300] [SET ...]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from sets import find, groups_of, images_by_class

from headstart.backbone.features import features
from headstart.backbone.graph import tap_graph
from headstart.data.images import content_hash
from headstart.pipeline import fit
from headstart.plan.criterion import Criterion, evaluate
from headstart.run import read_json
from headstart.settings import DEFAULT_BACKBONE, FitSettings, threads

SETS = ("trashnet", "sign_digits", "eurosat")
MOST_UNSEEN = 2_000


def pick(labels: np.ndarray, groups: np.ndarray, n: int, seed: int) -> np.ndarray:
    """About n images in whole groups, classes in proportion; bool [N]."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.unique(groups))
    place = np.empty(groups.max() + 1)
    place[order] = np.arange(len(order))
    chosen = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        mine = np.flatnonzero(labels == c)
        first = mine[np.argsort(place[groups[mine]], kind="stable")]
        chosen[first[: max(3, round(n * len(mine) / len(labels)))]] = True
    return chosen


def written(paths: np.ndarray, labels: np.ndarray, groups: np.ndarray, place: Path) -> Path:
    """The drawn images as a table: what belongs together is told, as a user would tell it."""
    tied = len(np.unique(groups)) < len(groups)
    rows = [
        f"{path},class {c}" + (f",{g}" if tied else "")
        for path, c, g in zip(paths, labels, groups, strict=True)
    ]
    place.write_text("\n".join(["path,label" + (",group" if tied else ""), *rows]) + "\n")
    return place


def estimate(out: Path, **data: Path | str) -> dict[str, float]:
    """The nested score with its interval and the naive one, in the metric that drove the choices."""
    fit(FitSettings(out=out, budget=0, report=False, **data))
    metrics = {m["name"]: m for m in read_json(out / "evaluation.json")["metrics"]}
    found = metrics[read_json(out / "plan.json")["metric"]]
    naive = read_json(out / "nested.json")["naive"]["score"]
    return {"value": found["value"], "low": found["low"], "high": found["high"], "naive": naive}


def permuted(work: Path, draws: int) -> None:
    """Ants and bees under labels that mean nothing: is that said, and does the interval know it?"""
    bees = [path for some in images_by_class(find("hymenoptera", work)).values() for path in some]
    said = covered = 0
    for k in range(draws):
        rng = np.random.default_rng(k)
        folder = work / f"permuted-{k}"
        for i, path in enumerate(rng.permutation(np.array(bees))[:200]):
            place = folder / "heads_tails".split("_")[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}{path.suffix}").symlink_to(path)
        found = estimate(work / f"permuted-{k}-run", data=folder)
        said += not read_json(work / f"permuted-{k}-run" / "plan.json")["learnable"]
        covered += found["low"] <= 0.5 <= found["high"]
    print(
        f"\npermuted labels, 200 images, 2 classes: not learnable said in {said} of "
        f"{draws}, interval covers chance in {covered} of {draws}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--sizes", default="100,300")
    asked = parser.parse_args()
    graph = tap_graph(DEFAULT_BACKBONE, None, None, [])
    print("| set | n | draws | unseen | nested | bias, points | covered | naive, bias |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name in asked.sets or SETS:
            classes = images_by_class(find(name, work))
            paths = np.array([path for some in classes.values() for path in some])
            labels = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
            groups = groups_of(name, list(paths))
            hashes = [content_hash(path.read_bytes()) for path in paths]
            known = features(graph, list(paths), hashes, "cpu", threads())
            for n in map(int, asked.sizes.split(",")):
                rows = []
                for k in range(asked.draws):
                    seen = pick(labels, groups, n, k)
                    out = work / f"{name}-{n}-{k}-run"
                    table = written(
                        paths[seen], labels[seen], groups[seen], work / f"{name}-{n}-{k}.csv"
                    )
                    rows.append(estimate(out, table=table))
                    rest = np.flatnonzero(~np.isin(groups, groups[seen]))
                    rest = np.random.default_rng(k).permutation(rest)[:MOST_UNSEEN]
                    head = load_file(out / "model" / "model.safetensors")
                    taps = read_json(out / "model" / "headstart.json")["head"]["reads"]
                    x = np.concatenate([known.stage(tap, rest) for tap in taps], axis=1)
                    logits = x @ head["head.weight"].T + head["head.bias"]
                    metric = read_json(out / "plan.json")["metric"]
                    found = evaluate(Criterion(metric, metric), logits, labels[rest])
                    rows[-1]["truth"] = found.value
                column = {key: np.array([r[key] for r in rows]) for key in rows[0]}
                bias = 100 * (column["value"] - column["truth"])
                naive = 100 * (column["naive"] - column["truth"])
                inside = (column["low"] <= column["truth"]) & (column["truth"] <= column["high"])
                print(
                    f"| {name} | {n} | {asked.draws} | {column['truth'].mean():.3f} "
                    f"| {column['value'].mean():.3f} | {bias.mean():+.2f} ± "
                    f"{bias.std(ddof=1) / len(rows) ** 0.5:.2f} | {inside.sum()} of {len(rows)} "
                    f"| {naive.mean():+.2f} |",
                    flush=True,
                )
        permuted(work, asked.draws)


if __name__ == "__main__":
    main()
