"""Proposals from pooled features: near neighbours in direction, once what all share is gone."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.backbone import duplicates
from headstart.backbone.duplicates import propose_by_features


def clouds(n: int, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def pairs_of(features: np.ndarray, **options: int) -> set[tuple[int, int]]:
    return set(map(tuple, propose_by_features(features, **options).tolist()))


def test_a_slightly_changed_image_is_proposed_and_nothing_else() -> None:
    x = clouds(200)
    copies = x[:20] + 0.1 * clouds(20, seed=1)
    assert pairs_of(np.concatenate([x, copies])) == {(i, 200 + i) for i in range(20)}


def test_what_all_images_share_proposes_nothing() -> None:
    assert pairs_of(clouds(200) + 100) == set()


def test_equal_images_are_neighbours_and_bounded_in_number() -> None:
    x = np.concatenate([clouds(50), np.repeat(clouds(1, seed=2), 30, axis=0)])
    found = propose_by_features(x, neighbours=2)
    assert (found >= 50).all()
    assert np.bincount(found[:, 0]).max() == 2


def test_images_without_any_difference_are_not_compared() -> None:
    assert pairs_of(np.ones((10, 8), np.float32)) == set()


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_have_no_pairs(n: int) -> None:
    assert propose_by_features(clouds(n)).shape == (0, 2)


def test_threads_do_not_change_the_pairs() -> None:
    x = clouds(700, width=6)
    assert np.array_equal(propose_by_features(x, workers=1), propose_by_features(x, workers=2))


def test_many_images_are_compared_on_fewer_axes_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = clouds(600, width=20) @ clouds(
        20, width=400, seed=1
    )  # 20 dimensions in 400, as features are
    x = np.concatenate([x, x[:40] + 0.3 * clouds(40, width=400, seed=2)])
    whole = pairs_of(x)
    monkeypatch.setattr(duplicates, "FIT_ROWS", 300)
    assert {(i, 600 + i) for i in range(40)} <= whole
    assert pairs_of(x) == whole


def test_the_features_are_not_changed() -> None:
    x = clouds(20)
    before = x.copy()
    propose_by_features(x)
    assert np.array_equal(x, before)
