"""Fine-tuning: how fast? Each command prints a table.

    python benchmarks/finetune.py steps [--seconds 40]      step rate against a plain PyTorch loop
    python benchmarks/finetune.py fastai [--seconds 40]     and against fastai, in an environment beside this one
    python benchmarks/finetune.py boundary [--images 96]    partial tuning on cached activations
    python benchmarks/finetune.py loading                   making views against training on them

Network: the default one at 160 px, in float32, on the threads that this process may use.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZE_PX, CLASSES = 160, 10


# -- speed ---------------------------------------------------------------------------------------


def photos(n: int, side_px: int = 256) -> list[Path]:
    """JPEG files of noise in blocks, which cost what photos cost."""
    from PIL import Image

    folder = Path(tempfile.mkdtemp(prefix="photos-"))
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        small = rng.integers(0, 256, (side_px // 4, side_px // 4, 3), dtype=np.uint8)
        paths.append(folder / f"{i:05}.jpg")
        Image.fromarray(small).resize((side_px, side_px)).save(paths[-1], quality=90)
    return paths


def start_of(size_px: int = SIZE_PX) -> tuple[Any, Any]:
    """The default network under a random head, and its preprocessing."""
    import timm

    from headstart.backbone.load import load, preprocess_of
    from headstart.backbone.surgery import Adapted, random_head
    from headstart.settings import DEFAULT_BACKBONE

    backbone = load(DEFAULT_BACKBONE)
    config = timm.get_pretrained_cfg(DEFAULT_BACKBONE).to_dict()
    pre = preprocess_of(config, size_px)
    head = random_head(CLASSES, 1280, 0)
    return Adapted(backbone.network, *head, pre.mean, pre.std), pre


def lesson_of(paths: list[Path], pre: Any, operations: tuple[str, ...] = ("crop", "flip")) -> Any:
    from headstart.settings import threads
    from headstart.train.augment import Augment
    from headstart.train.finetune import Lesson
    from headstart.train.pixels import PixelSource, decode_once

    images = decode_once(paths, pre, threads(), Path(tempfile.gettempdir()))
    rows = np.arange(len(paths))
    source = PixelSource(images, Augment(operations), 0, rows)
    return Lesson(source, rows % CLASSES, rows, rows[:0], lambda *_: 0.0)


class Enough(Exception):
    """The time is up."""


def our_rate(seconds: float, n: int, **changes: Any) -> float:
    """img/s of the loop itself: views, passes, gradients, averages; without its first steps."""
    from dataclasses import replace

    from headstart.settings import threads
    from headstart.train.finetune import finetune, open_fabric
    from headstart.train.recipe import Machine, recipe_for

    model, pre = changes.pop("model", None) or start_of()
    told = changes.pop("lesson", None) or lesson_of(photos(n), pre)
    kind, through = (
        ("partial", changes.pop("through")) if "through" in changes else ("finetune", None)
    )
    recipe = recipe_for(kind, n, SIZE_PX, Machine(threads()), through=through, epochs=10_000)
    recipe = replace(recipe, **changes)
    marks: list[tuple[float, int]] = []

    def progress(moment: Any) -> None:
        marks.append((time.perf_counter(), moment.step))
        if len(marks) > 1 and marks[-1][0] - marks[0][0] > seconds:
            raise Enough

    try:
        with tempfile.TemporaryDirectory() as folder:
            finetune(
                open_fabric("cpu"),
                model,
                told,
                recipe,
                Path(folder),
                every=10**9,
                progress=progress,
            )
    except Enough:
        pass
    (began, first), (ended, last) = marks[0], marks[-1]
    return (last - first) * recipe.batch / (ended - began)


def plain_rate(seconds: float, batch: int = 64) -> float:
    """img/s of the loop that a tutorial shows: NCHW, one batch, everything trains, data at hand."""
    import torch

    model, _ = start_of()
    model.train()
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    pixels = torch.randn(batch, 3, SIZE_PX, SIZE_PX)
    labels = torch.arange(batch) % CLASSES
    from headstart.backbone.surgery import pooled

    def step() -> None:
        optimizer.zero_grad()
        logits = model.head(pooled(model.network, pixels))
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()

    step()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
    return steps * batch / (time.perf_counter() - began)


def steps(seconds: float) -> None:
    """Ours against the plain loop, in turns, since other work may share the machine."""
    ours, plain = [], []
    for _ in range(2):
        plain.append(plain_rate(seconds / 2))
        ours.append(our_rate(seconds / 2, 192))
    print("| loop | img/s | ratio |\n|---|---|---|")
    print(f"| plain PyTorch, NCHW, batch 64 | {np.mean(plain):.1f} | 1 |")
    print(
        f"| headstart, views included | {np.mean(ours):.1f} | {np.mean(ours) / np.mean(plain):.2f} |"
    )


FASTAI = """
import sys, time
from pathlib import Path
import timm
from fastai.vision.all import *
folder, size, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
data = ImageDataLoaders.from_folder(folder, valid_pct=0.1, seed=0, item_tfms=Resize(size), batch_tfms=aug_transforms(), num_workers=0)
learner = vision_learner(data, "tf_efficientnet_lite0", pretrained=False, metrics=accuracy)
learner.unfreeze()
marks = []
class Clock(Callback):
    def after_batch(self):
        if self.training:
            marks.append(time.perf_counter())
            if marks[-1] - marks[0] > seconds:
                raise CancelFitException
