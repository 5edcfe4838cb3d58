from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.plan.criterion import Criterion, evaluate
from headstart.plan.decide import Candidate, Facts, Plan, decide
from headstart.plan.verify import Scored, Trial, Verified, table_json, verify

STAGES = ("stem", "b0", "b1", "b2", "b3", "head")
N = 400
LABELS = np.arange(N) % 2
UNEVEN = (np.arange(N) % 20 == 0).astype(np.int64)  # 380 to 20


def plan(similarity: str = "similar", case: int | None = None, cut: str | None = None) -> Plan:
    scores = {name: 0.5 for name in STAGES}
    return decide(Facts(N, similarity, "", STAGES, scores, 1000, 10_000), case, cut)


def trial(right: float | NDArray[np.bool_], loss: float = 0.5, metric: str = "accuracy") -> Trial:
    """The first share of the images is right; losses wobble around a mean."""
    correct = np.arange(N) < right * N if isinstance(right, float) else right
    wobble = 0.05 * np.sin(np.arange(N))
    labels = LABELS if metric == "accuracy" else UNEVEN
    answers = np.eye(2)[np.where(correct, labels, 1 - labels)]
    score = evaluate(Criterion(metric, metric), answers, labels)
    return Trial(score, 1.0, loss + wobble, np.zeros((N, 2)), 0.1, np.zeros(2), 1.0)


def verified(made: Plan, trials: dict[str, Trial], labels: NDArray[np.int64] = LABELS) -> Verified:
    """Verify with a probe that ranks candidates as their trials do."""
    probes = {
        c.name: Scored(c, trials[c.name].score.value if c.name in trials else 0.1, 0.01, 1, 0, "p")
        for c in made.candidates
    }
    metric = "accuracy" if labels is LABELS else "balanced_accuracy"

    def cross_validate(candidate: Candidate) -> Trial:
        return trials.get(candidate.name, trial(0.1, 2.0, metric))

    return verify(made, probes, cross_validate, labels, 5, Criterion(metric, metric))


def test_on_a_tie_the_simpler_stays() -> None:
    same = trial(0.8)
    found = verified(plan(), {"head_top": same, "all_stages": same, "head_cut@b3": same})
    assert found.chosen.name == "head_top"
    assert all("stays" in sentence for sentence in found.sentences)
    assert not found.warnings


@pytest.mark.parametrize("name", ["all_stages", "head_cut@b3", "head_cut@b1"])
def test_a_clearly_better_candidate_wins(name: str) -> None:
    found = verified(plan("unclear"), {"head_top": trial(0.7), name: trial(0.85)})
    assert found.chosen.name == name
    assert any("takes over" in sentence for sentence in found.sentences)


def test_all_stages_need_one_standard_error_and_a_cut_its_whole_interval() -> None:
    base, ahead = np.arange(N) < 300, np.arange(N) < 307
    slightly = ahead.copy()
    slightly[:2] = False  # +1.25 points: 7 images gained, 2 lost
    gain = 5 / N
    se = 1.5 * np.sqrt((9 / N - gain**2) / (N - 1))
    assert se < gain < 1.96 * se
    cut = verified(plan(), {"head_top": trial(base), "head_cut@b3": trial(slightly)})
    assert cut.chosen.name == "head_top"
    assert "reaches zero" in cut.sentences[0]
    wide = verified(plan(), {"head_top": trial(base), "all_stages": trial(slightly)})
    assert wide.chosen.name == "all_stages"


def test_a_cut_that_is_clearly_worse_is_called_worse() -> None:
    found = verified(plan(), {"head_top": trial(0.9), "head_cut@b3": trial(0.6)})
    assert found.chosen.name == "head_top"
    assert "; worse: head_top stays" in found.sentences[0]


def test_less_than_half_a_point_is_not_worth_a_wider_head() -> None:
    base = np.arange(N) < 300
    ahead = np.arange(N) < 301
    found = verified(plan(), {"head_top": trial(base), "all_stages": trial(ahead)})
    assert found.chosen.name == "head_top"


