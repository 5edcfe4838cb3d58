"""What the report's pictures are made of: the finished run, and the model opened up.

N images, C classes.
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.data.images import thumbnail
from headstart.data.sources import Dataset
from headstart.explain.inside import Inside, open_up
from headstart.files import csv_cell
from headstart.learning import Learned, Prepared
from headstart.settings import FitSettings, threads
from headstart.ship.bundle import Bundle, read_bundle


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers in predictions.csv."""

    who: NDArray[np.int64]  # [N] among the samples
    probabilities: NDArray[np.float64]  # [N, C]


class Scene:
    """A finished run; each part of it is read once, when it is first asked for."""

    def __init__(
        self, prepared: Prepared, learned: Learned, settings: FitSettings, folder: Path
    ) -> None:
        self.prepared, self.learned, self.folder = prepared, learned, folder
        self.seed, self.refitted = settings.seed, settings.refit_all
        self.workers = threads()
        self.dataset: Dataset = prepared.dataset

    @cached_property
    def answers(self) -> Answers:
        """The answers that were judged."""
        place, classes = self.places(csv_cell), self.dataset.classes
        who, rows = [], []
        with (self.folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            assert next(lines)[4:] == [csv_cell(f"p_{name}") for name in classes]
            for path, _, _, _, *p in lines:  # row by row: a thousand classes are many texts
                who.append(place[path])
                rows.append(np.array(p, dtype=np.float64))
        return Answers(np.array(who, dtype=np.int64), np.array(rows).reshape(-1, len(classes)))

    @cached_property
    def bundle(self) -> Bundle:
        """The model that is handed over."""
        return read_bundle(self.folder)

    @cached_property
    def inside(self) -> Inside:
        """Its network, opened up."""
        graph = self.prepared.views[self.learned.verified.chosen.view].graph
        kept = self.bundle.description["stages"]["kept"]
        return open_up(self.bundle.onnx, graph, kept, self.bundle.taps)

    def unseen(self, who: NDArray[np.int64]) -> bool:
        """Whether the model that is handed over has learned from none of these images."""
        return bool(np.isin(who, self.prepared.split.test).all()) and not self.refitted

    def labels(self, who: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels of samples."""
        return np.array([self.dataset.samples[i].label for i in who], dtype=np.int64)

    def places(self, written: Callable[[str], Any]) -> dict[str, int]:
        """The sample of a path, as a file of the run folder writes it."""
        return {str(written(sample.path)): i for i, sample in enumerate(self.dataset.samples)}


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of the run folder."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def encoded(picture: Image.Image, most_px: int, quality: int = 72) -> str:
    """A picture as WebP in Base64, its longer side at most `most_px`."""
    return base64.b64encode(thumbnail(picture, most_px, quality)).decode()
