"""A lesson of seconds: coloured noise, the demonstration network, recipes of a few steps.

Run as a program it trains once (`python lessons.py FOLDER`), alone or under torchrun.
"""

from __future__ import annotations

import copy
import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE_PX, CLASSES = 32, 3
HALF = (0.5, 0.5, 0.5)


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return float((logits.argmax(1) == labels).mean())


def pictures(n: int = 48, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """uint8 [n, 36, 36, 3], each class a faint colour and a place that is bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    x = rng.normal(110, 45, (n, SIDE_PX + 4, SIDE_PX + 4, 3))
    for i, label in enumerate(labels):
        x[i, :, :, label] += 25
        x[i, 10 * label : 10 * label + 10] += 40
    return x.clip(0, 255).astype(np.uint8), labels


def lesson(augment: Any = None, n: int = 48, valid: int = 16, mix: bool = False) -> Any:
    from headstart.data.images import Preprocess
    from headstart.train.augment import Augment
    from headstart.train.lesson import Lesson
    from headstart.train.pixels import Decoded, PixelSource

    pixels, labels = pictures(n)
    pre = Preprocess(SIDE_PX + 4, SIDE_PX + 4, mean=HALF, std=HALF)
    images = Decoded((), pre, SIDE_PX, pixels, "memory")
    learn, held = np.arange(n - valid), np.arange(n - valid, n)
    augment = Augment(("crop",)) if augment is None else augment
    return Lesson(PixelSource(images, augment, 0, learn, mix), labels, learn, held, accuracy)


def start(seed: int = 1) -> Any:
    """The demonstration network, its statistics set, under a random head."""
    from headstart.backbone.surgery import Adapted, random_head

    network = copy.deepcopy(_network(seed))
    return Adapted(network, *random_head(CLASSES, 64, seed), HALF, HALF)


@functools.cache
def _network(seed: int) -> Any:
    import torch

    from headstart.backbone.demo_net import DemoNet
    from headstart.backbone.surgery import untrained

    network = untrained(DemoNet, seed)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of one batch
    pixels, _ = pictures(32, seed=9)
    seen = torch.from_numpy(pixels[:, 2:-2, 2:-2]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        network.train().forward_features(seen)  # type: ignore[operator]
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def recipe(kind: str = "finetune", **changes: Any) -> Any:
    """Two epochs of four steps."""
    from headstart.train.recipe import Machine, recipe_for, with_rate

    through = changes.pop("through", None)
    made = recipe_for(kind, 32, SIDE_PX, Machine(threads=1), through=through, epochs=2)  # type: ignore[arg-type]
    made = with_rate(made, changes.pop("rate", 3e-3))
    return replace(made, **{"batch": 8, "micro_batch": 4, "ema": 0.8, **changes})


def digest_of(tuned: Any) -> str:
    """Every bit that a training ends with."""
    import hashlib

    hashed = hashlib.sha256()
    for name, value in sorted(tuned.state.items()):
        hashed.update(name.encode() + value.numpy().tobytes())
    hashed.update(tuned.head.weight.tobytes() + tuned.head.bias.tobytes())
    hashed.update(f"{tuned.average} {tuned.alpha} {tuned.score}".encode())
    hashed.update(repr([(row.epoch, row.loss, row.score) for row in tuned.history]).encode())
    return hashed.hexdigest()


def train(folder: Path, made: Any = None, every: int = 3, **options: Any) -> Any:
    from headstart.train.finetune import finetune, open_fabric

    made = recipe() if made is None else made
    fabric = options.pop("fabric", None) or open_fabric("cpu", precision="32-true")
    model = options.pop("model", None) or start()
    told = options.pop("lesson", None) or lesson()
    return finetune(fabric, model, told, made, folder, every=every, **options)


def main() -> None:
    """Train with statistics that learn, and write what came of it, once."""
    from headstart.train.finetune import open_fabric

    folder = Path(sys.argv[1])
    fabric = open_fabric("cpu", precision="32-true")
    # Passes of 8 images over all processes together, however many there are.
    made = recipe(norm_eval=False, micro_batch=8 // fabric.world_size)
    model = start()
    model.network.fc1[2].p = model.network.fc2[2].p = 0.0  # dropout draws by process
    tuned = train(folder, made, fabric=fabric, model=model)
    if fabric.is_global_zero:
        np.savez(
            folder / "tuned.npz",
            logits=tuned.logits,
            score=tuned.score,
            losses=[row.loss for row in tuned.history],
            **{name: value.numpy() for name, value in tuned.state.items()},
        )
    print(f"process {fabric.global_rank} of {fabric.world_size}")


if __name__ == "__main__":
    main()
