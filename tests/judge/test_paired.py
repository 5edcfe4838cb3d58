"""Two runs on the same images: paired by path, and only real differences are called real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from headstart.errors import DataError
from headstart.files import csv_text, strict
from headstart.judge.metrics import one_vs_rest
from headstart.judge.paired import (
    Answers,
    Comparison,
    Difference,
    compare,
    only_right,
    read_answers,
    to_json,
)

NAMES = ("cat", "dog", "=wolf")


def runs(
    seed: int, n: int, second: float = 2.0, classes: int = 3, shared: float = 0.7
) -> tuple[Answers, Answers]:
    """Two runs of which the first has signal 2 and the second another; noise partly shared."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    common, paths = rng.normal(size=(n, classes)), tuple(f"x/{i}.jpg" for i in range(n))
    made = []
    for signal in (2.0, second):
        noise = shared**0.5 * common + (1 - shared) ** 0.5 * rng.normal(size=(n, classes))
        made.append(softmax(2 * (noise + signal * np.eye(classes)[labels]), axis=1))
    return tuple(Answers(paths, labels, p, NAMES[:classes]) for p in made)  # type: ignore[return-value]


def by_name(found: Comparison) -> dict[str, Difference]:
    return {d.metric: d for d in found.differences}


def width(difference: Difference) -> float:
    metric = difference.difference
    assert metric.low is not None and metric.high is not None
    return metric.high - metric.low


def test_differences_are_those_of_sklearns_scores() -> None:
    one, two = runs(0, 200, second=1.0)
    found = by_name(compare(one, two))
    y, p, q = one.labels, one.probabilities, two.probabilities
    expected = {
        "accuracy": sk.accuracy_score(y, p.argmax(1)) - sk.accuracy_score(y, q.argmax(1)),
        "balanced_accuracy": sk.balanced_accuracy_score(y, p.argmax(1))
        - sk.balanced_accuracy_score(y, q.argmax(1)),
        "log_loss": sk.log_loss(y, p) - sk.log_loss(y, q),
        "auc": sk.roc_auc_score(y, p, multi_class="ovr")
        - sk.roc_auc_score(y, q, multi_class="ovr"),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].difference.value == pytest.approx(value, abs=1e-9)


def test_pairing_is_by_path_and_classes_by_name() -> None:
    one, two = runs(1, 150, second=1.2)
    order, columns = np.random.default_rng(0).permutation(150), [2, 0, 1]
    moved = Answers(
        tuple(two.paths[i] for i in order),
        np.argsort(columns)[two.labels][order],
        two.probabilities[order][:, columns],
        tuple(two.classes[c] for c in columns),
    )
    assert compare(one, moved).differences == compare(one, two).differences


def test_images_of_one_run_only_are_left_out_and_counted() -> None:
    one, two = runs(2, 120)
    first = Answers(one.paths[:100], one.labels[:100], one.probabilities[:100], NAMES)
    second = Answers(two.paths[30:], two.labels[30:], two.probabilities[30:], NAMES)
    found = compare(first, second)
    assert (found.n, found.left_out) == (70, (30, 20))
    assert "30 and 20 were left out" in found.sentence


def test_equal_runs_differ_by_nothing_and_still_have_a_width() -> None:
    one, _ = runs(3, 100)
    found = compare(one, one)
    assert not any(d.real for d in found.differences)
    assert (
        by_name(found)["accuracy"].difference.value == 0 and width(by_name(found)["accuracy"]) > 0
    )
    assert "luck of the draw can explain every difference" in found.sentence


def test_a_clear_difference_is_real_and_a_sentence_says_which() -> None:
    one, two = runs(4, 400, second=0.8)
    found = compare(one, two, ("A", "B"))
    assert all(d.real for d in found.differences)
    assert by_name(found)["log_loss"].difference.value < 0  # type: ignore[operator]
    assert "A against B: real differences are accuracy +" in found.sentence


def test_pairing_gains_on_unpaired_intervals() -> None:
    one, two = runs(5, 300, second=1.8, shared=0.95)
    for d in compare(one, two).differences:
        assert d.first.low is not None and d.first.high is not None
        assert d.second.low is not None and d.second.high is not None
        apart = np.hypot(d.first.high - d.first.low, d.second.high - d.second.low)
        assert width(d) < 0.8 * apart, d.metric


def test_the_error_of_the_auc_difference_is_delongs() -> None:
    """Two classes, areas well inside: the interval is about 1.96 errors of DeLong's difference."""
    one, two = runs(6, 2000, second=1.6, classes=2)
    inside = one.labels == 1
    areas, wins = [], []
    for answers in (one, two):
        s = answers.probabilities[:, 1]
        win = (s[inside][:, None] > s[~inside]).astype(float)
        wins.append(win)
        areas.append(one_vs_rest(answers.labels, answers.probabilities).area[1])
    lead = wins[0] - wins[1]
    m, k = lead.shape
    variance = lead.mean(1).var(ddof=1) / m + lead.mean(0).var(ddof=1) / k
    found = by_name(compare(one, two))["auc"]
    assert found.difference.value == pytest.approx(areas[0] - areas[1], abs=1e-9)
    assert width(found) / 3.92 == pytest.approx(variance**0.5, rel=0.15)


