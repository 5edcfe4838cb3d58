"""Fine-tuning: speed, accuracy, and what a killed run comes back with. Each command prints a table.

    python benchmarks/finetune.py steps [--seconds 40]      step rate against a plain PyTorch loop
    python benchmarks/finetune.py fastai [--seconds 40]     and against fastai, in an overlay made here
    python benchmarks/finetune.py boundary [--images 96]    partial tuning on cached activations
    python benchmarks/finetune.py loading                   making views against training on them
    python benchmarks/finetune.py kills [--points 60]       SIGKILL and resume
    python benchmarks/finetune.py accuracy [SET ...] [--images 1000] [--draws 3] [--epochs E]

Network: the default one at 160 px, in float32, on the threads that this process may use.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))  # the lesson of the kills
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
    """fastai's loop on the same files, from an overlay on this environment that is removed after."""
    paths = photos(192)
    root = paths[0].parent
    for i, path in enumerate(paths):
        (root / str(i % CLASSES)).mkdir(exist_ok=True)
        path.rename(root / str(i % CLASSES) / path.name)
    paths = sorted(root.rglob("*.jpg"))
    model, pre = start_of()
    ours = our_rate(seconds, len(paths), model=(model, pre), lesson=lesson_of(paths, pre))
    with tempfile.TemporaryDirectory() as overlay:
        install = ["pip", "install", "-q", "--no-deps", "--target", overlay]
        extra = [
            "fastai",
            "fastcore",
            "fasttransform",
            "plum-dispatch",
            "beartype",
            "fastprogress",
            "fastdownload",
            "python-fasthtml",
            "cloudpickle",
        ]
        subprocess.run([sys.executable, "-m", *install, *extra], check=True)
        done = subprocess.run(
            [sys.executable, "-c", FASTAI, str(root), str(SIZE_PX), str(seconds)],
            env={**os.environ, "PYTHONPATH": overlay},
            capture_output=True,
            text=True,
            check=False,
        )
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("RATE")]
    if not found:
        raise SystemExit(f"fastai did not run: {done.stderr[-2000:]}")
    print("| loop | img/s | ratio |\n|---|---|---|")
    print(f"| fastai, batch 64 | {float(found[0]):.1f} | 1 |")
    print(f"| headstart | {ours:.1f} | {ours / float(found[0]):.2f} |")


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


# -- kills ---------------------------------------------------------------------------------------


