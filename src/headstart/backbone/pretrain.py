"""Pre-train the demonstration network on a folder of images: a plain loop, in memory, on the CPU.

    python -m headstart.backbone.demo_net --data FOLDER --out FILE.safetensors

N images, C classes, D width of a tap's features, H W px, B batch.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from headstart.backbone.demo_net import CONFIG, DemoNet
from headstart.backbone.load import SOURCE, preprocess_of
from headstart.backbone.stages import Taps
from headstart.data.images import ImageRefused, Preprocess, load_pixels
from headstart.data.sources import read
from headstart.errors import ArgumentError, DataError, HeadstartError, WeightsError, show
from headstart.files import atomic_write
from headstart.parallel import ordered_map

BATCH = 128
SHIFT_PX = 3
"""how far an image is moved at most, in each direction, while the network learns"""


@dataclass(frozen=True, slots=True)
class Images:
    """A folder of images in memory; arrays over those that could be read."""

    classes: tuple[str, ...]
    pixels: Tensor
    """uint8 [N, H, W, 3]"""
    labels: Tensor
    """int64 [N]"""
    is_test: Tensor
    """bool [N]"""
    refused: tuple[str, ...]
    """files that are no readable images"""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What a pre-training ended in."""

    classes: tuple[str, ...]
    n_train: int
    n_test: int
    refused: tuple[str, ...]
    accuracy: float
    """on the images that were not learned from"""
    seconds: float


def pretrain(
    data: Path,
    out: Path,
    epochs: int = 15,
    seed: int = 0,
    flip: bool = True,
    tell: Callable[[str], None] = lambda _line: None,
) -> Pretrained:
    """Train the network on a folder of images and write its weights with the source's statistics.

    Args:
        data: CLASS/* or {train,val,test}/CLASS/*, images of any size; see `read_images`.
        out: .safetensors; besides the weights it holds mean and variance of every tap over the
            images it learned from (see `source_statistics`), and the class names as metadata.
        flip: mirror images while learning; wrong for digits and letters.
        tell: is given one line per epoch.

    Raises:
        ArgumentError: a file name that ends otherwise, or fewer than one epoch.
        DataError: no images, fewer than two classes, or too few to learn from and to score.
    """
    from safetensors.torch import save

    if out.suffix.lower() != ".safetensors" or epochs < 1:
        raise ArgumentError(
            "The demonstration network cannot be trained like this",
            received=out.name if epochs >= 1 else f"{epochs} epochs",
            do="Use --out FILE.safetensors, and at least one epoch.",
        )
    start = time.perf_counter()
    preprocess = preprocess_of(CONFIG, None)
    images = read_images(data, preprocess)
    learned, held_out = ~images.is_test, images.is_test
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DemoNet(len(images.classes))
    pixels, labels = normalised(images.pixels), images.labels
    for epoch, loss in train(
        network, pixels[learned], labels[learned], epochs, seed=seed, flip=flip
    ):
        tell(f"epoch {epoch} of {epochs}: loss {loss:.3f}")
    accuracy = score(network, pixels[held_out], labels[held_out])
    state = {**network.state_dict(), **_statistics(network, images.pixels[learned], preprocess)}
    atomic_write(out, save(state, {"classes": json.dumps(images.classes)}))
    return Pretrained(
        classes=images.classes,
        n_train=int(learned.sum()),
        n_test=int(held_out.sum()),
        refused=images.refused,
        accuracy=accuracy,
        seconds=time.perf_counter() - start,
    )


def read_images(data: Path, preprocess: Preprocess) -> Images:
    """Read a folder of images into memory (3 KB each at 32 px).

    The folder's own test part is kept; without one, a tenth is drawn by content, so that copies of
    one file lie on one side.

    Raises:
        DataError: see `data.sources.read`; also when a class has no image to learn from, or no
            image is left to be scored.
    """
    dataset = read(data)

    def read_one(path: Path) -> tuple[NDArray[np.uint8], str] | None:
        try:
            return load_pixels(path, preprocess)
        except ImageRefused:
            return None

    paths = [dataset.locate(sample) for sample in dataset.samples]
    rows, labels, is_test, refused = [], [], [], []
    for sample, row in zip(dataset.samples, ordered_map(read_one, paths, 2, chunk=16), strict=True):
        if row is None:
            refused.append(sample.path)
            continue
        rows.append(row[0])
        labels.append(sample.label)
        drawn = int(row[1], 16) % 10 == 0
        is_test.append(sample.split == "test" if dataset.has_test else drawn)
    learned = {label for label, test in zip(labels, is_test, strict=True) if not test}
    if len(learned) < len(dataset.classes) or not any(is_test):
        raise DataError(
            "There are too few readable images to learn every class and to score the result",
            where=data,
            received=f"{len(rows)} images of {len(dataset.classes)} classes",
            do="Give at least some dozens of images per class.",
        )
    return Images(
        classes=dataset.classes,
        pixels=torch.from_numpy(np.stack(rows)),
        labels=torch.tensor(labels),
        is_test=torch.tensor(is_test),
        refused=tuple(refused),
    )


