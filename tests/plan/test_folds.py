"""Folds judge together until they hold images and groups enough."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headstart.plan.folds import LEAST_GROUPS, LEAST_HELD_OUT, folds_to_judge, verifying_folds


@given(st.integers(20, 400), st.integers(2, 10), st.integers(1, 40), st.integers(0, 99))
def test_there_is_enough_to_judge_by_or_nothing_more_to_take(
    n: int, folds: int, size: int, seed: int
) -> None:
    groups = np.arange(n) // size
    fold = np.random.default_rng(seed).permutation(groups.max() + folds)[groups] % folds
    fold = np.unique(fold, return_inverse=True)[1]
    order = verifying_folds(np.zeros(n, np.int64), fold)
    assert sorted(order) == list(range(fold.max() + 1))
    count = folds_to_judge(fold, groups, order)

    def enough(k: int) -> bool:
        held = np.isin(fold, order[:k])
        return bool(held.sum() >= LEAST_HELD_OUT and len(np.unique(groups[held])) >= LEAST_GROUPS)

    assert count == len(order) or enough(count)
    assert not any(enough(k) for k in range(1, count))
