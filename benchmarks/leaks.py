"""Planted leaks: how many copies are found, and which images are called copies though none was planted.

    python benchmarks/leaks.py [SET ...]

Into every set go 100 copies of files as they are, 100 saved again as JPEG q50 to q90, 50 resized to
50-90 %, 50 mirrored or turned, 50 cropped by 5 % (one side, all sides, or somewhere). The last
column counts images in a pair that was not planted: look at the pairs below the table, most sets
have copies of their own. Thresholds were tuned with other draws of the same sets.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sets import find, images_by_class

from headstart.backbone.duplicates import propose_by_features
from headstart.backbone.features import features
from headstart.backbone.graph import tap_graph
from headstart.data.images import inspect, load_image
from headstart.data.near import (
    Fingerprint,
    NearDuplicates,
    fingerprint,
    near_duplicates,
    propose_by_hash,
)
from headstart.parallel import ordered_map
from headstart.settings import DEFAULT_BACKBONE, threads

SETS = (
    "trashnet",
    "clothing_small",
    "malaria",
    "sign_digits",
    "brain_tumor_mri",
    "eurosat",
    "cifar10",
)
COUNTS = {"exact": 100, "encoded": 100, "resized": 50, "turned": 50, "cropped": 50}
MOST_IMAGES = 2527
SEED = 1
TURNS = (0, 1, 2, 4)  # mirrored, upside down, by 90 and by 270 degrees
SHOWN = 40


@dataclass(frozen=True)
class Planted:
    """A copy: where it lies, of which original, made how."""

    path: Path
    original: int
    kind: str


def plant(originals: list[Path], out: Path) -> list[Planted]:
    """Write copies of originals drawn at random; fewer of each kind where the set is small."""
    rng = np.random.default_rng(SEED)
    share = min(1, len(originals) / sum(COUNTS.values()))
    kinds = [kind for kind, count in COUNTS.items() for _ in range(int(count * share))]
    drawn = rng.choice(len(originals), len(kinds), replace=False).tolist()
    planted = []
    for k, (i, kind) in enumerate(zip(drawn, kinds, strict=True)):
        path = out / f"{k:03}-{kind}.jpg"
        if kind == "exact":
            shutil.copyfile(originals[i], path)
        else:
            changed = change(load_image(originals[i]), kind, k, rng)
            changed.save(path, quality=int(rng.integers(50, 91)) if kind == "encoded" else 95)
        planted.append(Planted(path, i, kind))
    return planted


def change(image: Image.Image, kind: str, k: int, rng: np.random.Generator) -> Image.Image:
    w, h = image.size
    if kind == "resized":
        scale = rng.uniform(0.5, 0.9)
        sides = (max(1, round(w * scale)), max(1, round(h * scale)))
        return image.resize(sides, Image.Resampling.BICUBIC)
    if kind == "turned":
        return image.transpose(Image.Transpose(TURNS[k % 4]))
    if kind == "cropped":
        lost = 0.05
        left, top = rng.uniform(0, lost, 2)
        somewhere = np.array([left, top, lost - left, lost - top])
        one_side = lost * np.eye(4)[rng.integers(4)]
        x0, y0, x1, y1 = (one_side, np.full(4, lost), somewhere)[k % 3]
        return image.crop((round(x0 * w), round(y0 * h), round(w - x1 * w), round(h - y1 * h)))
    return image


def look(paths: list[Path], side_px: int) -> tuple[list[str], list[Fingerprint], float]:
    """Content hashes, fingerprints, and milliseconds per fingerprint."""
    spent = []

    def one(path: Path) -> tuple[str, Fingerprint]:
        info, image = inspect(path, min_side_px=side_px)
        began = time.thread_time()
        made = fingerprint(image)
        spent.append(time.thread_time() - began)
        return info.content_hash, made

    found = list(ordered_map(one, paths, threads(), chunk=16))
    return [h for h, _ in found], [f for _, f in found], 1000 * float(np.mean(spent))


def row(name: str, work: Path) -> tuple[str, list[str]]:
    """One line of the table, and the pairs that nobody planted."""
    classes = images_by_class(find(name, work))
    everything = [path for some in classes.values() for path in some]
    chosen = np.random.default_rng(SEED).permutation(len(everything))[:MOST_IMAGES]
    originals = [everything[i] for i in sorted(chosen.tolist())]
    folder = work / f"planted-{name}"
    folder.mkdir()
    planted = plant(originals, folder)
    graph = tap_graph(DEFAULT_BACKBONE, None, None, originals[:8])
    paths = originals + [p.path for p in planted]
    hashes, prints, cost_ms = look(paths, graph.preprocess.decode_px)
    first_of: dict[str, int] = {}
    same = [first_of.setdefault(h, i) for i, h in enumerate(hashes)]
    unique = sorted(first_of.values())
    head = features(
        graph, [paths[i] for i in unique], [hashes[i] for i in unique], "cpu", threads()
    ).stage("head")
    began = time.perf_counter()
    kept = [prints[i] for i in unique]
    proposed = [propose_by_hash(kept, threads()), propose_by_features(head, workers=threads())]
    found = near_duplicates(kept, np.concatenate(proposed), threads())
    seconds = time.perf_counter() - began
    group = {unique[i]: k for k, images in enumerate(found.components) for i in images}
    cells = []
    for kind in COUNTS:
        mine = [(len(originals) + k, p) for k, p in enumerate(planted) if p.kind == kind]
        hits = 0
        for i, p in mine:
            a, b = same[i], same[p.original]
            hits += a == b or (a in group and group.get(a) == group.get(b))
        cells.append(f"{hits} of {len(mine)}")
    own = [p for p in found.pairs if max(unique[p.first], unique[p.second]) < len(originals)]
    images = {i for p in own for i in (p.first, p.second)}
    cells.append(f"{len(images)} ({len(images) / len(originals):.2%}), {len(own)} pairs")
    pairs = [
        f"{name}: {paths[unique[p.first]].name} {paths[unique[p.second]].name} {p.kind} {p.score:.3f}"
        for p in sorted(own, key=lambda p: p.score)[:SHOWN]
    ]
    line = f"| {name} | {len(originals)} | {' | '.join(cells)} | {cost_ms:.2f} | {seconds:.1f} |"
    return line, pairs


def without_copies(name: str, images: list[Image.Image]) -> str:
    """A row for pictures of which none is a copy, though all look alike."""
    prints = [fingerprint(image) for image in images]
    began = time.perf_counter()
    found: NearDuplicates = near_duplicates(prints, propose_by_hash(prints, threads()), threads())
    wrong = {i for p in found.pairs for i in (p.first, p.second)}
    seconds = time.perf_counter() - began
    blanks = " | ".join("-" for _ in COUNTS)
    share = f"{len(wrong)} ({len(wrong) / len(prints):.2%}), {len(found.pairs)} pairs"
    return f"| {name} | {len(prints)} | {blanks} | {share} | | {seconds:.1f} |"


def digits(side_px: int) -> list[Image.Image]:
    from sklearn.datasets import load_digits

    tables = (load_digits().images * 15.9).astype(np.uint8)
    return [Image.fromarray(t).convert("RGB").resize((side_px, side_px)) for t in tables]


def blanks(n: int = 500) -> list[Image.Image]:
    rng = np.random.default_rng(SEED)
    noise = (255 - np.abs(rng.normal(0, 1.5, (160, 120, 3))) for _ in range(n))
    return [Image.fromarray(table.astype(np.uint8)) for table in noise]


def forms(n: int = 500) -> list[Image.Image]:
    """Pages that share lines and logo; words differ, and scans are shifted and turned a little."""
    rng = np.random.default_rng(SEED)
    pages = []
    for _ in range(n):
        page = Image.new("RGB", (595, 842), "white")
        pen = ImageDraw.Draw(page)
        pen.rectangle((40, 30, 200, 90), fill=(20, 60, 140))
        for y in range(150, 760, 35):
            pen.line((40, y, 555, y), fill=(90, 90, 90), width=2)
            for x in (50, 210, 410):
                if rng.random() < 0.8:
                    pen.text((x, y + 10), str(rng.integers(10 ** int(rng.integers(2, 18)))), fill=0)
        shift = tuple(rng.integers(-8, 9, 2).tolist())
        pages.append(page.rotate(rng.uniform(-0.5, 0.5), translate=shift, fillcolor="white"))
    return pages


def main() -> None:
    print("| set | images | " + " | ".join(COUNTS) + " | not planted | ms per print | seconds |")
    print("|---" * (len(COUNTS) + 5) + "|")
    natural = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in sys.argv[1:] or SETS:
            line, pairs = row(name, Path(temporary))
            natural += pairs
            print(line, flush=True)
    if not sys.argv[1:]:
        print(without_copies("digits, 8 x 8", digits(8)))
        print(without_copies("digits, enlarged to 64 x 64", digits(64)))
        print(without_copies("blank pages", blanks()))
        print(without_copies("forms", forms()), flush=True)
    print("\nPairs that nobody planted, weakest first:\n\n" + "\n".join(natural))


if __name__ == "__main__":
    main()
