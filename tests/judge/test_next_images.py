"""What is proposed is doubtful and varied, and copies come once."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from headstart.errors import ArgumentError
from headstart.judge.calibration import softmax
from headstart.judge.next_images import proposals_csv, propose

KINDS = list(permutations([1, 2, 3, 4]))
Pool = tuple[np.ndarray, np.ndarray]


def pool(seed: int = 0, n: int = 400, width: int = 32) -> Pool:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, width)).astype(np.float32)
    return softmax(3 * x[:, :3]), x


def test_doubtful_images_come_more_often_than_by_chance() -> None:
    p, x = pool()
    margins = [found.margin for found in propose(p, x, 40)]
    ordered = -np.sort(-p, axis=1)
    assert np.mean(margins) < np.mean(ordered[:, 0] - ordered[:, 1]) - 0.15


def test_sure_images_are_left_for_last() -> None:
    p, x = pool()
    p[:300] = [1.0, 0.0, 0.0]
    assert all(found.index >= 300 for found in propose(p, x, 50))


def test_every_kind_of_doubtful_image_is_proposed() -> None:
    """Five kinds, one of them most doubtful: doubt alone would propose that one only."""
    rng = np.random.default_rng(1)
    kind = np.repeat(np.arange(5), [200, 50, 50, 50, 50])
    x = (8 * np.eye(5, 32)[kind] + rng.normal(0, 0.2, (400, 32))).astype(np.float32)
    p = np.where(kind[:, None] == 0, [0.5, 0.5], [0.6, 0.4])
    assert [int(kind[f.index]) for f in propose(p, x, 5)] in ([0, *rest] for rest in KINDS)


def test_near_copies_are_proposed_once_and_labelled_ones_never() -> None:
    p, x = pool(n=60)
    rng = np.random.default_rng(2)
    copied = np.tile(x, (3, 1)) + rng.normal(0, 0.02, (180, 32)).astype(np.float32)
    found = [f.index % 60 for f in propose(np.tile(p, (3, 1)), copied, 180)]
    assert sorted(found) == list(range(60))
    fresh = [f.index % 60 for f in propose(np.tile(p, (3, 1)), copied, 180, known=x[:20])]
    assert sorted(fresh) == list(range(20, 60))


def test_fewer_images_than_asked_for_are_all_proposed() -> None:
    p, x = pool(n=7)
    assert sorted(f.index for f in propose(p, x, 50)) == list(range(7))
    assert len(propose(p[:1], x[:1], 5)) == 1


def test_the_numbers_are_those_of_the_image_and_the_most_doubtful_comes_first() -> None:
    p, x = pool()
    margins = [found.margin for found in propose(p, x, 20)]
    assert margins == sorted(margins)
    for found in propose(p, x, 20):
        best, second = np.argsort(-p[found.index])[:2]
        assert (found.predicted, found.second) == (best, second)
        assert found.margin == pytest.approx(p[found.index, best] - p[found.index, second])


def test_features_of_any_scale_give_the_same_images() -> None:
    p, x = pool()
    first = [f.index for f in propose(p, x, 20)]
    assert first == [f.index for f in propose(p, 1024 * x, 20)]


def test_a_table_of_proposals_runs_no_formula() -> None:
    p, x = pool(n=3)
    text = proposals_csv(propose(p, x, 1), ["=1.jpg"] * 3, ["a", "b", "c"])
    assert text.splitlines()[0] == "path,predicted,confidence,second,margin"
    assert text.splitlines()[1].startswith("'=1.jpg,")


@pytest.mark.parametrize("count", [0, -1])
def test_mistakes_are_named(count: int) -> None:
    p, x = pool(n=5)
    with pytest.raises(ArgumentError, match="At least one"):
        propose(p, x, count)
    with pytest.raises(ArgumentError, match="do not fit"):
        propose(p[:3], x, 1)
    with pytest.raises(ArgumentError, match="sum to 1"):
        propose(p * 2, x, 1)
