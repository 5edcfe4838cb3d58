"""Run the four cases on the demonstration network: the numbers of docs/concepts.md, a JSON line each.

    python docs/four_cases.py --data FOLDER --work DIR

FOLDER holds `cifar10/{train,test}/CLASS/*` and `malaria/{train,val}/CLASS/*` (blood cells, file
names that begin with the patient). The source is four of CIFAR-10's classes, the similar new data the
six others, the different new data the blood cells, with a fifth of the patients as test part. Small
means 120 or 600 training images, large all of them; the test part stays the same.

Cases 1 and 2 are `headstart fit --case 1` and `--case 2`. Fine-tuning and training from scratch are
the plain loop of `headstart.backbone.pretrain`: the same schedule, views and number of epochs, from
the pre-trained weights or from random ones.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

from headstart.backbone.demo_net import CONFIG, DemoNet
from headstart.backbone.load import load, preprocess_of
from headstart.backbone.pretrain import normalised, pretrain, read_images, score, train

SOURCE = ("bird", "cat", "ship", "truck")
LIKENESS = ("similar", "different")
SIZES = {"120": 120, "600": 600, "large": None}
EPOCHS = {"120": 60, "600": 40, "large": 4}
BATCHES = {"120": 32, "600": 128, "large": 128}
RATES = {"fine-tuned": 1e-3, "from scratch": 3e-3}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--likeness", nargs="+", choices=LIKENESS, default=LIKENESS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    given = parser.parse_args()
    work, weights = given.work, given.work / "demo.safetensors"
    if not (work / "source").exists():
        make_folders(given.data, work)
    if not weights.exists():
        done = pretrain(work / "source", weights, tell=print)
        print(f"source: {done.n_train} images, {done.seconds:.0f} s, {done.accuracy:.3f} right")
    for size, likeness in itertools.product(given.sizes, given.likeness):
        data = draw(work / f"{likeness}_large", SIZES[size], given.seed)
        row = {f"case {case}": frozen(data, weights, case) for case in (1, 2)}
        row |= {how: tuned(data, weights, how, size, given.seed) for how in RATES}
        print(json.dumps({"size": size, "likeness": likeness, **row}), flush=True)


def make_folders(data: Path, work: Path) -> None:
    """Sort links to the images into source, similar_large and different_large."""
    for path in sorted((data / "cifar10").glob("*/*/*")):
        name = "source" if path.parent.name in SOURCE else "similar_large"
        link(path, work / name / path.parts[-3] / path.parts[-2] / path.name)
    for path in sorted((data / "malaria").glob("*/*/*")):
        patient = re.split("ThinF|_IMG", path.name)[0]
        is_test = int(hashlib.sha256(patient.encode()).hexdigest(), 16) % 5 == 0
        part = "test" if is_test else "train"
        link(path, work / "different_large" / part / path.parent.name / path.name)


def draw(large: Path, count: int | None, seed: int) -> Path:
    """A small set: as many images of each class, drawn by seed and name; the same test part."""
    if count is None:
        return large
    small = large.with_name(f"{large.name.replace('large', str(count))}_{seed}")
    if small.exists():
        return small
    by_class = defaultdict(list)
    for path in large.glob("train/*/*"):
        by_class[path.parent.name].append(path)
    for name, paths in by_class.items():
        order = sorted(paths, key=lambda p: hashlib.sha256(f"{seed}|{p.name}".encode()).digest())
        for path in order[: count // len(by_class)]:
            link(path.resolve(), small / "train" / name / path.name)
    for path in large.glob("test/*/*"):
        link(path.resolve(), small / "test" / path.parent.name / path.name)
    return small


def link(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(path.resolve())


def frozen(data: Path, weights: Path, case: int) -> dict[str, object]:
    """`headstart fit --case 1` or `--case 2`: score on the test part, and the cut."""
    out = data.parent / f"run-{data.name}-case{case}"
    start = time.perf_counter()
    if not (out / "evaluation.json").exists():
        command = ["-m", "headstart", "fit", str(data), "--out", str(out), "--case", str(case)]
        command += ["--backbone", "demo", "--weights", str(weights), "--budget", "0"]
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    evaluation = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    (accuracy,) = [m for m in evaluation["metrics"] if m["name"] == "accuracy"]
    return {
        "accuracy": accuracy["value"],
        "low": accuracy["low"],
        "high": accuracy["high"],
        "n": accuracy["n"],
        "cut": plan["cut"],
        "bn_shift": plan["similarity"]["bn_shift"],
        "seconds": round(time.perf_counter() - start),
    }


def tuned(data: Path, weights: Path, how: str, size: str, seed: int) -> dict[str, object]:
    """Case 3 or 4 by the plain loop; a new random last layer in either case."""
    torch.set_num_threads(1)  # so that the numbers do not depend on the machine's cores
    images = read_images(data, preprocess_of(CONFIG, None))
    torch.manual_seed(seed)
    network = load("demo", weights).network if how == "fine-tuned" else DemoNet()
    assert isinstance(network, DemoNet)
    network.reset_classifier(len(images.classes))
    network.requires_grad_(True)
    pixels, learned = normalised(images.pixels), ~images.is_test
    start = time.perf_counter()
    schedule = {"epochs": EPOCHS[size], "batch": BATCHES[size], "rate": RATES[how], "seed": seed}
    for _ in train(network, pixels[learned], images.labels[learned], **schedule):
        pass
    return {
        "accuracy": score(network, pixels[~learned], images.labels[~learned]),
        "train_accuracy": score(network, pixels[learned], images.labels[learned]),
        "n_train": int(learned.sum()),
        "n": int((~learned).sum()),
        "seconds": round(time.perf_counter() - start),
    }


if __name__ == "__main__":
    main()
