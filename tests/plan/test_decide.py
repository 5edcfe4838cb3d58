from __future__ import annotations

import subprocess
import sys

import pytest

from headstart.errors import ArgumentError
from headstart.plan.decide import (
    Facts,
    check_cut,
    decide,
    deepest_early_stage,
    finalists,
    frozen_candidates,
    size_verdict,
)

STAGES = ("stem", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "head")


def facts(
    n: int = 400, similarity: str = "similar", small_below: int = 1000, large_above: int = 10_000
) -> Facts:
    scores = {name: 0.5 + 0.05 * i for i, name in enumerate(STAGES)}
    return Facts(n, similarity, f"It is {similarity}.", STAGES, scores, small_below, large_above)


@pytest.mark.parametrize(
    ("n", "similarity", "prior"),
    [
        (1, "similar", (1,)),
        (999, "similar", (1,)),
        (999, "unclear", (1, 2)),
        (999, "different", (2,)),
        (1000, "similar", (1, 3)),
        (1000, "different", (2, 4)),
        (9999, "unclear", (1, 2, 3, 4)),
        (10_000, "similar", (3,)),
        (10_000, "unclear", (3, 4)),
        (1_000_000, "different", (4,)),
    ],
)
def test_size_and_similarity_name_the_case(n: int, similarity: str, prior: tuple[int, ...]) -> None:
    plan = decide(facts(n, similarity))
    assert plan.case_prior == prior
    assert plan.forced is None
    assert plan.allowed == tuple(candidate.name for candidate in plan.candidates)
    for case in prior:
        assert f"case {case}" in " ".join(plan.reasons)
    assert plan.flips_if


def test_the_dividing_lines_can_be_moved_and_are_printed() -> None:
    plan = decide(facts(2000, small_below=2001, large_above=1_000_000))
    assert plan.size_verdict == "small"
    assert "2,001" in plan.size_sentence
    assert "1 more images" in plan.flips_if[0]


@pytest.mark.parametrize(("n", "other"), [(99, "large"), (100, "small")])
def test_with_one_dividing_line_nothing_is_medium(n: int, other: str) -> None:
    plan = decide(facts(n, small_below=100, large_above=100))
    assert plan.size_verdict == ("small" if other == "large" else "large")
    assert other in plan.flips_if[0]
    assert "medium" not in " ".join(plan.flips_if)


@pytest.mark.parametrize("count", range(2, 12))
def test_case_2_keeps_at_most_half_of_the_stages(count: int) -> None:
    stages = [f"s{i}" for i in range(count - 1)] + ["head"]
    kept = deepest_early_stage(stages) + 1
    assert kept == max(1, count // 2)
    cuts = [c for c in frozen_candidates(stages) if c.strategy == "head_cut"]
    assert [c.cut for c in cuts] == stages[:-1]
    assert [c.cut for c in cuts if c.case == 2] == stages[:kept]


def test_what_is_no_case_to_the_letter_is_called_none() -> None:
    cases = {c.name: c.case for c in frozen_candidates(STAGES)}
    assert cases["head_top"] == 1
    assert cases["head_cut@b2"] == 2
    assert cases["head_cut@b3"] is None
    assert cases["all_stages"] is None


def test_a_forced_case_allows_only_itself() -> None:
    assert decide(facts(), case=1).allowed == ("head_top",)
    two = decide(facts(), case=2)
    assert two.allowed == ("head_cut@stem", "head_cut@b0", "head_cut@b1", "head_cut@b2")
    assert two.forced == "--case 2"
    assert decide(facts(), cut="b5").allowed == ("head_cut@b5",)
    assert decide(facts(), case=2, cut="b1").allowed == ("head_cut@b1",)


def test_a_cut_that_is_no_stage_lists_the_stages_and_the_nearest() -> None:
    with pytest.raises(ArgumentError) as caught:
        decide(facts(), cut="B4")
    assert "b4" in str(caught.value)
    assert ", ".join(STAGES) in str(caught.value)


def test_a_cut_at_the_last_stage_is_case_1() -> None:
    with pytest.raises(ArgumentError, match="--case 1"):
        check_cut("head", STAGES)


def test_case_2_refuses_a_cut_that_keeps_more_than_half() -> None:
    with pytest.raises(ArgumentError, match="stem, b0, b1, b2"):
        decide(facts(), case=2, cut="b3")


@pytest.mark.parametrize(("case", "scratch"), [(3, False), (4, False), (None, True)])
def test_a_case_that_trains_the_network_keeps_the_frozen_candidates_beside_it(
    case: int | None, scratch: bool
) -> None:
    made = decide(facts(), case=case, from_scratch=scratch)
    assert made.retrains
    assert made.forced == ("--from-scratch" if scratch else f"--case {case}")
    scores = {c.name: 0.5 for c in made.candidates}
    assert {"head_top", "all_stages"} <= set(finalists(made, scores))
    assert not decide(facts(), case=1).retrains


def test_the_finalists_are_the_top_the_best_cuts_and_all_stages() -> None:
    scores = {"head_top": 0.9, "all_stages": 0.8} | {
        f"head_cut@{name}": 0.5 + 0.01 * i for i, name in enumerate(STAGES[:-1])
    }
    assert finalists(decide(facts()), scores) == ("head_top", "head_cut@b6", "all_stages")
    unclear = finalists(decide(facts(similarity="unclear")), scores)
    assert unclear == ("head_top", "head_cut@b6", "head_cut@b2", "all_stages")
    forced = finalists(decide(facts(), case=2), scores)
    assert forced == ("head_top", "head_cut@b2", "head_cut@b1")
    assert finalists(decide(facts(), case=1), scores) == ("head_top",)


def test_equal_cuts_go_to_the_earlier_stage() -> None:
    scores = {c.name: 1.0 for c in frozen_candidates(STAGES)}
    assert finalists(decide(facts()), scores)[1] == "head_cut@stem"


def test_a_stage_that_only_equals_the_top_is_not_called_the_highest() -> None:
    even = Facts(400, "similar", "", STAGES, dict.fromkeys(STAGES, 1.0), 1000, 10_000)
    assert not any("scored highest" in sentence for sentence in decide(even).flips_if)
    ahead = Facts(400, "similar", "", STAGES, {"b4": 0.9, "head": 0.8}, 1000, 10_000)
    assert any("Stage b4 scored highest" in sentence for sentence in decide(ahead).flips_if)


def test_size_verdicts_at_the_lines() -> None:
    assert [size_verdict(n, 10, 20)[0] for n in (9, 10, 19, 20)] == [
        "small",
        "medium",
        "medium",
        "large",
    ]


def test_the_rules_need_neither_numpy_nor_torch() -> None:
    code = (
        "import sys; import headstart.plan.decide; "
        "assert not {'numpy', 'torch', 'onnxruntime'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