def normalised(pixels: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] as the network takes it."""
    mean, std = torch.tensor(CONFIG["mean"]), torch.tensor(CONFIG["std"])
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def train(
    network: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    epochs: int,
    rate: float = 3e-3,
    seed: int = 0,
    flip: bool = True,
    batch: int = BATCH,
) -> Iterator[tuple[int, float]]:
    """A plain training loop: AdamW, a rate that warms up and falls as a cosine, mirrored and moved views.

    Order, views and dropout are functions of (seed, epoch). Only parameters that require a gradient
    learn. The network is left in eval mode.

    Args:
        pixels: float32 [N, 3, H, W], normalised. labels: int64 [N].

    Yields:
        (number of the epoch from 1 on, its mean loss) after each epoch.
    """
    learnable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learnable, lr=rate, weight_decay=0.05)
    # BatchNorm cannot learn from one image alone, so a last batch of one is left out.
    starts = [i for i in range(0, len(labels), batch) if len(labels) - i > 1]
    steps = epochs * len(starts)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    for epoch in range(epochs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1_000_003 * seed + epoch)
            network.train()
            order, total = torch.randperm(len(labels)), 0.0
            for start in starts:
                chosen = order[start : start + batch]
                loss = functional.cross_entropy(
                    network(_view(pixels[chosen], flip)), labels[chosen]
                )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
        network.eval()
        yield epoch + 1, total / len(labels)


def score(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Share of images [N, 3, H, W] that the network puts into their class."""
    network.eval()
    with torch.inference_mode():
        right = [
            network(some).argmax(1) == of
            for some, of in zip(torch.split(pixels, 1024), torch.split(labels, 1024), strict=True)
        ]
    return float(torch.cat(right).float().mean())


def source_statistics(path: Path) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Mean and variance [D] of every tap over the source's training images, by the stage's name.

    Raises:
        WeightsError: the file cannot be read, or holds no statistics.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as cause:
        raise WeightsError("This file cannot be read as weights", where=path) from cause
    names = [
        key.split(".")[1] for key in stored if key.startswith(SOURCE) and key.endswith(".mean")
    ]
    if not names:
        raise WeightsError(
            "This file holds no statistics of its source",
            where=path,
            do="Train it with: python -m headstart.backbone.demo_net",
        )
    return {
        name: (stored[f"{SOURCE}{name}.mean"], stored[f"{SOURCE}{name}.variance"]) for name in names
    }


def _statistics(network: nn.Module, pixels: Tensor, preprocess: Preprocess) -> dict[str, Tensor]:
    """Tensors for the file: mean and variance of each tap over uint8 images [N, H, W, 3]."""
    taps = Taps(network, preprocess.mean, preprocess.std, None).eval()
    with torch.inference_mode():
        rows = [taps(some) for some in torch.split(pixels, 1024)]
    found = {}
    for i, name in enumerate(taps.names):
        features = torch.cat([row[i] for row in rows]).double()  # [N, D]
        found[f"{SOURCE}{name}.mean"] = features.mean(0).float()
        found[f"{SOURCE}{name}.variance"] = features.var(0, correction=0).float()
    return found


def _rate(step: int, steps: int) -> float:
    """Share of the full learning rate: up during the first tenth, then down as a cosine to zero."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _view(pixels: Tensor, flip: bool) -> Tensor:
    """Every image [B, 3, H, W] moved by some px, its rim repeated, and half of them mirrored."""
    n, _, height, width = pixels.shape
    wide = functional.pad(pixels, (SHIFT_PX,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * SHIFT_PX + 1, (2, n, 1))
    rows = down + torch.arange(height)  # [B, H]
    columns = right + torch.arange(width)  # [B, W]
    if flip:
        columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    which = torch.arange(n)[:, None, None]
    moved = wide.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def main(arguments: list[str] | None = None) -> int:
    """Pre-train from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m headstart.backbone.demo_net",
        description="Pre-train the demonstration network on a folder of images (minutes on a CPU). "
        "Any folder with one folder of images per class serves; a few thousand images are enough.",
    )
    parser.add_argument("--data", type=Path, required=True, help="CLASS/* or {train,test}/CLASS/*")
    parser.add_argument("--out", type=Path, required=True, help="FILE.safetensors")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-flip", action="store_true", help="never mirror (digits, letters)")
    given = parser.parse_args(arguments)

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        done = pretrain(given.data, given.out, given.epochs, given.seed, not given.no_flip, tell)
    except HeadstartError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for path in done.refused:
        tell(f"left out, not a readable image: {show(path)}")
    print(
        f"{len(done.classes)} classes, {done.n_train:,} images learned from in {done.seconds:.0f} s; "
        f"{done.accuracy:.1%} of {done.n_test:,} other images right\n"
        f"headstart fit my_photos --backbone demo --weights {show(given.out)}"
    )
    return 0
