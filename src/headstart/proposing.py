"""Which images to label next: look at a pile of unlabelled ones, and name those worth a person's time.

N images, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.data.images import ImageRefused, load_pixels
from headstart.errors import ArgumentError, BundleError, DataError
from headstart.files import atomic_write
from headstart.judge.next_images import Proposal, proposals_csv, propose
from headstart.opening import say
from headstart.parallel import ordered_map, progress
from headstart.settings import threads
from headstart.ship.predict import Model, Prediction, expand, load, wide

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NextImages:
    """The images to label, the most telling first, and how many could not be read."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    """of all images that were looked at; a proposal's `index` is a place among them"""
    proposals: tuple[Proposal, ...]
    unreadable: int

    @property
    def csv(self) -> str:
        """path,predicted,confidence,second,margin"""
        return proposals_csv(self.proposals, self.paths, self.classes)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The paths to label, in order."""
        return tuple(self.paths[one.index] for one in self.proposals)


def next_images(
    model: str | Path,
    images: str | Path | Iterable[str | Path],
    n: int = 50,
    out: str | Path | None = None,
) -> NextImages:
    """Propose at most n images to label next: those in doubt, no two of the same kind.

    The features of all images are held in memory, 5 to 16 kB for each.

    Args:
        model: run folder or model folder. images: files and folders. out: a CSV file to write.

    Raises:
        ArgumentError: a path that does not exist, n below 1, an `out` that is no CSV.
        BundleError: not a model, or an older one that does not tell its features.
        DataError: no image can be read.
    """
    if n < 1:
        raise ArgumentError("--n must be at least 1", received=n)
    file = None if out is None else Path(out)
    if file is not None and (file.suffix.casefold() != ".csv" or file.is_dir()):
        raise ArgumentError("--out is no CSV file", received=file.name, do="Use NAME.csv.")
    loaded = load(model)
    if not loaded.tells_features:
        raise BundleError(
            "This model is of an older kind that does not tell what it sees", where=model,
            do="Train it again with headstart fit.",
        )  # fmt: skip
    paths = expand([images] if isinstance(images, str | Path) else images)
    found = ordered_map(partial(_one, loaded), paths, threads())
    answers = list(progress(found, len(paths), "looking"))
    known = [(a, f) for a, f in answers if f is not None]
    if not known:
        raise DataError(
            "None of these images can be read", where=paths[0], received=answers[0][0].error
        )
    p = np.array([answer.probabilities for answer, _ in known], dtype=np.float64)
    proposals = propose(p, np.stack([features for _, features in known]), n)
    result = NextImages(
        loaded.classes,
        tuple(answer.path for answer, _ in known),
        proposals,
        len(answers) - len(known),
    )
    if len(proposals) < min(n, len(known)):
        say(
            f"{len(known) - len(proposals):,} of the images show the same as others and are left out"
        )
    if file is not None:
        atomic_write(file, result.csv)
    return result


def _one(model: Model, path: Path) -> tuple[Prediction, Features | None]:
    try:
        pixels, _ = load_pixels(path, wide(model.bundle.preprocess))
    except ImageRefused as refused:
        why = f"{refused.reason}: {refused.detail}"
        return Prediction(str(path), None, None, None, why), None
    return model.answered(path, pixels)
