"""How good is the decision? Every strategy on every cell of a grid, and what each rule would have chosen.

    python benchmarks/grid.py run [SET ...] [--images 200 1000] [--draws 2] [--minutes 60]
    python benchmarks/grid.py table            rules.py applied to the cells that are there
    python benchmarks/grid.py draw FILE.svg

Cells (set, images to learn from, draw) are stored one by one in benchmarks/grid/, so a stopped run
goes on. In a cell the frozen family, partial tuning and fine-tuning learn from the same images at
the same size, are verified as `fit` verifies them, and are scored on up to 1,000 other images.
Rules are applied to what is stored: none is trained again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from frozen import split
from rules import CURRENT, always_s, fitted, oracle, outcomes, procedure, strategies
from sets import REPOSITORY

from headstart import budgeting, improving, pipeline
from headstart.data.images import load_pixels
from headstart.learning import Learned, Prepared, answer, cross_validate, learn, read, train
from headstart.opening import Outcome, open_run
from headstart.plan.criterion import evaluate, log_softmax
from headstart.plan.steps import Planned, Way
from headstart.plan.worth import worth_training
from headstart.retraining import train_winner, verify_one
from headstart.run import Run, read_json, write_json
from headstart.settings import FitSettings, fit_settings, threads
from headstart.suiting import choose_augmentations
from headstart.train.answer import answers
from headstart.train.recipe import epochs_for
from headstart.training import (
    boundary_of,
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
    view = frozen.verified.chosen.view
    start = prepare_training(prepared, settings, training_folder(run), SIZE_PX, view)
    start = replace(start, suited=choose_augmentations(start))
    pixels = np.stack([load_pixels(path, start.graph.preprocess)[0] for path in paths])
    boundary = boundary_of(start.graph)
    found, best = [], None
    for strategy, through in (("partial", boundary), ("finetune", None)):
        epochs = epochs_for(kind_of(strategy), len(start.apart(start.folds[0])[0]))
        way = Way(strategy, strategy, SIZE_PX, through, epochs)
        began = time.perf_counter()
        inner = verify_one(Planned(way, start.judges, 0.0, 0.0), start)
        verify_s = time.perf_counter() - began
        wins, _ = improving.against(inner, None, frozen, prepared)
        takes, sentence = improving.against(inner, best, frozen, prepared)
        best = inner if takes else best
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
                "wins": wins,  # against the frozen result
                "takes": takes,  # against the best so far, as `fit` compares
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


# -- what the cells say --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A rule over all cells; regret in points, cost as a share of always fine-tuning."""

    rule: str
    regret: float
    low: float
    high: float
    worst_tenth: float
    cost: float


def rows_of(cells: list[dict[str, Any]]) -> list[Row]:
    """Regret of every rule against the best strategy, with an interval over sets."""
    best = oracle(cells)
    scored = [outcomes(one, cells) for one in cells]
    names = sorted({one["set"] for one in cells})
    draws = np.random.default_rng(0).integers(0, len(names), (BOOTSTRAP, len(names)))
    found = []
    for rule in scored[0]:
        regret = np.array([100 * (b - of[rule][0]) for b, of in zip(best, scored, strict=True)])
        cost = [of[rule][1] / always_s(one) for one, of in zip(cells, scored, strict=True)]
        by_set = np.array([regret[[c["set"] == name for c in cells]].mean() for name in names])
        low, high = np.quantile(by_set[draws].mean(1), [0.025, 0.975])
        tenth = float(np.quantile(regret, 0.9))
        row = Row(rule, regret.mean(), float(low), float(high), tenth, float(np.mean(cost)))
        found.append(row)
    return found


def table() -> None:
    """Every rule, every cell, and the thresholds that all cells together would choose."""
    cells = stored_cells()
    rows = rows_of(cells)
    print(f"{len(cells)} cells, {len({one['set'] for one in cells})} sets\n")
    print("| rule | mean regret, points | 95 % over sets | 90th percentile | cost |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.rule} | {row.regret:+.2f} | {row.low:+.2f} to {row.high:+.2f} "
            f"| {row.worst_tenth:.2f} | {row.cost:.2f} |"
        )
    print(f"\nthresholds fitted on all sets: {fitted(cells)}")
    print(
        "\n| cell | top | family | partial | fine-tuned | fit chooses |\n|---|---|---|---|---|---|"
    )
    for one in cells:
        found, score = strategies(one), procedure(one, CURRENT)[0]
        name = next(key for key in ("family", "partial", "finetune") if found[key] == score)
        scores = " | ".join(f"{value:.3f}" for value in found.values())
        print(f"| {one['set']}, {one['images']}, draw {one['draw']} | {scores} | {name} |")


def draw_rules(path: Path) -> None:
    """Regret against cost of every rule, as an SVG file."""
    import altair as alt

    data = alt.Data(values=[asdict(row) for row in rows_of(stored_cells())])
    base = alt.Chart(data).encode(
        x=alt.X(
            "cost:Q", title="cost, as a share of always fine-tuning", scale=alt.Scale(zero=True)
        )
    )
    score = alt.Y("regret:Q", title="mean regret, points")
    marks = base.mark_rule(color="#9aa7ad").encode(y="low:Q", y2="high:Q")
    points = base.mark_circle(size=70, opacity=1, color="#2b6c7f").encode(y=score)
    names = base.mark_text(align="left", dx=8, fontSize=11).encode(y=score, text="rule:N")
    chart = (marks + points + names).properties(width=640, height=420)
    chart.configure(background="#ffffff", font="sans-serif").save(path)


def stored_cells() -> list[dict[str, Any]]:
    cells = [read_json(path) for path in sorted(PLACE.glob("*.json"))]
    if not cells:
        raise SystemExit("there are no cells yet: python benchmarks/grid.py run")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "table", "draw"])
    parser.add_argument("sets", nargs="*", default=SETS, help="or the file to draw")
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
        draw_rules(Path(asked.sets[0]))


if __name__ == "__main__":
    main()
