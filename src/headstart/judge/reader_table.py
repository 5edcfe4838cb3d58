"""Tables of what people said about images, or of how good they were: CSV in one of two forms.

    reader,path,answer                                one row per reader and image
    reader,sensitivity,specificity,n_pos,n_neg        one row per reader

Comma, semicolon or tab. An answer is the name of a class, the name of what is called, or that name
after `not `.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from headstart.data.table import _read as read_rows
from headstart.data.table import _three as three
from headstart.errors import DataError, nearest, show

ANSWERS = ("reader", "path", "answer")
RATES = ("reader", "sensitivity", "specificity", "n_pos", "n_neg")


@dataclass(frozen=True, slots=True)
class Answered:
    """What each reader said of each image: (reader, path, whether the class was called)."""

    rows: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True, slots=True)
class Rated:
    """One reader's rates, and on how many images they were counted."""

    reader: str
    sensitivity: float
    specificity: float
    n_pos: int
    n_neg: int


def read_readers(
    file: Path, classes: Sequence[str], columns: Sequence[int], name: str
) -> Answered | tuple[Rated, ...]:
    """Read a table of readers, in either form.

    Args:
        classes: names of the classes, in column order.
        columns: the classes that count as called, as in `curves.group_curve`.
        name: what they are called together; also an answer, as is `not NAME`.

    Raises:
        DataError: columns of neither form, answers that are no class, rates outside 0 to 1, counts
            that are no positive whole numbers, a reader twice for one image (three rows are shown).
    """
    header, rows = read_rows(file)
    for form in (ANSWERS, RATES):
        if set(form) <= set(header):
            cells = [[row[header.index(column)].strip() for column in form] for row in rows]
            if form is RATES:
                _check_readers(cells, file, each=1)
                return _rates(cells, file)
            cells = [[reader, image_path(path), answer] for reader, path, answer in cells]
            _check_readers(cells, file, each=2)
            called = {c: i in columns for i, c in enumerate(classes)}
            return _answers(cells, {f"not {name}": False, name: True} | called, file)
    raise DataError(
        "The table of readers has columns of neither form",
        where=file,
        received=f"{','.join(header)} | {three(rows[:2])}",
        do=f"Give {','.join(ANSWERS)} or {','.join(RATES)}.",
    )


def _check_readers(cells: list[list[str]], file: Path, each: int) -> None:
    """Every row names its reader, and no reader has two rows (for one image, with `each` 2)."""
    nameless = [row for row in cells if not row[0]]
    if nameless:
        raise DataError(
            f"{len(nameless)} rows name no reader", where=file, received=three(nameless)
        )
    keys = [tuple(row[:each]) for row in cells]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        rows = [row for row, key in zip(cells, keys, strict=True) if key == twice[0]]
        what = "A reader has more than one row" + (" for one image" if each == 2 else "")
        raise DataError(what, where=file, received=three(rows), do="Keep one row.")


def _answers(cells: list[list[str]], called: dict[str, bool], file: Path) -> Answered:
    strange = [row for row in cells if row[2] not in called]
    if strange:
        raise DataError(
            f"{len(strange)} answers are the name of no class",
            where=file,
            received=three(strange),
            do=f"{nearest(strange[0][2], called)} Answers: {', '.join(map(show, called))}.".strip(),
        )
    return Answered(tuple((row[0], row[1], called[row[2]]) for row in cells))


def image_path(text: str) -> str:
    """A path as both sides write it: `./a//b.jpg` is `a/b.jpg`."""
    return PurePosixPath(text).as_posix()


def _rates(cells: list[list[str]], file: Path) -> tuple[Rated, ...]:
    def number(text: str, fits: Callable[[float], bool]) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        return value if fits(value) else None

    found, wrong = [], []
    for row in cells:
        rates = [number(cell, lambda v: 0 <= v <= 1) for cell in row[1:3]]
        counts = [number(cell, lambda v: v >= 1 and v.is_integer()) for cell in row[3:]]
        if None in rates or None in counts:
            wrong.append(row)
            continue
        sensitivity, specificity, n_pos, n_neg = (float(v or 0) for v in (*rates, *counts))
        found.append(Rated(row[0], sensitivity, specificity, int(n_pos), int(n_neg)))
    if wrong:
        raise DataError(
            f"{len(wrong)} rows of readers hold no rates and counts",
            where=file,
            received=three(wrong),
            do="Rates lie between 0 and 1, with a point; counts are whole numbers from 1 on.",
        )
    return tuple(found)
