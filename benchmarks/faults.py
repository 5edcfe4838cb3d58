"""Planted shortcuts and planted label conflicts: does `headstart check` find them?

python benchmarks/faults.py [SET ...]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from sets import find, images_by_class

from headstart.pipeline import check_data
from headstart.run import read_json
from headstart.settings import FitSettings

SETS = ("trashnet", "clothing_small", "sign_digits", "brain_tumor_mri")
CONFLICTS = 20
"""of each kind"""

Save = Callable[[Path, Path], None]


def linked(path: Path, place: Path) -> None:
    place.with_suffix(path.suffix).symlink_to(path)


def as_png(path: Path, place: Path) -> None:
    Image.open(path).convert("RGB").save(place.with_suffix(".png"))


def larger(path: Path, place: Path) -> None:
    image = Image.open(path).convert("RGB")
    sides = tuple(round(1.1 * side) for side in image.size)
    image.resize(sides, Image.Resampling.BICUBIC).save(place.with_suffix(".jpg"), quality=92)


def same_jpeg(path: Path, place: Path) -> None:
    Image.open(path).convert("RGB").save(place.with_suffix(".jpg"), quality=92)


def build(name: str, work: Path, odd: Save, rest: Save, most: int = 60) -> Path:
    """The set with its first class saved differently from the others."""
    folder = work / f"{name}-{odd.__name__}"
    for k, (label, paths) in enumerate(images_by_class(find(name, work)).items()):
        (folder / label).mkdir(parents=True)
        for i, path in enumerate(paths[:most]):
            (odd if k == 0 else rest)(path, folder / label / f"{i:04}")
    return folder


def plant_conflicts(folder: Path) -> None:
    """Copies of some images under the next class: the same bytes, and saved again."""
    rng = np.random.default_rng(0)
    classes = images_by_class(folder)
    names, count = list(classes), 0
    every = [(label, path) for label in names for path in classes[label]]
    for i in rng.permutation(len(every))[: 2 * CONFLICTS]:
        label, path = every[i]
        place = folder / names[(names.index(label) + 1) % len(names)] / f"planted-{count}"
        if count < CONFLICTS:
            place.with_suffix(path.suffix).write_bytes(path.read_bytes())
        else:
            Image.open(path).convert("RGB").save(place.with_suffix(".jpg"), quality=70)
        count += 1


def found_conflicts(data: dict) -> tuple[int, int]:
    """How many of the planted ones are named, by kind."""
    exact = {p for paths in data["label_conflicts"] for p in paths}
    near = {p for pair in data["near_duplicates"] if pair["conflict"] for p in pair["paths"]}
    numbers = [int(Path(p).stem.split("-")[1]) for p in exact | near if "planted-" in p]
    return sum(n < CONFLICTS for n in numbers), sum(n >= CONFLICTS for n in numbers)


def main() -> None:
    print(
        "| set | one class as PNG | one class 10 % larger | nothing planted | conflicts, exact | re-encoded |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name in sys.argv[1:] or SETS:
            cells = []
            for odd, rest in ((as_png, same_jpeg), (larger, same_jpeg), (same_jpeg, same_jpeg)):
                folder = build(name, work, odd, rest)
                if odd is same_jpeg:
                    plant_conflicts(folder)
                out = work / f"{name}-{odd.__name__}-run"
                check_data(FitSettings(data=folder, out=out, report=False))
                data = read_json(out / "data.json")
                cells.append(", ".join(s["property"] for s in data["shortcuts"]) or "none")
            exact, near = found_conflicts(data)
            print(
                f"| {name} | {cells[0]} | {cells[1]} | {cells[2]} | {exact} of {CONFLICTS} "
                f"| {near} of {CONFLICTS} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