@pytest.mark.parametrize("right", [0.8, 1.0])
def test_a_clearly_lower_loss_at_no_cost_is_enough_for_all_stages(right: float) -> None:
    trials = {"head_top": trial(right, 0.5), "all_stages": trial(right, 0.3)}
    # Equal losses have no spread here, so give them some.
    trials["all_stages"].loss[::2] += 0.1
    assert verified(plan(), trials).chosen.name == "all_stages"


def test_a_lower_loss_does_not_pay_for_lost_points() -> None:
    trials = {"head_top": trial(0.85, 0.5), "all_stages": trial(0.80, 0.3)}
    assert verified(plan(), trials).chosen.name == "head_top"


def test_the_metric_weighs_the_losses_as_it_weighs_the_images() -> None:
    base, other = (trial(0.9, 0.5, "balanced_accuracy") for _ in range(2))
    other.loss[UNEVEN == 0] -= 0.1  # better on the many, much worse on the few
    other.loss[UNEVEN == 1] += 0.5
    found = verified(plan(), {"head_top": base, "all_stages": other}, UNEVEN)
    assert found.chosen.name == "head_top"


def test_a_forced_candidate_ships_with_a_warning_when_it_is_below_the_top() -> None:
    trials = {"head_top": trial(0.9), "head_cut@b1": trial(0.6), "head_cut@b0": trial(0.5)}
    found = verified(plan(case=2), trials)
    assert (found.chosen.name, found.chosen.case) == ("head_cut@b1", 2)
    assert "30.0 points below" in found.warnings[0]
    assert verified(plan(cut="b3"), trials | {"head_cut@b3": trial(0.95)}).warnings == ()
    assert verified(plan(case=1), trials).chosen.name == "head_top"


def test_a_forced_case_2_takes_the_better_of_its_two_best_cuts() -> None:
    trials = {"head_top": trial(0.9), "head_cut@b1": trial(0.6), "head_cut@b0": trial(0.6)}
    trials["head_cut@stem"] = trial(0.61)
    found = verified(plan(case=2), trials)
    assert found.chosen.name == "head_cut@stem"


@pytest.fixture
def table() -> Callable[[], list[dict[str, object]]]:
    def make() -> list[dict[str, object]]:
        trials = {"head_top": trial(0.8), "all_stages": trial(0.8)}
        return table_json(verified(plan(), trials).table)

    return make


def test_the_table_has_every_candidate_and_says_how_it_was_scored(
    table: Callable[[], list[dict[str, object]]],
) -> None:
    rows = {row["name"]: row for row in table()}
    assert list(rows) == ["head_top", *(f"head_cut@{s}" for s in STAGES[:-1]), "all_stages"]
    assert rows["head_top"]["method"] == "head, cross-validated"
    assert rows["head_cut@b0"]["method"] == "p"
    assert rows["head_top"]["score"] == 0.8


def test_the_standard_error_of_a_difference_covers_repeated_cross_validation() -> None:
    # Two equal candidates that err on 10 % of the images at random: 2 standard errors hold 95 %
    # of the differences and more, since the correction makes them wider.
    from headstart.plan.verify import _Comparison

    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        gain, se = _Comparison(LABELS, 5, "accuracy").difference(
            trial(rng.random(N) < 0.9), trial(rng.random(N) < 0.9)
        )
        inside += abs(gain) < 1.96 * se
    assert inside > 0.97 * 300


def test_images_of_one_group_count_as_one_draw() -> None:
    from headstart.plan.verify import _Comparison

    base, other = trial(np.arange(N) < 300), trial(np.arange(N) < 320)  # 20 gained, in two groups
    groups = np.arange(N) // 10
    _, alone = _Comparison(LABELS, 5, "accuracy").difference(base, other)
    _, together = _Comparison(LABELS, 5, "accuracy", groups).difference(base, other)
    assert together == pytest.approx(alone * np.sqrt(10), rel=0.05)
