"""Columns that part the images, and sites held out in turn: what a random split hides comes to light."""

from __future__ import annotations

import colorsys
import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.data.sources import Dataset, Sample
from headstart.parting import BEFORE, FROZEN, MOST_COLUMNS, compared_columns, held_out_sites
from headstart.plan.show import fit_text
from headstart.run import read_json
from runs import call, refused, table, train

GROUP = "re:^(?P<site>[a-z]+)_"


def colourful(folder: Path, sites: str = "abcd", each: int = 12) -> Path:
    """Hues around the circle, class even, odd, even, ...; each site has two neighbours of them.

    A model that has seen every hue knows all images. At a site that it has not seen, the nearest hue
    that it knows is always of the other class.
    """
    rng = np.random.default_rng(0)
    for place in range(2 * len(sites)):
        name = ("even", "odd")[place % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        colour = 200 * np.array(colorsys.hsv_to_rgb(place / (2 * len(sites)), 0.9, 1.0)) + 20
        for i in range(each):
            pixels = np.clip(colour + rng.normal(0, 20, (48, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{sites[place // 2]}_{i}.png")
    return folder


def accuracy(evaluation: dict[str, Any]) -> float:
    return float(next(m["value"] for m in evaluation["metrics"] if m["name"] == "accuracy"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colourful(tmp_path_factory.mktemp("sites") / "photos")


# -- sites ---------------------------------------------------------------------------------------


def test_a_random_split_hides_what_holding_out_sites_shows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("headstart.data.split.NESTED_BELOW", 0)
        hidden = read_json(train(data, tmp_path / "hidden") / "evaluation.json")
    assert accuracy(hidden) > 0.9
    assert "sites" not in hidden
    run = train(data, tmp_path / "shown", group=GROUP)
    shown = read_json(run / "evaluation.json")
    found = shown["sites"]
    assert found["mean"]["value"] < 0.6
    assert found["mean"]["value"] == pytest.approx(accuracy(shown))  # sites of one size
    assert (found["column"], found["metric"], found["network"]) == ("site", "accuracy", "frozen")
    assert [site["site"] for site in found["sites"]] == list("abcd")
    assert [site["n"] for site in found["sites"]] == [24] * 4
    assert found["worst"] in "abcd"
    assert "3 degrees of freedom" in found["mean"]["method"]
    assert found["sentence"].startswith("Every site was held out in turn")
    assert "every site was held out in turn, 4 in all" in shown["protocol"]
    assert found["sentence"] in fit_text(run, read_json(run / "plan.json"), shown)
    assert shown["cross_validated"] is True
    assert read_json(run / "nested.json")["folds"] == 4
    # Few groups are parts of the images as well, and their images are the draws.
    (part,) = shown["subgroups"]
    assert part["column"] == "site" and part["too_small"] == []
    for site, value in zip(found["sites"], sorted(part["subgroups"], key=lambda s: s["value"]), strict=True):  # fmt: skip
        assert site["metrics"][0] == value["metrics"][0]


def test_with_a_test_part_every_site_is_held_out_all_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)
    run = train(data, tmp_path / "run", group=GROUP)
    found = read_json(run / "evaluation.json")
    tested = {row["path"].split("/")[1][0] for row in table(run / "predictions.csv")}
    assert len(tested) == 1
    assert found["protocol"].startswith("hold-out of 1/5")
    assert found["cross_validated"] is False
    sites = found["sites"]
    assert [site["site"] for site in sites["sites"]] == list("abcd")
    assert "selection not nested" in sites["protocol"]
    for site in sites["sites"]:
        own = site["site"] in tested
        assert ("as wide" in site["metrics"][0]["method"]) is not own
        if own:  # the model itself answered
            assert site["metrics"][0]["value"] == accuracy(found)
    assert sites["mean"]["value"] < 0.6


def test_two_sites_judge_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)  # as if there were thousands
    data = colourful(tmp_path / "photos", "xy")
    found = read_json(train(data, tmp_path / "run", group=GROUP) / "evaluation.json")
    assert found["n"] == 48
    assert "without x and y, what was left made its choices within itself" in found["protocol"]
    assert "1 degree of freedom" in found["sites"]["mean"]["method"]


def test_why_no_site_was_held_out_is_said(tmp_path: Path) -> None:
    data = colourful(tmp_path / "photos", "abcd", each=6)
    for image in list((data / "even").glob("d_*")) + list((data / "odd").glob("d_[0-2]*")):
        image.unlink()
    found = read_json(train(data, tmp_path / "run", group=GROUP) / "evaluation.json")["sites"]
    assert found["sites"] == [] and found["worst"] is None
    assert "No site was held out in turn: site d has 3 images" in found["sentence"]


def test_a_retrained_network_keeps_what_the_frozen_one_showed() -> None:
    """It cannot be trained again without each site."""
    split = SimpleNamespace(few_groups=True, sites=("a", "b"), no_sites="", test=np.array([1]))
    prepared: Any = SimpleNamespace(split=split, dataset=SimpleNamespace(group_name="site"))
    learned: Any = SimpleNamespace(held_out=object())
    before = {"network": FROZEN, "sentence": "Every site.", "sites": [1]}
    asked = np.array([1]), np.array([[0.5, 0.5]])
    for stored in (before, {**before, "sentence": BEFORE + "Every site."}):
        found = held_out_sites(prepared, learned, asked, "accuracy", 0, False, stored)
        assert found == {**before, "sentence": BEFORE + "Every site."}


# -- columns -------------------------------------------------------------------------------------


def listed(columns: dict[str, list[str]], labels: list[int], group: str | None = None) -> Dataset:
    names = tuple(name for name in columns if name != group)
    samples = tuple(
        Sample(f"{i}", label, None, columns[group][i] if group else None,
               cells=tuple(columns[name][i] for name in names))
        for i, label in enumerate(labels)
    )  # fmt: skip
    return Dataset(Path("toy"), ("a", "b"), samples, (), None, names, group)


def test_columns_of_few_values_are_compared_without_being_asked_for() -> None:
    n = 60
    columns = {
        "camera": ["x", "y", "z"] * 20,
        "age": [str(i) for i in range(n)],
        "same": ["1"] * n,
        "class_name": ["ill", "well"] * 30,
        "rare": ["once"] * 10 + ["most"] * 50,
        "site": ["p"] * 30 + ["q"] * 30,
        "gaps": [""] * 30 + ["r"] * 30,
        "decade": [str(10 * (i % 15)) for i in range(n)],
    }
    dataset = listed(columns, [0, 1] * 30, group="site")
    who = np.arange(n)
    found, notes = compared_columns(dataset, who, None)
    assert list(found) == ["site", "camera", "gaps"] and notes == ()
    assert found["gaps"][0] is None
    assert list(compared_columns(dataset, who, ("age", "site"))[0]) == ["age", "site"]
    assert list(compared_columns(dataset, who[:30], None)[0]) == []  # one site, ten of each camera


def test_at_most_six_columns_are_compared_and_the_others_named() -> None:
    columns = {f"c{k}": ["x", "y"] * 30 for k in range(8)}
    found, notes = compared_columns(listed(columns, [0, 0, 1] * 20), np.arange(60), None)
    assert len(found) == MOST_COLUMNS
    assert notes == ("Not compared, ask for them by --by: c6, c7.",)


def test_columns_of_a_table_are_in_the_evaluation(data: Path, tmp_path: Path, capsys: Any) -> None:
    rows = []
    for i, path in enumerate(sorted(data.rglob("*.png"))):
        name = path.relative_to(data).as_posix()
        rows.append([name, path.parent.name, "xy"[i % 2], f"{i}.5", path.name[0]])
    listing = data / "listing.csv"
    with listing.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "camera", "age", "site"], *rows])
    plain = train(None, tmp_path / "plain", table=listing, group="site")  # type: ignore[arg-type]
    parts = read_json(plain / "evaluation.json")["subgroups"]
    assert [part["column"] for part in parts] == ["site", "camera"]
    assert all(row["metrics"][0]["low"] is not None for row in parts[1]["subgroups"])
    assert parts[1]["worst"] in ("x", "y")
    capsys.readouterr()
    assert call("fit", "--table", listing, "--group", "site", "--by", "age", "--by", "camera", "--out", tmp_path / "asked", "--no-report") == 0  # fmt: skip
    parts = read_json(tmp_path / "asked" / "evaluation.json")["subgroups"]
    assert [part["column"] for part in parts] == ["age", "camera"]
    assert len(parts[0]["subgroups"]) == 4  # quarters, because they were asked for
    told = refused(capsys, "fit", "--table", listing, "--by", "camra", "--out", tmp_path / "no")
    assert "Did you mean camera?" in told and "age" in told
    assert "--by COLUMN needs --table" in refused(capsys, "fit", data, "--by", "camera")
    assert not (tmp_path / "no").exists()
