"""Images named in a table, and groups of images that must stay together.

    --table FILE.csv      columns path,label and optionally group,split; paths relative to the file;
                          every further column may part the images (--by)
    --group COLUMN        a column of the table (default: `group`, when there is one)
    --group re:PATTERN    a pattern on the file name; its first bracket, or all of it, is the group;
                          the bracket's name, as in (?P<site>..), is what the groups are called

One patient, one plant, one camera: images of one group never lie on two sides of a split or a fold.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from headstart.data.sources import SPLITS, Dataset, build_dataset
from headstart.errors import ArgumentError, DataError, nearest, show

PATTERN = "re:"
MOST_TABLE_BYTES = 1_000_000_000
RESERVED = ("path", "label", "split")
UNIQUE_SHARE = 0.9
"""a label that is another one in this share of the rows is an identifier, not a class"""
LEAST_ROWS = 20
"""in a shorter table nothing can be said about how often values repeat"""


def read_table(file: Path, group: str | None = None) -> Dataset:
    """Read a table of images.

    Args:
        file: CSV (comma, semicolon or tab) with a header.
        group: name of the column with groups; None: the column `group`, when there is one.

    Raises:
        DataError: missing columns, or columns that look like the wrong thing (three rows are shown).
        ArgumentError: the group's column does not exist.
    """
    header, rows = _read(file)
    path, label = (_column(header, name, file) for name in ("path", "label"))
    if group is not None and group not in header:
        raise ArgumentError(
            "--group names no column of the table", received=group,
            do=f"{nearest(group, header)} Columns: {', '.join(map(show, header))}.".strip(),
        )  # fmt: skip
    group = group if group is not None else ("group" if "group" in header else None)
    grouped = None if group is None else header.index(group)
    split = header.index("split") if "split" in header else None
    _check_labels(rows, label, file)
    if grouped is not None:
        _check_groups([row[grouped] for row in rows], f"the column {show(group)}", rows, file)
    found = []
    for row in rows:
        part = None if split is None else _split(row, split, file)
        found.append(
            (row[path], row[label], part, None if grouped is None else row[grouped] or None)
        )
    _check_paths(found, file)
    names = [n for n in dict.fromkeys(header) if n not in RESERVED and n != group]
    places = [header.index(name) for name in names]
    # One string per value, however many rows repeat it.
    cells = {row[path]: tuple(sys.intern(row[i].strip()) for i in places) for row in rows}
    dataset = build_dataset(file.parent, found, [])
    samples = tuple(replace(one, cells=cells[one.path]) for one in dataset.samples)
    return replace(dataset, samples=samples, columns=tuple(names), group_name=group)


def check_columns(dataset: Dataset, by: Sequence[str]) -> None:
    """Refuse columns to part the images by that there are not.

    Raises:
        ArgumentError: the nearest names and all of them.
    """
    known = [*([] if dataset.group_name is None else [dataset.group_name]), *dataset.columns]
    for name in by:
        if name not in known:
            raise ArgumentError(
                "--by names no column of the table" if dataset.columns else "--by names no column",
                where=dataset.root, received=name,
                do=f"{nearest(name, known)} Columns: {', '.join(map(show, known)) or 'none'}.".strip(),
            )  # fmt: skip


def with_groups(dataset: Dataset, pattern: str) -> Dataset:
    """Give every sample the group that a pattern finds in its file name.

    Args:
        pattern: `re:` and a regular expression; with a slash in it, the whole path is searched.

    Raises:
        ArgumentError: not a pattern, or one that misses files (three are shown).
    """
    text = pattern.removeprefix(PATTERN)
    try:
        expression = re.compile(text)
    except re.error as cause:
        raise ArgumentError(
            f"--group is not a regular expression ({cause})", received=pattern
        ) from cause
    samples, missed = [], []
    for sample in dataset.samples:
        found = expression.search(sample.path if "/" in text else PurePosixPath(sample.path).name)
        if found is None:
            missed.append(sample.path)
            continue
        name = found[1] if expression.groups else found[0]
        samples.append(replace(sample, group=name))
    if missed:
        raise ArgumentError(
            f"--group finds nothing in {len(missed)} of {len(dataset.samples)} file names",
            received=f"{pattern} in {', '.join(map(show, missed[:3]))}",
            do="Mend the pattern, for example re:^(patient[0-9]+)_ .",
        )
    rows = [[s.path, dataset.classes[s.label]] for s in samples]
    names = [s.group or "" for s in samples]
    _check_groups(names, f"--group {show(pattern)}", rows, dataset.root)
    called = {place: name for name, place in expression.groupindex.items()}.get(1, "group")
    return replace(dataset, samples=tuple(samples), group_name=called)


def _read(file: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file; short rows are an error that names the line."""
    if not file.is_file():
        raise DataError("The table does not exist", where=file, do="Check the path.")
    if file.stat().st_size > MOST_TABLE_BYTES:
        raise DataError(
            "The table is too large", where=file, received=f"{file.stat().st_size} bytes"
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as cause:
        raise DataError(
            "The table is not UTF-8 text", where=file, do="Save it as UTF-8 CSV."
        ) from cause
    except OSError as cause:
        raise DataError(f"The table cannot be read ({cause.strerror})", where=file) from cause
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    table = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(row)]
    if len(table) < 2:
        raise DataError(
            "The table has no rows", where=file, do="Give a header and one row per image."
        )
    header, rows = [name.strip() for name in table[0]], table[1:]
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise DataError(
                f"Line {number} of the table has {len(row)} cells, the header has {len(header)}",
                where=file, received=delimiter.join(row)[:200],
            )  # fmt: skip
    return header, rows


