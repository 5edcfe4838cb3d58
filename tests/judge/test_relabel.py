"""A corrected table changes the labels it means to, and says what it cannot use."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.data.sources import Dataset, Sample
from headstart.errors import DataError
from headstart.files import csv_text
from headstart.judge.relabel import relabel


def toy(test: str | None = None) -> Dataset:
    names = [("cats/1.jpg", 0), ("cats/2.jpg", 0), ("dogs/1.jpg", 1), ("dogs/=2.jpg", 1)]
    samples = [Sample(p, c, "test" if p == test else None, "g1") for p, c in names]
    return Dataset(Path("root"), ("cats", "dogs", "=sum"), (*samples, Sample("=x/1.jpg", 2)), ())


def table(folder: Path, *rows: str) -> Path:
    file = folder / "labels.csv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


def test_only_what_differs_is_a_change_and_the_rest_of_a_sample_stays(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label,suggested,note", "cats/1.jpg,dogs,dogs,yes", "dogs/1.jpg,dogs,cats,no")  # fmt: skip
    before = toy()
    found = relabel(before, file)
    assert [(c.path, c.before, c.after, c.in_test) for c in found.changes] == [
        ("cats/1.jpg", "cats", "dogs", False)
    ]
    assert [s.label for s in found.dataset.samples] == [1, 0, 1, 1, 2]
    assert [s.group for s in found.dataset.samples] == [s.group for s in before.samples]
    assert found.dataset.classes == before.classes
    assert [s.label for s in before.samples] == [0, 0, 1, 1, 2]


def test_changes_of_the_test_part_are_named(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label", "cats/1.jpg,dogs", "dogs/1.jpg,cats", "cats/2.jpg,dogs", "dogs/=2.jpg,cats")  # fmt: skip
    found = relabel(toy(test="cats/1.jpg"), file, test={"dogs/1.jpg"})
    assert {c.path for c in found.in_test} == {"cats/1.jpg", "dogs/1.jpg"}
    assert len(found.changes) == 4


def test_columns_may_be_in_any_order_and_cells_padded_or_separated_by_semicolons(
    tmp_path: Path,
) -> None:
    file = table(tmp_path, "label;score;path", " dogs ;.9; cats/1.jpg")
    assert [c.after for c in relabel(toy(), file).changes] == ["dogs"]


def test_names_that_a_table_must_escape_find_their_way_back(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(csv_text(["path", "label"], [["=x/1.jpg", "cats"], ["cats/1.jpg", "=sum"]]))
    assert "'=x" in file.read_text()
    changes = relabel(toy(), file).changes
    assert {(c.path, c.after) for c in changes} == {("=x/1.jpg", "cats"), ("cats/1.jpg", "=sum")}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["path,label", "cats/1.jpg,dgos"], "no class of this data set.*line 2.*Did you mean dogs"),
        (["path,label", "cats/1.jpg,dogs", "cat/1.jpg,dogs"], "no image.*line 3.*cats/1.jpg"),
        (["path,label", "cats/1.jpg,"], "A row names no class.*Known are"),
        (["path,label", "cats/1.jpg,dogs", "cats/1.jpg,dogs"], "two rows.*line 3"),
        (["path,suggested", "cats/1.jpg,dogs"], "no column `label`"),
        (["path,label"], "no rows"),
        (["path,label", "=x/1.jpg,dogs"], "without images.*=sum"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        relabel(toy(), table(tmp_path, *rows))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        relabel(toy(), tmp_path / "labels.csv")