def kills(points: int) -> None:
    """Kill a training by SIGKILL at operations of its checkpoints and at random moments; resume it.

    Every run is a process of its own, forked before anything was computed.
    """
    import torch

    import lessons

    torch.set_num_threads(1)  # a pool of threads would not come along into a fork

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        lessons.start()  # made once
        whole, seconds = in_child(lambda: lessons.train(root / "whole"))
        operations = int((root / "whole" / "operations").read_text())
        rng = np.random.default_rng(0)
        every = [("operation", k) for k in range(operations)]
        chosen = (
            every
            if points >= 60
            else [every[i] for i in np.linspace(0, operations - 1, points // 2).astype(int)]
        )
        chosen = chosen[: max(0, points - points // 4)] if points < 60 else chosen[: points - 12]
        plan: list[tuple[str, float]] = [(kind, float(k)) for kind, k in chosen]
        while len(plan) < points:
            plan.append(("moment", float(rng.uniform(0, seconds))))
        equal, died = 0, 0
        for i, (kind, at) in enumerate(plan):
            folder = root / str(i)
            died += killed(lambda folder=folder: lessons.train(folder), kind, at)
            again, _ = in_child(lambda folder=folder: lessons.train(folder))
            equal += again == whole
        print("| kill points | really killed | resumed to the same bits |\n|---|---|---|")
        print(f"| {points} ({operations} operations in a run) | {died} | {equal} of {points} |")
    if equal < points:
        raise SystemExit(1)


def in_child(work: Callable[[], Any]) -> tuple[str, float]:
    """Digest of a training in a process of its own, and its seconds."""
    import lessons

    reader, writer = os.pipe()
    began = time.perf_counter()
    if (child := os.fork()) == 0:
        code = 1
        try:
            done = count_operations(None)
            result = work()
            os.write(writer, lessons.digest_of(result).encode())
            if done and (whole := Path(done[0]).parent).name == "whole":
                (whole / "operations").write_text(str(len(done)))
            code = 0
        except BaseException as cause:  # the parent must hear of it
            os.write(writer, f"{type(cause).__name__}: {cause}".encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer, time.perf_counter() - began


def killed(work: Callable[[], Any], kind: str, at: float) -> bool:
    """Run work in a process that is killed; False when it was over before."""
    if (child := os.fork()) == 0:
        if kind == "operation":
            count_operations(int(at))
        work()
        os._exit(0)
    if kind == "moment":
        time.sleep(at)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def count_operations(fatal: int | None) -> list[str]:
    """List writes, flushes and renames of this process; before the fatal one it kills itself."""
    done: list[str] = []

    def dies(path: object) -> None:
        if len(done) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(str(path))

    real_open, real_replace, real_fsync = Path.open, Path.replace, os.fsync

    class Writing:
        def __init__(self, file: Any, path: Path) -> None:
            self.file, self.path = file, path

        def write(self, data: bytes) -> None:
            if len(done) == fatal:  # half of it arrives
                self.file.write(data[: len(data) // 2])
                self.file.flush()
            dies(self.path)
            self.file.write(data)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = real_open(path, mode, *args, **kwargs)
        return Writing(file, path) if "x" in mode else file

    def replaced(path: Path, target: Path) -> Path:
        dies(target)
        return real_replace(path, target)

    def flushed(handle: int) -> None:
        dies("flush")
        real_fsync(handle)

    Path.open, Path.replace, os.fsync = opened, replaced, flushed  # type: ignore[assignment, method-assign]
    return done


# -- accuracy ------------------------------------------------------------------------------------


def draws(name: str, images: int, count: int) -> Iterator[tuple[Any, ...]]:
    """Paths, labels, groups and a 80/20 split by groups; at most `images` are learned from."""
    from sets import find, groups_of, images_by_class
    from sklearn.model_selection import StratifiedGroupKFold

    classes = images_by_class(find(name, Path(tempfile.gettempdir())))
    paths = [path for some in classes.values() for path in some]
    labels = np.array([i for i, some in enumerate(classes.values()) for _ in some])
    groups = groups_of(name, paths)
    for seed in range(count):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        train, test = next(folds.split(paths, labels, groups))
        order = np.random.default_rng(seed).permutation(np.unique(groups[train]))
        rank = np.empty(int(groups.max()) + 1, int)
        rank[order] = np.arange(len(order))
        train = train[np.argsort(rank[groups[train]], kind="stable")][:images]
        yield seed, paths, labels, groups, train, test


def accuracy(
    names: list[str], images: int, count: int, epochs: int | None, operations: list[str]
) -> None:
    """Tuned from the head against the frozen heads, trained on the same images."""
    from headstart.settings import threads

    print(
        "| set | draw | learned from | top head | all stages | tuned | mixture | img/s |\n|---|---|---|---|---|---|---|---|"
    )
    for name in names:
        rows = []
        for seed, paths, labels, groups, train, test in draws(name, images, count):
            use = np.concatenate([train, test])
            row = one_draw(
                [paths[i] for i in use],
                labels[use],
                groups[use],
                len(train),
                seed,
                epochs,
                operations,
                threads(),
            )
            rows.append(row)
            print(
                f"| {name} | {seed} | {row['learn']} of {len(train)} | {row['top']:.4f} | {row['all']:.4f} "
                f"| {row['tuned']:.4f} | {row['mixture']} | {row['img_s']:.1f} |",
                flush=True,
            )
        gain = np.mean([r["tuned"] - max(r["top"], r["all"]) for r in rows])
        print(f"\n{name}: {100 * gain:+.2f} points over the best frozen head\n", flush=True)


def one_draw(
    paths: list[Path],
    labels: np.ndarray,
    groups: np.ndarray,
    n: int,
    seed: int,
    epochs: int | None,
    operations: list[str],
    workers: int,
) -> dict[str, Any]:
    import torch
    from sklearn.model_selection import StratifiedGroupKFold

    from headstart.backbone.stages import Taps
    from headstart.backbone.surgery import Adapted, pooled
    from headstart.train.augment import Augment
    from headstart.train.finetune import Lesson, finetune, open_fabric
    from headstart.train.head import train_head
    from headstart.train.pixels import PixelSource, decode_once
    from headstart.train.recipe import Machine, recipe_for

    model, pre = start_of()
    images = decode_once(paths, pre, workers, Path(tempfile.gettempdir()))
    everything = np.arange(len(paths))
    plain = PixelSource(images, Augment(), 0, everything)
    network = model.network.to(memory_format=torch.channels_last)

    def read(module: Any) -> list[np.ndarray]:
        found = []
        with torch.inference_mode():
            for i in range(0, len(paths), 16):
                found.append(
                    [
                        t.numpy()
                        for t in module(torch.from_numpy(plain.whole(everything[i : i + 16])))
                    ]
                )
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    taps = Taps(network, pre.mean, pre.std, None)
    stages = dict(zip(taps.names, read(taps), strict=True))
    classes = int(labels.max()) + 1
    learn, valid = next(
        StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(
            everything[:n], labels[:n], groups[:n]
        )
    )

    def head_on(x: np.ndarray, rows: np.ndarray) -> tuple[Any, float]:
        """The strength that is best on the validation part, then a head on the rows."""

        def trial(strength: float) -> float:
            return float(
                (
                    train_head(x[learn], labels[learn], classes, strength, 0)
                    .logits(x[valid])
                    .argmax(1)
                    == labels[valid]
                ).mean()
            )

        best = max((0.1, 0.03, 0.01, 0.003, 0.001), key=trial)
        head = train_head(x[rows], labels[rows], classes, best, 0)
        return head, float((head.logits(x[n:]).argmax(1) == labels[n:]).mean())

    # The frozen heads learn from all; the tuned network does without its validation part.
    _, top = head_on(stages["head"], everything[:n])
    _, all_stages = head_on(np.concatenate(list(stages.values()), 1), everything[:n])
    head, _ = head_on(stages["head"], learn)
    recipe = recipe_for(
        "finetune",
        len(learn),
        SIZE_PX,
        Machine(workers),
        epochs=epochs,
        operations=operations,
        seed=seed,
    )
    score = lambda logits, truth: float((logits.argmax(1) == truth).mean())  # noqa: E731
    told = Lesson(PixelSource(images, recipe.augment, seed, learn), labels, learn, valid, score)
    adapted = Adapted(network, head.weight, head.bias, pre.mean, pre.std)
    with tempfile.TemporaryDirectory() as folder:
        tuned = finetune(open_fabric("cpu"), adapted, told, recipe, Path(folder))
    adapted.eval()
    features = read(
        lambda image: [
            pooled(
                adapted.network, image.permute(0, 3, 1, 2).float() * adapted.scale + adapted.shift
            )
        ]
    )[0]
    return {
        "learn": len(learn),
        "top": top,
        "all": all_stages,
        "tuned": float((tuned.head.logits(features[n:]).argmax(1) == labels[n:]).mean()),
        "mixture": f"{tuned.average} {tuned.alpha}",
        "img_s": tuned.images_seen / tuned.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=["steps", "fastai", "boundary", "loading", "kills", "accuracy"]
    )
    parser.add_argument("sets", nargs="*", default=["sign_digits", "brain_tumor_mri", "trashnet"])
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--images", type=int)
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--augment", default="crop")
    given = parser.parse_args()
    if given.what == "kills":
        kills(given.points)
    elif given.what == "accuracy":
        accuracy(
            given.sets, given.images or 1_000, given.draws, given.epochs, given.augment.split(",")
        )
    elif given.what == "boundary":
        boundary(given.seconds, given.images or 96)
    else:
        {"steps": steps, "fastai": fastai, "loading": loading}[given.what](given.seconds)


if __name__ == "__main__":
    main()
