"""The embedded demonstration: scikit-learn's handwritten digits, written out as images."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.errors import RunFolderError, from_os, show, told
from headstart.opening import Outcome, say
from headstart.pipeline import fit
from headstart.run import existing_manifest, make_folder
from headstart.settings import FitSettings, cache_dir

MADE_BY_A_RUN = {
    "run.json", "data.json", "findings.json", "surgery.json", "nested.json", "split.csv", "plan.json", "evaluation.json", "predictions.csv",
    "mistakes.json", "suggestions.csv", "held_out.csv", "learned_from.json", "pictures.json", "report.html", "log.jsonl", "model", ".lock",
}  # fmt: skip


def demo(out: Path, seed: int = 0) -> Outcome:
    """Write the digits into the cache, then `fit` them with frozen strategies only.

    A finished demo is replaced, an interrupted one is gone on with; nothing else is ever touched.

    Raises:
        RunFolderError: the folder holds something that no demo made.
    """
    folder = write_digits(cache_dir() / "digits")
    say(f"1,797 handwritten digits of 8 x 8 px, as images in {show(folder)}")
    again = make_room(out, folder)
    return fit(FitSettings(data=folder, out=out, budget=0, seed=seed, resume=again))


def how_to_go_on() -> list[str]:
    """What to type for photos of one's own: `make demo` leaves the command in an environment that
    the shell does not know yet."""
    own = "headstart fit my_photos"
    if shutil.which("headstart") is not None:
        return [own]
    if os.name == "nt":
        script, call = Path(sys.prefix, "Scripts", "activate.bat"), ""
    else:
        script, call = Path(sys.prefix, "bin", "activate"), ". "
    if not script.exists():  # no environment of its own
        return [f"{shlex.quote(sys.executable)} -m {own}"]
    here = Path.cwd()
    place = script.relative_to(here) if script.is_relative_to(here) else script
    return [f"{call}{shlex.quote(show(place))}", own]


def make_room(out: Path, digits: Path) -> bool:
    """Remove what an earlier demo left; True when one was interrupted, or is still at work."""
    stored = existing_manifest(out)
    if stored is None:
        return False
    settings = found if isinstance(found := stored.get("settings"), dict) else {}
    data = settings.get("data")
    foreign = sorted({entry.name for entry in out.iterdir()} - MADE_BY_A_RUN)
    if not isinstance(data, str) or Path(data) != digits or foreign:
        raise RunFolderError(
            "This folder holds something else than an earlier demo, so it is left alone",
            where=out,
            received=foreign[0] if foreign else None,
            do="Choose another folder with --out.",
        )
    if stored.get("status") == "running":
        return True
    with told("Could not remove the earlier demo", out):
        shutil.rmtree(out)
    return False


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
