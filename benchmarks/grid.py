"""How good is the decision? Every strategy on every cell of a grid, and what each rule would have chosen.

    python benchmarks/grid.py run [SET ...] [--images 200 1000] [--draws 2] [--minutes 60]
    python benchmarks/grid.py table

Cells (set, images to learn from, draw) are stored one by one in benchmarks/grid/, so a stopped run
goes on. In a cell the frozen family, partial tuning and fine-tuning learn from the same images at
the same size, are verified as `fit` verifies them, and are scored on up to 1,000 other images.
Rules are applied to what is stored: none is trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from frozen import split
from sets import REPOSITORY

from headstart import budgeting, improving, pipeline
from headstart.data.images import load_pixels
from headstart.learning import Learned, Prepared, answer, cross_validate, learn, read, train
from headstart.opening import Outcome, open_run
from headstart.plan.criterion import evaluate, log_softmax
from headstart.plan.decide import SIDES
from headstart.plan.steps import Planned, Way
from headstart.plan.worth import worth_training
from headstart.retraining import train_winner, verify_one
from headstart.run import Run, read_json, write_json
from headstart.settings import FitSettings, fit_settings, threads
from headstart.train.recipe import epochs_for
from headstart.training import (
    answers,
    choose_augmentations,
    kind_of,
    model_of,
    prepare_training,
    training_folder,
)

SETS = (
    "hymenoptera", "dogs_wolves", "clothing_small", "trashnet", "sign_digits", "brain_tumor_mri",
    "isic2017_skin", "eurosat",
)  # fmt: skip
PLACE = REPOSITORY / "benchmarks" / "grid"
SIZE_PX, MOST_TESTED, BUDGET_MIN = 128, 1_000, 30
BOOTSTRAP = 2_000


# -- a cell --------------------------------------------------------------------------------------


def cell(name: str, images: int, draw: int, work: Path) -> dict[str, Any]:
    """Every strategy on one draw of a set."""
    folder = split(name, work, draw, images)
    values = {"data": folder, "out": work / "run", "size": SIZE_PX, "budget": BUDGET_MIN}
    settings = fit_settings(values | {"seed": draw})
    opened = open_run(settings, "fit")
    assert not isinstance(opened, Outcome)
    with opened.run as run:
        began = time.perf_counter()
        prepared = pipeline.look_again(pipeline.prepare(settings, opened), settings, run)
        frozen = learn(prepared, prepared.development, settings, threads())
        behind = pipeline.background(prepared, prepared.criterion, settings)
        seconds = time.perf_counter() - began
        tested = prepared.split.test[:MOST_TESTED]
        truth = np.array([prepared.dataset.samples[i].label for i in tested])

        def score(logits: np.ndarray) -> float:
            return evaluate(prepared.criterion, log_softmax(logits), truth).value

        standing = budgeting.standing_of(prepared, frozen, behind)
        rows = prepared.test_rows[:MOST_TESTED]
        chosen = np.log(np.maximum(answer(prepared, frozen, rows), 1e-12))
        paths = [prepared.dataset.locate(prepared.dataset.samples[i]) for i in tested]
        return {
            "set": name,
            "images": images,
            "draw": draw,
            "n": standing.n,
            "metric": prepared.criterion.name,
            "tested": len(truth),
            "standing": asdict(standing),
            "shift": frozen.measurement.similarity.bn_shift,
            "worth": list(worth_training(standing).strategies),
            "frozen": {
                "name": frozen.verified.chosen.name,
                "test": score(chosen),
                "seconds": seconds,
            },
            "top": {"test": score(top_logits(prepared, frozen, settings, rows))},
            "ways": ways(prepared, frozen, settings, run, paths, score),
        }


def top_logits(
    prepared: Prepared, frozen: Learned, settings: FitSettings, rows: np.ndarray
) -> np.ndarray:
    """Case 1 to the letter."""
    top = next(c for c in frozen.plan.candidates if c.name == "head_top")
    dev = prepared.development
    trial = cross_validate(prepared, dev, top, settings.seed, threads())
    verified = replace(frozen.verified, chosen=top, trial=trial)
    head = train(prepared, verified, dev.rows, dev.labels, settings.seed)
    return head.logits(read(prepared, top, rows))


def ways(
    prepared: Prepared,
    frozen: Learned,
    settings: FitSettings,
    run: Run,
    paths: list[Path],
    score: Callable[[np.ndarray], float],
) -> list[dict[str, Any]]:
    """Partial tuning and fine-tuning, verified, learned from all, scored on the test part."""
    start = prepare_training(prepared, settings, training_folder(run), SIZE_PX)
    start = replace(start, suited=choose_augmentations(start))
    pixels = np.stack([load_pixels(path, start.graph.preprocess)[0] for path in paths])
    work = start.graph.stages[-1].macs
    boundary = next(s.name for s in start.graph.stages if s.macs >= budgeting.PARTIAL_BELOW * work)
    found = []
    for strategy, through in (("partial", boundary), ("finetune", None)):
        epochs = epochs_for(kind_of(strategy), len(start.apart(start.folds[0])[0]))
        way = Way(strategy, strategy, SIZE_PX, through, epochs)
        began = time.perf_counter()
        inner = verify_one(Planned(way, 1, 0.0, 0.0), start)
        verify_s = time.perf_counter() - began
        wins, sentence = improving.against(inner, None, frozen, prepared)
        gain, se, _ = improving.compared(inner, frozen, prepared)
        began = time.perf_counter()
        tuned = train_winner(inner, start, refit=True)
        refit_s = time.perf_counter() - began
        model = model_of(start, strategy, tuned.head)
        model.network.load_state_dict(tuned.state)
        logits = answers(model, pixels).astype(np.float64) - inner.adjusted.shift
        found.append(
            {
                "name": strategy,
                "test": score(logits),
                "wins": wins,
                "sentence": sentence,
                "gain": gain,
                "se": se,
                "verify_s": verify_s,
                "refit_s": refit_s,
                "epochs": epochs,
            }
        )
    return found


def run(names: list[str], images: list[int], draws: range, minutes: float) -> None:
    """Compute the cells that are not there, until the time is up."""
    PLACE.mkdir(exist_ok=True)
    began = time.perf_counter()
    missing = [
        (name, n, draw)
        for draw in draws
        for n in images
        for name in names
        if not (PLACE / f"{name}-{n}-{draw}.json").exists()
    ]
    with tempfile.TemporaryDirectory() as cache:
        # A cell pays for its own features; exported networks are kept, as on a user's machine.
        os.environ["HEADSTART_CACHE"] = cache
        for name, n, draw in missing:
            if time.perf_counter() - began > 60 * minutes:
                return
            shutil.rmtree(Path(cache) / "features", ignore_errors=True)
            with tempfile.TemporaryDirectory() as temporary:
                found = cell(name, n, draw, Path(temporary))
            write_json(PLACE / f"{name}-{n}-{draw}.json", found)
            print(f"{name} {n} {draw}: {time.perf_counter() - began:.0f} s", flush=True)


# -- rules ---------------------------------------------------------------------------------------


def outcomes(one: dict[str, Any], cells: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Test score and seconds of what each rule chooses in a cell."""
    partial, tuned = one["ways"]
    frozen, seconds = one["frozen"]["test"], one["frozen"]["seconds"]
    always = seconds + tuned["verify_s"] + tuned["refit_s"]
    found = {
        "always frozen top": (one["top"]["test"], seconds),
        "always the frozen family": (frozen, seconds),
        "always partial": (partial["test"], seconds + partial["verify_s"] + partial["refit_s"]),
        "always fine-tune": (tuned["test"], always),
    }
    found["fit --budget 30"] = procedure(one, one["worth"])
    small = one["standing"]["size_verdict"] == "small"
    found["size only"] = found["always the frozen family" if small else "always fine-tune"]
    found["four-case table"] = table_rule(one, one["standing"]["similarity"])
    found["four-case table, similarity of another set"] = shuffled(one, cells, table_rule)
    found["fit, trains only where not similar"] = gated(one, one["standing"]["similarity"])
    found["the same, similarity of another set"] = shuffled(one, cells, gated)
    found["pure cross-validation"] = best_by_fold(one)
    return found


