"""The data gate and `headstart check`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.gate import alike, twin_classes
from headstart.run import read_json
from runs import call
from toys import draw_photos


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((120, 96), Image.Resampling.BICUBIC)


def checked(out: Path) -> dict[str, Any]:
    return read_json(out / "data.json")


@pytest.mark.parametrize(
    ("names", "twins"),
    [
        (["cat", "dog"], ()),
        (["Cat", "cat", "dog"], (("Cat", "cat"),)),
        (["ice bear", "ice_bear", "Ice-Bear"], (("ice bear", "ice_bear", "Ice-Bear"),)),
        (["caf\u00e9", "cafe\u0301"], (("caf\u00e9", "cafe\u0301"),)),
    ],
)
def test_classes_that_differ_only_in_spelling_are_named(names: list[str], twins: Any) -> None:
    assert twin_classes(names) == twins


def test_a_clean_folder_passes_the_strict_check(photos: Path, tmp_path: Path) -> None:
    assert call("check", photos, "--out", tmp_path / "run", "--strict") == 0
    found = checked(tmp_path / "run")
    assert found["near_duplicates"] == found["shortcuts"] == found["twin_classes"] == []
    assert (tmp_path / "run" / "report.html").exists()


def test_one_picture_under_two_classes_fails_the_strict_check(photos: Path, tmp_path: Path) -> None:
    picture(0).save(photos / "red" / "a.png")
    picture(0).save(photos / "blue" / "b.jpg", quality=90)
    assert call("check", photos, "--out", tmp_path / "lax") == 0
    assert call("check", photos, "--out", tmp_path / "run", "--strict") == 2
    (pair,) = checked(tmp_path / "run")["near_duplicates"]
    assert pair["conflict"]
    assert set(pair["paths"]) == {"red/a.png", "blue/b.jpg"}


def test_a_near_copy_of_a_test_image_leaves_training(tmp_path: Path) -> None:
    draw_photos(tmp_path / "data" / "train", per_class=12)
    draw_photos(tmp_path / "data" / "test", per_class=4, seed=1)
    picture(1).save(tmp_path / "data" / "train" / "red" / "a.jpg", quality=85)
    picture(1).resize((80, 64)).save(tmp_path / "data" / "test" / "red" / "b.png")
    assert call("check", tmp_path / "data", "--out", tmp_path / "run", "--strict") == 2
    (pair,) = checked(tmp_path / "run")["near_duplicates"]
    assert pair["leak"]
    rows = (tmp_path / "run" / "split.csv").read_text().splitlines()
    assert next(row for row in rows if "red/a.jpg" in row).split(",")[2] == "left out"
    assert next(row for row in rows if "red/b.png" in row).split(",")[2] == "test"


def test_one_class_saved_in_another_format_is_a_shortcut(tmp_path: Path, capsys: Any) -> None:
    photos = draw_photos(tmp_path / "photos", per_class=20)
    for file in sorted((photos / "red").glob("*.png")):
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()
    assert call("check", photos, "--out", tmp_path / "run", "--strict") == 2
    assert "file format" in {s["property"] for s in checked(tmp_path / "run")["shortcuts"]}
    assert "file format alone predicts the class" in capsys.readouterr().out


def test_ants_and_bees_overlap_with_the_sources_classes(
    dataset: Callable[[str], Path], tmp_path: Path
) -> None:
    assert call("check", dataset("hymenoptera"), "--out", tmp_path / "run") == 0
    overlap = {row["class"]: row["source"] for row in checked(tmp_path / "run")["source_overlap"]}
    assert overlap.get("ants") == "ant"


def test_a_source_class_that_wins_for_several_classes_knows_none_of_them() -> None:
    labels = np.repeat(np.arange(4), 10)
    best = np.repeat([5, 5, 6, 7], 10)
    best[30:36] = np.arange(6)  # the last class has no winner
    names = list("stuvwxyz")
    assert alike(best, labels, ["one", "two", "ants", "noise"], names) == (("ants", "y", 1.0),)
    assert alike(best[10:], labels[10:], ["one", "two", "ants", "noise"], names) == (
        ("two", "x", 1.0),
        ("ants", "y", 1.0),
    )


def test_a_check_ends_with_what_to_do_next(photos: Path, tmp_path: Path, capsys: Any) -> None:
    group = "re:_([0-9])"
    assert call("check", photos, "--group", group, "--out", tmp_path / "run") == 0
    fit = f"headstart fit {photos} --group '{group}'"
    assert capsys.readouterr().out.endswith(f"\nnext:    {fit}\n")
    (photos / "red" / "red_99.jpg").write_bytes(b"no picture")
    assert call("check", photos, "--group", group, "--out", tmp_path / "again") == 0
    assert capsys.readouterr().out.endswith(f"\nnext:    mend what is listed above; then: {fit}\n")


def test_a_class_of_one_image_does_not_hide_what_else_was_found(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "lonely").mkdir()
    first = next(p for p in sorted(photos.rglob("*")) if p.is_file())
    (photos / "lonely" / f"only{first.suffix}").write_bytes(first.read_bytes())
    (photos / "lonely" / "broken.jpg").write_bytes(b"no picture")
    assert call("check", photos, "--out", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "lonely (1)" in said and "at least 3 are needed" in said
    assert "broken.jpg" in said and "1 picture with two labels" in said
    assert call("check", photos, "--out", tmp_path / "strict", "--strict") == 2
    assert call("fit", photos, "--out", tmp_path / "fit") == 2
