"""`fit --budget 0` and all stages against scikit-learn on the top features, same files, paired.

    python benchmarks/heads.py [SET ...]

Draws: five stratified 80/20 splits; sign_digits by blocks of ten file numbers; brain_tumor_mri as
grouped five-fold cross-validation over all its images.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from sets import draw, find, groups_of, images_by_class
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headstart.backbone.features import features
from headstart.backbone.graph import tap_graph
from headstart.data.check import check
from headstart.data.sources import read
from headstart.data.split import split
from headstart.pipeline import fit
from headstart.plan.criterion import Criterion
from headstart.run import read_json
from headstart.settings import DEFAULT_BACKBONE, FitSettings, threads
from headstart.train.head import HeadTask, search_head, train_head

SETS = ("clothing_small", "trashnet", "sign_digits", "brain_tumor_mri")
DRAWS = 5


def one_draw(folder: Path, out: Path) -> dict[str, float]:
    """Accuracies on one draw: what fit chose, all stages, scikit-learn on the top."""
    settings = FitSettings(data=folder, out=out, budget=0, report=False)
    fit(settings)
    plan, evaluation = read_json(out / "plan.json"), read_json(out / "evaluation.json")
    dataset = read(folder)
    graph = tap_graph(DEFAULT_BACKBONE, None, None, [])
    findings = check(dataset, threads(), graph.preprocess.decode_px)
    parts = split(dataset, findings, settings.seed)
    order = np.concatenate([parts.train, parts.test])
    paths = [dataset.locate(dataset.samples[i]) for i in order]
    hashes = [findings.infos[i].content_hash for i in order]
    found = features(graph, paths, hashes, "cpu", threads())
    labels = np.array([dataset.samples[i].label for i in order])
    n = len(parts.train)
    top, both = found.stage("head"), found.all_stages()
    y, truth, classes = labels[:n], labels[n:], len(dataset.classes)
    learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    reference = learner.fit(top[:n], y).score(top[n:], truth)
    task = HeadTask(y, parts.fold, parts.group, classes, Criterion("accuracy", "accuracy"))
    search = search_head(both[:n], task, 0, threads())
    head = train_head(both[:n], y, classes, search.strength, 0)
    accuracy = next(m["value"] for m in evaluation["metrics"] if m["name"] == "accuracy")
    return {
        "fit": accuracy,
        "all": float((head.logits(both[n:]).argmax(1) == truth).mean()),
        "sklearn": reference,
        "chose": plan["chosen"],
    }


def main() -> None:
    names = sys.argv[1:] or SETS
    print(
        "| set | draws | scikit-learn, top | fit --budget 0 | all stages | fit - scikit-learn | all - scikit-learn | chosen |"
    )
    print("|---|---|---|---|---|---|---|---|")
    gains = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name in names:
            classes = images_by_class(find(name, work))
            paths = [path for some in classes.values() for path in some]
            labels = np.array([path.parent.name for path in paths])
            groups = groups_of(name, paths)
            rows = []
            for k in range(DRAWS):
                seed = 0 if name == "brain_tumor_mri" else k
                folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
                train, test = list(folds.split(paths, labels, groups))[
                    k if name == "brain_tumor_mri" else 0
                ]
                folder = draw(
                    work / f"{name}-{k}", [paths[i] for i in train], [paths[i] for i in test]
                )
                rows.append(one_draw(folder, work / f"run-{name}-{k}"))
            column = {key: np.array([r[key] for r in rows]) for key in ("fit", "all", "sklearn")}
            paired, wide = column["fit"] - column["sklearn"], column["all"] - column["sklearn"]
            gains.append(wide.mean())
            chosen = ", ".join(sorted({str(r["chose"]) for r in rows}))
            print(
                f"| {name} | {DRAWS} | {column['sklearn'].mean():.4f} | {column['fit'].mean():.4f} "
                f"| {column['all'].mean():.4f} | {100 * paired.mean():+.2f} ± {100 * paired.std(ddof=1) / DRAWS**0.5:.2f} "
                f"| {100 * wide.mean():+.2f} ± {100 * wide.std(ddof=1) / DRAWS**0.5:.2f} | {chosen} |",
                flush=True,
            )
    print(f"\nall stages against scikit-learn, mean over sets: {100 * np.mean(gains):+.2f} points")


if __name__ == "__main__":
    main()