def procedure(one: dict[str, Any], worth: list[str]) -> tuple[float, float]:
    """As `fit` does: nothing where nothing is worth it, else the costlier way that is better."""
    score, seconds = one["frozen"]["test"], one["frozen"]["seconds"]
    refit = 0.0
    for way in one["ways"]:
        if way["name"] in worth:
            seconds += way["verify_s"]
            if way["wins"]:
                score, refit = way["test"], way["refit_s"]
    return score, seconds + refit


def table_rule(one: dict[str, Any], similarity: str) -> tuple[float, float]:
    """The prior alone: 1 and 2 are frozen, 3 and 4 fine-tuned."""
    sides = SIDES[one["standing"]["size_verdict"], similarity]
    frozen, tuned = one["frozen"], one["ways"][1]
    if min(sides) <= 2:
        return frozen["test"], frozen["seconds"]
    return tuned["test"], frozen["seconds"] + tuned["verify_s"] + tuned["refit_s"]


def gated(one: dict[str, Any], similarity: str) -> tuple[float, float]:
    """As `fit` does, but networks are trained only for images that are not similar to the source."""
    return procedure(one, [] if similarity == "similar" else one["worth"])


def shuffled(
    one: dict[str, Any], cells: list[dict[str, Any]], rule: Callable[..., tuple[float, float]]
) -> tuple[float, float]:
    """What a rule scores and costs on average with the verdict of another set in place of its own."""
    verdicts = {c["set"]: c["standing"]["similarity"] for c in cells if c["set"] != one["set"]}
    found = [rule(one, verdict) for verdict in verdicts.values()] or [rule(one, "unclear")]
    scores, seconds = zip(*found, strict=True)
    return float(np.mean(scores)), float(np.mean(seconds))


