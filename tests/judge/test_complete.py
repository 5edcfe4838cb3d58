"""All of it in one call, within its time, and each part as its own module makes it."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from headstart.errors import ArgumentError
from headstart.files import strict
from headstart.judge.complete import MOST_CLASSES, TARGETS, ChosenOn, Parts, complete, to_json
from headstart.judge.curves import class_curves
from headstart.judge.operating import OperatingPoint, Scores, operating_point
from headstart.judge.subgroups import subgroups


def drawn(seed: int, n: int, classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return softmax(2 * rng.normal(size=(n, classes)) + 4 * np.eye(classes)[labels], axis=1), labels


def names(classes: int) -> list[str]:
    return [f"c{c}" for c in range(classes)]


def test_each_part_is_what_its_module_says() -> None:
    (p, labels), (q, truth) = drawn(0, 300, 3), drawn(1, 900, 3)
    groups, column = np.arange(300) // 2, np.arange(300) % 4
    found = complete(p, labels, names(3), groups, ChosenOn(q, truth), by={"site": column})
    assert found.curves == class_curves(p, labels, names(3), groups)
    assert found.subgroups == (subgroups("site", column, p, labels, groups),)
    assert [(f.name, f.target) for f in found.operating] == [
        (name, target) for name in names(3) for target in TARGETS
    ]
    judged, before = Scores(p[:, 1], labels == 1, groups), Scores(q[:, 1], truth == 1)
    assert found.operating[4] == operating_point("c1", TARGETS[1], judged, before)
    assert found.notes == ()


def test_without_other_images_thresholds_are_cross_fitted_and_intervals_wider() -> None:
    p, labels = drawn(2, 400, 2)
    alone = complete(p, labels, names(2))
    beside = complete(p, labels, names(2), chosen_on=ChosenOn(*drawn(3, 400, 2)))
    one, two = alone.curves[1].auc, beside.curves[1].auc
    assert one.low is not None and two.low is not None and one.low < two.low
    assert "1.30 times as wide" in one.method and "as wide" not in two.method
    judged = Scores(p[:, 0], labels == 0)
    assert alone.operating[:3] == tuple(operating_point("c0", t, judged) for t in TARGETS)
    point = alone.operating[0]
    assert isinstance(point, OperatingPoint) and "the others" in point.chosen_on


def test_the_prevalence_of_one_of_two_classes_is_that_of_the_other_too() -> None:
    p, labels = drawn(4, 300, 2)
    found = complete(p, labels, names(2), prevalence={"c1": 0.02})
    shares = {point.name: point.prevalence for point in found.operating}  # type: ignore[union-attr]
    assert shares == {"c0": 0.98, "c1": 0.02}
    three = complete(*drawn(5, 300, 3), names(3), prevalence={"c1": 0.02})
    known = {getattr(point, "prevalence", None) for point in three.operating}
    assert known == {None, 0.02}


def test_many_classes_are_left_out_and_that_is_said() -> None:
    classes = MOST_CLASSES + 1
    p, labels = drawn(6, 300, classes)
    found = complete(p, labels, names(classes), by={"site": np.arange(300) % 2})
    assert found.curves == () and found.operating == ()
    assert len(found.notes) == 1 and str(classes) in found.notes[0]
    assert len(found.subgroups) == 1


def test_json_is_strict_and_whole() -> None:
    p, labels = drawn(7, 150, 3)
    found = complete(p, labels, names(3), by={"site": ["a", "b", "c"] * 50})
    read = json.loads(json.dumps(strict(to_json(found)), allow_nan=False))
    assert set(read) == {"curves", "operating", "subgroups", "notes"}
    assert len(read["curves"]) == 3 and len(read["operating"]) == 9
    assert {row["refused"] for row in read["operating"]} <= {True, False}
    assert all(row["sentence"] for row in read["operating"])


def test_two_thousand_images_of_ten_classes_take_less_than_two_seconds() -> None:
    p, labels = drawn(8, 2000, 10)
    q, truth = drawn(9, 8000, 10)
    by = {"site": np.arange(2000) % 5, "age": np.random.default_rng(0).normal(size=2000)}
    start = time.process_time()
    complete(p, labels, names(10), np.arange(2000) // 3, ChosenOn(q, truth), {"c1": 0.01}, by)
    assert time.process_time() - start < 2


def test_refuses_a_prevalence_of_no_class() -> None:
    p, labels = drawn(10, 60, 2)
    with pytest.raises(ArgumentError, match=r"--prevalence names a class.*Did you mean c1"):
        complete(p, labels, names(2), prevalence={"c11": 0.1})
    with pytest.raises(ArgumentError, match="prevalence lies between"):
        complete(p, labels, names(2), prevalence={"c1": 1.5})


def test_parts_may_count_other_draws_than_the_rest() -> None:
    p, labels = drawn(11, 200, 2)
    site = np.arange(200) // 50
    tied = complete(p, labels, names(2), site, by={"site": site})
    free = complete(p, labels, names(2), site, by=Parts({"site": site}, np.arange(200)))
    assert tied.subgroups[0].worst is None  # each site is one draw: too few to say
    assert free.subgroups[0].worst is not None
    assert tied.curves == free.curves
