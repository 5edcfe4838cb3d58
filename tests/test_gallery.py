"""Thumbnails of what the data gate found."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from headstart.data.check import Findings
from headstart.data.sources import Dataset, Sample
from headstart.gallery import FINDINGS, LEAST_EACH, LISTED, MOST_PAIRS, findings_gallery
from headstart.gate import Gate, NearPaths

Groups = tuple[tuple[str, ...], ...]


def dataset(root: Path, names: list[str]) -> Dataset:
    """Files whose name begins with class and split: `0train_a` is of class 0 and for training."""
    samples = []
    for name in sorted(names):
        split = name[1:].split("_")[0]
        samples.append(Sample(name, int(name[0]), split))
        Image.new("RGB", (400, 300), (90, 30 * int(name[0]), 10)).save(root / name, "PNG")
    return Dataset(root, ("cat", "dog"), tuple(samples), ())


def gate(*near: NearPaths) -> Gate:
    return Gate(near, (), "", (), (), "", (), "")


def checked(duplicates: Groups = (), conflicts: Groups = (), leaks: Groups = ()) -> Findings:
    return Findings((), (), (), duplicates, conflicts, leaks)


def near(first: str, second: str, score: float = 0.99) -> NearPaths:
    leak = ("test" in first) != ("test" in second)
    return NearPaths((first, second), "turned", score, first[0] != second[0], leak)


def test_pairs_hold_names_classes_splits_and_small_pictures(tmp_path: Path) -> None:
    data = dataset(tmp_path, ["0train_a", "1test_b"])
    found = findings_gallery(data, checked(), gate(near("0train_a", "1test_b", 0.98765)))
    (pair,) = found["pairs"]
    assert (pair["finding"], pair["kind"], pair["score"]) == ("conflict", "turned", 0.9877)
    assert pair["conflict"] and pair["leak"]
    assert [(i["path"], i["class"], i["split"]) for i in pair["images"]] == [
        ("0train_a", "cat", "train"),
        ("1test_b", "dog", "test"),
    ]
    for side in pair["images"]:
        small = Image.open(io.BytesIO(base64.b64decode(side["thumbnail"])))
        assert (small.format, small.size) == ("WEBP", (160, 120))
    assert found["counts"] == {"conflict": 1, "leak": 0, "near": 0, "copy": 0}
    assert set(found["more"].values()) == {0}


def test_two_files_that_show_the_fault_stand_for_a_group(tmp_path: Path) -> None:
    copies = ("0train_a", "0train_b", "0train_c", "1train_d", *(f"1train_{k}" for k in range(9)))
    leaking = ("0train_x", "0train_y", "0test_z")
    data = dataset(tmp_path, [*copies, *leaking])
    found = findings_gallery(data, checked((copies, leaking), (copies,), (leaking,)), gate())
    conflict, leak = found["pairs"]
    assert [i["path"] for i in conflict["images"]] == ["0train_a", "1train_d"]
    assert len(conflict["others"]) == LISTED
    assert len(conflict["others"]) + conflict["more"] + 2 == len(copies)
    assert (leak["finding"], leak["kind"], leak["score"]) == ("leak", "same content", None)
    assert [i["path"] for i in leak["images"]] == ["0train_x", "0test_z"]


def test_the_gravest_come_first_and_every_kind_has_a_place(tmp_path: Path) -> None:
    names = [f"{c}{s}_{k}" for c in (0, 1) for s in ("train", "test") for k in range(20)]
    data = dataset(tmp_path, names)
    pairs = [near(f"0train_{k}", f"1train_{k}", 0.95 + 0.002 * k) for k in range(20)]
    pairs += [near(f"0train_{k}", f"0test_{k}") for k in range(20)]
    pairs += [near(f"1train_{k}", f"1train_{k + 10}", 0.999 - 0.002 * k) for k in range(10)]
    copies = (("1test_0", "1test_1"), ("1test_2", "1test_3"))
    found = findings_gallery(data, checked(copies), gate(*pairs))
    kinds = [pair["finding"] for pair in found["pairs"]]
    assert len(kinds) == MOST_PAIRS and kinds == sorted(kinds, key=FINDINGS.index)
    assert [kinds.count(name) for name in FINDINGS] == [16, LEAST_EACH, LEAST_EACH, 2]
    assert found["counts"] == {"conflict": 20, "leak": 20, "near": 10, "copy": 2}
    assert found["more"] == {"conflict": 4, "leak": 17, "near": 7, "copy": 0}
    scores = [pair["score"] for pair in found["pairs"] if pair["finding"] == "conflict"]
    assert scores == sorted(scores, reverse=True)
    unsure = [pair["score"] for pair in found["pairs"] if pair["finding"] == "near"]
    assert unsure == sorted(unsure) and unsure[0] == min(pair.score for pair in pairs[40:])


def test_a_file_that_has_vanished_keeps_its_name(tmp_path: Path) -> None:
    data = dataset(tmp_path, ["0train_a", "0train_b"])
    (tmp_path / "0train_b").unlink()
    (pair,) = findings_gallery(data, checked((("0train_a", "0train_b"),)), gate())["pairs"]
    assert pair["images"][0]["thumbnail"] and pair["images"][1]["thumbnail"] is None


@pytest.mark.parametrize("count", [0, 1])
def test_a_clean_folder_has_an_empty_gallery(tmp_path: Path, count: int) -> None:
    found = findings_gallery(dataset(tmp_path, ["0train_a"] * count), checked(), gate())
    assert found["pairs"] == [] and set(found["counts"]) == set(FINDINGS)
