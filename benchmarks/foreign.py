"""Images that a model of clothes was not made for: digits, noise, turned clothes, and other sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from known import WORK
from PIL import Image
from sets import find
from sklearn.datasets import load_digits


def foreign_images(sets: Sequence[str]) -> dict[str, Path | None]:
    """Folders of digits, noise and turned clothes, drawn here; None: a data set of its own."""
    digits, rng = load_digits(), np.random.default_rng(0)
    for i in range(300):
        small = Image.fromarray((digits.images[i] * 15.9).astype(np.uint8))
        _save(small, "digits, 8 px", str(digits.target[i]), i)
        _save(small.resize((64, 64), Image.Resampling.BICUBIC), "digits, 64 px", str(digits.target[i]), i)  # fmt: skip
    for i in range(100):
        _save(Image.fromarray(rng.integers(0, 256, (224, 224, 3), np.uint8)), "noise", "even", i)
        bell = np.clip(rng.normal(128, 40, (224, 224, 3)), 0, 255).astype(np.uint8)
        _save(Image.fromarray(bell), "noise", "normal", i)
        blots = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8))
        _save(blots.resize((224, 224), Image.Resampling.BICUBIC), "noise", "blots", i)
    clothes = sorted(find("clothing_small", WORK).rglob("*.jpg"))[::2]
    for i, path in enumerate(clothes):
        with Image.open(path) as image:
            photo = image.convert("RGB")
        for angle in (90, 180):
            _save(photo.rotate(angle, expand=True), f"clothes turned by {angle}", path.parent.name, i)  # fmt: skip
    drawn = ("digits, 8 px", "digits, 64 px", "noise", "clothes turned by 90", "clothes turned by 180")  # fmt: skip
    others = [name for name in sets if name != "clothing_small"]
    return {name: WORK / name for name in drawn} | dict.fromkeys([*others, "imagenet_sample"])


def _save(image: Image.Image, folder: str, name: str, i: int) -> None:
    place = WORK / folder / name
    place.mkdir(parents=True, exist_ok=True)
    image.save(place / f"{i}.png")