def best_by_fold(one: dict[str, Any]) -> tuple[float, float]:
    """Whatever scores highest on the fold, at the same cost as verifying everything."""
    best = max(one["ways"], key=lambda way: way["gain"])
    seconds = one["frozen"]["seconds"] + sum(way["verify_s"] for way in one["ways"])
    if best["gain"] <= 0:
        return one["frozen"]["test"], seconds
    return best["test"], seconds + best["refit_s"]


def oracle(cells: list[dict[str, Any]]) -> dict[tuple[str, int], dict[int, float]]:
    """The best strategy of all, cross-fitted: chosen on the other draws of a cell where there are any."""
    best: dict[tuple[str, int], dict[int, float]] = {}
    for one in cells:
        mine = strategies(one)
        others = [
            strategies(c)
            for c in cells
            if (c["set"], c["images"]) == (one["set"], one["images"]) and c["draw"] != one["draw"]
        ]
        basis = others or [mine]
        name = max(mine, key=lambda key: float(np.mean([found[key] for found in basis])))
        best.setdefault((one["set"], one["images"]), {})[one["draw"]] = mine[name]
    return best


def strategies(one: dict[str, Any]) -> dict[str, float]:
    return {
        "top": one["top"]["test"],
        "family": one["frozen"]["test"],
        **{way["name"]: way["test"] for way in one["ways"]},
    }


def table() -> None:
    """Regret of every rule against the best strategy, with an interval over sets."""
    cells = [read_json(path) for path in sorted(PLACE.glob("*.json"))]
    if not cells:
        raise SystemExit("there are no cells yet: python benchmarks/grid.py run")
    best = oracle(cells)
    scored = [outcomes(one, cells) for one in cells]
    rules = list(scored[0])
    names = sorted({one["set"] for one in cells})
    print(f"{len(cells)} cells, {len(names)} sets\n")
    print(
        "| rule | mean regret, points | 95 % over sets | 90th percentile | cost against always fine-tuning |"
    )
    print("|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(names), (BOOTSTRAP, len(names)))
    for rule in rules:
        regret = np.array(
            [
                100 * (best[one["set"], one["images"]][one["draw"]] - found[rule][0])
                for one, found in zip(cells, scored, strict=True)
            ]
        )
        cost = np.mean([found[rule][1] / found["always fine-tune"][1] for found in scored])
        by_set = np.array([regret[[c["set"] == name for c in cells]].mean() for name in names])
        low, high = np.quantile(by_set[draws].mean(1), [0.025, 0.975])
        print(
            f"| {rule} | {regret.mean():+.2f} | {low:+.2f} to {high:+.2f} "
            f"| {np.quantile(regret, 0.9):.2f} | {cost:.2f} |"
        )
    print(
        "\n| cell | top | family | partial | fine-tuned | fit chooses |\n|---|---|---|---|---|---|"
    )
    for one, rated in zip(cells, scored, strict=True):
        found = strategies(one)
        chosen = rated["fit --budget 30"][0]
        name = next(key for key in ("family", "partial", "finetune") if found[key] == chosen)
        scores = " | ".join(f"{value:.3f}" for value in found.values())
        print(f"| {one['set']}, {one['n']}, draw {one['draw']} | {scores} | {name} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "table", "json"])
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 1_000])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="draw to begin with")
    parser.add_argument("--minutes", type=float, default=600.0)
    asked = parser.parse_args()
    if asked.what == "run":
        draws = range(asked.first, asked.draws)
        run(list(asked.sets), asked.images, draws, asked.minutes)
    elif asked.what == "table":
        table()
    else:
        print(json.dumps([read_json(path) for path in sorted(PLACE.glob("*.json"))]))


if __name__ == "__main__":
    main()
