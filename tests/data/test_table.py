"""Tables of images and groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.data.check import check
from headstart.data.sources import read
from headstart.data.split import split
from headstart.data.table import check_columns, read_table, with_groups
from headstart.errors import ArgumentError, DataError
from toys import draw_photos


def write(folder: Path, text: str) -> Path:
    file = folder / "images.csv"
    file.write_text(text, encoding="utf-8")
    return file


def listed(photos: Path, extra: str = "", cells: str = "") -> str:
    rows = [
        f"{p.relative_to(photos.parent)},{p.parent.name}{cells}"
        for p in sorted(photos.rglob("*.png"))
    ]
    return "\n".join([f"path,label{extra}", *rows])


def test_a_table_gives_the_same_samples_as_its_folder(photos: Path) -> None:
    table = read_table(write(photos.parent, listed(photos)))
    folder = read(photos)
    assert table.classes == folder.classes
    assert [table.locate(s) for s in table.samples] == [folder.locate(s) for s in folder.samples]
    assert [s.label for s in table.samples] == [s.label for s in folder.samples]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_and_a_byte_order_mark_are_understood(
    photos: Path, delimiter: str
) -> None:
    text = "\ufeff" + listed(photos).replace(",", delimiter)
    assert len(read_table(write(photos.parent, text)).samples) == 36


def test_split_and_group_columns_are_kept(photos: Path) -> None:
    rows = [
        f"{p.relative_to(photos.parent)},{p.parent.name},{'test' if i % 4 == 0 else 'train'},g{i // 2}"
        for i, p in enumerate(sorted(photos.rglob("*.png")))
    ]
    table = read_table(write(photos.parent, "\n".join(["path,label,split,group", *rows])))
    assert table.has_test
    assert {s.group for s in table.samples} == {f"g{i}" for i in range(18)}


def test_another_column_can_hold_the_groups(photos: Path) -> None:
    rows = [
        f"{p.relative_to(photos.parent)},{p.parent.name},p{i // 3}"
        for i, p in enumerate(sorted(photos.rglob("*.png")))
    ]
    file = write(photos.parent, "\n".join(["path,label,patient", *rows]))
    assert {s.group for s in read_table(file, "patient").samples} == {f"p{i}" for i in range(12)}
    with pytest.raises(ArgumentError, match="Did you mean patient"):
        read_table(file, "patent")


@pytest.mark.parametrize(
    ("header", "cells", "message"),
    [
        ("file,label", "", "no column `path`"),
        ("path,class", "", "no column `label`"),
        ("path,label,split", ",sometimes", "`split` looks like the wrong one"),
        ("path,label,group", ",same", "all images into one group"),
    ],
)
def test_wrong_columns_are_named(photos: Path, header: str, cells: str, message: str) -> None:
    body = listed(photos, cells=cells).split("\n", 1)[1]
    with pytest.raises(DataError, match=message):
        read_table(write(photos.parent, f"{header}\n{body}"))


def test_a_label_that_never_repeats_is_refused_with_three_rows(photos: Path) -> None:
    rows = [f"{p.relative_to(photos.parent)},{p.stem}" for p in sorted(photos.rglob("*.png"))]
    with pytest.raises(DataError, match="looks like the wrong one") as error:
        read_table(write(photos.parent, "\n".join(["path,label", *rows])))
    assert str(error.value).count("blue_") >= 3


def test_rows_of_the_wrong_length_name_their_line(photos: Path) -> None:
    with pytest.raises(DataError, match="Line 38"):
        read_table(write(photos.parent, listed(photos) + "\na.png,red,more,cells"))


def test_a_path_with_two_rows_is_refused(photos: Path) -> None:
    with pytest.raises(DataError, match="more than one row"):
        read_table(write(photos.parent, listed(photos) + "\nphotos/red/red_0.png,blue"))


def test_paths_that_are_no_files_are_refused_as_a_whole(photos: Path) -> None:
    with pytest.raises(DataError, match="None of the paths"):
        read_table(write(photos.parent, "path,label\nx.png,a\ny.png,b"))


def test_a_pattern_ties_the_images_of_one_group(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", per_class=12)
    for file in list(photos.rglob("*.png")):
        number = int(file.stem.split("_")[1])
        file.rename(file.with_name(f"plant{number // 3}_{number}.png"))
    dataset = with_groups(read(photos), r"re:^(plant\d+)_")
    assert {s.group for s in dataset.samples} == {f"plant{i}" for i in range(4)}
    parts = split(dataset, check(dataset, 2, 32), seed=0)
    sides = [{dataset.samples[i].group for i in part} for part in (parts.train, parts.test)]
    assert sides[0].isdisjoint(sides[1])


def test_a_pattern_that_misses_files_shows_three_of_them(photos: Path) -> None:
    with pytest.raises(ArgumentError, match="finds nothing in 36 of 36") as error:
        with_groups(read(photos), "re:patient")
    assert str(error.value).count(".png") == 3


@pytest.mark.parametrize("pattern", ["re:(", "re:_(\\d+)\\.png$|nothing", "re:^."])
def test_useless_patterns_are_errors(photos: Path, pattern: str) -> None:
    names = iter(range(100))
    for file in sorted(photos.rglob("*.png")):
        file.rename(file.with_name(f"x_{next(names)}.png"))
    with pytest.raises((ArgumentError, DataError)):
        with_groups(read(photos), pattern)


def test_further_columns_are_kept_beside_each_image(photos: Path) -> None:
    rows = [
        f"{p.relative_to(photos.parent)},{p.parent.name}, c{i % 3} ,{i},{i % 2},g{i // 2}"
        for i, p in enumerate(sorted(photos.rglob("*.png"), reverse=True))
    ]
    file = write(photos.parent, "\n".join(["path,label,camera,age,group,site", *rows]))
    table = read_table(file, "site")
    assert (table.columns, table.group_name) == (("camera", "age", "group"), "site")
    number = {row.split(",")[0]: i for i, row in enumerate(rows)}
    order = [number[sample.path] for sample in table.samples]  # another order than the table's
    assert table.column("camera") == [f"c{i % 3}" for i in order]
    assert table.column("age") == [str(i) for i in order]
    assert table.column("site") == [f"g{i // 2}" for i in order]
    check_columns(table, ("age", "site"))
    with pytest.raises(ArgumentError, match=r"Did you mean camera.*Columns: site, camera"):
        check_columns(table, ("camrea",))
    assert read_table(file).group_name == "group"


def test_empty_cells_are_no_value_and_folders_have_no_columns(photos: Path) -> None:
    table = read_table(write(photos.parent, listed(photos, ",camera", ", ")))
    assert set(table.column("camera")) == {None}
    folder = read(photos)
    assert (folder.columns, folder.group_name) == ((), None)
    with pytest.raises(ArgumentError, match=r"--by names no column.*Columns: none"):
        check_columns(folder, ("camera",))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (r"re:^(?P<plant>[a-z]+)_", "plant"),
        (r"re:^([a-z]+)_(?P<other>\d)", "group"),
        (r"re:^[a-z]+_", "group"),
    ],
)
def test_groups_are_called_as_the_bracket_of_their_pattern(
    photos: Path, pattern: str, name: str
) -> None:
    assert with_groups(read(photos), pattern).group_name == name
