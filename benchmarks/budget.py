"""What do the minutes of `fit --budget` bring? Against the frozen family, with predicted and true times.

python benchmarks/budget.py [SET ...] [--budget 10] [--train 1000] [--draw 0]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from frozen import family, split
from tuning import stored_answers

from headstart import pipeline
from headstart.plan.criterion import choose_criterion, evaluate, log_softmax
from headstart.run import read_json
from headstart.settings import fit_settings

SETS = (
    "isic2017_skin", "brain_tumor_mri", "sign_digits", "trashnet", "clothing_small", "dogs_wolves",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--budget", type=float, default=10)
    parser.add_argument("--train", type=int, default=1_000)
    parser.add_argument("--draw", type=int, default=0)
    asked = parser.parse_args()
    print(
        "| set | learned from | frozen | with budget | gain | minutes | chosen | ways: predicted, true s |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    gains = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name in asked.sets:
            folder = split(name, work, asked.draw, asked.train)
            labels, before, _ = family(folder, work / f"{name}-frozen")
            began = time.perf_counter()
            out = work / f"{name}-fit"
            values = {"data": folder, "out": out, "budget": asked.budget, "report": False}
            pipeline.fit(fit_settings(values))
            minutes = (time.perf_counter() - began) / 60
            same, after = stored_answers(out)
            assert sorted(labels) == sorted(same)
            plan = read_json(out / "plan.json")
            classes = sorted(path.name for path in (folder / "train").iterdir())
            criterion = choose_criterion(plan["metric"], labels, classes)
            a, b = (
                evaluate(criterion, log_softmax(np.log(np.maximum(p, 1e-12))), truth).value
                for p, truth in ((before, labels), (after, same))
            )
            took = {row["name"]: row["seconds"] for row in plan["candidates"]}
            planned = (plan["budget_steps"] or {"planned": []})["planned"]
            times = "; ".join(
                f"{one['way']['name']} x {one['folds']}: {one['verify_s']:.0f}, "
                f"{took.get(one['way']['name'], float('nan')):.0f}"
                for one in planned
            )
            gains.append(100 * (b - a))
            print(
                f"| {name} | {plan['size']['n']} | {a:.4f} | {b:.4f} | {gains[-1]:+.2f} "
                f"| {minutes:.1f} | {plan['chosen']} | {times} |",
                flush=True,
            )
    print(f"\nmean gain: {np.mean(gains):+.2f} points")


if __name__ == "__main__":
    main()
