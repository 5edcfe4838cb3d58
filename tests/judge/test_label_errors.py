"""Planted label errors are found, the reasons are true, and the list survives as a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from headstart.data.sources import Dataset, Sample
from headstart.errors import ArgumentError
from headstart.judge.calibration import softmax
from headstart.judge.label_errors import (
    all_fail,
    expected_errors,
    label_doubt,
    suggest,
    suggestions_csv,
)
from headstart.judge.relabel import relabel

CLASSES = ("a", "b", "c")


def planted(
    seed: int, n: int = 600, share: float = 0.05
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with a share of errors, probabilities of a decent model, which labels are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n)
    logits = rng.normal(0, 1, (n, 3))
    logits[np.arange(n), truth] += 4
    wrong = rng.random(n) < share
    labels = np.where(wrong, (truth + rng.integers(1, 3, n)) % 3, truth)
    return labels, softmax(logits), wrong


def test_planted_errors_come_first() -> None:
    labels, p, wrong = planted(0)
    found = suggest([str(i) for i in range(600)], labels, CLASSES, p)
    assert np.mean([wrong[s.index] for s in found[:20]]) >= 0.9
    assert sum(wrong[s.index] for s in found) >= 0.9 * wrong.sum()
    assert len(found) <= 60
    scores = [s.score for s in found]
    assert scores == sorted(scores, reverse=True)


def test_the_suggested_class_is_the_true_one() -> None:
    labels, p, wrong = planted(1)
    doubt, other = label_doubt(labels, p)
    truth = p.argmax(1)
    sure = wrong & (doubt > 0.8)
    assert sure.sum() > 15
    assert (other[sure] == truth[sure]).all()


def test_the_chosen_candidate_orders_and_the_others_are_asked_for_reasons() -> None:
    rng = np.random.default_rng(2)
    labels, p, _ = planted(2)
    others = [softmax(np.log(p) + rng.normal(0, 2.5, p.shape)) for _ in range(4)]
    names = [str(i) for i in range(600)]
    alone, together = (suggest(names, labels, CLASSES, a) for a in (p, [p, *others]))
    assert [s.index for s in alone] == [s.index for s in together]
    first = together[0]
    votes = sum(CLASSES[q[first.index].argmax()] == first.suggested for q in (p, *others))
    assert f"{votes} of 5 candidates say {first.suggested}" in first.reason


def test_an_image_that_every_candidate_gets_wrong_says_so() -> None:
    answers = [[[0.1, 0.9], [0.6, 0.4]], [[0.2, 0.8], [0.1, 0.9]]]
    found = suggest(["x", "y"], [0, 1], ["cat", "dog"], answers, share=1.0)
    assert [s.path for s in found] == ["x", "y"]
    assert "2 of 2 candidates say dog, none says cat" in found[0].reason
    assert "none says" not in found[1].reason
    assert all_fail([0, 1], answers).tolist() == [True, False]


def test_strange_images_follow_the_label_errors_and_keep_their_label() -> None:
    labels, p, _ = planted(3, n=100, share=0.3)
    doubt, _ = label_doubt(labels, p)
    strange = np.full(100, 0.5)
    sure = np.argsort(doubt)[:3]
    strange[sure] = [1.1, 3.0, 2.0]
    found = suggest([str(i) for i in range(100)], labels, CLASSES, p, strange)
    assert len(found) == 10  # of which a fifth is kept for the strange ones
    assert [s.index for s in found[-2:]] == sure[[1, 2]].tolist()
    assert all(s.suggested == s.given and "unlike" in s.reason for s in found[-2:])
    assert all(s.suggested != s.given and "unlike" not in s.reason for s in found[:-2])


def test_the_rough_count_follows_the_planted_one() -> None:
    for share in (0.0, 0.05, 0.2):
        labels, p, wrong = planted(4, n=3000, share=share)
        assert abs(expected_errors(labels, p) - wrong.sum()) < 0.03 * 3000


def test_the_corrected_list_becomes_a_data_set_again(tmp_path: Path) -> None:
    labels, p, wrong = planted(5, n=200)
    names = [f"=odd, {i}.jpg" for i in range(200)]
    found = suggest(names, labels, CLASSES, p)
    rows = list(csv.DictReader(io.StringIO(suggestions_csv(found))))
    file = tmp_path / "suggestions.csv"
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(row | {"label": row["suggested"]} for row in rows)
    samples = tuple(Sample(n, int(c)) for n, c in zip(names, labels, strict=True))
    again = relabel(Dataset(tmp_path, CLASSES, samples, ()), file)
    assert {c.path for c in again.changes} == {s.path for s in found}
    mended = np.array([s.label for s in again.dataset.samples])
    assert (mended[wrong] == p.argmax(1)[wrong]).mean() > 0.8


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArgumentError, match="do not fit together"):
        suggest(["x"], [0, 1], ["cat", "dog"], [[0.1, 0.9], [0.4, 0.6]])
    with pytest.raises(ArgumentError, match="K candidates"):
        suggest(["x"], [0], ["cat", "dog"], [0.1, 0.9])
