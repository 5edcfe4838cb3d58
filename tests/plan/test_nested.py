"""The nested estimate never lets an image judge itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headstart.plan.nested import nested_estimate, outer_folds


def test_every_image_is_answered_by_a_learner_that_never_saw_it() -> None:
    seen: list[set[int]] = []

    def learn(rows: np.ndarray) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
        seen.append(set(rows.tolist()))

        def predict(held_out: np.ndarray) -> np.ndarray:
            assert seen[-1].isdisjoint(held_out.tolist())
            return np.full((len(held_out), 2), 0.5)

        return "top", predict

    draws = [np.arange(20) % 5, np.arange(20) // 4]
    found = nested_estimate(draws, 2, learn)
    assert found.probabilities.shape == (2, 20, 2)
    assert found.chosen == (("top", 10),)
    assert found.folds == 5


def test_choosing_the_luckiest_of_many_useless_candidates_gains_nothing() -> None:
    rng = np.random.default_rng(0)
    naive, nested = [], []
    for _ in range(30):
        labels = rng.integers(0, 2, 60)
        guesses = rng.integers(0, 2, (50, 60))  # fifty candidates that know nothing
        naive.append((guesses == labels).mean(1).max())

        def learn(
            rows: np.ndarray, guesses: np.ndarray = guesses, labels: np.ndarray = labels
        ) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
            best = int((guesses[:, rows] == labels[rows]).mean(1).argmax())
            return str(best), lambda held_out: np.eye(2)[guesses[best, held_out]]

        found = nested_estimate([rng.permutation(60) % 5], 2, learn)
        nested.append((found.probabilities[0].argmax(1) == labels).mean())
    assert np.mean(naive) > 0.6
    assert abs(np.mean(nested) - 0.5) < 0.03


def test_few_images_get_more_folds() -> None:
    assert [outer_folds(n) for n in (60, 599, 600, 900)] == [10, 10, 5, 5]


def test_copies_of_a_held_out_image_are_not_learned_from_where_folds_part_them() -> None:
    site, ties = np.repeat(np.arange(3), 10), np.arange(30)
    ties[12] = ties[25] = ties[3]
    learned: dict[int, set[int]] = {}

    def learn(rows: np.ndarray) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
        (left,) = set(range(3)) - set(site[rows].tolist())
        learned[left] = set(rows.tolist())
        return "top", lambda held: np.full((len(held), 2), 0.5)

    found = nested_estimate([site], 2, learn, ties=ties)
    assert found.probabilities.shape == (1, 30, 2) and found.folds == 3
    for left, rows in learned.items():
        others = set(np.flatnonzero(site != left).tolist())
        assert rows == others - {3, 12, 25}
