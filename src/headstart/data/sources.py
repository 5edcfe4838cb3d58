"""Find the images: a folder of classes, with or without splits, becomes one table of samples.

    CLASS/*                       or      {train,val,test}/CLASS/*

Nothing is decoded here; only names are read. Files are found wherever they lie below their class
folder; litter of operating systems and tools is left out and listed.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import DataError, show

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
LITTER_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
LITTER_FOLDERS = {"__macosx", "$recycle.bin", "system volume information", "@eadir"}
OTHER_FILES = {  # what people keep beside their images; named in the findings, never decoded
    ".csv", ".tsv", ".txt", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".py", ".ipynb",
    ".zip", ".tar", ".gz", ".xlsx", ".xls", ".docx", ".html", ".log", ".mat", ".npy", ".npz",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """One file that should be an image.

    path is relative to the data set's root, with forward slashes; `split` is the user's own split
    (train, val, test) or None; `group` ties images together that must not be separated.
    """

    path: str
    label: int
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """The table of samples, sorted by path, and the classes in natural order over all splits."""

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    ignored: tuple[tuple[str, str], ...]
    """(path, reason) of every file that was left out by its name."""
    test_root: Path | None = None
    """Where samples of `--test` lie; their paths begin with `test:`."""

    def locate(self, sample: Sample) -> Path:
        """The file of a sample."""
        if self.test_root is not None and sample.path.startswith("test:"):
            return self.test_root / sample.path.removeprefix("test:")
        return self.root / sample.path

    @property
    def has_test(self) -> bool:
        """Whether the user gave a test part."""
        return any(sample.split == "test" for sample in self.samples)


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts 2 before 10, and does not depend on the order of listing.

    >>> sorted(["10", "2", "1", "b1", "a"], key=natural_key)
    ['1', '2', '10', 'a', 'b1']
    """
    parts = re.split(r"([0-9]+)", unicodedata.normalize("NFC", text).casefold())
    key = tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts if p)
    return (*key, (2, 0, text))  # the exact text last: equal keys stay in a fixed order


def read(root: Path, test: Path | None = None) -> Dataset:
    """Read the names below a folder.

    Args:
        root: CLASS/* or {train,val,test}/CLASS/*.
        test: another folder CLASS/* that serves as the test part (`--test`).

    Raises:
        DataError: missing, empty, not a folder, fewer than two classes, both kinds of test part.
    """
    _must_be_folder(root, "The data folder")
    walker = _Walker()
    folders = _subfolders(root, walker)
    split_of = {f.name: SPLITS[f.name.casefold()] for f in folders if f.name.casefold() in SPLITS}
    # A data set about trains and tests: split names count only when train or test is among them
    # and every sub-folder is a split.
    has_splits = len(split_of) == len(folders) and "train" in split_of.values()
    found: list[tuple[str, str, str | None]] = []  # path, class, split
    if has_splits:
        for folder in folders:
            for class_folder in _subfolders(folder, walker):
                prefix = f"{folder.name}/{class_folder.name}/"
                for path in walker.files(class_folder):
                    found.append((prefix + path, class_folder.name, split_of[folder.name]))
            walker.loose(folder, f"{folder.name}/")
    else:
        for class_folder in folders:
            for path in walker.files(class_folder):
                found.append((f"{class_folder.name}/{path}", class_folder.name, None))
    walker.loose(root, "")
    if test is not None:
        found = _with_test(found, test, has_splits, walker)
    return _dataset(root, found, walker, test)


def _with_test(
    found: list[tuple[str, str, str | None]], test: Path, has_splits: bool, walker: _Walker
) -> list[tuple[str, str, str | None]]:
    """Add the images of `--test`; everything else becomes development."""
    if has_splits and any(split == "test" for _, _, split in found):
        raise DataError(
            "--test was given, but the data folder has a test part of its own",
            where=test,
            do="Drop --test, or move the folder's own test part away.",
        )
    _must_be_folder(test, "The folder of --test")
    known = {name for _, name, _ in found}
    for class_folder in _subfolders(test, walker):
        files = list(walker.files(class_folder))
        if files and class_folder.name not in known:
            raise DataError(
                f"The test part has a class that training has not: {show(class_folder.name)}",
                where=test,
                do=f"Classes of training: {', '.join(sorted(map(show, known), key=natural_key))}.",
            )
        found += [(f"test:{class_folder.name}/{f}", class_folder.name, "test") for f in files]
    return found


