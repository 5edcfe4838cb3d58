"""The embedded demonstration: scikit-learn's handwritten digits, written out as images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.errors import from_os
from headstart.pipeline import Outcome, fit, say
from headstart.run import make_folder
from headstart.settings import FitSettings, cache_dir


def demo(out: Path, seed: int = 0) -> Outcome:
    """Write the digits into the cache, then `fit` them with frozen strategies only.

    A demo folder that is there from an earlier demo is replaced.
    """
    if (out / "run.json").is_file() and out.name == "demo":
        shutil.rmtree(out)
    folder = write_digits(cache_dir() / "digits")
    say(f"1,797 handwritten digits of 8 x 8 px, as images in {folder}")
    return fit(FitSettings(data=folder, out=out, budget=0, seed=seed))


def write_digits(folder: Path) -> Path:
    """Write the digits as PNG files, DIGIT/NUMBER.png; does nothing when they are there."""
    done = folder / ".complete"
    if done.exists():
        return folder
    from sklearn.datasets import load_digits

    digits = load_digits()
    make_folder(folder)
    try:
        for digit in range(10):
            (folder / str(digit)).mkdir(exist_ok=True)
        for i, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            grey = np.round(pixels * 255 / 16).astype(np.uint8)  # the data run from 0 to 16
            Image.fromarray(grey).save(folder / str(digit) / f"{i:04}.png")
        done.touch()
    except OSError as cause:
        raise from_os(cause, "Could not write the digits", folder) from cause
    return folder
