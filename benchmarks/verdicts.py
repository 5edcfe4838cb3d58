"""Accuracy on ants/bees, the demo over five seeds, and the similarity verdict on eight sets.

python benchmarks/verdicts.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import mean

from sets import draw, find, images_by_class

from headstart.demo import demo
from headstart.pipeline import fit, plan
from headstart.run import read_json
from headstart.settings import FitSettings

SIMILAR = ("hymenoptera", "dogs_wolves", "clothing_small", "trashnet")
DIFFERENT = ("sign_digits", "brain_tumor_mri", "isic2017_skin", "malaria")
MOST_IMAGES = 600


def accuracy(run: Path) -> float:
    metrics = read_json(run / "evaluation.json")["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "accuracy"))


def sample(folder: Path, out: Path) -> Path:
    """At most 600 images of a set in proportion to its classes: the shift uses 160 anyway."""
    classes = images_by_class(folder)
    total = sum(map(len, classes.values()))
    step = max(1, total // MOST_IMAGES)
    return draw(out, [p for some in classes.values() for p in some[::step]], [])


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        bees = find("hymenoptera", work)
        fit(FitSettings(data=bees, out=work / "bees", budget=0, report=False))
        print(f"ants/bees, given split: accuracy {accuracy(work / 'bees'):.4f}\n")
        scores = []
        for seed in range(5):
            demo(work / f"demo-{seed}", seed)
            scores.append(accuracy(work / f"demo-{seed}"))
        listed = ", ".join(f"{s:.4f}" for s in scores)
        print(f"digits demo, seeds 0 to 4: mean {mean(scores):.4f} ({listed})\n")
        print("| set | a person says | verdict | shift | 95 % interval |\n|---|---|---|---|---|")
        decided = wrong = 0
        for person, names in (("similar", SIMILAR), ("different", DIFFERENT)):
            for name in names:
                folder = sample(find(name, work), work / f"sample-{name}")
                plan(FitSettings(data=folder / "train", out=work / f"plan-{name}"))
                near = read_json(work / f"plan-{name}" / "plan.json")["similarity"]
                decided += near["verdict"] != "unclear"
                wrong += near["verdict"] not in ("unclear", person)
                print(
                    f"| {name} | {person} | {near['verdict']} | {near['bn_shift']:.3f} "
                    f"| {near['low']:.3f} to {near['high']:.3f} |",
                    flush=True,
                )
        print(f"\ndecided: {decided} of 8; the opposite of a person's: {wrong}")


if __name__ == "__main__":
    main()