def _dataset(
    root: Path,
    found: list[tuple[str, str, str | None]],
    walker: _Walker,
    test: Path | None,
) -> Dataset:
    if not found:
        raise DataError(
            "No images were found",
            where=root,
            do="Put the images of each class in a folder of its own: my_photos/cats/1.jpg, "
            "my_photos/dogs/1.jpg.",
        )
    classes = tuple(sorted({name for _, name, _ in found}, key=natural_key))
    if len(classes) < 2:
        raise DataError(
            "There is only one class, so there is nothing to tell apart",
            where=root,
            received=classes[0],
            do=_one_class_hint(root / classes[0]),
        )
    index = {name: i for i, name in enumerate(classes)}
    splits = {split for _, _, split in found}
    if "test" not in splits and "val" in splits:
        # The validation part serves as the test part only when there is no other.
        found = [(p, name, "test" if s == "val" else s) for p, name, s in found]
    samples = tuple(
        Sample(path=path, label=index[name], split=split)
        for path, name, split in sorted(found, key=lambda row: natural_key(row[0]))
    )
    return Dataset(root, classes, samples, tuple(walker.ignored), test)


def _one_class_hint(only: Path) -> str:
    """The usual reason for one class is a folder too many around the class folders."""
    if only.is_dir() and sum(entry.is_dir() for entry in only.iterdir()) >= 2:
        return f"Did you mean {show(only)}? Its sub-folders look like classes."
    return "Add a folder with the images of a second class."


def _must_be_folder(path: Path, what: str) -> None:
    if not path.exists():
        raise DataError(f"{what} does not exist", where=path, do="Check the path.")
    if not path.is_dir():
        raise DataError(
            f"{what} is a file", where=path, do="Give a folder with one sub-folder per class."
        )
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"{what} may not be read", where=path, do="Check its permissions.")


def _subfolders(folder: Path, walker: _Walker) -> list[Path]:
    entries = [e for e in walker.entries(folder) if e.is_dir()]
    folders = [Path(e.path) for e in entries if not walker.is_litter(e, Path(e.path).name)]
    return sorted(folders, key=lambda f: natural_key(f.name))


class _Walker:
    """Walks folders in natural order, never twice into the same one, and lists what it leaves out."""

    def __init__(self) -> None:
        self.ignored: list[tuple[str, str]] = []
        self._visited: set[tuple[int, int]] = set()

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda e: natural_key(e.name))
        except OSError as cause:
            self.ignored.append((str(folder), f"folder cannot be read ({cause.strerror})"))
            return []

    def is_litter(self, entry: os.DirEntry[str], shown: str) -> bool:
        name = entry.name.casefold()
        hidden = name.startswith(".")
        if hidden or name in LITTER_FILES or name in LITTER_FOLDERS:
            self.ignored.append((shown, "hidden or left by the operating system"))
            return True
        return False

    def files(self, class_folder: Path) -> list[str]:
        """Paths below a class folder, relative to it."""
        found: list[str] = []
        pending = [(class_folder, "")]
        while pending:
            folder, prefix = pending.pop(0)
            if not self._first_visit(folder):
                self.ignored.append(
                    (f"{class_folder.name}/{prefix}", "link to a folder seen before")
                )
                continue
            for entry in self.entries(folder):
                shown = f"{class_folder.name}/{prefix}{entry.name}"
                if self.is_litter(entry, shown):
                    continue
                if entry.is_dir():
                    pending.append((Path(entry.path), f"{prefix}{entry.name}/"))
                elif Path(entry.name).suffix.casefold() in OTHER_FILES:
                    self.ignored.append((shown, "not an image by its name"))
                else:
                    found.append(prefix + entry.name)
        if not found:
            self.ignored.append((class_folder.name, "class folder without images"))
        return found

    def loose(self, folder: Path, prefix: str) -> None:
        """Name the files that lie beside the class folders: they have no class."""
        for entry in self.entries(folder):
            if not entry.is_dir() and not self.is_litter(entry, prefix + entry.name):
                self.ignored.append((prefix + entry.name, "lies outside every class folder"))

    def _first_visit(self, folder: Path) -> bool:
        try:
            status = folder.stat()
        except OSError:
            return True  # the scan of its entries reports it
        key = (status.st_dev, status.st_ino)
        if key in self._visited:
            return False
        self._visited.add(key)
        return True
