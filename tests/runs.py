"""Finished toy runs, and the command line called in this process or in one of its own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.entry import run_command
from headstart.pipeline import fit
from headstart.settings import FitSettings


def train(data: Path, out: Path, **settings: Any) -> Path:
    """Fit without a report; returns the run folder."""
    return fit(FitSettings(data=data, out=out, report=False, **settings)).folder


def refused(capsys: Any, *arguments: object, code: int = 2) -> str:
    """Run a command that must fail with `code`; returns its one sentence, without a traceback."""
    assert call(*arguments) == code
    shown = capsys.readouterr().err
    last = [line for line in shown.splitlines() if line.startswith("headstart: ")]
    assert len(last) == 1, shown
    assert "Traceback" not in shown
    assert "fault" not in shown
    return str(last[0].removeprefix("headstart: "))


def call(*arguments: object) -> int:
    """Run a command in this process; returns the exit code."""
    return run_command([str(argument) for argument in arguments])


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "headstart", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ.copy(), **(pipes | options))


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def bright_or_dark(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Noise whose brightness is the class: class k of n is about k / n bright."""
    rng = np.random.default_rng(seed)
    for k, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i, pixels in enumerate(noise(rng, count)):
            shade = pixels // 4 + np.uint8(180 * k / len(counts))
            Image.fromarray(shade).save(folder / name / f"{i}.png")
    return folder


def noise(rng: np.random.Generator, count: int, side_px: int = 48) -> Iterator[Any]:
    """Random pictures uint8 [side, side, 3] without any class in them."""
    for _ in range(count):
        yield rng.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)


def landscape(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A smooth picture with edges, of any sides: what photos are like for a resizer."""
    coarse = rng.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
