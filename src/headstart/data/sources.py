"""Find the images: a folder of classes, with or without splits, becomes one table of samples.

    CLASS/*                       or      {train,val,test}/CLASS/*

Nothing is decoded here; only names are read. Files are found wherever they lie below their class
folder; litter of operating systems and tools is left out and listed.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
LITTER_FOLDERS = {
    "__macosx", "__pycache__", "$recycle.bin", "system volume information", "@eadir", "lost+found",
}  # fmt: skip
OTHER_FILES = {  # what people keep beside their images; named in the findings, never decoded
    ".csv", ".tsv", ".txt", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".py", ".ipynb",
    ".zip", ".tar", ".gz", ".xlsx", ".xls", ".docx", ".html", ".log", ".mat", ".npy", ".npz",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """One file that should be an image.

    path is relative to the data set's root, with forward slashes; `split` is the user's own split
    (train, val, test) or None; `group` ties images together that must not be separated; `was` is the
    label before it was corrected, None where it was not; `cells` are the values of the data set's
    further columns.
    """

    path: str
    label: int
    split: str | None = None
    group: str | None = None
    was: int | None = None
    cells: tuple[str, ...] = ()


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
    columns: tuple[str, ...] = ()
    """further columns of the table, in its order"""
    group_name: str | None = None
    """what the groups are called: the column's name, or that of the pattern's bracket"""

    def column(self, name: str) -> list[str | None]:
        """The value of a further column, or the group, of every sample; None: an empty cell."""
        if name == self.group_name:
            return [sample.group for sample in self.samples]
        place = self.columns.index(name)
        return [sample.cells[place] or None for sample in self.samples]

    def locate(self, sample: Sample) -> Path:
        """The file of a sample."""
        if self.test_root is not None and sample.split == "test":
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
    key = []
    for part in re.findall(r"[0-9]+|[^0-9]+", unicodedata.normalize("NFC", text).casefold()):
        number = part.lstrip("0") if part[0] in "0123456789" else None
        key.append((1, 0, part) if number is None else (0, len(number), number))
    # The end comes before any further part; the exact text keeps equal keys in a fixed order.
    return (*key, (-1, 0, text))


def read(root: Path, test: Path | None = None) -> Dataset:
    """Read the names below a folder.

    Args:
        root: CLASS/* or {train,val,test}/CLASS/*.
        test: another folder CLASS/* that serves as the test part (`--test`).

    Raises:
        DataError: missing, empty, not a folder, fewer than two classes, both kinds of test part.
    """
    _must_be_folder(root, "The data folder")
    walker = _Walker(root)
    folders = walker.subfolders(root, "")
    split_of = _split_folders(root, folders, walker)
    if test is not None:
        _check_test_folder(root, test, own_test="test" in split_of.values())
    places = []
    for folder in folders:
        if folder in split_of:
            for inner in walker.subfolders(folder, f"{folder.name}/"):
                path = f"{folder.name}/{inner.name}/"
                places.append(_Place(inner, path, _class_name(inner), split_of[folder]))
        elif split_of:
            walker.ignored.append((f"{folder.name}/", "lies beside the folders of the split"))
        elif test is None or not folder.samefile(test):  # --test may lie among the classes
            places.append(_Place(folder, f"{folder.name}/", _class_name(folder), None))
    if test is not None:
        for inner in walker.subfolders(test, "test:"):
            places.append(_Place(inner, f"test:{inner.name}/", _class_name(inner), "test"))
    found = walker.files(places)
    if test is not None:
        _check_test_classes(found, test)
    rows = [(path, name, split, None) for path, name, split in found]
    return build_dataset(
        root, rows, walker.ignored, test, lambda only: _one_class_hint(root / only, walker)
    )


def image_files(folder: Path) -> list[Path]:
    """Every file below a folder that may be an image, in natural order, litter left out.

    Raises:
        DataError: missing, not a folder, or not readable.
    """
    _must_be_folder(folder, "The folder")
    walker = _Walker(folder.resolve().parent)
    found = walker.files([_Place(folder, "", "", None)])
    return [folder / path for path, _, _ in sorted(found, key=lambda row: natural_key(row[0]))]


def _split_folders(root: Path, folders: list[Path], walker: _Walker) -> dict[Path, str]:
    """Which folder is which part of the user's split; {} when the folders are classes.

    A data set may be about buses, cars and trains: `train` is a part only when it holds folders,
    and either nothing but parts lies beside it or another part does.
    """
    split_of = {f: SPLITS[f.name.casefold()] for f in folders if f.name.casefold() in SPLITS}
    parts, alone = set(split_of.values()), len(split_of) == len(folders)
    nested = any(walker.holds_folders(f) for f, split in split_of.items() if split == "train")
    if nested and (alone or len(parts) > 1):
        return split_of
    if alone and ("train" in parts or len(folders) > 1):
        names = " and ".join(show(folder.name) for folder in folders)
        raise DataError(
            "There is no training part with class folders in it",
            where=root,
            received=names,
            do="Put the images of each class in a folder of its own: train/cats/1.jpg, "
            f"train/dogs/1.jpg. If {names} are the classes themselves, rename the folders.",
        )
    return {}


def _class_name(folder: Path) -> str:
    """The folder's name; two spellings of one accent, as unzipping on a Mac leaves, are one class."""
    text = folder.name.encode("utf-8", "backslashreplace").decode("utf-8")
    return unicodedata.normalize("NFC", text)


def _check_test_folder(root: Path, test: Path, own_test: bool) -> None:
    _must_be_folder(test, "The folder of --test")
    if test.samefile(root):
        raise DataError("--test is the data folder itself", where=test, do="Drop --test.")
    if own_test:
        raise DataError(
            "--test was given, but the data folder has a test part of its own",
            where=test,
            do="Drop --test, or move the folder's own test part away.",
        )


def _check_test_classes(found: list[tuple[str, str, str | None]], test: Path) -> None:
    """`--test` holds images, and no class that training lacks."""
    known = {name for _, name, split in found if split != "test"}
    tested = {name for _, name, split in found if split == "test"}
    if not tested:
        raise DataError(
            "No images were found in the folder of --test",
            where=test,
            do="Put the images of each class in a folder of its own, named as in training.",
        )
    if known and tested - known:
        foreign = min(tested - known, key=natural_key)
        raise DataError(
            f"The test part has a class that training has not: {show(foreign)}",
            where=test,
            do=f"Classes of training: {', '.join(sorted(map(show, known), key=natural_key))}.",
        )


def build_dataset(
    root: Path,
    found: Sequence[tuple[str, str, str | None, str | None]],
    ignored: Sequence[tuple[str, str]],
    test: Path | None = None,
    hint: Callable[[str], str] = lambda _only: "Add images of a second class.",
) -> Dataset:
    """A data set from (path, class, split, group) rows, classes in natural order over all splits.

    Raises:
        DataError: no image, or only one class; `hint(class)` says what to do about the latter.
    """
    if not any(split != "test" for _, _, split, _ in found):
        raise DataError(
            "No images were found",
            where=root,
            received=f"{len(ignored)} entries without a class" if ignored else None,
            do="Put the images of each class in a folder of its own: my_photos/cats/1.jpg, "
            "my_photos/dogs/1.jpg.",
        )
    classes = tuple(sorted({name for _, name, _, _ in found}, key=natural_key))
    if len(classes) < 2:
        raise DataError(
            "There is only one class, so there is nothing to tell apart",
            where=root,
            received=classes[0],
            do=hint(classes[0]),
        )
    index = {name: i for i, name in enumerate(classes)}
    # The validation part serves as the test part only when there is no other.
    val = "val" if "test" in {split for _, _, split, _ in found} else "test"
    samples = tuple(
        Sample(path, index[name], val if split == "val" else split, group)
        for path, name, split, group in sorted(found, key=lambda row: natural_key(row[0]))
    )
    listed = tuple(sorted(ignored, key=lambda row: natural_key(row[0])))
    return Dataset(root, classes, samples, listed, test)


def _one_class_hint(only: Path, walker: _Walker) -> str:
    """The usual reason for one class is a folder too many around the class folders."""
    while only.is_dir():
        inner = walker.subfolders(only, "")
        if len(inner) > 1:
            return f"Did you mean {show(only)}? Its sub-folders look like classes."
        if not inner:
            break
        only = inner[0]
    return "Add a folder with the images of a second class."


def _must_be_folder(path: Path, what: str) -> None:
    if not os.path.lexists(path):
        raise DataError(
            f"{what} does not exist", where=path, do="Check the path and its permissions."
        )
    if path.exists() and not path.is_dir():
        is_table = path.suffix.lower() == ".csv"
        do = f"A table? Give it as --table {show(path)}." if is_table else ""
        do = do or "Give a folder with one sub-folder per class."
        raise DataError(f"{what} is a file", where=path, do=do)
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(
            f"{what} cannot be read", where=path, do="Check its permissions, and links on the way."
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder to look into: where it is, its path as shown, and what its images belong to."""

    folder: Path
    path: str
    name: str
    split: str | None
    inner: bool = False


class _Walker:
    """Walks folders in natural order, never twice into the same one, and lists what it leaves out."""

    def __init__(self, root: Path) -> None:
        self.ignored: list[tuple[str, str]] = []
        self._visited: set[tuple[int, int]] = set()
        whole = root.resolve()
        for folder in (whole, *whole.parents):  # a link to one of these leads back to everything
            self._first_visit(folder)

    def subfolders(self, folder: Path, shown: str) -> list[Path]:
        """The folders in a folder; the files beside them have no class."""
        found = []
        for entry in self._entries(folder, shown, needed=True):
            if self._is_litter(entry, shown + entry.name):
                continue
            if _is_folder(entry):
                found.append(folder / entry.name)
            else:
                self.ignored.append((shown + entry.name, "lies outside every class folder"))
        return found

    def holds_folders(self, folder: Path) -> bool:
        """Whether any folder worth a look lies in this one."""
        return bool(_Walker(folder).subfolders(folder, ""))

    def files(self, places: list[_Place]) -> list[tuple[str, str, str | None]]:
        """(path, class, split) of every file below class folders.

        Links to folders wait until the real folders are done: a folder that can be reached in
        several ways counts where it really lies.
        """
        found: list[tuple[str, str, str | None]] = []
        real = deque(place for place in places if not place.folder.is_symlink())
        links = deque(place for place in places if place.folder.is_symlink())
        while real or links:
            place = real.popleft() if real else links.popleft()
            if not self._first_visit(place.folder):
                self.ignored.append((place.path, "link to a folder that is looked at elsewhere"))
                continue
            for entry in self._entries(place.folder, place.path, needed=not place.inner):
                path = place.path + entry.name
                if self._is_litter(entry, path):
                    continue
                if _is_folder(entry):
                    inner = replace(
                        place, folder=place.folder / entry.name, path=f"{path}/", inner=True
                    )
                    (links if entry.is_symlink() else real).append(inner)
                elif os.path.splitext(entry.name)[1].casefold() in OTHER_FILES:  # noqa: PTH122 - fast
                    self.ignored.append((path, "not an image by its name"))
                else:
                    found.append((path, place.name, place.split))
        full = {(name, split) for _, name, split in found}
        told = {path for path, _ in self.ignored}
        for place in places:
            if (place.name, place.split) not in full and place.path not in told:
                self.ignored.append((place.path, "class folder without images"))
        return found

    def _entries(self, folder: Path, shown: str, needed: bool) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda e: natural_key(e.name))
        except OSError as cause:
            reason = f"folder cannot be read ({cause.strerror})"
            if needed:  # else a whole class would be missing without a word
                raise DataError(f"A {reason}", where=folder, do="Check its permissions.") from cause
            self.ignored.append((shown, reason))
            return []

    def _is_litter(self, entry: os.DirEntry[str], shown: str) -> bool:
        name = entry.name.casefold()
        if name.startswith(".") or name in LITTER_FILES or name in LITTER_FOLDERS:
            self.ignored.append((shown, "hidden or left by the operating system"))
        elif _is_folder(entry) and all(
            os.path.lexists(os.path.join(entry.path, own))  # noqa: PTH118 - fast
            for own in ("run.json", ".lock")
        ):
            self.ignored.append((shown, "a run of headstart"))
        else:
            return False
        return True

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


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; reading it as an image names it
        return False
