"""Read a corrected table of labels back: what a person changed becomes a data set with those labels.

    path,label[,any other column]

The suggestions of `label_errors` have these columns. Rows may be removed, and only rows whose
label differs from what the data set says are changes. Nothing on the disk is touched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from headstart.data.sources import Dataset
from headstart.data.table import _column, _read
from headstart.errors import DataError, nearest, show
from headstart.files import csv_cell

SHOWN, MOST_COMPARED = 3, 2_000


@dataclass(frozen=True, slots=True)
class Change:
    """One image whose label was corrected; `in_test` says that a score will move with it."""

    path: str
    before: str
    after: str
    in_test: bool


@dataclass(frozen=True, slots=True)
class Relabelled:
    """The data set with corrected labels, and what was changed, in the order of the samples."""

    dataset: Dataset
    changes: tuple[Change, ...]

    @property
    def in_test(self) -> tuple[Change, ...]:
        """The changes of test images: the score before and after is not that of the same test."""
        return tuple(change for change in self.changes if change.in_test)


def relabel(dataset: Dataset, file: Path, test: Collection[str] = ()) -> Relabelled:
    """The data set with the labels of a corrected table.

    Args:
        file: CSV with the columns path and label; paths as in the data set.
        test: paths of the test part, where it was drawn (rows `test` of split.csv); images of a
            test part that the user gave are known without.

    Raises:
        DataError: no such table or columns, a path that is no image of the data set, a label that
            is no class, an image with two rows, or a class that would be left without images.
    """
    header, rows = _read(file)
    path, label = (_column(header, name, file) for name in ("path", "label"))
    sample_of = _by_cell([sample.path for sample in dataset.samples])
    class_of = _by_cell(dataset.classes)
    chosen: dict[int, int] = {}
    for line, row in enumerate(rows, 2):
        i = _find(sample_of, row[path], "image of this data set", file, line)
        if i in chosen:
            raise DataError(
                "An image has two rows in the table of labels", where=f"{file}, line {line}",
                received=row[path], do="Keep the row with the right label.",
            )  # fmt: skip
        chosen[i] = _find(class_of, row[label], "class of this data set", file, line)
    samples, changes = list(dataset.samples), []
    for i, after in sorted(chosen.items()):
        sample = samples[i]
        if sample.label != after:
            samples[i] = replace(sample, label=after, was=sample.label)
            tested = sample.split == "test" or sample.path in test
            names = dataset.classes[sample.label], dataset.classes[after]
            changes.append(Change(sample.path, *names, tested))
    left = {sample.label for sample in samples}
    emptied = [name for c, name in enumerate(dataset.classes) if c not in left]
    if emptied:
        raise DataError(
            "The corrected labels leave a class without images", where=file, received=emptied[0],
            do="Move the class's folder away, or take its rows out of the table.",
        )  # fmt: skip
    return Relabelled(replace(dataset, samples=tuple(samples)), tuple(changes))


def _by_cell(names: Sequence[str]) -> dict[str, int | None]:
    """Position by name, and by what our tables write for it; None where two names claim one cell."""
    found: dict[str, int | None] = {}
    for i, name in enumerate(names):
        cell = csv_cell(name)
        for key in {name, cell, cell.strip()}:
            found[key] = i if found.setdefault(key, i) == i else None
    return found


def _find(known: dict[str, int | None], cell: str, what: str, file: Path, line: int) -> int:
    """The position of a name; blanks around it, which spreadsheets like to leave, do not matter."""
    for key in (cell, cell.strip()):
        place = known.get(key)
        if place is not None:
            return place
    few = ", ".join(map(show, list(known)[:SHOWN])) + (", ..." if len(known) > SHOWN else "")
    # Comparing with every path of a large set would take minutes.
    namesakes = [key for key in known if PurePosixPath(key).name == PurePosixPath(cell).name]
    close = nearest(cell.strip(), namesakes or list(known)[:MOST_COMPARED])
    raise DataError(
        f"The table of labels names no {what}" if cell.strip() else f"A row names no {what}",
        where=f"{file}, line {line}", received=cell, do=close or f"Known are: {few}",
    )  # fmt: skip