def _column(header: Sequence[str], name: str, file: Path) -> int:
    if name in header:
        return list(header).index(name)
    raise DataError(
        f"The table has no column `{name}`", where=file, received=", ".join(header),
        do=f"{nearest(name, header)} Columns needed: path,label; optional: group,split.".strip(),
    )  # fmt: skip


def _check_labels(rows: Sequence[Sequence[str]], label: int, file: Path) -> None:
    """A label that hardly ever repeats is an identifier, a measurement or a file name."""
    values = [row[label] for row in rows]
    empty = [row for row in rows if not row[label].strip()]
    if empty:
        some = "1 row has" if len(empty) == 1 else f"{len(empty)} rows have"
        raise DataError(f"{some} no label", where=file, received=_three(empty))
    if len(rows) >= LEAST_ROWS and len(set(values)) > UNIQUE_SHARE * len(rows):
        raise DataError(
            f"The column `label` looks like the wrong one: {len(set(values))} different values in "
            f"{len(rows)} rows",
            where=file, received=_three(rows),
            do="Name the column with the classes `label`.",
        )  # fmt: skip


def _check_groups(
    groups: Sequence[str], what: str, rows: Sequence[Sequence[str]], where: Path
) -> None:
    """Groups that are all alone, or all the same, cannot be meant."""
    different = len(set(groups))
    if len(rows) >= LEAST_ROWS and different == len(rows):
        raise DataError(
            f"{what[0].upper()}{what[1:]} gives every image a group of its own, so it ties nothing",
            where=where, received=_three(rows),
            do="Name what several images share: the patient, the plant, the camera.",
        )  # fmt: skip
    if different == 1 and len(rows) > 1:
        raise DataError(
            f"{what[0].upper()}{what[1:]} puts all images into one group, so nothing can be held out",
            where=where, received=_three(rows),
        )  # fmt: skip


def _split(row: Sequence[str], column: int, file: Path) -> str | None:
    text = row[column].strip()
    if not text:
        return None
    if text.casefold() not in SPLITS:
        raise DataError(
            "The column `split` looks like the wrong one", where=file, received=_three([row]),
            do="Its values are train, val and test, or empty.",
        )  # fmt: skip
    return SPLITS[text.casefold()]


def _check_paths(found: Sequence[tuple[str, str, str | None, str | None]], file: Path) -> None:
    """Paths must point at files, and one file has one row."""
    some = [row for row in found if (file.parent / row[0]).is_file()]
    if not some:
        raise DataError(
            "None of the paths in the column `path` is a file", where=file,
            received=_three([[str(cell) for cell in row[:2]] for row in found]),
            do="Paths are relative to the table's own folder.",
        )  # fmt: skip
    twice = [path for path, count in Counter(row[0] for row in found).items() if count > 1]
    if twice:
        rows = [[str(cell) for cell in row[:2]] for row in found if row[0] == twice[0]]
        many = "1 file has" if len(twice) == 1 else f"{len(twice)} files have"
        raise DataError(f"{many} more than one row", where=file, received=_three(rows))


def _three(rows: Sequence[Sequence[str]]) -> str:
    return " | ".join(",".join(row)[:120] for row in rows[:3])
