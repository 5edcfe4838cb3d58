"""Every part of the images is scored; the worst is named, and luck is told from fact."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn import metrics as sk

from headstart.errors import ArgumentError
from headstart.files import strict
from headstart.judge.metrics import wilson
from headstart.judge.proportions import difference, share
from headstart.judge.subgroups import EMPTY, LEAST, Subgroup, Subgroups, subgroups, to_json


def drawn(
    seed: int, n: int, bad: NDArray[np.bool_] | None = None, classes: int = 3
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    signal = np.where(np.zeros(n, bool) if bad is None else bad, 0.3, 2.5)[:, None]
    return softmax(rng.normal(size=(n, classes)) + signal * np.eye(classes)[labels], axis=1), labels


def named(found: Subgroups, value: str) -> Subgroup:
    return next(s for s in found.subgroups if s.value == value)


def test_every_score_of_every_part_equals_sklearn() -> None:
    p, labels = drawn(0, 300)
    column = np.array(["a", "b", "c"])[np.arange(300) % 3]
    found = subgroups("camera", column, p, labels)
    for value in "abc":
        rows = column == value
        part = named(found, value)
        assert part.n == rows.sum()
        scores = {metric.name: metric for metric in part.metrics}
        predicted = p[rows].argmax(1)
        expected = {
            "accuracy": sk.accuracy_score(labels[rows], predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(labels[rows], predicted),
            "macro_f1": sk.f1_score(labels[rows], predicted, average="macro"),
            "log_loss": sk.log_loss(labels[rows], p[rows]),
            "auc": sk.roc_auc_score(labels[rows], p[rows], multi_class="ovr"),
        }
        assert set(scores) == set(expected)
        for name, value_of in expected.items():
            assert scores[name].value == pytest.approx(value_of, abs=1e-9)
            assert scores[name].low < scores[name].value < scores[name].high  # type: ignore[operator]
        hits = int((predicted == labels[rows]).sum())
        assert scores["accuracy"].low == pytest.approx(wilson(hits, int(rows.sum()))[0])


def test_a_planted_bad_part_is_named_and_real() -> None:
    bad = np.arange(400) % 4 == 2
    p, labels = drawn(1, 400, bad)
    for metric in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auc"):
        found = subgroups("site", np.arange(400) % 4, p, labels, metric=metric)
        assert found.worst == "2" and named(found, "2").real is True
        assert "site" in found.sentence and "more than luck of the draw explains" in found.sentence
    assert (
        "highest log loss"
        in subgroups("site", np.arange(400) % 4, p, labels, metric="log_loss").sentence
    )


def test_the_difference_is_newcombes_at_the_level_of_all_parts_together() -> None:
    p, labels = drawn(2, 200, classes=2)
    column = np.arange(200) % 4
    hits = p.argmax(1) == labels
    level = 1 - 0.05 / 4
    expected = difference(
        "", share("", hits[column == 1], level=level), share("", hits[column != 1], level=level)
    )
    found = named(subgroups("x", column, p, labels), "1").difference
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


def test_equal_parts_raise_a_false_alarm_in_one_of_twenty_sets_at_most() -> None:
    alarms = 0
    for seed in range(120):
        p, labels = drawn(seed, 160)
        found = subgroups("x", np.arange(160) % 5, p, labels)
        alarms += any(part.real for part in found.subgroups)
        assert "can explain" in found.sentence or named(found, found.worst or "").real
    assert alarms / 120 <= 0.06


def test_parts_too_small_to_say_are_listed_and_take_no_part() -> None:
    column = ["big"] * 60 + ["other"] * 50 + ["tiny"] * (LEAST - 1)
    p, labels = drawn(3, len(column), np.array(column) == "tiny")
    found = subgroups("site", column, p, labels)
    assert found.too_small == ("tiny",) and found.worst != "tiny"
    tiny = named(found, "tiny")
    assert tiny.n == LEAST - 1 and tiny.difference is None and tiny.real is None
    assert tiny.metrics[0].value is not None
    assert "Too few images to say: tiny" in found.sentence


def test_images_of_one_group_count_once_towards_the_least() -> None:
    p, labels = drawn(4, 200)
    column, groups = np.arange(200) // 100, np.arange(200) // 10
    found = subgroups("site", column, p, labels, groups)
    assert found.too_small == ("0", "1") and found.worst is None
    assert "no part of the images is large enough" in found.sentence


def test_groups_widen_and_turn_a_difference_into_luck() -> None:
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(60), 10)
    labels = np.arange(600) % 2
    right = rng.random(60)[groups] < 0.8
    p = np.full((600, 2), 0.3)
    p[np.arange(600), np.where(right, labels, 1 - labels)] = 0.7
    column = groups % 2
    plain = named(subgroups("x", column, p, labels), "0").difference
    wide = named(subgroups("x", column, p, labels, groups), "0").difference
    assert plain is not None and wide is not None and plain.low is not None
    assert wide.low is not None and wide.high is not None and plain.high is not None
    assert wide.high - wide.low > 2 * (plain.high - plain.low)


def test_cross_validated_answers_are_less_sure() -> None:
    p, labels = drawn(6, 200)
    for metric in ("accuracy", "auc"):
        plain = named(subgroups("x", np.arange(200) % 2, p, labels, metric=metric), "0").difference
        wide = named(
            subgroups("x", np.arange(200) % 2, p, labels, metric=metric, wider_by=1.3), "0"
        ).difference
        assert plain is not None and wide is not None
        assert wide.high - wide.low > 1.2 * (plain.high - plain.low)  # type: ignore[operator]


def test_numbers_are_cut_at_their_quartiles_and_empty_cells_are_a_part() -> None:
    p, labels = drawn(7, 420)
    ages: list[object] = [*map(float, range(400)), *[None, "", " "] * 6, None, None]
    found = subgroups("age", ages, p, labels)
    sizes = {part.value: part.n for part in found.subgroups}
    assert len(sizes) == 5 and sizes[EMPTY] == 20
    assert all(99 <= n <= 101 for value, n in sizes.items() if value != EMPTY)
    assert sum(sizes.values()) == 420


def test_too_many_names_are_refused_in_words() -> None:
    p, labels = drawn(8, 100)
    found = subgroups("patient", [f"p{i}" for i in range(100)], p, labels)
    assert found.subgroups == () and found.worst is None and "too many" in found.sentence


def test_one_value_has_nothing_to_be_compared_with() -> None:
    p, labels = drawn(9, 60)
    found = subgroups("site", ["a"] * 60, p, labels)
    assert found.worst is None and found.subgroups[0].difference is None
    assert found.sentence == "site: all images have the same value."


def test_a_part_with_one_class_has_no_auc_and_is_not_the_worst_by_it() -> None:
    p, labels = drawn(10, 120, classes=2)
    column = np.where(labels == 1, "only ones", np.array(["a", "b"])[np.arange(120) % 2])
    column[:10] = "a"
    found = subgroups("x", column, p, labels, metric="auc")
    assert found.worst != "only ones"


def test_order_of_images_does_not_matter() -> None:
    p, labels = drawn(11, 150)
    column = np.arange(150) % 3
    order = np.random.default_rng(0).permutation(150)
    one, two = (
        subgroups("x", column, p, labels),
        subgroups("x", column[order], p[order], labels[order]),
    )
    assert one.worst == two.worst and one.sentence == two.sentence


def test_json_is_strict() -> None:
    p, labels = drawn(12, 60)
    found = subgroups("site", ["a"] * 30 + ["b"] * 25 + ["c"] * 5, p, labels)
    read = json.loads(json.dumps(strict(to_json(found)), allow_nan=False))
    assert [part["value"] for part in read["subgroups"]] == ["a", "b", "c"]
    assert read["too_small"] == ["c"] and isinstance(read["subgroups"][0]["real"], bool)


def test_refuses_what_does_not_fit() -> None:
    p, labels = drawn(13, 60)
    with pytest.raises(ArgumentError, match="one value per image"):
        subgroups("site", ["a"] * 59, p, labels)
    with pytest.raises(ArgumentError, match="metric"):
        subgroups("site", ["a"] * 60, p, labels, metric="recall")