def test_false_alarms_are_rare_over_all_scores_together() -> None:
    alarms = sum(any(d.real for d in compare(*runs(s, 150)).differences) for s in range(100))
    assert alarms <= 6


def test_intervals_cover_zero_between_runs_of_equal_skill() -> None:
    held: dict[str, int] = {}
    for seed in range(120):
        for d in compare(*runs(seed + 500, 120)).differences:
            assert d.difference.low is not None and d.difference.high is not None
            held[d.metric] = held.get(d.metric, 0) + (d.difference.low <= 0 <= d.difference.high)
    assert len(held) == 4 and min(held.values()) >= 0.9 * 120, held


def test_groups_of_alike_images_widen_and_their_order_does_not_matter() -> None:
    one, two = runs(7, 60, second=1.0)
    groups = np.repeat(np.arange(60), 5)
    paths = tuple(f"{i}" for i in range(300))
    many = [Answers(paths, a.labels[groups], a.probabilities[groups], NAMES) for a in (one, two)]
    plain, tied = by_name(compare(*many)), by_name(compare(*many, groups=groups))
    for name in plain:
        assert width(tied[name]) > 1.5 * width(plain[name]), name


def test_cross_validated_answers_are_less_sure() -> None:
    one, two = runs(8, 200)
    for plain, wide in zip(
        compare(one, two).differences, compare(one, two, wider_by=1.3).differences, strict=True
    ):
        assert width(wide) == pytest.approx(1.3 * width(plain), rel=1e-6)


def test_one_class_has_no_auc_to_compare() -> None:
    one, two = runs(9, 60)
    same = np.zeros(60, dtype=np.int64)
    found = compare(replace(one, labels=same), replace(two, labels=same))
    assert "auc" not in by_name(found) and "accuracy" in by_name(found)


def test_reads_the_predictions_of_a_run(tmp_path: Path) -> None:
    one, _ = runs(10, 30)
    rows = [
        [path, NAMES[label], NAMES[int(p.argmax())], p.max(), *p.round(6)]
        for path, label, p in zip(one.paths, one.labels, one.probabilities, strict=True)
    ]
    header = ["path", "label", "predicted", "confidence", *(f"p_{name}" for name in NAMES)]
    file = tmp_path / "predictions.csv"
    file.write_text(csv_text(header, rows), encoding="utf-8")
    found = read_answers(file)
    assert (found.paths, found.classes) == (one.paths, one.classes)
    assert (found.labels == one.labels).all()
    np.testing.assert_allclose(found.probabilities, one.probabilities, atol=1e-6)
    assert compare(one, found).n == 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na,cat\n", "no predictions"),
        ("path,label,p_cat,p_dog\na,bird,0.5,0.5\n", "name of no class"),
        ("path,label,p_cat,p_dog\na,cat,0.5,x\n", "no number"),
    ],
)
def test_refuses_tables_that_are_no_predictions(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "predictions.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_answers(file)


def test_refuses_runs_that_cannot_be_compared() -> None:
    one, two = runs(11, 40)
    with pytest.raises(DataError, match="different classes"):
        compare(one, replace(two, classes=("cat", "dog", "fox")))
    with pytest.raises(DataError, match="no common image"):
        compare(one, replace(two, paths=tuple(f"y/{i}" for i in range(40))))
    with pytest.raises(DataError, match="another label"):
        compare(one, replace(two, labels=(two.labels + 1) % 3))
    with pytest.raises(DataError, match="more than one row"):
        compare(one, replace(two, paths=("a",) * 40))


def test_the_interval_for_all_scores_is_the_one_that_decides() -> None:
    for seed in range(20):
        for d in compare(*runs(seed, 100, second=1.7)).differences:
            one, all_ = d.difference, d.together
            assert one.low is not None and one.high is not None
            assert all_.low is not None and all_.high is not None
            assert all_.low < one.low <= one.high < all_.high
            assert d.real is not (all_.low <= 0 <= all_.high)


def test_what_only_one_run_gets_right_is_named_by_path() -> None:
    one, two = runs(14, 90, second=1.0)
    first = Answers(one.paths[:80], one.labels[:80], one.probabilities[:80], NAMES)
    order = [2, 0, 1]
    second = Answers(
        two.paths[10:], np.argsort(order)[two.labels[10:]], two.probabilities[10:][:, order],
        tuple(NAMES[c] for c in order),
    )  # fmt: skip
    found = only_right(first, second)
    right = [a.probabilities.argmax(1) == a.labels for a in (one, two)]
    expected = [
        tuple(one.paths[i] for i in range(10, 80) if right[k][i] and not right[1 - k][i])
        for k in (0, 1)
    ]
    assert (found.first, found.second) == tuple(expected)
    assert found.both + found.neither + len(found.first) + len(found.second) == 70


def test_json_is_strict() -> None:
    found = compare(*runs(12, 80))
    read = json.loads(json.dumps(strict(to_json(found)), allow_nan=False))
    assert read["n"] == 80 and len(read["differences"]) == 4
    assert read["resolvable"]["points"] == pytest.approx(found.resolvable.points)