with learner.no_bar(), learner.no_logging():
    learner.fit_one_cycle(1000, 1e-3, cbs=Clock())
print("RATE", (len(marks) - 1) * data.bs / (marks[-1] - marks[0]))
"""


def fastai(seconds: float) -> None:
    """fastai's loop on the same files, in turns with ours; it lives in an environment beside this one."""
    paths = photos(192)
    root = paths[0].parent
    for i, path in enumerate(paths):
        (root / str(i % CLASSES)).mkdir(exist_ok=True)
        path.rename(root / str(i % CLASSES) / path.name)
    paths = sorted(root.rglob("*.jpg"))
    model, pre = start_of()
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        python = beside(Path(folder))
        for _ in range(2):
            ours.append(
                our_rate(seconds, len(paths), model=(model, pre), lesson=lesson_of(paths, pre))
            )
            done = subprocess.run(
                [python, "-c", FASTAI, str(root), str(SIZE_PX), str(seconds)],
                capture_output=True,
                text=True,
                check=False,
            )
            found = [row.split()[1] for row in done.stdout.splitlines() if row.startswith("RATE")]
            if not found:
                raise SystemExit(f"fastai did not run: {done.stderr[-2000:]}")
            theirs.append(float(found[0]))
    print("| loop | img/s | ratio |\n|---|---|---|")
    print(f"| fastai, batch 64 | {np.mean(theirs):.1f} | 1 |")
    print(f"| headstart | {np.mean(ours):.1f} | {np.mean(ours) / np.mean(theirs):.2f} |")


def beside(folder: Path) -> Path:
    """The Python of a new environment with fastai, which finds everything else in this one."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs = subprocess.run(
        [python, "-c", where], check=True, capture_output=True, text=True
    ).stdout.strip()
    (Path(theirs) / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-m", "pip", "install", "-q", "fastai"], check=True)
    return python


def boundary(seconds: float, n: int, through: str = "b4") -> None:
    """Epochs of partial tuning on cached activations against full fine-tuning."""
    import torch

    from headstart.backbone.surgery import Lower, upper
    from headstart.train.boundary import BoundarySource

    full = our_rate(seconds, n)
    model, pre = start_of()
    paths = photos(n)
    told = lesson_of(paths, pre)
    above = upper(model, torch.zeros(1, 3, SIZE_PX, SIZE_PX), through)
    with tempfile.TemporaryDirectory() as folder:
        lower = Lower(model, through)
        source = BoundarySource(
            told.source, told.valid, lower, Path(folder), 2, "benchmark", lambda _: None
        )
        began = time.perf_counter()
        source.prepare(0)
        source.prepare(1)
        once = 2 * n / (time.perf_counter() - began)
        from dataclasses import replace

        cached = our_rate(
            seconds, n, model=(above, pre), lesson=replace(told, source=source), through=through
        )
        mb = source.image_bytes / 1e6
    epochs, views = 12, 4
    amortised = epochs / (epochs / cached + views / once)
    print("| training | img/s | ratio |\n|---|---|---|")
    print(f"| everything learns | {full:.1f} | 1 |")
    print(
        f"| after {through}, cached ({mb:.3f} MB per view) | {cached:.1f} | {cached / full:.2f} |"
    )
    print(f"| computing the cache, once per view | {once:.1f} | |")
    print(
        f"| {epochs} epochs on {views} views, cache included | {amortised:.1f} | {amortised / full:.2f} |"
    )


def loading(seconds: float) -> None:
    """Views per second of one thread, and the step rate with views against without."""
    n = 192
    _, pre = start_of()
    paths = photos(n)
    began = time.perf_counter()
    told = lesson_of(paths, pre)
    decoding = n / (time.perf_counter() - began)
    rows = np.arange(32)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 3:
        told.source.views(count, rows)
        count += 1
    made = count * len(rows) / (time.perf_counter() - began)
    ready = Ready(told.source.views(0, rows))
    from dataclasses import replace

    rates: dict[str, list[float]] = {"ready": [], "made": []}
    for _ in range(2):
        rates["ready"].append(our_rate(seconds / 2, n, lesson=replace(told, source=ready)))
        rates["made"].append(our_rate(seconds / 2, n, lesson=told))
    without, within = np.mean(rates["ready"]), np.mean(rates["made"])
    print("| what | img/s |\n|---|---|")
    print(
        f"| decoding 256-px files, once | {decoding:.0f} |\n| making views, one thread | {made:.0f} |"
    )
    print(f"| training on inputs that are ready | {without:.1f} |")
    print(f"| training with views made beside it | {within:.1f} ({within / without:.1%}) |")


class Ready:
    """A source whose inputs cost nothing."""

    def __init__(self, views: Any) -> None:
        self.inputs = views.inputs

    def prepare(self, epoch: int) -> None:
        """Nothing."""

    def views(self, _epoch: int, rows: np.ndarray) -> Any:
        from headstart.train.pixels import Views

        return Views(self.inputs[: len(rows)])

    def whole(self, rows: np.ndarray) -> np.ndarray:
        return self.inputs[: len(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["steps", "fastai", "boundary", "loading"])
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--images", type=int)
    given = parser.parse_args()
    if given.what == "boundary":
        boundary(given.seconds, given.images or 96)
    else:
        {"steps": steps, "fastai": fastai, "loading": loading}[given.what](given.seconds)


if __name__ == "__main__":
    main()
