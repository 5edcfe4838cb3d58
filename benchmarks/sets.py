"""The real data sets of the benchmarks, and draws from them as folders of links."""

from __future__ import annotations

import os
import re
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
ARCHIVES = REPOSITORY.parent / "shared" / "data"
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def find(name: str, work: Path) -> Path:
    """A data set's folder: below $HEADSTART_DATA, or unpacked from ../shared/data into `work`."""
    given = os.environ.get("HEADSTART_DATA")
    if given and (Path(given) / name).is_dir():
        return Path(given) / name
    if not (work / name).is_dir():
        archive = ARCHIVES / f"{name}.tar"
        if not archive.is_file():
            raise SystemExit(f"no data set {name}: set HEADSTART_DATA or provide {archive}")
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
    return work / name


def images_by_class(folder: Path) -> dict[str, list[Path]]:
    """Every image below CLASS/ or SPLIT/CLASS/, by class; splits are joined."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES and path.is_file():
            found[path.parent.name].append(path)
    return dict(sorted(found.items()))


def groups_of(name: str, paths: list[Path]) -> np.ndarray:
    """What must stay together: the signer's block of ten photos, near-duplicates, or nothing."""
    if name == "sign_digits":
        # Ten photos of one signer lie in a row, one per digit; numbers skip now and then.
        numbers = np.array([int(re.sub(r"\D", "", path.stem)) for path in paths])
        ranks = np.empty(len(paths), dtype=int)
        ranks[np.argsort(numbers, kind="stable")] = np.arange(len(paths)) // 10
        return ranks
    if name == "brain_tumor_mri":
        import imagehash
        from PIL import Image

        keys: dict[str, int] = {}
        return np.array(
            [keys.setdefault(str(imagehash.phash(Image.open(p))), len(keys)) for p in paths]
        )
    return np.arange(len(paths))


def draw(folder: Path, train: list[Path], test: list[Path]) -> Path:
    """A data folder {train,test}/CLASS/* of links to the given images."""
    for part, paths in (("train", train), ("test", test)):
        for i, path in enumerate(paths):
            place = folder / part / path.parent.name
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i:05}{path.suffix.lower()}").symlink_to(path.resolve())
    return folder
